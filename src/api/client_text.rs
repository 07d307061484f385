//! Text from bytes that a client of a gateway chose. No bytes are an error there: a gateway may let a request pass
//! whose check is an error.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Returns `bytes` as text. Different bytes give different texts.
///
/// UTF-8 stays as it is. In a value that is not UTF-8, each byte that is not part of UTF-8 becomes `\xNN`, and each
/// backslash is doubled. A value of UTF-8 that contains `\x` gets doubled backslashes too, so that it is not mistaken
/// for an escaped value.
pub fn from_bytes(bytes: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(bytes) {
        Ok(text) if is_unambiguous(text) => Cow::Borrowed(text),
        _ => Cow::Owned(escape(bytes)),
    }
}

/// As [`from_bytes`], without a copy of a value that stays as it is.
pub fn from_vec(bytes: Vec<u8>) -> String {
    match String::from_utf8(bytes) {
        Ok(text) if is_unambiguous(&text) => text,
        Ok(text) => escape(text.as_bytes()),
        Err(error) => escape(error.as_bytes()),
    }
}

/// True if `text` cannot be mistaken for an escaped value.
fn is_unambiguous(text: &str) -> bool {
    // Few values have a backslash, and a single byte is found faster.
    !text.as_bytes().contains(&b'\\') || !text.contains("\\x")
}

fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        out += &chunk.valid().replace('\\', "\\\\");
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn utf8_stays_as_it_is_and_other_bytes_are_escaped() {
        let cases: [(&[u8], &str); 6] = [
            (b"abc", "abc"),
            ("caf\u{e9} \u{fffd}".as_bytes(), "caf\u{e9} \u{fffd}"),
            (b"C:\\dir", "C:\\dir"),
            (b"a\xff", "a\\xff"),
            (b"a\\xff", "a\\\\xff"),
            (b"a\\\xff", "a\\\\\\xff"),
        ];
        for (bytes, text) in cases {
            assert_eq!(from_bytes(bytes), text);
            assert_eq!(from_vec(bytes.to_vec()), text);
        }
    }

    proptest! {
        #[test]
        fn different_bytes_give_different_texts(
            a in prop::collection::vec(prop::sample::select(b"\\x0fa\xff\xc3\xa9".to_vec()), 0..8),
            b in prop::collection::vec(prop::sample::select(b"\\x0fa\xff\xc3\xa9".to_vec()), 0..8),
        ) {
            prop_assert_eq!(a == b, from_bytes(&a) == from_bytes(&b));
        }
    }
}
