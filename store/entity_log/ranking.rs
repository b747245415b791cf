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

/// No rank.
const NONE: u32 = u32::MAX;

impl Default for Ranking {
    fn default() -> Self {
        Self { used: Used::Sparse(Vec::new()), places: Vec::new(), ranked: Vec::new() }
    }
}

impl Ranking {
    /// Of these ids, none of which has its rank yet.
    pub(crate) fn new(used: Used) -> Self {
        Self { places: vec![NONE; used.len()], used, ranked: Vec::new() }
    }

    /// The next in order is the id at `place`.
    pub(crate) fn push(&mut self, place: usize, sort_key: &[u8]) {
        self.places[place] = self.ranked.len() as u32;
        self.ranked.push((self.used.id(place), sort_key.len() as u32));
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
    use super::*;

    #[test]
    fn ranks_hold_for_those_that_have_one() {
        for ids in [[7, 5, 6], [7, 5_000, 6]] {
            let [a, b, c] = ids;
            let mut ranking = Ranking::new(Used::of(&[vec![a, b], vec![c, b]]));
            for id in [b, a, c] {
                ranking.push(ranking.used.place(id), b"key");
            }
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
}
