//! Which keys are asked for.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Uniform, Zipf};

/// The most keys that a run spreads over.
pub const MAX_KEYS: u64 = 1_000_000_000;

/// A distribution of keys, which are numbers from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keys {
    /// One key.
    Hot,
    /// Every one as likely as any other.
    Uniform(u64),
    /// The k-th in proportion to 1/k^s.
    Zipf(u64, f64),
    /// One after the other, in an order that jumps about, so that all of them come before any comes again.
    Cycle(u64),
}

impl Keys {
    /// How many there are.
    pub const fn count(&self) -> u64 {
        match self {
            Self::Hot => 1,
            Self::Uniform(count) | Self::Zipf(count, _) | Self::Cycle(count) => *count,
        }
    }
}

impl FromStr for Keys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected hot, uniform:COUNT, zipf:COUNT, zipf:COUNT:EXPONENT or cycle:COUNT".to_owned();
        let mut parts = text.split(':');
        let kind = parts.next().unwrap_or_default();
        let count = parts.next().map(|count| count.replace('_', "").parse::<u64>());
        let count = count.transpose().map_err(|_| wrong())?;
        let exponent = parts.next().map(str::parse::<f64>).transpose().map_err(|_| wrong())?;
        if count.is_some_and(|count| !(1..=MAX_KEYS).contains(&count)) {
            return Err(format!("expected 1 to {MAX_KEYS} keys"));
        }
        if exponent.is_some_and(|s| !(0.0..=10.0).contains(&s)) {
            return Err("expected an exponent from 0 to 10".to_owned());
        }
        match (kind, count, exponent, parts.next()) {
            ("hot", None, None, None) => Ok(Self::Hot),
            ("uniform", Some(count), None, None) => Ok(Self::Uniform(count)),
            ("zipf", Some(count), s, None) => Ok(Self::Zipf(count, s.unwrap_or(1.0))),
            ("cycle", Some(count), None, None) => Ok(Self::Cycle(count)),
            _ => Err(wrong()),
        }
    }
}

impl Display for Keys {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hot => out.write_str("hot"),
            Self::Uniform(count) => write!(out, "uniform:{count}"),
            Self::Zipf(count, s) => write!(out, "zipf:{count}:{s}"),
            Self::Cycle(count) => write!(out, "cycle:{count}"),
        }
    }
}

/// Draws keys.
pub struct Source {
    random: SmallRng,
    draw: Draw,
}

enum Draw {
    Hot,
    Uniform(Uniform<u64>),
    Zipf(Zipf<f64>),
    Cycle(u64),
}

impl Source {
    pub fn new(keys: &Keys, seed: u64) -> Self {
        // Counts are 1 at least, and exponents 0 at least: no distribution can be refused.
        #[expect(clippy::cast_precision_loss, reason = "there are at most 10^9 keys")]
        let draw = match *keys {
            Keys::Hot => Some(Draw::Hot),
            Keys::Uniform(count) => Uniform::new(0, count.max(1)).ok().map(Draw::Uniform),
            Keys::Zipf(count, s) => Zipf::new(count.max(1) as f64, s).ok().map(Draw::Zipf),
            Keys::Cycle(count) => Some(Draw::Cycle(count.max(1))),
        };
        Self { random: SmallRng::seed_from_u64(seed), draw: draw.unwrap_or(Draw::Hot) }
    }

    /// The key of the `number`-th check.
    pub fn key(&mut self, number: u64) -> u64 {
        match &self.draw {
            Draw::Hot => 0,
            Draw::Uniform(uniform) => uniform.sample(&mut self.random),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 1 to 10^9")]
            Draw::Zipf(zipf) => zipf.sample(&mut self.random) as u64 - 1,
            Draw::Cycle(count) => {
                // Steps of a prime that divides no number of keys below 10^9 but its own multiples.
                let step = if count.is_multiple_of(1_000_003) { 1 } else { 1_000_003 };
                u64::try_from(u128::from(number) * step % u128::from(*count)).unwrap_or(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn distributions_are_written_as_they_are_read() {
        for text in ["hot", "uniform:100000", "zipf:1000:1.1", "cycle:7"] {
            assert_eq!(text.parse::<Keys>().unwrap().to_string(), text);
        }
        assert_eq!("zipf:1_000".parse(), Ok(Keys::Zipf(1000, 1.0)));
        for text in ["", "hot:1", "uniform", "uniform:0", "zipf:5:x", "zipf:5:1:1", "zipf:5:-1", "cold:5"] {
            assert!(text.parse::<Keys>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_cycle_has_every_key_before_any_comes_again() {
        for count in [1, 10, 1000, 1_000_003] {
            let mut source = Source::new(&Keys::Cycle(count), 1);
            let keys: HashSet<u64> = (0..count).map(|number| source.key(number)).collect();
            assert_eq!(keys.len() as u64, count);
            assert!(keys.iter().all(|key| *key < count));
        }
    }

    #[test]
    fn of_zipf_traffic_the_first_key_has_what_the_law_says() {
        let mut source = Source::new(&Keys::Zipf(100_000, 1.0), 7);
        let mut counts = [0u32; 2];
        for _ in 0..200_000 {
            let key = source.key(0);
            assert!(key < 100_000);
            if key < 2 {
                counts[usize::from(key == 1)] += 1;
            }
        }
        // 1 of the harmonic sum 12.09, and half of it.
        let share = |count: u32| f64::from(count) / 200_000.0 * 12.09;
        assert!((share(counts[0]) - 1.0).abs() < 0.1 && (share(counts[1]) - 0.5).abs() < 0.1, "{counts:?}");
    }
}
