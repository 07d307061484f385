//! Headers that leave open what is asked.

use super::notices::Problem;

/// Why a check is denied before any limit is asked: its headers leave open what is asked. It is no error, because a
/// client can send such headers, and a gateway may let a request pass whose check is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ambiguity {
    pub problem: Problem,
    /// A sentence for people.
    pub detail: String,
}

impl Ambiguity {
    /// Headers that must agree name different values of an attribute.
    pub fn contradiction(attribute: &str, headers: &[&str]) -> Self {
        let detail = match headers {
            [one] => format!("{attribute}: the request has {one} several times, with different values"),
            all => format!("{attribute}: the headers {} name different values", all.join(" and ")),
        };
        Self { problem: Problem::ContradictingHeaders, detail }
    }

    /// A header that a request has at most once is there several times.
    pub fn repetition(attribute: &str, header: &str) -> Self {
        let detail = format!("{attribute}: the request has {header} several times");
        Self { problem: Problem::RepeatedHeader, detail }
    }
}
