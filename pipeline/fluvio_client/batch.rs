//! Batches of records, as they stand on disk and go over the network: as Kafka's, but for the headers
//! of records, which Fluvio does not have.

use fluvio::Compression;
use fluvio::dataplane::Encoder;
use fluvio::dataplane::record::{Batch, BatchHeader, MemoryRecords, RawRecords, Record};

/// The records of a batch. `None` if the end of a fetch cut it off.
///
/// # Errors
/// If it is damaged: it must not be guessed what was in it.
pub fn records(batch: &Batch<RawRecords>) -> Result<Option<MemoryRecords>, String> {
    if !batch.validate_decoding() {
        return Ok(None);
    }
    let at = batch.base_offset;
    let sum = checksum(batch).map_err(|e| format!("the batch at offset {at}: {e}"))?;
    if sum != batch.header.crc {
        return Err(format!("the batch at offset {at} is damaged: its checksum is wrong"));
    }
    let records = batch
        .memory_records()
        .map_err(|e| format!("the batch at offset {at} cannot be unpacked: {e}"))?;
    let expected = i64::from(batch.header.last_offset_delta) + 1;
    if records.len() as i64 != expected {
        let found = records.len();
        return Err(format!("the batch at offset {at} has {found} records, expected {expected}"));
    }
    Ok(Some(records))
}

/// CRC-32C of what comes behind it.
fn checksum(batch: &Batch<RawRecords>) -> std::io::Result<u32> {
    let BatchHeader {
        attributes,
        last_offset_delta,
        first_timestamp,
        max_time_stamp,
        producer_id,
        producer_epoch,
        first_sequence,
        ..
    } = &batch.header;
    let mut head = Vec::new();
    attributes.encode(&mut head, 0)?;
    last_offset_delta.encode(&mut head, 0)?;
    first_timestamp.encode(&mut head, 0)?;
    max_time_stamp.encode(&mut head, 0)?;
    producer_id.encode(&mut head, 0)?;
    producer_epoch.encode(&mut head, 0)?;
    first_sequence.encode(&mut head, 0)?;
    if batch.header.has_schema() {
        batch.schema_id.encode(&mut head, 0)?;
    }
    Ok(crc32c::crc32c_append(crc32c::crc32c(&head), &batch.records().0))
}

/// Records as a batch, with their times (UTC milliseconds).
///
/// # Errors
/// If they cannot be compressed.
pub fn encode(
    records: Vec<(i64, Record)>,
    compression: Compression,
) -> Result<Batch<RawRecords>, String> {
    let first = records.first().map_or(0, |(time, _)| *time);
    let last = records.iter().map(|(time, _)| *time).max().unwrap_or(first);
    let stamped = |(time, mut record): (i64, Record)| {
        record.preamble.set_timestamp_delta(time - first);
        record
    };
    let mut batch = Batch::from(records.into_iter().map(stamped).collect::<MemoryRecords>());
    batch.header.first_timestamp = first;
    batch.header.max_time_stamp = last;
    batch.header.set_compression(compression);
    Batch::<RawRecords>::try_from(batch).map_err(|e| format!("compression: {e}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use fluvio::dataplane::Decoder;
    use fluvio::dataplane::record::RecordSet;

    use super::*;

    fn wire(compression: Compression) -> Vec<u8> {
        let records = (0..20).map(|n| (1_000 - n, Record::new_key_value("k", vec![b'x'; 50])));
        let batch = encode(records.collect(), compression).unwrap();
        let mut out = Vec::new();
        RecordSet { batches: vec![batch] }.encode(&mut out, 0).unwrap();
        out
    }

    fn read(wire: &[u8]) -> Option<Batch<RawRecords>> {
        let set: RecordSet<RawRecords> =
            RecordSet::decode_from(&mut Bytes::copy_from_slice(wire), 0).unwrap();
        set.batches.into_iter().next()
    }

    #[test]
    fn batches_come_back_as_they_went() {
        for compression in [
            Compression::None,
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ] {
            let batch = read(&wire(compression)).unwrap();
            let records = records(&batch).unwrap().unwrap();
            let times = records.iter().map(|r| batch.header.first_timestamp + r.timestamp_delta());
            assert_eq!(times.collect::<Vec<_>>(), (981..=1_000).rev().collect::<Vec<_>>());
            assert!(records.iter().all(|r| *r.key.as_ref().unwrap().as_ref() == b"k"[..]));
            assert!(records.iter().all(|r| r.value.len() == 50));
        }
    }

    /// A fetch ends at a number of bytes, wherever that is.
    #[test]
    fn a_batch_that_is_cut_off_is_none() {
        for compression in [Compression::None, Compression::Gzip] {
            let whole = wire(compression);
            for length in 4..whole.len() {
                let mut cut = whole[..length].to_vec();
                let bytes = (length - 4) as i32;
                cut[..4].copy_from_slice(&bytes.to_be_bytes());
                if let Some(batch) = read(&cut) {
                    assert_eq!(records(&batch).unwrap().map(|r| r.len()), None, "{length}");
                }
            }
        }
    }

    #[test]
    fn a_damaged_batch_is_told() {
        let mut bytes = wire(Compression::None);
        let last = bytes.len() - 1;
        bytes[last - 20] ^= 1;
        let error = records(&read(&bytes).unwrap()).unwrap_err();
        assert_eq!(error, "the batch at offset 0 is damaged: its checksum is wrong");
    }
}
