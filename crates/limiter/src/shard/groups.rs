//! Sets of groups of a check.

use smallvec::SmallVec;

/// A set of groups. A check has few, and mostly one.
#[derive(Clone, Debug, Default)]
pub struct Groups(SmallVec<[u64; 2]>);

impl Groups {
    pub fn insert(&mut self, group: usize) {
        let word = group / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (group % 64);
    }

    #[inline]
    pub fn contains(&self, group: usize) -> bool {
        self.0.get(group / 64).is_some_and(|word| word >> (group % 64) & 1 == 1)
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<usize> for Groups {
    fn from_iter<I: IntoIterator<Item = usize>>(groups: I) -> Self {
        let mut set = Self::default();
        groups.into_iter().for_each(|group| set.insert(group));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_has_what_was_inserted(groups in prop::collection::btree_set(0..300usize, 0..20)) {
            let set: Groups = groups.iter().copied().collect();
            let found: BTreeSet<usize> = (0..400).filter(|group| set.contains(*group)).collect();
            prop_assert_eq!(set.is_empty(), groups.is_empty());
            prop_assert_eq!(found, groups);
        }
    }
}
