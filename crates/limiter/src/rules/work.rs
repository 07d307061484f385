//! What a check may cost. Rules and requests choose together how many limits a core tries and applies, so neither alone
//! can bound the work of a check.
//!
//! Work is counted in steps, of which each takes about 10 ns. A limit that is tried costs what [`super::matcher`] says.
//! A limit that applies costs [`APPLIED`] steps more.

/// The most steps of one check.
///
/// A rule book is valid only if a descriptor whose attributes differ takes no more. Therefore only a check over several
/// descriptors can exceed it, or one in which an attribute comes several times or has a long text.
pub const MAX_WORK: usize = 200_000;

/// The steps after which no further check of a batch begins. All limits in the answer of a batch are at most this
/// divided by [`APPLIED`], and those of one more check.
pub const MAX_BATCH_WORK: usize = 5 * MAX_WORK;

/// The steps of a limit that applies: the look-up of its key, the charge, and its part of the answer.
pub const APPLIED: usize = 90;

/// The bytes of all values of a descriptor that are no work for the limits that apply, and the bytes beyond them that a
/// limit hashes in one step, to name its counter.
pub(super) const USUAL_VALUES: usize = 1024;
pub(super) const BYTES_PER_STEP: usize = 12;

/// The steps of a limit that is tried.
pub(super) const TRIED: usize = 10;
/// The steps of an attribute whose value or presence is tested.
pub(super) const ATTRIBUTE: usize = 2;
/// The steps of a limit that another one replaces.
pub(super) const REPLACED: usize = 10;
