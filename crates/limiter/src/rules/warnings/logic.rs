//! What follows from a condition, whatever the value of its attribute. Each answer is sure: a condition of which
//! nothing is known neither excludes nor implies another.

use ipnet::IpNet;

use crate::rules::matcher::{Compiled, network};
use crate::rules::rule::Condition;

/// True if the condition holds for a value, or for an absent attribute.
pub fn holds(condition: &Condition, value: Option<&str>) -> bool {
    Compiled::new(condition).is_ok_and(|compiled| compiled.holds(value))
}

/// True if the condition does not hold for an absent attribute.
pub fn needs_presence(condition: &Condition) -> bool {
    !holds(condition, None)
}

/// True if the condition holds for no value.
pub fn excludes_values(condition: &Condition) -> bool {
    match condition {
        Condition::Present(present) => !present,
        Condition::Not(inner) => includes_values(inner),
        _ => false,
    }
}

/// True if the condition holds for every value.
fn includes_values(condition: &Condition) -> bool {
    match condition {
        Condition::Present(present) => *present,
        Condition::Prefix(text) | Condition::Suffix(text) | Condition::Regex(text) => text.is_empty(),
        Condition::Glob(pattern) => pattern == "**",
        Condition::Not(inner) => excludes_values(inner),
        _ => false,
    }
}

/// The only values for which the condition holds, if it names them.
pub fn values(condition: &Condition) -> Option<Vec<&str>> {
    match condition {
        Condition::Equal(text) => Some(vec![text]),
        Condition::AnyOf(all) => Some(all.iter().map(String::as_str).collect()),
        _ => None,
    }
}

/// True if the two conditions never hold together.
pub fn exclude_each_other(a: &Condition, b: &Condition) -> bool {
    let one_is_not_the_other = |a: &Condition, b: &Condition| matches!(a, Condition::Not(inner) if **inner == *b);
    if one_is_not_the_other(a, b) || one_is_not_the_other(b, a) {
        return true;
    }
    if !needs_presence(a) && !needs_presence(b) {
        return false;
    }
    if excludes_values(a) || excludes_values(b) {
        return true;
    }
    if let Some(result) = [(a, b), (b, a)].into_iter().find_map(|(a, b)| Some(!any_holds(b, &values(a)?))) {
        return result;
    }
    match (a, b) {
        (Condition::Prefix(a), Condition::Prefix(b)) => !a.starts_with(b.as_str()) && !b.starts_with(a.as_str()),
        (Condition::Suffix(a), Condition::Suffix(b)) => !a.ends_with(b.as_str()) && !b.ends_with(a.as_str()),
        (Condition::Cidr(a), Condition::Cidr(b)) => {
            let (a, b) = (networks(a), networks(b));
            !a.iter().any(|a| b.iter().any(|b| a.contains(b) || b.contains(a)))
        }
        _ => false,
    }
}

/// True if the second condition holds whenever the first does.
pub fn implies(strong: &Condition, weak: &Condition) -> bool {
    if strong == weak {
        return true;
    }
    if !needs_presence(strong) && needs_presence(weak) {
        return false;
    }
    if excludes_values(strong) || includes_values(weak) {
        return true;
    }
    if let Some(values) = values(strong) {
        return all_hold(weak, &values);
    }
    match (strong, weak) {
        (Condition::Prefix(strong), Condition::Prefix(weak)) => strong.starts_with(weak.as_str()),
        (Condition::Suffix(strong), Condition::Suffix(weak)) => strong.ends_with(weak.as_str()),
        (Condition::Cidr(strong), Condition::Cidr(weak)) => {
            let weak = networks(weak);
            networks(strong).iter().all(|strong| weak.iter().any(|weak| weak.contains(strong)))
        }
        (strong, Condition::Not(excluded)) => exclude_each_other(strong, excluded),
        _ => false,
    }
}

fn any_holds(condition: &Condition, values: &[&str]) -> bool {
    Compiled::new(condition).is_ok_and(|compiled| values.iter().any(|value| compiled.holds(Some(value))))
}

fn all_hold(condition: &Condition, values: &[&str]) -> bool {
    Compiled::new(condition).is_ok_and(|compiled| values.iter().all(|value| compiled.holds(Some(value))))
}

fn networks(texts: &[String]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| network(text).ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn condition() -> impl Strategy<Value = Condition> {
        let text = || "[ab]{0,2}";
        let nets = || prop::sample::select(vec!["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "0.0.0.0/0"]);
        let leaf = prop_oneof![
            text().prop_map(Condition::Equal),
            prop::collection::vec(text(), 1..3).prop_map(Condition::AnyOf),
            text().prop_map(Condition::Prefix),
            text().prop_map(Condition::Suffix),
            "[ab*]{0,3}".prop_map(Condition::Glob),
            "a?b?".prop_map(Condition::Regex),
            prop::collection::vec(nets().prop_map(str::to_owned), 1..3).prop_map(Condition::Cidr),
            any::<bool>().prop_map(Condition::Present),
        ];
        leaf.prop_recursive(2, 4, 1, |inner| inner.prop_map(|inner| Condition::Not(Box::new(inner))))
    }

    fn value() -> impl Strategy<Value = Option<String>> {
        let address = prop::sample::select(vec!["10.1.2.3", "10.1.9.9", "10.9.9.9", "192.0.2.1"]);
        prop_oneof![Just(None), "[ab]{0,3}".prop_map(Some), address.prop_map(|text| Some(text.to_owned()))]
    }

    proptest! {
        /// A wrong answer would warn of rules that do apply.
        #[test]
        fn no_value_contradicts_an_answer(a in condition(), b in condition(), value in value()) {
            let value = value.as_deref();
            let (a_holds, b_holds) = (holds(&a, value), holds(&b, value));
            prop_assert!(!(exclude_each_other(&a, &b) && a_holds && b_holds), "{value:?}");
            prop_assert!(!(implies(&a, &b) && a_holds && !b_holds), "{value:?}");
            prop_assert!(!(excludes_values(&a) && value.is_some() && a_holds), "{value:?}");
            prop_assert!(!(includes_values(&a) && value.is_some() && !a_holds), "{value:?}");
        }
    }

    #[test]
    fn the_answers_that_matter_are_known() {
        let text = |text: &str| text.to_owned();
        let equal = |value: &str| Condition::Equal(text(value));
        let any_of = |all: &[&str]| Condition::AnyOf(all.iter().map(|value| text(value)).collect());
        let prefix = |value: &str| Condition::Prefix(text(value));
        let cidr = |net: &str| Condition::Cidr(vec![text(net)]);
        let not = |inner: Condition| Condition::Not(Box::new(inner));
        for (a, b) in [
            (equal("free"), equal("pro")),
            (equal("free"), any_of(&["pro", "basic"])),
            (equal("/a"), prefix("/b")),
            (prefix("/a/"), prefix("/b/")),
            (cidr("10.0.0.0/8"), cidr("192.0.2.0/24")),
            (equal("x"), Condition::Present(false)),
            (prefix("x"), not(Condition::Present(true))),
            (equal("x"), not(equal("x"))),
        ] {
            assert!(exclude_each_other(&a, &b) && exclude_each_other(&b, &a), "{a:?} {b:?}");
        }
        for (strong, weak) in [
            (equal("free"), any_of(&["free", "pro"])),
            (any_of(&["/a/1", "/a/2"]), prefix("/a/")),
            (prefix("/a/b"), prefix("/a/")),
            (cidr("10.1.0.0/16"), cidr("10.0.0.0/8")),
            (equal("x"), Condition::Present(true)),
            (prefix("x"), prefix("")),
            (equal("x"), not(equal("y"))),
        ] {
            assert!(implies(&strong, &weak) && !implies(&weak, &strong), "{strong:?} {weak:?}");
        }
    }
}
