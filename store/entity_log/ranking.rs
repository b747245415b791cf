//! Places of entities in files: found once for the series that flush after flush has.

use crate::merge::entity_bytes;

/// The ids that rows have, each with a place.
#[derive(Debug)]
pub(crate) enum Used {
    /// Nearly all from the first on: a place for each.
    Dense { first: u32, len: usize },
    /// Few of many, sorted.
    Sparse(Vec<u32>),
}

impl Used {
    /// Places for each row past which not every id gets one.
    const PLACES: usize = 4;

    pub(crate) fn of(ids: &[Vec<u32>]) -> Self {
        let first = ids.iter().flatten().min().copied().unwrap_or_default();
        let last = ids.iter().flatten().max().copied().unwrap_or_default();
        let rows: usize = ids.iter().map(Vec::len).sum();
        let len = (last - first) as usize + 1;
        if len <= rows * Self::PLACES {
            return Self::Dense { first, len };
        }
        let mut used: Vec<u32> = ids.iter().flatten().copied().collect();
        used.sort_unstable();
        used.dedup();
        Self::Sparse(used)
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Dense { len, .. } => *len,
            Self::Sparse(used) => used.len(),
        }
    }

    /// The place of an id that may not be among them.
    fn find(&self, id: u32) -> Option<usize> {
        match self {
            Self::Dense { first, len } => {
                id.checked_sub(*first).map(|at| at as usize).filter(|at| at < len)
            }
            Self::Sparse(used) => used.binary_search(&id).ok(),
        }
    }

    /// The id at a place.
    fn id(&self, place: usize) -> u32 {
        match self {
            Self::Dense { first, .. } => first + place as u32,
            Self::Sparse(used) => used[place],
        }
    }

    /// The place of one of them.
    pub(crate) fn place(&self, id: u32) -> usize {
        match self {
            Self::Dense { first, .. } => (id - first) as usize,
            Self::Sparse(used) => used.partition_point(|u| *u < id),
        }
    }
}

/// The order of some entities by their sort keys.
#[derive(Debug)]
pub(crate) struct Ranking {
    used: Used,
    /// By place: rank.
    places: Vec<u32>,
    /// By rank: id, and length of the sort key.
    ranked: Vec<(u32, u32)>,
}

/// Of so many known ids one may be new: more of them, each put in its place with some fifteen sort
/// keys made, cost more than all sort keys made once.
const NEW_SHARE: usize = 32;
/// No rank, and no place.
const NONE: u32 = u32::MAX;

impl Default for Ranking {
    fn default() -> Self {
        Self { used: Used::Sparse(Vec::new()), places: Vec::new(), ranked: Vec::new() }
    }
}

impl Ranking {
    /// Of the `used` ids whose places `has` names. Those that `last` ranks keep their order, and the
    /// others are put among them: sort keys, which `sort_key` makes for a place, cost most of it.
    pub(crate) fn after(
        last: &Self,
        used: Used,
        has: impl Fn(usize) -> bool,
        sort_key: impl Fn(usize) -> Option<Box<[u8]>>,
    ) -> Self {
        // By last rank: place, and length of the sort key.
        let mut before = vec![(NONE, 0); last.ranked.len()];
        let mut new = Vec::new();
        for at in (0..used.len()).filter(|at| has(*at)) {
            let rank = last.used.find(used.id(at)).map(|place| last.places[place] as usize);
            match rank.and_then(|rank| Some((before.get_mut(rank)?, last.ranked[rank].1))) {
                Some((before, len)) => *before = (at as u32, len),
                None => new.push(at),
            }
        }
        before.retain(|(at, _)| *at != NONE);
        if new.len() > before.len() / NEW_SHARE {
            new.extend(before.drain(..).map(|(at, _)| at as usize));
        }
        let mut new: Vec<(Box<[u8]>, usize)> =
            new.into_iter().filter_map(|at| Some((sort_key(at)?, at))).collect();
        new.sort_unstable();
        let mut ranking = Self { places: vec![NONE; used.len()], used, ranked: Vec::new() };
        let mut rest = before.as_slice();
        for (key, at) in new {
            let smaller = |(at, _): &(u32, u32)| sort_key(*at as usize).is_some_and(|k| k < key);
            let (first, others) = rest.split_at(rest.partition_point(smaller));
            first.iter().for_each(|(at, len)| ranking.push(*at as usize, *len));
            ranking.push(at, key.len() as u32);
            rest = others;
        }
        rest.iter().for_each(|(at, len)| ranking.push(*at as usize, *len));
        ranking
    }

    /// The next in order is the id at `place`.
    fn push(&mut self, place: usize, key_len: u32) {
        self.places[place] = self.ranked.len() as u32;
        self.ranked.push((self.used.id(place), key_len));
    }

    /// The rank of each id; `None` if some have none.
    pub(crate) fn ranks(&self, ids: &[Vec<u32>]) -> Option<Vec<Vec<u32>>> {
        let rank = |id: &u32| {
            self.used.find(*id).map(|place| self.places[place]).filter(|rank| *rank != NONE)
        };
        ids.iter().map(|ids| ids.iter().map(rank).collect()).collect()
    }

    /// The id that has a rank.
    pub(crate) fn id(&self, rank: u32) -> u32 {
        self.ranked[rank as usize].0
    }

    /// The memory that the entities of these ranks, which mostly follow each other, take in a merge.
    pub(crate) fn bytes(&self, ranks: impl Iterator<Item = u32>) -> u64 {
        let mut seen = vec![false; self.ranked.len()];
        let (mut bytes, mut last) = (0, NONE);
        for rank in ranks {
            if rank != last && !std::mem::replace(&mut seen[rank as usize], true) {
                bytes += entity_bytes(self.ranked[rank as usize].1 as usize);
            }
            last = rank;
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ranking of ids whose sort keys are as `key` says.
    fn ranking(last: &Ranking, ids: &[Vec<u32>], key: impl Fn(u32) -> Box<[u8]>) -> Ranking {
        let used = Used::of(ids);
        let ids_of: Vec<u32> = (0..used.len()).map(|at| used.id(at)).collect();
        let has = |at: usize| ids.iter().flatten().any(|id| *id == ids_of[at]);
        Ranking::after(last, used, has, |at| Some(key(ids_of[at])))
    }

    #[test]
    fn ranks_hold_for_those_that_have_one() {
        for ids in [[7, 5, 6], [7, 5_000, 6]] {
            let [a, b, c] = ids;
            // In the order b, a, c.
            let key = |id: u32| Box::from([u8::from(id != b) + u8::from(id == c), 0, 0]);
            let ranking = ranking(&Ranking::default(), &[vec![a, b], vec![c, b]], key);
            assert_eq!(ranking.ranks(&[vec![c, a, b, b]]), Some(vec![vec![2, 1, 0, 0]]));
            assert_eq!(ranking.ranks(&[vec![b]]), Some(vec![vec![0]]));
            assert_eq!([0, 1, 2].map(|rank| ranking.id(rank)), [b, a, c]);
            assert_eq!(ranking.bytes([2, 2, 1, 2].into_iter()), 2 * entity_bytes(3));
            for other in [0, 4, 8, 4_999, 5_001, u32::MAX] {
                assert_eq!(ranking.ranks(&[vec![a, other]]), None, "{other}");
            }
        }
        assert_eq!(Ranking::default().ranks(&[vec![1]]), None);
    }

    proptest! {
        /// Whatever was ranked before, the ranks are those of the sort keys.
        #[test]
        fn ranks_are_in_the_order_of_sort_keys(
            before in prop::collection::btree_set(0_u32..400, 1..300),
            gone in prop::collection::btree_set(0_u32..400, 0..100),
            new in prop::collection::btree_set(0_u32..400, 1..20),
            spread in prop::sample::select(vec![1_u32, 50]),
        ) {
            let key = |id: u32| -> Box<[u8]> {
                let mixed = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
                mixed.to_be_bytes()[..].into()
            };
            let list = |ids: Vec<u32>| vec![ids.into_iter().map(|id| id * spread).collect::<Vec<_>>()];
            let last = ranking(&Ranking::default(), &list(before.iter().copied().collect()), key);
            let ids = list(before.difference(&gone).chain(&new).copied().collect());
            let ranked = ranking(&last, &ids, key);
            let mut sorted = ids[0].clone();
            sorted.sort_by_key(|id| key(*id));
            sorted.dedup();
            let place = |id: &u32| sorted.iter().position(|s| s == id).map(|at| at as u32);
            let expected: Vec<u32> = ids[0].iter().filter_map(place).collect();
            let bytes = sorted.len() as u64 * entity_bytes(8);
            prop_assert_eq!(ranked.bytes(expected.iter().copied()), bytes);
            prop_assert_eq!(ranked.ranks(&ids), Some(vec![expected]));
        }
    }
}
