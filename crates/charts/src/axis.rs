//! Axes: where a value is, and which values have a tick.

/// The most ticks of an axis.
const MAX_TICKS: u32 = 10;
/// The values of one decade that may have a tick, from sparse to dense.
const DECADES: [&[f64]; 3] = [&[1.0], &[1.0, 2.0, 5.0], &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0]];
/// A logarithmic axis has at least this many ticks, if its densest ticks are as many.
const MIN_LOG_TICKS: usize = 4;

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What the values are, with their unit.
    pub label: String,
    from: f64,
    to: f64,
    logarithmic: bool,
    pub(crate) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An axis with ticks at round numbers, at least `min_step` apart.
    pub fn linear(label: impl Into<String>, from: f64, to: f64, min_step: f64) -> Self {
        let to = if to > from { to } else { from + 1.0 };
        let (ticks, decimals) = round_ticks(from, to, MAX_TICKS, min_step);
        let ticks = ticks.into_iter().map(|value| (value, format_tick(value, decimals)));
        Self { ticks: ticks.collect(), ..Self::with_ticks(label, from, to, Vec::new()) }
    }

    /// A logarithmic axis for the positive ones of `values`.
    pub fn logarithmic(label: impl Into<String>, values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = values.filter(|v| *v > 0.0).fold((f64::MAX, 0.0f64), |(a, b), v| (a.min(v), b.max(v)));
        let (from, to) = if most > 0.0 { (least / 1.5, most * 1.5) } else { (0.1, 1.0) };
        let mut ticks = Vec::new();
        for steps in DECADES {
            ticks = decade_ticks(from, to, steps);
            if ticks.len() >= MIN_LOG_TICKS {
                break;
            }
        }
        Self { logarithmic: true, ..Self::with_ticks(label, from, to, ticks) }
    }

    /// An axis with these ticks.
    pub fn with_ticks(label: impl Into<String>, from: f64, to: f64, ticks: Vec<(f64, String)>) -> Self {
        Self { label: label.into(), from, to, logarithmic: false, ticks }
    }

    /// Where a value is, from 0 to 1. A value beyond an end is at that end.
    pub(crate) fn fraction(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.logarithmic { value.max(f64::MIN_POSITIVE).ln() } else { value };
        let (from, to) = (scale(self.from), scale(self.to));
        ((scale(value) - from) / (to - from)).clamp(0.0, 1.0)
    }
}

/// Returns at most `most` round numbers from `from` to `to`, at least `min_step` apart, and their number of decimals.
pub fn round_ticks(from: f64, to: f64, most: u32, min_step: f64) -> (Vec<f64>, usize) {
    let least = ((to - from) / f64::from(most.max(2) - 1)).max(min_step).max(1e-9);
    let magnitude = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0].map(|factor| factor * magnitude).into_iter().find(|step| *step >= least * 0.999_999);
    let step = step.unwrap_or(10.0 * magnitude);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "decimals of a tick")]
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    let first = (from / step).ceil();
    let ticks = (0..most).map(|at| (first + f64::from(at)) * step).take_while(|tick| *tick <= to + step * 1e-6);
    (ticks.collect(), decimals)
}

/// Returns the ticks of a logarithmic axis at `steps` of each decade.
fn decade_ticks(from: f64, to: f64, steps: &[f64]) -> Vec<(f64, String)> {
    #[expect(clippy::cast_possible_truncation, reason = "the exponent of a decade")]
    let decades = (from.log10().floor() as i32)..=(to.log10().ceil() as i32);
    let values = decades.flat_map(|decade| steps.iter().map(move |step| (decade, step * 10f64.powi(decade))));
    let inside = values.filter(|(_, value)| (from..=to).contains(value));
    // One more decimal than the decade has, for steps such as 1.5.
    let text = |decade: i32, value| {
        let text = format_tick(value, usize::try_from(1 - decade).unwrap_or(0));
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    };
    inside.map(|(decade, value)| (value, text(decade, value))).collect()
}

fn format_tick(value: f64, decimals: usize) -> String {
    if decimals == 0 { group_thousands(value) } else { format!("{value:.decimals$}") }
}

/// Formats a number with a space between groups of three digits.
pub fn group_thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    groups.iter().map(|group| String::from_utf8_lossy(group)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn digits_are_grouped_by_thousands() {
        assert_eq!([group_thousands(999.0), group_thousands(1_234_567.0)], ["999", "1 234 567"]);
    }

    #[test]
    fn linear_ticks_are_round_numbers() {
        for (from, to, min_step, expected) in [
            (0.0, 10.0, 0.0, vec!["0", "2", "4", "6", "8", "10"]),
            (0.0, 3.4, 0.0, vec!["0.0", "0.5", "1.0", "1.5", "2.0", "2.5", "3.0"]),
            (0.0, 2.0, 1.0, vec!["0", "1", "2"]),
            (
                0.0,
                45_000.0,
                1.0,
                vec!["0", "5 000", "10 000", "15 000", "20 000", "25 000", "30 000", "35 000", "40 000", "45 000"],
            ),
            (0.0, 0.0, 1.0, vec!["0", "1"]),
        ] {
            assert_eq!(texts(&Axis::linear("", from, to, min_step)), expected, "{from} to {to}");
        }
    }

    #[test]
    fn logarithmic_ticks_are_sparse_over_many_decades_and_dense_over_few() {
        for (values, expected) in [
            (vec![0.1, 900.0], vec!["0.1", "1", "10", "100", "1 000"]),
            (vec![0.16, 4.0], vec!["0.2", "0.5", "1", "2", "5"]),
            (vec![2.0], vec!["1.5", "2", "3"]),
            (vec![0.02], vec!["0.015", "0.02", "0.03"]),
        ] {
            assert_eq!(texts(&Axis::logarithmic("", values.iter().copied())), expected, "{values:?}");
        }
        assert!(texts(&Axis::logarithmic("", std::iter::empty())).len() > 1);
    }

    #[test]
    fn values_beyond_an_end_are_at_that_end() {
        let axis = Axis::logarithmic("", [1.5, 100.0 / 1.5].into_iter());
        let at = |value| (axis.fraction(value) * 1000.0).round();
        assert_eq!([at(0.0), at(1.0), at(10.0), at(100.0), at(1e9)], [0.0, 0.0, 500.0, 1000.0, 1000.0]);
    }
}
