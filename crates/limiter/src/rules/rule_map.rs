//! Maps of what the rules name. Requests look things up in them, and rules alone put things in, so nobody who asks chooses
//! what collides: their hash need not be secret, and is a quick one.

use std::collections::HashMap;
use std::hash::BuildHasher;

use ahash::{AHasher, RandomState};

/// Any seeds do.
const STATE: RandomState =
    RandomState::with_seeds(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89);

/// Hashes without a secret.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenHash;

impl BuildHasher for OpenHash {
    type Hasher = AHasher;

    fn build_hasher(&self) -> AHasher {
        STATE.build_hasher()
    }
}

/// A map whose keys no caller chooses.
pub type OpenMap<K, V> = HashMap<K, V, OpenHash>;
