//! The numbers of the wire format and of the records. `script.rs` gives them to the counter script under the same
//! names.

/// The version of the batches and the replies.
pub const VERSION: u8 = 3;
/// The version of the records. Nodes whose scripts have the same version read each other's records.
pub const RECORD_VERSION: u8 = 1;

/// The kinds of an item: one for each [`limiter::counter::Grid`], and one for buckets.
pub const KIND_FIXED: u64 = 1;
pub const KIND_SLIDING: u64 = 2;
pub const KIND_ROLLING: u64 = 3;
pub const KIND_CALENDAR: u64 = 4;
pub const KIND_BUCKET: u64 = 5;
/// An item that gives rights to another region. The kind of the window follows.
pub const KIND_GIVE: u64 = 6;
/// An item that takes rights of another region. The kind of the window follows.
pub const KIND_TAKE: u64 = 7;
/// What the item of a window says of other regions: nothing, a [`limiter::counter::Share`], or a
/// [`limiter::counter::Escrow`].
pub const GLOBAL_NONE: u64 = 0;
pub const GLOBAL_SHARE: u64 = 1;
pub const GLOBAL_ESCROW: u64 = 2;
/// An item that only carries what another region reports adds this to the kind of its window.
pub const IMPORT: u64 = 8;
/// A flag in the count of a cell's entries: each entry names its region, in two bytes before it.
pub const HAS_REGIONS: u64 = 128;

/// A compact item adds this to the kind of its window.
pub const KIND_COMPACT: u64 = 16;
/// A flag in the kind of a compact item: behind the entry of [`HAS_SEEN`], it carries up to
/// [`limiter::counter::MAX_FOREIGN_ENTRIES`] entries of other regions in the same cell, each in [`OTHER_FORMAT`].
pub const HAS_OTHERS: u64 = 8;
/// How an entry of another region is packed: its region, its incarnation, and what was charged and returned.
pub const OTHER_FORMAT: &str = "'>I2I6I4I4'";
/// The bytes of [`OTHER_FORMAT`].
pub const OTHER_SIZE: usize = 16;
/// A flag in the kind of a compact item: it carries one entry of one cell that the node saw.
pub const HAS_SEEN: u64 = 32;
/// A flag in the kind of a compact item: it carries one return.
pub const HAS_RETURN: u64 = 64;
/// A flag in the kind of a compact item: it carries one run of asks. The script relies on its being the highest flag.
pub const HAS_ASK: u64 = 128;

/// The batch came after its end and did nothing.
pub const BATCH_LATE: u64 = 0;
/// The batch ran. The replies to its items follow.
pub const BATCH_RAN: u64 = 1;

/// How the reply to an item begins.
pub const FAILED: u64 = 0;
pub const OUT_OF_BOUNDS: u64 = 1;
pub const WINDOW_DONE: u64 = 2;
pub const BUCKET_DONE: u64 = 3;
/// A compact reply to an item whose asks were all granted.
pub const COMPACT_GRANTED: u64 = 4;
/// A compact reply to an item without asks.
pub const COMPACT_RETURNED: u64 = 5;
/// A compact reply to an item of a fixed window of which no ask was granted. Instead of a number of asks, it has 1 if
/// one would fit when the window ends, and 0 if it never fits.
pub const COMPACT_DENIED: u64 = 12;
/// A compact reply adds this if entries of other regions follow it, in [`OTHER_FORMAT`].
pub const WITH_OTHERS: u64 = 6;
/// The reply to an import. The epoch of the primary follows.
pub const IMPORTED: u64 = 6;

/// The reply to an item of a window under `escrow`: as [`WINDOW_DONE`], and whether the region may spend its rights.
pub const ESCROW_DONE: u64 = 7;
/// The reply to an item that gives rights.
pub const GIVEN: u64 = 8;
/// The reply to an item that takes rights: the epoch of the primary, and the rights that are new.
pub const TAKEN: u64 = 9;
/// The store has forgotten what was spent. 0 says that the region may spend its rights. Every other number is an epoch
/// that the other regions must confirm.
pub const SPENDING_LOST: u64 = (1 << 48) - 1;

/// The first byte of a record: the version in the high half, the shape in the low half.
pub const RECORD_TINY: u8 = RECORD_VERSION << 4 | 1;
pub const RECORD_PLAIN: u8 = RECORD_VERSION << 4 | 2;
pub const RECORD_FULL: u8 = RECORD_VERSION << 4 | 3;
pub const RECORD_BUCKET: u8 = RECORD_VERSION << 4 | 4;
pub const RECORD_SINGLE: u8 = RECORD_VERSION << 4 | 5;
pub const RECORD_SHARED: u8 = RECORD_VERSION << 4 | 6;
pub const RECORD_GUARDED: u8 = RECORD_VERSION << 4 | 7;
/// Records other than full ones and buckets hold seconds and counts in four bytes, so these are below this.
pub const U32_RANGE: u64 = 1 << 32;
