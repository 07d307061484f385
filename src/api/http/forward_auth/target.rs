//! The parts of a request target.

/// The parts of a request target that rules see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The host and the port, if the target is a full URL.
    pub authority: Option<&'a [u8]>,
    /// The path as it was sent, without the query.
    pub path: &'a [u8],
}

/// Splits a path with its query, or a full URL, whatever bytes it has: a URL that a parser would reject must not hide a
/// path from its rules.
pub fn split(target: &[u8]) -> Target<'_> {
    let until = |text: &[u8], ends: &[u8]| text.iter().position(|byte| ends.contains(byte)).unwrap_or(text.len());
    let scheme = until(target, b":/?#");
    let (authority, rest) = match target[scheme..].strip_prefix(b"://") {
        Some(rest) => {
            let (authority, rest) = rest.split_at(until(rest, b"/?#"));
            let host = authority.rsplit(|byte| *byte == b'@').next().unwrap_or(authority);
            (Some(host), rest)
        }
        None => (None, target),
    };
    Target { authority, path: &rest[..until(rest, b"?#")] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_url_hides_no_path() {
        let cases = [
            ("/expensive?<", None, "/expensive"),
            ("/a<b>`", None, "/a<b>`"),
            ("/a?next=https://b/c", None, "/a"),
            ("/a://b/c", None, "/a://b/c"),
            ("//b/c", None, "//b/c"),
            ("/a#b?c", None, "/a"),
            ("http://me@[::1]:80/x\"#y", Some("[::1]:80"), "/x\""),
            ("https://shop.example:8443?q", Some("shop.example:8443"), ""),
            ("https://shop.example", Some("shop.example"), ""),
            ("*", None, "*"),
            ("", None, ""),
        ];
        for (target, host, path) in cases {
            let expected = Target { authority: host.map(str::as_bytes), path: path.as_bytes() };
            assert_eq!(split(target.as_bytes()), expected, "{target}");
        }
    }
}
