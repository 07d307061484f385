//! The word that a misspelt one stands for.

/// The known word that is nearest to `word`, if one is near. Case, `-` and `_` do not matter.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let word = plain(word);
    let distance = |candidate: &str| {
        let candidate = plain(candidate);
        // A word that lacks its end, or has a longer one: `password` for `password_file`.
        let shorter = word.len().min(candidate.len());
        if shorter >= 4 && (word.starts_with(&candidate) || candidate.starts_with(&word)) {
            return 1;
        }
        strsim::damerau_levenshtein(&word, &candidate)
    };
    let most = match word.chars().count() {
        0..=2 => 0,
        3..=4 => 1,
        5..=8 => 2,
        _ => 3,
    };
    known.into_iter().map(|known| (distance(known), known)).filter(|(d, _)| *d <= most).min().map(|(_, known)| known)
}

/// The end of an error about `word`: a question for the nearest known word.
pub fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    nearest(word, known).map_or_else(String::new, |known| format!(": did you mean {known}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_a_far_one_is_not() {
        const KNOWN: [&str; 8] =
            ["window", "per", "limit", "match", "burst", "on_store_failure", "sliding_window", "password_file"];
        let table = [
            ("windw", Some("window")),
            ("wnidow", Some("window")),
            ("Window", Some("window")),
            ("pre", Some("per")),
            ("limits", Some("limit")),
            ("matches", Some("match")),
            ("on-store-failure", Some("on_store_failure")),
            ("SLIDING-WINDOW", Some("sliding_window")),
            ("password", Some("password_file")),
            ("per", Some("per")),
            ("x", None),
            ("pr", None),
            ("rate", None),
            ("requests_per_unit", None),
            ("", None),
        ];
        for (word, expected) in table {
            assert_eq!(nearest(word, KNOWN), expected, "{word}");
        }
    }
}
