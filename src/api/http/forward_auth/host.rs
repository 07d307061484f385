//! The host of a request in the one form under which all its spellings are counted.

/// Returns the host in lower case, without its port and without final dots, as nginx's `$host`.
pub fn normalized(raw: &[u8]) -> Vec<u8> {
    let raw = raw.trim_ascii();
    let end = match raw.iter().position(|byte| *byte == b']') {
        // The colons in brackets are part of an IPv6 address.
        Some(bracket) if raw.starts_with(b"[") => bracket + 1,
        _ => raw.iter().position(|byte| *byte == b':').unwrap_or(raw.len()),
    };
    let mut name = &raw[..end];
    while let [rest @ .., b'.' | b' ' | b'\t'] = name {
        name = rest;
    }
    name.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_spellings_of_a_host_have_one_form() {
        let cases: [(&str, &[&str]); 5] = [
            (
                "shop.example",
                &["shop.example", "SHOP.example", "shop.example:443", "shop.example.", " Shop.Example.:80 "],
            ),
            ("shop.example", &["shop.example:", "shop.example..", "shop.example:443:444"]),
            ("[::1]", &["[::1]", "[::1]:8080"]),
            ("[2001:db8::a]", &["[2001:DB8::A]:443"]),
            ("", &["", ".", ":80"]),
        ];
        for (form, spellings) in cases {
            for raw in spellings {
                assert_eq!(normalized(raw.as_bytes()), form.as_bytes(), "{raw}");
            }
        }
        assert_eq!(normalized(b"\xc3\x89.example"), b"\xc3\x89.example", "only ASCII has a lower case");
    }

    proptest! {
        #[test]
        fn a_normal_form_has_no_other_normal_form(
            raw in prop::collection::vec(prop::sample::select(b"aB.:[]1\xff ".to_vec()), 0..10),
        ) {
            let form = normalized(&raw);
            prop_assert_eq!(normalized(&form), form.clone());
            prop_assert!(!form.ends_with(b".") && !form.iter().any(u8::is_ascii_uppercase));
        }
    }
}
