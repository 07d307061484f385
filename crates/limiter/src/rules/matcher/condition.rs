//! A compiled condition.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::pattern::Pattern;
use super::route::Route;
use crate::rules::rule::Condition;
use crate::rules::work::ATTRIBUTE;

/// The largest compiled regular expression of a condition, in bytes.
pub(super) const MAX_PATTERN_BYTES: usize = 1 << 20;

/// A compiled condition. It tests the value of an attribute; `None` is an absent attribute.
#[derive(Debug)]
pub enum Compiled {
    Equal(Box<str>),
    AnyOf(BTreeSet<Box<str>>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Pattern(Pattern),
    Route(Route),
    Cidr(Vec<IpNet>),
    Present(bool),
    Not(Box<Compiled>),
}

impl Compiled {
    /// Compiles a condition. The error says what was expected.
    pub fn new(condition: &Condition) -> Result<Self, String> {
        Ok(match condition {
            Condition::Equal(s) => Self::Equal(s.as_str().into()),
            Condition::AnyOf(list) if list.is_empty() => return Err("expected at least one value".into()),
            Condition::AnyOf(list) => Self::AnyOf(list.iter().map(|s| s.as_str().into()).collect()),
            Condition::Prefix(s) => Self::Prefix(s.as_str().into()),
            Condition::Suffix(s) => Self::Suffix(s.as_str().into()),
            Condition::Glob(glob) => Self::Pattern(Pattern::compile(&glob_to_regex(glob), MAX_PATTERN_BYTES)?),
            Condition::Route(s) => Self::Route(Route::parse(s)?),
            Condition::Cidr(list) if list.is_empty() => return Err("expected at least one network".into()),
            Condition::Cidr(list) => Self::Cidr(list.iter().map(|s| network(s)).collect::<Result<_, _>>()?),
            Condition::Regex(s) => Self::Pattern(Pattern::compile(s, MAX_PATTERN_BYTES)?),
            Condition::Present(present) => Self::Present(*present),
            Condition::Not(inner) => Self::Not(Box::new(Self::new(inner)?)),
        })
    }

    #[inline]
    pub fn holds(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (Self::Not(inner), _) => !inner.holds(value),
            (Self::Present(present), _) => value.is_some() == *present,
            (_, None) => false,
            (Self::Equal(s), Some(v)) => &**s == v,
            (Self::AnyOf(set), Some(v)) => set.contains(v),
            (Self::Prefix(s), Some(v)) => v.starts_with(&**s),
            (Self::Suffix(s), Some(v)) => v.ends_with(&**s),
            (Self::Pattern(pattern), Some(v)) => pattern.is_match(v),
            (Self::Route(route), Some(v)) => route.matches(v),
            (Self::Cidr(nets), Some(v)) => address(v).is_some_and(|ip| nets.iter().any(|net| net.contains(&ip))),
        }
    }
}

impl Compiled {
    /// The most steps that a test takes for the bytes of a text, beside [`Self::steps`].
    #[inline]
    pub fn search_steps(&self, text_bytes: usize) -> usize {
        match self {
            Self::Not(inner) => inner.search_steps(text_bytes),
            Self::Pattern(pattern) => pattern.search_steps(text_bytes),
            _ => 0,
        }
    }

    /// The steps of a test.
    pub fn steps(&self) -> usize {
        match self {
            Self::Not(inner) => inner.steps(),
            Self::Cidr(nets) => ATTRIBUTE + nets.len() / 3,
            Self::Pattern(pattern) => pattern.steps(),
            Self::Route(route) => ATTRIBUTE + route.segments().len(),
            _ => ATTRIBUTE,
        }
    }
}

/// Parses an address. An IPv4 address that is mapped into IPv6 is IPv4.
pub fn address(value: &str) -> Option<IpAddr> {
    value.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// Parses a network, or an address as a network of one. A network of IPv4 addresses that are mapped into IPv6 is an
/// IPv4 network.
pub fn network(text: &str) -> Result<IpNet, String> {
    let host = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .or_else(|_| host())
        .map(|net| canonical(net.trunc()))
        .map_err(|_| format!("expected an IP network such as 10.0.0.0/8, not {text:?}"))
}

fn canonical(net: IpNet) -> IpNet {
    let mapped = match net {
        IpNet::V6(v6) => v6.prefix_len().checked_sub(96).zip(v6.network().to_ipv4_mapped()),
        IpNet::V4(_) => None,
    };
    mapped.and_then(|(prefix, address)| IpNet::new(address.into(), prefix).ok()).unwrap_or(net)
}

/// The regular expression that a condition compiles to; `None` if it needs none.
pub fn regex_of(condition: &Condition) -> Option<String> {
    match condition {
        Condition::Glob(glob) => Some(glob_to_regex(glob)),
        Condition::Regex(regex) => Some(regex.clone()),
        Condition::Not(inner) => regex_of(inner),
        _ => None,
    }
}

/// Translates a glob: `?` is one character, `*` any number of characters within a segment, and `**` any number across
/// `/`.
fn glob_to_regex(glob: &str) -> String {
    let mut out = String::from("^(?s)");
    let mut rest = glob;
    while let Some(c) = rest.chars().next() {
        let (pattern, used) = match c {
            '*' if rest.starts_with("**") => (".*".to_owned(), 2),
            '*' => ("[^/]*".to_owned(), 1),
            '?' => ("[^/]".to_owned(), 1),
            _ => (format!("\\x{{{:x}}}", u32::from(c)), c.len_utf8()),
        };
        out.push_str(&pattern);
        rest = &rest[used..];
    }
    out + "$"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(condition: Condition, value: &str) -> bool {
        Compiled::new(&condition).unwrap().holds(Some(value))
    }

    fn owned(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn every_kind_of_condition_matches_as_the_contract_says() {
        use Condition::*;
        let table = [
            (Equal(owned("a")), "a", "b"),
            (AnyOf(vec![owned("a"), owned("b")]), "b", "c"),
            (Prefix(owned("/api")), "/api/x", "/ap"),
            (Suffix(owned(".png")), "x.png", "x.jpg"),
            (Glob(owned("/api/*/x")), "/api/v1/x", "/api/v1/y/x"),
            (Glob(owned("/**/x?")), "/a/b/xy", "/a/b/x"),
            (Glob(owned("a.c(")), "a.c(", "abc("),
            (Route(owned("/a/{b}")), "/a/1", "/a/1/2"),
            (Cidr(vec![owned("10.0.0.0/8"), owned("2001:db8::/32")]), "::ffff:10.1.2.3", "11.0.0.1"),
            (Cidr(vec![owned("192.0.2.7")]), "192.0.2.7", "192.0.2.8"),
            (Cidr(vec![owned("::ffff:10.0.0.0/104")]), "10.1.2.3", "11.0.0.1"),
            (Regex(owned("^v[0-9]+$")), "v12", "v"),
            (Present(true), "", "-"),
            (Not(Box::new(Equal(owned("a")))), "b", "a"),
        ];
        for (condition, matching, other) in table {
            assert!(holds(condition.clone(), matching), "{condition:?} {matching}");
            if condition != Present(true) {
                assert!(!holds(condition.clone(), other), "{condition:?} {other}");
            }
        }
    }

    #[test]
    fn only_not_and_present_false_hold_for_an_absent_attribute() {
        use Condition::*;
        let absent = |c: Condition| Compiled::new(&c).unwrap().holds(None);
        assert!(!absent(Prefix(owned(""))));
        assert!(!absent(Glob(owned("**"))));
        assert!(!absent(Present(true)));
        assert!(absent(Present(false)));
        assert!(absent(Not(Box::new(Equal(owned("a"))))));
        assert!(!absent(Not(Box::new(Present(false)))));
    }

    #[test]
    fn the_error_of_an_invalid_condition_says_what_was_expected() {
        use Condition::*;
        let invalid =
            [Regex(owned("(")), Cidr(vec![owned("10/8")]), Route(owned("a")), Route(owned("/{}")), AnyOf(vec![])];
        for condition in invalid {
            assert!(Compiled::new(&condition).unwrap_err().starts_with("expected"), "{condition:?}");
        }
    }

    #[test]
    fn a_test_takes_steps_for_networks_segments_and_the_bytes_that_it_searches() {
        use Condition::*;
        let regex = || Regex(owned("^v[0-9]+$"));
        for (condition, steps, searched) in [
            (Equal(owned("a")), 2, 0),
            (Cidr(vec![owned("10.0.0.0/8"); 9]), 5, 0),
            (Route(owned("/a/{b}/c/d")), 6, 0),
            (regex(), 10, 819),
            (Glob(owned("/v*")), 10, 819),
            (Not(Box::new(regex())), 10, 819),
            (Not(Box::new(Route(owned("/a/{b}/c")))), 5, 0),
        ] {
            let compiled = Compiled::new(&condition).unwrap();
            assert_eq!((compiled.steps(), compiled.search_steps(4096)), (steps, searched), "{condition:?}");
        }
    }
}
