//! Which row goes to which partition, and where batches end.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};

use fluvio::dataplane::record::{Record, RecordData};
use siphasher::sip::SipHasher;

use crate::messages::Message;

/// A batch ends before the record that would bring it beyond so many bytes: a record larger than that
/// is a batch by itself, and Fluvio's own producers make batches of 1 MiB at most unless told otherwise.
const BATCH_BYTES: usize = 900_000;
/// What a record takes beside its key and value: lengths, deltas, attributes.
const OVERHEAD_BYTES: usize = 32;

/// Topic and partition.
pub(super) type Place = (String, u32);

/// Records with their times (UTC milliseconds).
pub(super) type Records = Vec<(i64, Record)>;

/// Batches by place, in order in each.
pub(super) type Batches = BTreeMap<Place, VecDeque<Records>>;

/// Sorts rows into batches. Those without a key go to one partition after the other, batch by batch,
/// from `turn` on; `now` is the time of those that have none.
///
/// # Errors
/// The first topic that has no partition.
pub(super) fn batches(
    rows: &[(String, &Message)],
    partitions: &BTreeMap<String, BTreeMap<u32, i32>>,
    turn: u64,
    now: i64,
) -> Result<Batches, String> {
    let mut batches = Batches::new();
    let mut sizes: BTreeMap<Place, usize> = BTreeMap::new();
    let mut turns: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for (topic, message) in rows {
        let numbers =
            partitions.get(topic).filter(|p| !p.is_empty()).ok_or_else(|| topic.clone())?;
        let key = message.key.as_ref().map(String::as_bytes);
        let size = key.map_or(0, <[u8]>::len) + message.value.len() + OVERHEAD_BYTES;
        let number = match key {
            Some(key) => partition_of(key, numbers.len()),
            None => {
                let (turn, filled) = turns.entry(topic).or_insert((turn, 0));
                if *filled > 0 && *filled + size > BATCH_BYTES {
                    (*turn, *filled) = (*turn + 1, 0);
                }
                *filled += size;
                let index = (*turn % numbers.len() as u64) as usize;
                numbers.keys().nth(index).copied().unwrap_or_default()
            }
        };
        let place = (topic.clone(), number);
        let batch = batches.entry(place.clone()).or_default();
        let filled = sizes.entry(place).or_default();
        match batch.back_mut() {
            Some(last) if *filled + size <= BATCH_BYTES => {
                last.push(record(message, now));
                *filled += size;
            }
            _ => {
                batch.push_back(vec![record(message, now)]);
                *filled = size;
            }
        }
    }
    Ok(batches)
}

fn record(message: &Message, now: i64) -> (i64, Record) {
    // A time before 1970 would look like none.
    let time = message.time.filter(|t| *t >= 0).unwrap_or(now) / 1_000_000;
    let value = RecordData::from(message.value.to_vec());
    let record = match &message.key {
        Some(key) => Record::new_key_value(key.as_bytes(), value),
        None => Record::new(value),
    };
    (time, record)
}

/// The partition among `count` to which Fluvio's producers send a key.
/// Source: `partition_siphash` of Fluvio.
fn partition_of(key: &[u8], count: usize) -> u32 {
    let mut hasher = SipHasher::new();
    key.hash(&mut hasher);
    (hasher.finish() % count.max(1) as u64) as u32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(key: Option<&str>, bytes: usize) -> Message {
        let value = vec![b'x'; bytes].into();
        Message { to: None, key: key.map(str::to_owned), time: Some(1_000_000), value }
    }

    /// Records of each batch, by partition.
    fn sizes(messages: &[Message], turn: u64) -> Vec<(u32, Vec<usize>)> {
        let rows: Vec<_> = messages.iter().map(|m| ("t".to_owned(), m)).collect();
        let partitions = [("t".to_owned(), (0..3).map(|n| (n, 5001)).collect())].into();
        let batches = batches(&rows, &partitions, turn, 0).unwrap();
        let sizes = |b: &VecDeque<Records>| b.iter().map(Vec::len).collect();
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
        assert_eq!(sizes(&keyed, 7), [(partition_of(b"abc", 3), vec![2, 2, 1])]);
    }

    #[test]
    fn a_topic_without_partitions_is_named() {
        let row = message(None, 1);
        let error = batches(&[("gone".to_owned(), &row)], &BTreeMap::new(), 0, 0).unwrap_err();
        assert_eq!(error, "gone");
    }
}
