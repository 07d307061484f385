//! The name of a counter: readable, injective, bounded.
//!
//! `domain/limit/shape/value/value…`, each part percent-encoded but for a few plain characters, so no value can
//! pose as a separator, as another value's pair, or as a hash.

use sha2::{Digest, Sha256};

/// Encoded values longer than this, in bytes, are replaced by `#` and the SHA-256 of the values.
pub const MAX_VALUES: usize = 96;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Adds `/` and `part`, escaped.
pub fn push_part(out: &mut Vec<u8>, part: &str) {
    out.push(b'/');
    push_escaped(out, part);
}

/// Adds `part`, escaped: letters, digits and `-._~@+=,` stay.
pub fn push_escaped(out: &mut Vec<u8>, part: &str) {
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@+=,".contains(&byte) {
            out.push(byte);
        } else {
            out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// Adds the values that tell counters of one limit apart.
pub fn push_values<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = &'a str> + Clone) {
    let start = out.len();
    for value in values.clone() {
        push_part(out, value);
        if out.len() - start > MAX_VALUES {
            out.truncate(start);
            out.extend(b"/#");
            push_hex(out, &digest(values));
            return;
        }
    }
}

/// A short digest of texts, for names that must differ when the texts do; 10 hex digits.
pub fn tag<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut out = Vec::new();
    push_hex(&mut out, &digest(texts)[..5]);
    String::from_utf8_lossy(&out).into_owned()
}

/// SHA-256 over the texts, each behind its length.
fn digest<'a>(texts: impl Iterator<Item = &'a str>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    hash.finalize().into()
}

fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes.iter().flat_map(|b| [HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(values: &[&str]) -> String {
        let mut out = Vec::new();
        push_values(&mut out, values.iter().copied());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_cannot_pose_as_others() {
        assert_ne!(name(&["a:b", "c"]), name(&["a", "b:c"]));
        assert_ne!(name(&["a/b"]), name(&["a", "b"]));
        assert_ne!(name(&["%2f"]), name(&["/"]));
        assert_ne!(name(&[""]), name(&[]));
        assert_eq!(name(&["{u}"]), "/%7bu%7d", "braces would choose a Redis slot");
        let hashed = name(&[&"x".repeat(200)]);
        assert_eq!(hashed.len(), 66);
        assert_ne!(name(&[&hashed[1..]]), hashed, "a value equal to a hash is no hash");
    }

    proptest! {
        #[test]
        fn different_values_have_different_names(
            a in prop::collection::vec(".{0,40}", 0..4),
            b in prop::collection::vec(".{0,40}", 0..4),
        ) {
            let of = |v: &[String]| name(&v.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert_eq!(a == b, of(&a) == of(&b));
        }
    }
}
