//! The checks that callers ask, owned and valid. Every front end makes them here, so that all have the same bounds.

use limiter::rules::Period;
use limiter::{Charging, Check, Descriptor, MAX_ATTRIBUTES};
use smallvec::SmallVec;

use super::rejection::{FieldViolation, violation};

/// The longest domain, attribute name and attribute value, in bytes. A gateway's values have no bound of their own.
const MAX_TEXT: usize = 4096;
/// The most descriptors in one check.
pub const MAX_DESCRIPTORS: usize = 100;
/// The most checks in one batch.
pub const MAX_BATCH: usize = 1000;
/// The most descriptors in all checks of one batch. A core does nothing else until it has begun all of them.
pub const MAX_BATCH_DESCRIPTORS: usize = 4000;

/// The attributes of one descriptor, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub Vec<(String, String)>);

/// One descriptor of a check.
#[derive(Clone, Debug)]
pub struct DescriptorRequest {
    pub attributes: Attributes,
    /// True if the order of the attributes has a meaning.
    pub ordered: bool,
    pub hits: u32,
    pub charging: Charging,
    /// A limit from the request.
    pub limit: Option<(u64, Period)>,
}

impl DescriptorRequest {
    /// A descriptor whose attributes have no order.
    pub fn unordered(attributes: impl IntoIterator<Item = (String, String)>, hits: u32) -> Self {
        let (attributes, charging) = (Attributes(attributes.into_iter().collect()), Charging::IfAllowed);
        Self { attributes, ordered: false, hits, charging, limit: None }
    }
}

/// A check that was found valid.
#[derive(Clone, Debug)]
pub struct CheckRequest {
    domain: String,
    descriptors: Vec<DescriptorRequest>,
    /// True if a gateway asks: its client chooses values.
    of_gateway: bool,
}

/// A field of a check. Each front end has its own path for it.
#[derive(Clone, Copy, Debug)]
pub enum Field<'a> {
    Domain,
    Descriptors,
    /// The attributes of the descriptor at this position.
    Attributes(usize),
    /// The name of an attribute: its descriptor, its position, and the name.
    Name(usize, usize, &'a str),
    /// The value of an attribute: its descriptor, its position, and its name.
    Value(usize, usize, &'a str),
}

impl CheckRequest {
    /// The number of descriptors.
    pub const fn descriptors(&self) -> usize {
        self.descriptors.len()
    }

    /// Validates a check that an application asks. `path` names a field in the words of the front end. `others` are
    /// violations that the front end found.
    ///
    /// # Errors
    /// Every violation.
    pub fn new(
        domain: String,
        descriptors: Vec<DescriptorRequest>,
        others: Vec<FieldViolation>,
        path: impl Fn(Field<'_>) -> String,
    ) -> Result<Self, Vec<FieldViolation>> {
        Self::validated(domain, descriptors, others, path, false)
    }

    /// Validates a check that a gateway asks. The gateway's client chooses the values, so a value of any length is
    /// valid: a gateway may let a request pass whose check is an error.
    ///
    /// # Errors
    /// Every violation.
    pub fn from_gateway(
        domain: String,
        descriptors: Vec<DescriptorRequest>,
        others: Vec<FieldViolation>,
        path: impl Fn(Field<'_>) -> String,
    ) -> Result<Self, Vec<FieldViolation>> {
        Self::validated(domain, descriptors, others, path, true)
    }

    fn validated(
        domain: String,
        descriptors: Vec<DescriptorRequest>,
        others: Vec<FieldViolation>,
        path: impl Fn(Field<'_>) -> String,
        of_gateway: bool,
    ) -> Result<Self, Vec<FieldViolation>> {
        let max_value = if of_gateway { usize::MAX } else { MAX_TEXT };
        let mut violations = Vec::new();
        let mut expect = |holds: bool, field: Field<'_>, expected: &str| {
            if !holds {
                violations.push(violation(path(field), expected));
            }
        };
        let fits = (1..=MAX_TEXT).contains(&domain.len());
        expect(fits, Field::Domain, &format!("expected a string of 1 to {MAX_TEXT} bytes: it is required"));
        let fits = (1..=MAX_DESCRIPTORS).contains(&descriptors.len());
        expect(fits, Field::Descriptors, &format!("expected 1 to {MAX_DESCRIPTORS} descriptors"));
        for (at, descriptor) in descriptors.iter().enumerate().take(MAX_DESCRIPTORS) {
            let attributes = &descriptor.attributes.0;
            if attributes.len() > MAX_ATTRIBUTES {
                expect(false, Field::Attributes(at), &format!("expected at most {MAX_ATTRIBUTES} attributes"));
                continue;
            }
            for (position, (name, value)) in attributes.iter().enumerate() {
                let expected = |most: usize| format!("expected a string of at most {most} bytes");
                if name.len() > MAX_TEXT {
                    expect(false, Field::Name(at, position, name), &expected(MAX_TEXT));
                } else if value.len() > max_value {
                    expect(false, Field::Value(at, position, name), &expected(max_value));
                }
            }
        }
        violations.extend(others);
        if violations.is_empty() { Ok(Self { domain, descriptors, of_gateway }) } else { Err(violations) }
    }
}

impl CheckRequest {
    /// The number of descriptors.
    pub fn size(&self) -> usize {
        self.descriptors.len()
    }

    /// About the memory that the check takes, in bytes.
    pub fn bytes(&self) -> usize {
        let attributes = self.attributes().flat_map(|attributes| &attributes.0);
        let texts = attributes.map(|(name, value)| size_of::<(String, String)>() + name.len() + value.len());
        self.domain.len() + self.descriptors.len() * size_of::<DescriptorRequest>() + texts.sum::<usize>()
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    pub const fn is_of_gateway(&self) -> bool {
        self.of_gateway
    }

    /// The attributes of each descriptor.
    pub fn attributes(&self) -> impl Iterator<Item = &Attributes> {
        self.descriptors.iter().map(|descriptor| &descriptor.attributes)
    }

    /// The attributes of the descriptor at this position.
    pub fn attributes_mut(&mut self, descriptor: usize) -> Option<&mut Attributes> {
        self.descriptors.get_mut(descriptor).map(|descriptor| &mut descriptor.attributes)
    }
}

/// Calls `work` with the checks in the form of the core, in order.
pub fn with_checks<'a, T>(
    requests: impl Iterator<Item = &'a CheckRequest> + Clone,
    work: impl FnOnce(&[Check<'_>]) -> T,
) -> T {
    let all = requests.clone().flat_map(|request| &request.descriptors);
    let entries = all.clone().flat_map(|descriptor| &descriptor.attributes.0);
    let entries: SmallVec<[(&str, &str); 8]> = entries.map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut rest = entries.as_slice();
    let descriptors: SmallVec<[Descriptor<'_>; 2]> = all
        .map(|descriptor| {
            let entries;
            (entries, rest) = rest.split_at(descriptor.attributes.0.len());
            let DescriptorRequest { ordered, hits, charging, limit, .. } = descriptor;
            Descriptor { entries, ordered: *ordered, hits: *hits, charging: *charging, limit: limit.clone() }
        })
        .collect();
    let mut rest = descriptors.as_slice();
    let checks: SmallVec<[Check<'_>; 1]> = requests
        .map(|request| {
            let descriptors;
            (descriptors, rest) = rest.split_at(request.descriptors.len());
            Check { domain: &request.domain, descriptors }
        })
        .collect();
    work(&checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(attributes: &[(&str, &str)], hits: u32) -> DescriptorRequest {
        DescriptorRequest::unordered(attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())), hits)
    }

    fn request(domain: &str, descriptors: Vec<DescriptorRequest>) -> Result<CheckRequest, Vec<FieldViolation>> {
        CheckRequest::new(domain.to_owned(), descriptors, Vec::new(), |field| format!("{field:?}"))
    }

    #[test]
    fn every_check_has_its_own_entries() {
        let all = [
            request("a", vec![descriptor(&[("x", "1")], 1)]).unwrap(),
            request("b", vec![descriptor(&[], 0)]).unwrap(),
            request("c", vec![descriptor(&[("y", "2"), ("z", "3")], 1), descriptor(&[], 1)]).unwrap(),
        ];
        with_checks(all.iter(), |checks| {
            let of = |at: usize| {
                let check: &Check<'_> = &checks[at];
                check.descriptors.iter().map(|d| (check.domain, d.entries.to_vec(), d.hits)).collect::<Vec<_>>()
            };
            assert_eq!(of(0), [("a", vec![("x", "1")], 1)]);
            assert_eq!(of(1), [("b", vec![], 0)]);
            assert_eq!(of(2), [("c", vec![("y", "2"), ("z", "3")], 1), ("c", vec![], 1)]);
        });
    }

    #[test]
    fn every_field_out_of_bounds_is_named() {
        let long = "x".repeat(MAX_TEXT + 1);
        let many: Vec<(&str, &str)> = vec![("k", "v"); MAX_ATTRIBUTES + 1];
        let descriptors = vec![descriptor(&[(&long, "v"), ("k", &long)], 1), descriptor(&many, 1)];
        let pointers: Vec<String> = request("", descriptors).unwrap_err().into_iter().map(|v| v.pointer).collect();
        assert_eq!(pointers.len(), 4);
        assert_eq!(pointers[0], "Domain");
        assert!(pointers[1].starts_with("Name(0, 0") && pointers[2].starts_with("Value(0, 1, \"k\""));
        assert_eq!(pointers[3], "Attributes(1)");
        assert!(request("d", Vec::new()).is_err());
        assert!(request("d", vec![descriptor(&[], 1); MAX_DESCRIPTORS]).is_ok());
        assert!(request("d", vec![descriptor(&[], 1); MAX_DESCRIPTORS + 1]).is_err());
    }

    #[test]
    fn a_value_of_a_gateways_client_has_no_bound() {
        let long = "x".repeat(1 << 20);
        let check = |attribute: (&str, &str)| {
            let descriptors = vec![descriptor(&[attribute], 1)];
            CheckRequest::from_gateway("d".to_owned(), descriptors, Vec::new(), |field| format!("{field:?}")).is_ok()
        };
        assert!(check(("user_agent", &long)));
        assert!(!check((&long, "v")), "the gateway's operator chooses the names");
        assert!(request("d", vec![descriptor(&[("user_agent", &long)], 1)]).is_err());
    }
}
