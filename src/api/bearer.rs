//! The bearer token of a call to a front end for checks.

use std::sync::Arc;

use axum::http::{HeaderMap, header};

use crate::ports::ClientTokens;

/// Returns true if the call has one bearer token, and it is valid.
pub fn has_valid_token(tokens: &Arc<dyn ClientTokens>, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::AUTHORIZATION).into_iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let parts = value.to_str().ok().and_then(|value| value.split_once(' '));
    parts.is_some_and(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && tokens.is_valid(token.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One;

    impl ClientTokens for One {
        fn is_valid(&self, token: &str) -> bool {
            token == "secret"
        }
    }

    #[test]
    fn a_call_needs_exactly_one_valid_token() {
        let is_valid = |values: &[&str]| {
            let value = |value: &&str| (header::AUTHORIZATION, value.parse().unwrap());
            has_valid_token(&(Arc::new(One) as Arc<dyn ClientTokens>), &values.iter().map(value).collect())
        };
        assert!(is_valid(&["Bearer secret"]) && is_valid(&["bearer  secret"]));
        for wrong in [&[][..], &["secret"], &["Basic secret"], &["Bearer other"], &["Bearer"], &["Bearer "]] {
            assert!(!is_valid(wrong), "{wrong:?}");
        }
        assert!(!is_valid(&["Bearer secret", "Bearer secret"]), "nobody can tell which one counts");
    }
}
