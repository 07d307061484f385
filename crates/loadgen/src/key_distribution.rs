//! Chooses the keys of the checks.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Uniform, Zipf};

/// The maximum number of keys of a run.
const MAX_KEYS: u64 = 1_000_000_000;

/// How the keys of a run are distributed. The keys are numbers from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeyDistribution {
    /// A single key.
    Hot,
    /// This many keys, each with the same probability.
    Uniform(u64),
    /// This many keys and the exponent s: the probability of the k-th key is proportional to 1/k^s.
    Zipf(u64, f64),
    /// This many keys in an order of fixed strides. Every key occurs once before any key occurs again.
    Cycle(u64),
}

impl KeyDistribution {
    /// Returns the number of keys.
    pub const fn count(&self) -> u64 {
        match self {
            Self::Hot => 1,
            Self::Uniform(count) | Self::Zipf(count, _) | Self::Cycle(count) => *count,
        }
    }
}

impl FromStr for KeyDistribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || "expected hot, uniform:COUNT, zipf:COUNT, zipf:COUNT:EXPONENT or cycle:COUNT".to_owned();
        let mut parts = text.split(':');
        let kind = parts.next().unwrap_or_default();
        let count = parts.next().map(|count| count.replace('_', "").parse::<u64>());
        let count = count.transpose().map_err(|_| invalid())?;
        let exponent = parts.next().map(str::parse::<f64>).transpose().map_err(|_| invalid())?;
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
            _ => Err(invalid()),
        }
    }
}

impl Display for KeyDistribution {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hot => out.write_str("hot"),
            Self::Uniform(count) => write!(out, "uniform:{count}"),
            Self::Zipf(count, s) => write!(out, "zipf:{count}:{s}"),
            Self::Cycle(count) => write!(out, "cycle:{count}"),
        }
    }
}

/// Generates the keys of one thread.
pub struct KeyGenerator {
    rng: SmallRng,
    sampler: Sampler,
}

/// A `KeyDistribution` that is ready to be sampled.
enum Sampler {
    Hot,
    Uniform(Uniform<u64>),
    Zipf(Zipf<f64>),
    Cycle(u64),
}

impl KeyGenerator {
    pub fn new(distribution: &KeyDistribution, seed: u64) -> Self {
        // A distribution that was parsed is valid: counts are at least 1, and exponents are at least 0.
        #[expect(clippy::cast_precision_loss, reason = "there are at most 10^9 keys")]
        let sampler = match *distribution {
            KeyDistribution::Hot => Some(Sampler::Hot),
            KeyDistribution::Uniform(count) => Uniform::new(0, count.max(1)).ok().map(Sampler::Uniform),
            KeyDistribution::Zipf(count, s) => Zipf::new(count.max(1) as f64, s).ok().map(Sampler::Zipf),
            KeyDistribution::Cycle(count) => Some(Sampler::Cycle(count.max(1))),
        };
        Self { rng: SmallRng::seed_from_u64(seed), sampler: sampler.unwrap_or(Sampler::Hot) }
    }

    /// Returns the key of check `check_index` of the run, counted from 0.
    pub fn key(&mut self, check_index: u64) -> u64 {
        match &self.sampler {
            Sampler::Hot => 0,
            Sampler::Uniform(uniform) => uniform.sample(&mut self.rng),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a sample is from 1 to 10^9")]
            Sampler::Zipf(zipf) => zipf.sample(&mut self.rng) as u64 - 1,
            Sampler::Cycle(count) => {
                // 1,000,003 is a prime: it shares no divisor with a count that is not its multiple.
                let step = if count.is_multiple_of(1_000_003) { 1 } else { 1_000_003 };
                u64::try_from(u128::from(check_index) * step % u128::from(*count)).unwrap_or(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_parsed_distribution_prints_the_same_text() {
        for text in ["hot", "uniform:100000", "zipf:1000:1.1", "cycle:7"] {
            assert_eq!(text.parse::<KeyDistribution>().unwrap().to_string(), text);
        }
        assert_eq!("zipf:1_000".parse(), Ok(KeyDistribution::Zipf(1000, 1.0)));
        for text in ["", "hot:1", "uniform", "uniform:0", "zipf:5:x", "zipf:5:1:1", "zipf:5:-1", "cold:5"] {
            assert!(text.parse::<KeyDistribution>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_cycle_contains_every_key_once() {
        for count in [1, 10, 1000, 1_000_003] {
            let mut generator = KeyGenerator::new(&KeyDistribution::Cycle(count), 1);
            let keys: HashSet<u64> = (0..count).map(|number| generator.key(number)).collect();
            assert_eq!(keys.len() as u64, count);
            assert!(keys.iter().all(|key| *key < count));
        }
    }

    #[test]
    fn zipf_keys_have_their_expected_shares() {
        let mut generator = KeyGenerator::new(&KeyDistribution::Zipf(100_000, 1.0), 7);
        let mut counts = [0u32; 2];
        for _ in 0..200_000 {
            let key = generator.key(0);
            assert!(key < 100_000);
            if key < 2 {
                counts[usize::from(key == 1)] += 1;
            }
        }
        // The harmonic sum of 100,000 is 12.09: the first key has 1/12.09 of the checks, the second half of that.
        let share = |count: u32| f64::from(count) / 200_000.0 * 12.09;
        assert!((share(counts[0]) - 1.0).abs() < 0.1 && (share(counts[1]) - 0.5).abs() < 0.1, "{counts:?}");
    }
}
