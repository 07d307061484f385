//! `Forwarded` (RFC 7239): which hops a line of it names.

/// The `for` parameters of a line's elements, from the right. `None` if an element has none, or several.
///
/// The line is read from its right end. A proxy writes its element there, and the client may have written anything to
/// the left of it, such as a quote that it never closes.
pub fn hops_from_the_right(line: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    split_from_the_right(line, b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty()).map(hop)
}

/// The `for` parameter of an element.
fn hop(element: &[u8]) -> Option<&[u8]> {
    let mut named = split_from_the_right(element, b';').filter_map(|pair| {
        let (name, value) = pair.split_at_checked(pair.iter().position(|byte| *byte == b'=')?)?;
        name.trim_ascii().eq_ignore_ascii_case(b"for").then(|| value[1..].trim_ascii())
    });
    named.next().filter(|_| named.next().is_none())
}

/// The parts of `text` between separators that are not in quotes, the last part first.
fn split_from_the_right(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut quoted = false;
        for (at, byte) in text.iter().enumerate().rev() {
            match byte {
                b'"' if !is_escaped(text, at) => quoted = !quoted,
                byte if *byte == separator && !quoted => {
                    rest = Some(&text[..at]);
                    return Some(&text[at + 1..]);
                }
                _ => {}
            }
        }
        rest = None;
        Some(text)
    })
}

/// True if an odd number of backslashes is before the byte at `at`.
fn is_escaped(text: &[u8], at: usize) -> bool {
    text[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hops(line: &str) -> Vec<Option<&str>> {
        hops_from_the_right(line.as_bytes()).map(|hop| hop.map(|hop| str::from_utf8(hop).unwrap())).collect()
    }

    #[test]
    fn the_hops_of_a_line_are_read_from_the_right() {
        let line =
            "for=192.0.2.60;proto=http;by=203.0.113.43, For = \"[2001:db8::7]:4711\" ;host=\"a,b;c\",, proto=https";
        assert_eq!(hops(line), [None, Some("\"[2001:db8::7]:4711\""), Some("192.0.2.60")]);
        assert_eq!(hops("for=a;for=b"), [None]);
        assert_eq!(hops("for"), [None]);
        assert_eq!(hops("for=\"a\\\",b\""), [Some("\"a\\\",b\"")]);
        assert!(hops("").is_empty() && hops(" , ").is_empty());
    }

    proptest! {
        #[test]
        fn what_a_client_writes_changes_nothing_to_the_right_of_it(
            garbage in prop::collection::vec(prop::sample::select(b"\"\\,;=for \xff".to_vec()), 0..12),
            proxies in prop::sample::select(vec!["for=1.2.3.4", "by=x;for=\"[2001:db8::1]:80\";host=\"a,b\""]),
        ) {
            let alone: Vec<_> = hops_from_the_right(proxies.as_bytes()).collect();
            let line = [&garbage[..], b", ", proxies.as_bytes()].concat();
            let beside: Vec<_> = hops_from_the_right(&line).take(1).collect();
            prop_assert_eq!(alone, beside);
        }
    }
}
