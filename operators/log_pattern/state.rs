//! The state of an operator as bytes.

use super::miner::Miner;
use super::pattern::Pattern;
use crate::codec::{get, get_u64, put, put_u64};

/// Version of the state, and of the rules that make shapes of lines: other rules give other ids.
pub(super) const VERSION: u64 = 1;

/// The state of `miner`: the same patterns give the same bytes.
pub(super) fn write(miner: &Miner) -> Vec<u8> {
    let (line, patterns) = miner.state();
    let mut out = Vec::new();
    put_u64(&mut out, VERSION);
    put_u64(&mut out, line);
    put_u64(&mut out, patterns.len() as u64);
    for pattern in patterns {
        put_u64(&mut out, pattern.id);
        put_u64(&mut out, pattern.first);
        put_u64(&mut out, pattern.seen);
        put(&mut out, &pattern.shape);
        put(&mut out, &pattern.layout);
    }
    out
}

/// The inverse of [`write`]; `None` if the bytes are no such state.
pub(super) fn read(patterns_max: usize, mut bytes: &[u8]) -> Option<Miner> {
    let bytes = &mut bytes;
    if get_u64(bytes)? != VERSION {
        return None;
    }
    let line = get_u64(bytes)?;
    let mut patterns = Vec::new();
    for _ in 0..get_u64(bytes)? {
        let (id, first, seen) = (get_u64(bytes)?, get_u64(bytes)?, get_u64(bytes)?);
        let (shape, layout) = (get(bytes)?.into(), get(bytes)?.into());
        patterns.push(Pattern::new(id, first, seen, shape, layout));
    }
    bytes.is_empty().then(|| Miner::restored(patterns_max, line, patterns))
}
