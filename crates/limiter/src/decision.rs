//! A decision: the answer to a check.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::revision::Revision;
use crate::rules::EffectiveLimit;

/// The answer to a check.
#[derive(Clone, Debug)]
pub struct Decision {
    pub allowed: bool,
    /// At least one limit was decided without the store.
    pub degraded: bool,
    /// At least one limit was decided as its `on_partition` says, because another region does not hear this one.
    pub partitioned: bool,
    /// The revision of the rules that decided.
    pub revision: Revision,
    /// The domain, if the rules have it.
    pub domain: Option<Arc<str>>,
    /// Microseconds after which to ask again. `None` if the check is allowed, or if waiting cannot help.
    pub retry_after: Option<u64>,
    /// What is wrong with the API key of the check. The check is denied for it, unless its domain allows it.
    pub identity: Option<IdentityProblem>,
    /// The check is denied because too many limits may apply to its descriptors:
    /// [`MAX_WORK`](crate::rules::MAX_WORK). No limit was asked.
    pub too_much_work: bool,
    /// Every limit that applied, by descriptor, then in the order of the rules.
    pub limits: Vec<LimitStatus>,
}

impl Decision {
    /// The decision of a check that is denied because its caller is not known. No limit was asked.
    pub fn unidentified(domain: Option<Arc<str>>, revision: Revision, problem: IdentityProblem) -> Self {
        Self {
            allowed: false,
            degraded: false,
            partitioned: false,
            revision,
            domain,
            retry_after: None,
            identity: Some(problem),
            too_much_work: false,
            limits: Vec::new(),
        }
    }
}

/// Why the identity of a check is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityProblem {
    /// The domain requires an API key, and the check has none.
    MissingKey,
    UnknownKey,
    ExpiredKey,
    RevokedKey,
    /// The check has attributes that only a key may set, or several keys.
    Conflict,
    /// The key cannot be looked up now.
    Unavailable,
}

impl IdentityProblem {
    /// The word that answers show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingKey => "missing_key",
            Self::UnknownKey => "unknown_key",
            Self::ExpiredKey => "expired_key",
            Self::RevokedKey => "revoked_key",
            Self::Conflict => "conflicting_identity",
            Self::Unavailable => "identity_unavailable",
        }
    }

    /// True if the caller is not who it says, or does not say who it is.
    pub const fn is_unauthorized(self) -> bool {
        matches!(self, Self::MissingKey | Self::UnknownKey | Self::ExpiredKey | Self::RevokedKey)
    }
}

/// The state of one limit that applied to a check.
#[derive(Clone, Debug)]
pub struct LimitStatus {
    pub effective: Arc<EffectiveLimit>,
    /// The position of the descriptor in the check.
    pub descriptor: usize,
    /// Hits left. `None` if the limit is unlimited.
    pub remaining: Option<u64>,
    /// Microseconds until the whole limit is free again if nothing more is asked.
    pub reset: u64,
    pub denied: bool,
    /// Microseconds until the denied hits would fit. `None` if the limit did not deny, or if they never will.
    pub retry_after: Option<u64>,
    pub shadow: bool,
}

impl LimitStatus {
    /// The limit to show, of which `remaining` is the part that is left. A bucket that holds more than its limit shows
    /// its burst. `None` if the limit is unlimited.
    pub fn limit(&self) -> Option<u64> {
        (!self.effective.is_unlimited()).then_some(self.effective.limit.max(self.effective.max_grant()))
    }

    /// The window to show beside [`Self::limit`], in milliseconds, so that both give the configured rate: for a burst,
    /// the time in which an empty bucket fills.
    pub fn window_ms(&self) -> u64 {
        let EffectiveLimit { limit, window_ms, .. } = *self.effective;
        let Some(burst) = self.limit().filter(|shown| *shown > limit) else { return window_ms };
        let fills_in = (u128::from(window_ms) * u128::from(burst)).div_ceil(u128::from(limit.max(1)));
        u64::try_from(fills_in).unwrap_or(u64::MAX)
    }

    /// Microseconds to show as the reset. If the limit denied: until asking again helps. Otherwise, and if no wait
    /// helps: until the whole limit is free.
    pub fn shown_reset(&self) -> u64 {
        let wait = if self.shadow { None } else { self.retry_after };
        wait.unwrap_or(self.reset)
    }
}

impl Decision {
    /// The limit to show where there is room for one. See [`tightest`].
    pub fn tightest(&self) -> Option<&LimitStatus> {
        tightest(self.limits.iter())
    }
}

/// The limit that denied, with the longest wait. If none did, the limit with the smallest part left.
pub fn tightest<'a>(limits: impl Iterator<Item = &'a LimitStatus> + Clone) -> Option<&'a LimitStatus> {
    let denied = limits.clone().filter(|l| l.denied && !l.shadow);
    // A wait without an end is longer than any other.
    let longest = denied.max_by_key(|l| l.retry_after.unwrap_or(u64::MAX));
    // An unlimited limit is never the tightest.
    longest.or_else(|| limits.filter(|l| l.limit().is_some() && !l.shadow).min_by(|a, b| by_part_left(a, b)))
}

/// Orders limits by the part of them that is left.
pub fn by_part_left(a: &LimitStatus, b: &LimitStatus) -> Ordering {
    // a/b < c/d without division.
    let part = |l: &LimitStatus| (u128::from(l.remaining.unwrap_or(0)), u128::from(l.effective.max_grant().max(1)));
    let ((left, of), (other_left, other_of)) = (part(a), part(b));
    (left * other_of).cmp(&(other_left * of))
}
