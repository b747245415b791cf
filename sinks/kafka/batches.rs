//! Which row goes to which partition, and where batches end.

use std::collections::{BTreeMap, VecDeque};

use rskafka::chrono::{DateTime, Utc};
use rskafka::record::Record;

use crate::messages::Message;

/// A batch ends before the record that would bring it beyond so many bytes: brokers take 1 MiB unless
/// told otherwise, as it is before compression for some.
const BATCH_BYTES: usize = 900_000;
/// What a record takes beside its key and value: lengths, deltas, attributes.
const OVERHEAD_BYTES: usize = 32;

/// Topic and partition.
pub(super) type Place = (String, i32);

/// Batches by place, in order in each.
pub(super) type Batches = BTreeMap<Place, VecDeque<Vec<Record>>>;

/// Puts the rows of a tick into batches. `partitions` says how many a topic has; `turn` is with which
/// one rows without a key begin.
///
/// # Errors
/// The first topic that has none.
pub(super) fn batches(
    rows: &[(String, &Message)],
    partitions: &BTreeMap<String, Vec<i32>>,
    turn: u64,
    now: i64,
) -> Result<Batches, String> {
    let mut batches = Batches::new();
    let mut sizes: BTreeMap<Place, usize> = BTreeMap::new();
    // Of rows without a key: which partition of each topic takes them, until it has a batch.
    let mut turns: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for (topic, message) in rows {
        let numbers =
            partitions.get(topic).filter(|p| !p.is_empty()).ok_or_else(|| topic.clone())?;
        let record = record(message, now);
        let size = record.approximate_size() + OVERHEAD_BYTES;
        let index = match &record.key {
            Some(key) => partition_of(key, numbers.len()),
            None => {
                let (turn, filled) = turns.entry(topic).or_insert((turn, 0));
                if *filled > 0 && *filled + size > BATCH_BYTES {
                    (*turn, *filled) = (*turn + 1, 0);
                }
                *filled += size;
                (*turn % numbers.len() as u64) as usize
            }
        };
        let place = (topic.clone(), numbers[index]);
        let batch = batches.entry(place.clone()).or_default();
        let filled = sizes.entry(place).or_default();
        match batch.back_mut() {
            Some(last) if *filled + size <= BATCH_BYTES => {
                last.push(record);
                *filled += size;
            }
            _ => {
                batch.push_back(vec![record]);
                *filled = size;
            }
        }
    }
    Ok(batches)
}

fn record(message: &Message, now: i64) -> Record {
    // Kafka has no time before 1970.
    let time = message.time.filter(|t| *t >= 0).unwrap_or(now);
    Record {
        key: message.key.as_ref().map(|key| key.as_bytes().to_vec()),
        value: Some(message.value.to_vec()),
        headers: BTreeMap::new(),
        timestamp: DateTime::<Utc>::from_timestamp_nanos(time),
    }
}

/// The partition among `count` to which Kafka's producers send a key.
/// Source: `BuiltInPartitioner.partitionForKey` of Kafka.
fn partition_of(key: &[u8], count: usize) -> usize {
    let positive = murmur2(key) & 0x7fff_ffff;
    positive as usize % count.max(1)
}

/// Source: `Utils.murmur2` of Kafka: MurmurHash2 (Austin Appleby), 32 bits, with Kafka's seed.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Values of the tests of Kafka itself (`UtilsTest.testMurmur2`).
    #[test]
    fn keys_go_where_kafka_sends_them() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    fn message(key: Option<&str>, bytes: usize) -> Message {
        let value = vec![b'x'; bytes].into();
        Message { to: None, key: key.map(str::to_owned), time: Some(1), value }
    }

    /// Records of each batch, by partition.
    fn sizes(messages: &[Message], turn: u64) -> Vec<(i32, Vec<usize>)> {
        let rows: Vec<_> = messages.iter().map(|m| ("t".to_owned(), m)).collect();
        let partitions = [("t".to_owned(), vec![0, 1, 2])].into();
        let batches = batches(&rows, &partitions, turn, 0).unwrap();
        let sizes = |b: &VecDeque<Vec<Record>>| b.iter().map(Vec::len).collect();
        batches.iter().map(|((_, number), b)| (*number, sizes(b))).collect()
    }

    #[test]
    fn batches_have_a_bound_and_rows_without_key_go_in_turn() {
        let small = vec![message(None, 100); 10];
        assert_eq!(sizes(&small, 4), [(1, vec![10])]);
        let large = vec![message(None, 400_000); 5];
        assert_eq!(sizes(&large, 0), [(0, vec![2]), (1, vec![2]), (2, vec![1])]);
        let huge = vec![message(None, 2_000_000), message(None, 1)];
        assert_eq!(sizes(&huge, 0), [(0, vec![1]), (1, vec![1])]);
        // One key, one partition, in order.
        let keyed = vec![message(Some("abc"), 400_000); 5];
        assert_eq!(sizes(&keyed, 7), [((479_470_107 % 3), vec![2, 2, 1])]);
    }

    #[test]
    fn a_topic_without_partitions_is_named() {
        let row = message(None, 1);
        let error = batches(&[("gone".to_owned(), &row)], &BTreeMap::new(), 0, 0).unwrap_err();
        assert_eq!(error, "gone");
    }
}
