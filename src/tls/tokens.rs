//! The bearer tokens of the clients that may ask for checks, from a file.

use std::collections::HashSet;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::error::{NamedFile, TlsError};
use super::watched::Watched;
use crate::ports::ClientTokens;

/// The shortest token, in bytes. A shorter one could be guessed.
const MIN_TOKEN: usize = 16;
/// The longest token, in bytes.
const MAX_TOKEN: usize = 256;
/// The most tokens of a file.
const MAX_TOKENS: usize = 10_000;

/// Valid tokens, by their SHA-256.
pub(super) struct TokenHashes(HashSet<[u8; 32]>);

/// The tokens in the file `path`, which the setting `section.field` names: one in each line. Empty lines and lines that
/// begin with `#` are skipped.
pub(super) fn watch(section: &str, field: &str, path: &Path) -> Result<Watched<TokenHashes>, TlsError> {
    let file = NamedFile::new(section, field, path);
    Watched::open(vec![file.clone()], move |contents, _| {
        let text: &[u8] = contents.first().map_or(&[], Vec::as_slice);
        parse(text).map(TokenHashes).map_err(|problem| file.error(problem))
    })
}

/// Reads the tokens. An error names the line, and never shows a token.
fn parse(text: &[u8]) -> Result<HashSet<[u8; 32]>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "expected text in UTF-8".to_owned())?;
    let mut hashes = HashSet::new();
    let lines = text.lines().map(str::trim).enumerate();
    for (index, token) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_visible || !(MIN_TOKEN..=MAX_TOKEN).contains(&token.len()) {
            let line = index + 1;
            return Err(format!(
                "line {line}: expected one token of {MIN_TOKEN} to {MAX_TOKEN} visible ASCII characters"
            ));
        }
        hashes.insert(Sha256::digest(token).into());
        if hashes.len() > MAX_TOKENS {
            return Err(format!("expected at most {MAX_TOKENS} tokens"));
        }
    }
    if hashes.is_empty() {
        return Err("expected at least one token: without any, nobody could ask for a check".to_owned());
    }
    Ok(hashes)
}

impl ClientTokens for Watched<TokenHashes> {
    fn is_valid(&self, token: &str) -> bool {
        // What is compared is the hash: the time that it takes says nothing of a token.
        let hash: [u8; 32] = Sha256::digest(token).into();
        self.current().0.contains(&hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_token_in_each_line() {
        let text = b"# gateways\nfirst-token-of-16-bytes\n\n  second-token-of-16-bytes  \r\n";
        let hashes = parse(text).unwrap();
        let expected = ["first-token-of-16-bytes", "second-token-of-16-bytes"];
        assert_eq!(hashes, expected.map(|token| Sha256::digest(token).into()).into_iter().collect());
    }

    #[test]
    fn a_wrong_file_is_rejected_without_showing_a_token() {
        for (text, expected) in [
            (&b"long-enough-to-be-a-token\nshort"[..], "line 2: expected one token of 16"),
            (b"a token with spaces in it", "line 1: expected one token of 16"),
            (b"# nothing\n", "at least one token"),
            (b"\xff", "UTF-8"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("short") && !error.contains("spaces"), "{error}");
        }
        let many = (0..=MAX_TOKENS).map(|token| format!("token-number-{token:08}\n")).collect::<String>();
        assert!(parse(many.as_bytes()).unwrap_err().contains("at most 10000"));
    }
}
