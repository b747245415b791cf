//! All patterns, and how lines find theirs.
//!
//! A line belongs to the pattern of its shape, so patterns do not depend on the order of lines. Only
//! where many shapes differ in one and the same word are they made one: that word varies, though
//! nothing in the language says so.

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashTable};
use xxhash_rust::xxh3::xxh3_64;

use super::pattern::{Pattern, skeleton};
use super::shape::Shape;

/// Shapes that differ in the same word only, from which on the word is taken to vary. Wording that
/// differs so often is rare: of messages that share all but a noun there are a few.
const ALIKE: usize = 8;

/// When there is no room, the part of the patterns that goes: those seen longest ago.
const EVICTED_PART: usize = 16;

/// All patterns of one operator.
pub(super) struct Miner {
    patterns_max: usize,
    /// Lines so far.
    line: u64,
    slots: Vec<Option<Pattern>>,
    free: Vec<u32>,
    /// By shape.
    by_shape: HashTable<u32>,
    /// Hash of a shape without one of its words, and who has it.
    alike: HashTable<(u64, u32)>,
    /// Which words vary in lines of a skeleton, and in how many patterns it is these.
    widened: HashMap<u64, BTreeMap<u64, u32>>,
    shape: Shape,
    text: Vec<u8>,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) slot: u32,
    /// It founded the pattern.
    pub(super) new: bool,
    /// The template became wider by it.
    pub(super) changed: bool,
}

impl Miner {
    pub(super) fn new(patterns_max: usize) -> Self {
        Self {
            patterns_max,
            line: 0,
            slots: Vec::new(),
            free: Vec::new(),
            by_shape: HashTable::new(),
            alike: HashTable::new(),
            widened: HashMap::new(),
            shape: Shape::default(),
            text: Vec::new(),
        }
    }

    /// The pattern of `line`; `None` if it has nothing but spaces.
    pub(super) fn take(&mut self, line: &str) -> Option<Found> {
        let bytes = line.as_bytes();
        let hash = self.shape.of(bytes);
        if self.shape.parts.is_empty() {
            return None;
        }
        self.line += 1;
        let slots = &mut self.slots;
        let shape = &self.shape;
        let same = |slot: &u32| pattern(slots, *slot).is_some_and(|p| *p.shape == *shape.text);
        let slot = self.by_shape.find(hash, same).copied().or_else(|| self.find_wide(bytes));
        let Some(slot) = slot else { return Some(self.found(bytes, hash)) };
        let pattern = self.slots.get_mut(slot as usize)?.as_mut()?;
        pattern.seen = self.line;
        let changed = pattern.take(bytes, &self.shape);
        Some(Found { slot, new: false, changed })
    }

    /// The pattern at `slot`.
    pub(super) fn pattern(&self, slot: u32) -> Option<&Pattern> {
        pattern(&self.slots, slot)
    }

    /// The parameters of the line that was taken last, of the pattern at `slot`.
    pub(super) fn parameters<'a>(
        &'a self,
        slot: u32,
        line: &'a str,
    ) -> impl Iterator<Item = &'a str> {
        let parts = self.pattern(slot).into_iter().flat_map(|p| p.parameters(&self.shape.parts));
        parts.map(|part| line.get(part.start as usize..part.end as usize).unwrap_or_default())
    }

    /// Patterns there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Bytes that it holds, about.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let patterns: usize = self.slots.iter().flatten().map(Pattern::bytes).sum();
        let tables = self.by_shape.allocation_size() + self.alike.allocation_size();
        let widened: usize = self.widened.values().map(|w| 64 + w.len() * 24).sum();
        patterns + tables + widened + self.widened.allocation_size()
    }

    /// The pattern with varying words that the line is of.
    fn find_wide(&mut self, line: &[u8]) -> Option<u32> {
        if self.widened.is_empty() {
            return None;
        }
        let skeleton = skeleton(&self.shape.text, &mut self.text);
        for &mask in self.widened.get(&skeleton)?.keys() {
            let hash = self.shape.widened(line, mask, &mut self.text);
            let (slots, text) = (&self.slots, &self.text);
            let same = |slot: &u32| pattern(slots, *slot).is_some_and(|p| *p.shape == **text);
            if let Some(&slot) = self.by_shape.find(hash, same) {
                return Some(slot);
            }
        }
        None
    }

    /// Founds a pattern, which may at once join others.
    fn found(&mut self, line: &[u8], id: u64) -> Found {
        if self.len() >= self.patterns_max {
            self.evict();
        }
        let pattern = Pattern::found(line, &self.shape, id, self.line);
        let slot = self.insert(pattern);
        match self.join(slot) {
            Some(slot) => Found { slot, new: false, changed: true },
            None => Found { slot, new: true, changed: false },
        }
    }

    /// Adds a pattern.
    fn insert(&mut self, pattern: Pattern) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        pattern.neighbours(|_, hash| {
            self.alike.insert_unique(hash, (hash, slot), |&(hash, _)| hash);
        });
        if pattern.wide != 0 {
            let skeleton = skeleton(&pattern.shape, &mut self.text);
            *self.widened.entry(skeleton).or_default().entry(pattern.wide).or_default() += 1;
        }
        let hash = xxh3_64(&pattern.shape);
        self.slots[slot as usize] = Some(pattern);
        let slots = &self.slots;
        let rehash = |&slot: &u32| self::pattern(slots, slot).map_or(0, |p| xxh3_64(&p.shape));
        self.by_shape.insert_unique(hash, slot, rehash);
        slot
    }

    /// Takes a pattern out.
    fn remove(&mut self, slot: u32) -> Option<Pattern> {
        let pattern = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        if let Ok(entry) = self.by_shape.find_entry(xxh3_64(&pattern.shape), |&s| s == slot) {
            entry.remove();
        }
        pattern.neighbours(|_, hash| {
            if let Ok(entry) = self.alike.find_entry(hash, |&e| e == (hash, slot)) {
                entry.remove();
            }
        });
        if pattern.wide != 0 {
            let skeleton = skeleton(&pattern.shape, &mut self.text);
            if let Some(masks) = self.widened.get_mut(&skeleton)
                && let Some(patterns) = masks.get_mut(&pattern.wide)
            {
                *patterns -= 1;
                if *patterns == 0 {
                    masks.remove(&pattern.wide);
                }
                if masks.is_empty() {
                    self.widened.remove(&skeleton);
                }
            }
        }
        Some(pattern)
    }

    /// Makes one pattern of it and those that differ from it in one and the same word, if they
    /// are many; then of that and its like. Gives where it is then.
    fn join(&mut self, slot: u32) -> Option<u32> {
        let mut joined = None;
        let mut slot = slot;
        while let Some((at, members)) = self.alike(slot) {
            let mut members: Vec<Pattern> =
                members.into_iter().filter_map(|slot| self.remove(slot)).collect();
            members.sort_unstable_by_key(|p| p.first);
            let mut oldest = members.remove(0);
            oldest.widen(at, &members);
            slot = self.insert(oldest);
            joined = Some(slot);
        }
        joined
    }

    /// The first word of the pattern at `slot` in which enough others differ, and who they are.
    fn alike(&self, slot: u32) -> Option<(usize, Vec<u32>)> {
        let mut found = None;
        self.pattern(slot)?.neighbours(|at, hash| {
            if found.is_some() {
                return;
            }
            let same = self.alike.iter_hash(hash).filter(|e| e.0 == hash);
            let members: Vec<u32> = same.map(|e| e.1).collect();
            if members.len() >= ALIKE {
                found = Some((at, members));
            }
        });
        found
    }

    /// Makes room.
    fn evict(&mut self) {
        let mut seen: Vec<(u64, u32)> = self
            .slots
            .iter()
            .zip(0..)
            .filter_map(|(pattern, slot)| Some((pattern.as_ref()?.seen, slot)))
            .collect();
        // More than one part if a state is larger than what is allowed now.
        let over = (self.len() + 1).saturating_sub(self.patterns_max);
        let count = over.max(self.patterns_max / EVICTED_PART).min(seen.len());
        if count == 0 {
            return;
        }
        seen.select_nth_unstable(count - 1);
        for &(_, slot) in &seen[..count] {
            self.remove(slot);
        }
    }

    /// Lines so far, and all patterns in the order in which they were founded.
    pub(super) fn state(&self) -> (u64, Vec<&Pattern>) {
        let mut patterns: Vec<&Pattern> = self.slots.iter().flatten().collect();
        patterns.sort_unstable_by_key(|p| p.first);
        (self.line, patterns)
    }

    /// What [`Miner::state`] told of.
    pub(super) fn restored(patterns_max: usize, line: u64, patterns: Vec<Pattern>) -> Self {
        let mut miner = Self::new(patterns_max);
        miner.line = line;
        patterns.into_iter().for_each(|pattern| {
            miner.insert(pattern);
        });
        miner
    }
}

fn pattern(slots: &[Option<Pattern>], slot: u32) -> Option<&Pattern> {
    slots.get(slot as usize)?.as_ref()
}
