//! The name of a counter. It is injective and bounded. It is short, because a store keeps every byte of it once per
//! key.
//!
//! The form is `limit/value/value…`: eight characters for the limit, and the values. Values are percent-encoded, except
//! for a few plain characters. Therefore no value can look like a separator, like two values, or like a hash.
//!
//! The form `limit/#hash` is for values that are long together, and for all values if the region hashes its keys.

use sha2::{Digest, Sha256};

/// If the encoded values are longer than this together, in bytes, a hash replaces them. A UUID fits.
pub const MAX_VALUES: usize = 40;

/// Base64 for URLs (RFC 4648, section 5).
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `/` and `part`, escaped.
fn push_part(out: &mut Vec<u8>, part: &str) {
    out.push(b'/');
    push_escaped(out, part);
}

/// Appends `part`. Letters, digits and `-._~@+=,` stay as they are.
fn push_escaped(out: &mut Vec<u8>, part: &str) {
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@+=,".contains(&byte) {
            out.push(byte);
        } else {
            out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// Appends the values that distinguish the counters of one limit. If `hash` is true, they never stand there in clear.
pub fn push_values<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = &'a str> + Clone, hash: bool) {
    if hash {
        if values.clone().next().is_some() {
            push_hash(out, values);
        }
        return;
    }
    let start = out.len();
    for value in values.clone() {
        push_part(out, value);
        if out.len() - start > MAX_VALUES {
            out.truncate(start);
            return push_hash(out, values);
        }
    }
}

/// Appends `/#` and 144 bits of the SHA-256 of `values`.
fn push_hash<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = &'a str>) {
    out.extend(b"/#");
    push_base64(out, &digest(values)[..18]);
}

/// The beginning of a name that all counters of one limit share. Of a name that no limit has, its beginning.
pub fn limit_of(name: &[u8]) -> [u8; 8] {
    std::array::from_fn(|at| name.get(at).copied().unwrap_or_default())
}

/// Returns the limit that has the most counters of a sample, if the sample has any.
pub fn most_common_limit(sample: &[[u8; 8]]) -> Option<[u8; 8]> {
    let count = |limit: &&[u8; 8]| sample.iter().filter(|other| other == limit).count();
    sample.iter().max_by_key(count).copied()
}

/// 48 bits of a digest, as eight characters.
pub fn prefix(digest: &[u8; 32]) -> Vec<u8> {
    let mut out = Vec::new();
    push_base64(&mut out, &digest[..6]);
    out
}

/// SHA-256 over the texts, each after its length.
pub fn digest<'a>(texts: impl Iterator<Item = &'a str>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    hash.finalize().into()
}

/// Appends whole groups of three bytes in Base64.
fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    for group in bytes.chunks_exact(3) {
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        out.extend([18, 12, 6, 0].map(|shift| BASE64[(bits >> shift & 63) as usize]));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name_of(values: &[&str], hash: bool) -> String {
        let mut out = Vec::new();
        push_values(&mut out, values.iter().copied(), hash);
        String::from_utf8(out).unwrap()
    }

    fn name(values: &[&str]) -> String {
        name_of(values, false)
    }

    #[test]
    fn escaped_and_hashed_values_do_not_collide() {
        assert_ne!(name(&["a:b", "c"]), name(&["a", "b:c"]));
        assert_ne!(name(&["a/b"]), name(&["a", "b"]));
        assert_ne!(name(&["%2f"]), name(&["/"]));
        assert_ne!(name(&[""]), name(&[]));
        assert_eq!(name(&["{u}"]), "/%7bu%7d", "unescaped braces would select a Redis slot");
        let hashed = name(&[&"x".repeat(200)]);
        assert_eq!(hashed.len(), 26);
        assert_ne!(name(&[&"x".repeat(201)]), hashed);
        let uuid = "0b5c3f0e-3f7a-4b6e-9d0a-6d1f2c3b4a59";
        assert_eq!(name(&[uuid]), format!("/{uuid}"));
        assert_ne!(name(&[&hashed[1..]]), hashed, "a value that equals a hash is not taken for a hash");
    }

    #[test]
    fn a_hashed_name_has_one_length_and_differs_for_values_that_are_split_differently() {
        assert_eq!(name_of(&["u1"], true).len(), 26);
        assert_eq!(name_of(&["u1", &"x".repeat(4096)], true).len(), 26);
        assert_ne!(name_of(&["a/b"], true), name_of(&["a", "b"], true));
        assert_ne!(name_of(&[""], true), name_of(&["", ""], true));
        assert_eq!(name_of(&[], true), "", "one counter for all: there is no value to hide");
    }

    #[test]
    fn values_are_hashed_when_they_are_longer_than_a_uuid_together() {
        let (most, more) = ("x".repeat(MAX_VALUES - 1), "x".repeat(MAX_VALUES));
        assert_eq!(name(&[&most]), format!("/{most}"), "with its separator it is as long as may be");
        assert_eq!(name(&[&more]).len(), 26);
        // Two values have two separators.
        assert_eq!(name(&["a", &most[2..]]), format!("/a/{}", &most[2..]));
        assert_eq!(name(&["a", &most[1..]]).len(), 26);
        // An escaped character takes three.
        assert_eq!(name(&[&"{".repeat(13)]), format!("/{}", "%7b".repeat(13)));
        assert_eq!(name(&[&"{".repeat(14)]).len(), 26);
        // What the name begins with does not count.
        let mut out = b"LcsBPmqY".to_vec();
        push_values(&mut out, [most.as_str()].into_iter(), false);
        assert_eq!(String::from_utf8(out).unwrap(), format!("LcsBPmqY/{most}"));
    }

    #[test]
    fn a_hash_tells_apart_where_long_values_are_cut() {
        let all = "0123456789".repeat(8);
        let mut names: Vec<String> = (0..=all.len()).map(|cut| name(&[&all[..cut], &all[cut..]])).collect();
        names.push(name(&[&all]));
        names.push(name(&[&all[..30], &all[30..60], &all[60..]]));
        names.push(name(&[&all[..60], &all[60..70], &all[70..]]));
        assert!(names.iter().all(|name| name.len() == 26 && name.starts_with("/#")), "{names:?}");
        let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn a_name_is_the_same_in_every_release() {
        // Counters of a running region have these names.
        assert_eq!(name(&["u1", "/a b"]), "/u1/%2fa%20b");
        assert_eq!(name(&["A-Z.0_9~@+=,"]), "/A-Z.0_9~@+=,");
        assert_eq!(name_of(&["u1"], true), "/#Kbv6dH9LMM6tVqbnTcD2kYwk");
        assert_eq!(prefix(&digest(["d", "l"].into_iter())), b"LcsBPmqY");
    }

    proptest! {
        #[test]
        fn different_values_have_different_names(
            a in prop::collection::vec(".{0,40}", 0..4),
            b in prop::collection::vec(".{0,40}", 0..4),
            hash: bool,
        ) {
            let name_of = |v: &[String]| name_of(&v.iter().map(String::as_str).collect::<Vec<_>>(), hash);
            prop_assert_eq!(a == b, name_of(&a) == name_of(&b));
        }
    }
}
