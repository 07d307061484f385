//! Checks as Tidegate's own calls bring them: what may be in them, and the core's form of them.

use std::collections::BTreeMap;

use super::desk::{MAX_DESCRIPTORS, MAX_ENTRIES, MAX_VALUE};
use super::request_id;
use super::status::{Fault, fault};
use limiter::{Check, Descriptor};
use proto::tidegate::v1::CheckRequest;

/// The most checks in one message.
pub const MAX_CHECKS: usize = 1000;
/// The most descriptors in all checks of one message: a core does nothing else until it has begun all of them.
pub const MAX_DESCRIPTORS_IN_ALL: usize = 4000;

/// How much work a check is.
pub fn weight(request: &CheckRequest) -> usize {
    request.descriptors.len().max(1)
}

/// What is wrong with a check.
pub fn faults(request: &CheckRequest) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !(1..=MAX_VALUE).contains(&request.domain.len()) {
        faults.push(fault("domain", "expected a string of 1 to 4096 bytes: it is required"));
    }
    if !request.request_id.is_empty() && !request_id::is_fit(&request.request_id) {
        faults.push(fault("request_id", "expected at most 128 visible ASCII characters"));
    }
    if !request.attributes.is_empty() && !request.descriptors.is_empty() {
        faults.push(fault("descriptors", "expected either attributes or descriptors, not both"));
    }
    if request.descriptors.len() > MAX_DESCRIPTORS {
        faults.push(fault("descriptors", format!("expected at most {MAX_DESCRIPTORS}")));
    }
    check_map(&request.attributes, &mut faults, || "attributes".to_owned());
    for (at, descriptor) in request.descriptors.iter().enumerate().take(MAX_DESCRIPTORS) {
        check_map(&descriptor.attributes, &mut faults, || format!("descriptors[{at}].attributes"));
    }
    faults
}

fn check_map(map: &BTreeMap<String, String>, faults: &mut Vec<Fault>, path: impl Fn() -> String) {
    if map.len() > MAX_ENTRIES {
        faults.push(fault(path(), format!("expected at most {MAX_ENTRIES} attributes")));
        return;
    }
    for (key, value) in map {
        if key.len() > MAX_VALUE {
            faults.push(fault(path(), "expected names of at most 4096 bytes"));
        } else if value.len() > MAX_VALUE {
            faults.push(fault(format!("{}[{key:?}]", path()), "expected a string of at most 4096 bytes"));
        }
    }
}

/// Does `work` on these checks, which were found valid, in the core's form: all of them in three lists.
pub fn with_checks<'a, T>(
    requests: impl Iterator<Item = &'a CheckRequest> + Clone,
    work: impl FnOnce(&[Check<'_>]) -> T,
) -> T {
    let maps = |request: &'a CheckRequest| {
        let one = request.descriptors.is_empty().then_some(&request.attributes);
        one.into_iter().chain(request.descriptors.iter().map(|descriptor| &descriptor.attributes))
    };
    let entries = requests.clone().flat_map(maps).flatten();
    let entries: Vec<(&str, &str)> = entries.map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let (mut descriptors, mut rest) = (Vec::new(), entries.as_slice());
    for request in requests.clone() {
        for map in maps(request) {
            let entries;
            (entries, rest) = rest.split_at(map.len());
            let hits = request.hits.unwrap_or(1);
            descriptors.push(Descriptor { entries, ordered: false, hits, limit: None });
        }
    }
    let (mut checks, mut rest) = (Vec::new(), descriptors.as_slice());
    for request in requests {
        let descriptors;
        (descriptors, rest) = rest.split_at(request.descriptors.len().max(1));
        checks.push(Check { domain: &request.domain, descriptors });
    }
    work(&checks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::tidegate::v1::Descriptor as Brought;

    #[test]
    fn every_check_has_its_own_entries() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let one = CheckRequest { domain: "a".to_owned(), attributes: map(&[("x", "1")]), ..CheckRequest::default() };
        let none = CheckRequest { domain: "b".to_owned(), hits: Some(0), ..CheckRequest::default() };
        let descriptors = vec![Brought { attributes: map(&[("y", "2"), ("z", "3")]) }, Brought::default()];
        let two = CheckRequest { domain: "c".to_owned(), descriptors, ..CheckRequest::default() };
        let all = [one, none, two];
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
}
