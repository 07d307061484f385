//! The cache of looked-up keys. Keys that exist and keys that do not have a part each, so that a flood of random keys
//! does not take the place of known ones.

use std::sync::Arc;
use std::time::Duration;

use limiter::Revision;
use plane::KeyHash;
use quick_cache::sync::Cache;

use super::Entry;

/// The part of the cache that keys which do not exist may take: one in this many.
const UNKNOWN_PART: usize = 4;

pub(super) struct KeyCache {
    known: Cache<KeyHash, Arc<Entry>>,
    unknown: Cache<KeyHash, Arc<Entry>>,
}

impl KeyCache {
    /// A cache of at most `keys` keys that exist.
    pub fn new(keys: usize) -> Self {
        Self { known: Cache::new(keys.max(1)), unknown: Cache::new((keys / UNKNOWN_PART).max(1)) }
    }

    pub fn get(&self, hash: &KeyHash) -> Option<Arc<Entry>> {
        self.known.get(hash).or_else(|| self.unknown.get(hash))
    }

    /// Keeps an entry. One that may miss a change of `forgotten` does not take the place of a newer one that was looked
    /// up less than `stale` before: that one may still count.
    pub fn put(&self, hash: KeyHash, entry: Entry, forgotten: Revision, stale: Duration) {
        let counts = |known: &Entry| Duration::from_micros(entry.looked_up_at.since(known.looked_up_at)) < stale;
        let is_old = entry.key.revision < forgotten;
        if is_old && self.get(&hash).is_some_and(|known| known.key.revision > entry.key.revision && counts(&known)) {
            return;
        }
        let exists = entry.key.found.is_some();
        let (to, from) = if exists { (&self.known, &self.unknown) } else { (&self.unknown, &self.known) };
        from.remove(&hash);
        to.insert(hash, Arc::new(entry));
    }
}
