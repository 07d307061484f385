//! The colours, for light and for dark backgrounds.

use std::fmt::Write as _;

/// A colour by its purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Titles and values.
    Ink,
    /// The texts of axes.
    Muted,
    /// The lines of axes.
    Grid,
    /// Shades behind the data.
    Shade,
    Blue,
    Orange,
    Green,
    Purple,
    Red,
}

/// Each colour with its class, and its values on light and on dark backgrounds. Each value has a contrast of at least
/// 4.5 to its background, except for lines and shades behind the data.
const COLOURS: [(Colour, &str, &str, &str); 9] = [
    (Colour::Ink, "ink", "#1f2328", "#e6edf3"),
    (Colour::Muted, "muted", "#59636e", "#9da7b3"),
    (Colour::Grid, "grid", "#d1d9e0", "#3d444d"),
    (Colour::Shade, "shade", "#8c959f", "#8b949e"),
    (Colour::Blue, "blue", "#0969da", "#58a6ff"),
    (Colour::Orange, "orange", "#bc4c00", "#f0883e"),
    (Colour::Green, "green", "#1a7f37", "#56d364"),
    (Colour::Purple, "purple", "#8250df", "#d2a8ff"),
    (Colour::Red, "red", "#cf222e", "#ff7b72"),
];

impl Colour {
    /// The class of the elements that have this colour.
    pub(crate) fn class(self) -> &'static str {
        COLOURS.iter().find(|(colour, ..)| *colour == self).map_or("ink", |(_, class, ..)| class)
    }
}

/// Returns the style sheet. Elements use `currentColor`, which also viewers without style variables know.
pub(crate) fn style() -> String {
    let mut style = "svg{color-scheme:light dark}".to_owned();
    // Writing to a `String` cannot fail.
    for (_, class, light, _) in COLOURS {
        let _ = write!(style, ".{class}{{color:{light}}}");
    }
    style += "@media(prefers-color-scheme:dark){";
    for (_, class, _, dark) in COLOURS {
        let _ = write!(style, ".{class}{{color:{dark}}}");
    }
    style + "}"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the relative luminance of `#rrggbb` (WCAG 2.2).
    fn luminance(colour: &str) -> f64 {
        let channel = |at: usize| f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
        let linear = |c: f64| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
        [1, 3, 5].map(channel).map(linear).into_iter().zip([0.2126, 0.7152, 0.0722]).map(|(c, weight)| c * weight).sum()
    }

    fn contrast(a: &str, b: &str) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn texts_and_lines_can_be_read_on_light_and_dark_backgrounds() {
        for (colour, class, light, dark) in COLOURS {
            let least = if matches!(colour, Colour::Grid | Colour::Shade) { 1.2 } else { 4.5 };
            assert!(contrast(light, "#ffffff") >= least, "{class} on white: {}", contrast(light, "#ffffff"));
            for background in ["#000000", "#0d1117", "#1e1e1e"] {
                assert!(contrast(dark, background) >= least, "{class} on {background}: {}", contrast(dark, background));
            }
        }
    }

    #[test]
    fn every_colour_has_a_value_for_both_backgrounds() {
        let (light, dark) = style().split_once("@media").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        for (colour, ..) in COLOURS {
            let class = format!(".{}{{", colour.class());
            assert!(light.contains(&class) && dark.contains(&class), "{colour:?}");
        }
    }
}
