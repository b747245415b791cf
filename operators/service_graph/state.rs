//! The state of what waits as bytes.

use super::calls::{Half, Side};
use super::pairs::{Pairs, Waiting};
use crate::codec::{get, get_text, get_u8, get_u64, put, put_u64};

/// Version of the state.
const VERSION: u8 = 1;

fn put_half(out: &mut Vec<u8>, half: &Half) {
    let flags = [half.side == Side::Client, half.messaging, half.failed];
    let has = [half.time.is_some(), half.duration.is_some(), half.peer.is_some()];
    let flags = flags.into_iter().chain(has).zip(0..);
    out.push(flags.fold(0, |all, (flag, bit)| all | u8::from(flag) << bit));
    put_u64(out, half.time.unwrap_or_default().cast_unsigned());
    put_u64(out, half.received.cast_unsigned());
    put_u64(out, half.duration.unwrap_or_default().cast_unsigned());
    [&half.service, &half.trace, &half.span].iter().for_each(|text| put(out, text.as_bytes()));
    let (peer, connection) = half.peer.as_ref().map_or(("", 0), |(peer, of)| (peer, *of));
    put(out, peer.as_bytes());
    out.push(connection);
}

fn get_half(bytes: &mut &[u8]) -> Option<Half> {
    let flags = get_u8(bytes)?;
    let flag = |bit: u8| flags >> bit & 1 == 1;
    let time = get_u64(bytes)?.cast_signed();
    let received = get_u64(bytes)?.cast_signed();
    let duration = get_u64(bytes)?.cast_signed();
    let (service, trace) = (get_text(bytes)?.into(), get_text(bytes)?.into());
    let (span, peer) = (get_text(bytes)?.into(), get_text(bytes)?.into());
    let connection = get_u8(bytes)?;
    Some(Half {
        side: if flag(0) { Side::Client } else { Side::Server },
        messaging: flag(1),
        failed: flag(2),
        time: flag(3).then_some(time),
        received,
        duration: flag(4).then_some(duration),
        service,
        trace,
        span,
        peer: flag(5).then_some((peer, connection)),
    })
}

fn put_keys(out: &mut Vec<u8>, pairs: &Pairs, keys: &[u128]) {
    put_u64(out, keys.len() as u64);
    for key in keys {
        out.extend(key.to_le_bytes());
        let none = Waiting::default();
        let waiting = pairs.waiting.get(key).unwrap_or(&none);
        out.push(u8::from(waiting.client.is_some()) | u8::from(waiting.answered) << 1);
        waiting.client.iter().for_each(|half| put_half(out, half));
        put_u64(out, waiting.servers.len() as u64);
        waiting.servers.iter().for_each(|half| put_half(out, half));
    }
}

fn get_keys(bytes: &mut &[u8], pairs: &mut Pairs) -> Option<Vec<u128>> {
    let mut keys = Vec::new();
    for _ in 0..get_u64(bytes)? {
        let (key, rest) = bytes.split_first_chunk::<16>()?;
        *bytes = rest;
        let key = u128::from_le_bytes(*key);
        let flags = get_u8(bytes)?;
        let client = if flags & 1 == 1 { Some(get_half(bytes)?) } else { None };
        let mut servers = Vec::new();
        for _ in 0..get_u64(bytes)? {
            servers.push(get_half(bytes)?);
        }
        pairs.held += servers.len() + usize::from(client.is_some());
        pairs.waiting.insert(key, Waiting { client, answered: flags & 2 == 2, servers });
        keys.push(key);
    }
    Some(keys)
}

/// The state of `pairs` and, behind it, of the windows.
pub(super) fn write(pairs: &Pairs, windows: &[u8]) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_u64(&mut out, pairs.ticks.len() as u64);
    for (elapsed, keys) in &pairs.ticks {
        put_u64(&mut out, elapsed.cast_unsigned());
        put_keys(&mut out, pairs, keys);
    }
    put_keys(&mut out, pairs, &pairs.fresh);
    put(&mut out, windows);
    out
}

/// The inverse of [`write`]: fills `pairs`, which are empty, and gives the state of the windows.
pub(super) fn read<'a>(mut bytes: &'a [u8], pairs: &mut Pairs) -> Option<&'a [u8]> {
    if get_u8(&mut bytes)? != VERSION {
        return None;
    }
    for _ in 0..get_u64(&mut bytes)? {
        let elapsed = get_u64(&mut bytes)?.cast_signed();
        let keys = get_keys(&mut bytes, pairs)?;
        pairs.ticks.push_back((elapsed, keys));
    }
    pairs.fresh = get_keys(&mut bytes, pairs)?;
    let windows = get(&mut bytes)?;
    bytes.is_empty().then_some(windows)
}
