//! The path of a request in the one form under which all its spellings are counted, so that no spelling evades a rule.
//!
//! It is what nginx calls `$uri`: percent-encoded bytes are decoded, repeated slashes are one slash, and dot segments
//! are resolved. There are three deliberate differences:
//!
//! - `%2F` stays, in capitals: to most applications it is data and no separator.
//! - `%25` stays, and a `%` that begins no encoded byte becomes `%25`. Otherwise `%252F` would look like `%2F`.
//! - A path that leaves the root ends at the root, as in RFC 3986. nginx rejects it.

/// Returns the normal form of a path. It begins with a slash.
pub fn normalized(raw: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(raw.len() + 1);
    let decoded = decoded(raw);
    let mut names_folder = true;
    for segment in decoded.split(|byte| *byte == b'/') {
        names_folder = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => path.truncate(path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
            _ => {
                path.push(b'/');
                path.extend(segment);
            }
        }
    }
    if names_folder {
        path.push(b'/');
    }
    path
}

/// Decodes every encoded byte except a slash and a percent sign.
fn decoded(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let byte = encoded_byte(after);
        match byte {
            Some(b'/') => out.extend(b"%2F"),
            Some(b'%') | None => out.extend(b"%25"),
            Some(other) => out.push(other),
        }
        if byte.is_some() {
            rest = &after[2..];
        }
    }
    out
}

/// The byte that the first two characters encode.
fn encoded_byte(text: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
    u8::try_from(digit(0)? << 4 | digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(raw: &str) -> String {
        String::from_utf8(normalized(raw.as_bytes())).unwrap()
    }

    #[test]
    fn all_spellings_of_a_path_have_one_form() {
        let cases: [(&str, &[&str]); 12] = [
            ("/login", &["/login", "//login", "/./login", "/x/../login", "/%6Cogin", "/%6c%6F%67%69%6e", "login"]),
            ("/login", &["/x/%2e%2E/login", "/.%2e/login", "/x/.//../login", "///.//login", "/../../login"]),
            ("/login/", &["/login/", "/login//", "/login/.", "/login/x/..", "/login/%2E/"]),
            ("/", &["/", "", "//", "/.", "/..", "/a/..", "/a/../..", "."]),
            ("/a b", &["/a b", "/a%20b"]),
            ("/caf\u{e9}", &["/caf\u{e9}", "/caf%C3%A9", "/caf%c3%a9"]),
            (
                "/a!*'();:@&=+$,?#[]",
                &["/a!*'();:@&=+$,%3F%23[]", "/a%21%2A%27%28%29%3B%3A%40%26%3D%2B%24%2C%3f%23%5B%5D"],
            ),
            // A slash that is data separates nothing, and is no part of a dot segment.
            ("/a%2Fb", &["/a%2Fb", "/a%2fb"]),
            ("/a%2F../b", &["/a%2F../b", "/a%2f%2e%2e/b"]),
            // An encoded percent sign begins no encoded byte.
            ("/a%252Fb", &["/a%252Fb", "/%61%252Fb"]),
            ("/%25zz%25", &["/%zz%", "/%25zz%25", "/%25%7A%7a%"]),
            ("/.../..a/.b/c.", &["/.../..a/.b/c.", "/%2e../.%2ea/%2eb/c%2e"]),
        ];
        for (form, spellings) in cases {
            for raw in spellings {
                assert_eq!(path(raw), form, "{raw}");
            }
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_stay_different() {
        assert_eq!(normalized(b"/%FF"), b"/\xff");
        assert_eq!(normalized(b"/\xff"), b"/\xff");
        assert_eq!(normalized(b"/%00%0a"), b"/\0\n");
    }

    /// The characters with a meaning, and a few without.
    fn raw_path() -> impl Strategy<Value = Vec<u8>> {
        let parts = ["/", ".", "..", "%", "%2e", "%2F", "%2f", "%25", "%41", "%ff", "a", "A", "2", "F", "e", "\u{e9}"];
        prop::collection::vec(prop::sample::select(parts.to_vec()), 0..12).prop_map(|parts| parts.concat().into_bytes())
    }

    /// Writes a normal form in another way: some bytes encoded, some slashes doubled, some detours.
    fn other_spelling(form: &[u8], choices: &[u8]) -> Vec<u8> {
        let (mut out, mut rest) = (Vec::new(), form);
        let mut choices = choices.iter().copied().cycle();
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            match (byte, choices.next().unwrap_or(0)) {
                (b'%', choice) => {
                    let digits = [after[0], after[1]];
                    out.extend(if choice == 0 {
                        [b'%', digits[0], digits[1].to_ascii_lowercase()]
                    } else {
                        [b'%', digits[0], digits[1]]
                    });
                    rest = &after[2..];
                }
                (b'/', 0) => out.extend(b"//"),
                (b'/', 1) => out.extend(b"/./"),
                (b'/', 2) => out.extend(b"/q/../"),
                (byte, 0) if *byte != b'/' => out.extend(format!("%{byte:02x}").bytes()),
                (byte, 1) if *byte != b'/' => out.extend(format!("%{byte:02X}").bytes()),
                _ => out.push(*byte),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn a_normal_form_has_no_other_normal_form(raw in raw_path()) {
            let form = normalized(&raw);
            prop_assert_eq!(normalized(&form), form);
        }

        #[test]
        fn a_normal_form_has_no_detours(raw in raw_path()) {
            let form = normalized(&raw);
            prop_assert!(form.starts_with(b"/"));
            let inner = &form[1..];
            let segments: Vec<&[u8]> = inner.split(|byte| *byte == b'/').collect();
            let (last, others) = segments.split_last().unwrap();
            prop_assert!(others.iter().all(|segment| !segment.is_empty()));
            prop_assert!(segments.iter().all(|segment| *segment != b"." && *segment != b".."), "{last:?}");
        }

        #[test]
        fn every_spelling_has_the_form_of_the_path(raw in raw_path(), choices in prop::collection::vec(0u8..4, 1..20)) {
            let form = normalized(&raw);
            prop_assert_eq!(normalized(&other_spelling(&form, &choices)), form);
        }
    }
}
