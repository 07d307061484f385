//! Maps of what the rules name. Only rules insert keys, and requests only look them up: no caller can choose keys that
//! collide. Therefore the hash needs no secret, and may be a fast one.

use std::collections::HashMap;
use std::hash::BuildHasher;

use ahash::{AHasher, RandomState};

/// Any seeds do.
const STATE: RandomState =
    RandomState::with_seeds(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89);

/// A hash without a secret.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnkeyedHash;

impl BuildHasher for UnkeyedHash {
    type Hasher = AHasher;

    fn build_hasher(&self) -> AHasher {
        STATE.build_hasher()
    }
}

/// A map whose keys only the rules choose.
pub type RuleMap<K, V> = HashMap<K, V, UnkeyedHash>;
