//! What the peer keeps: a list of topics, and a file of batches per partition.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use fluvio::dataplane::record::{Batch, RawRecords};
use fluvio::dataplane::{Decoder, Encoder};

/// Its partitions, by topic.
pub(super) struct Disk {
    folder: PathBuf,
    pub(super) topics: BTreeMap<String, Vec<Log>>,
}

/// One partition.
pub(super) struct Log {
    file: File,
    batches: Vec<Stored>,
    /// Behind the last record.
    pub(super) end: i64,
}

struct Stored {
    first: i64,
    end: i64,
    bytes: Vec<u8>,
}

impl Disk {
    pub(super) fn open(folder: &Path) -> Self {
        let list = fs::read_to_string(folder.join("topics")).unwrap_or_default();
        let mut disk = Self { folder: folder.to_owned(), topics: BTreeMap::new() };
        for line in list.lines() {
            let (topic, partitions) = line.split_once(' ').unwrap();
            disk.add(topic, partitions.parse().unwrap());
        }
        disk
    }

    fn add(&mut self, topic: &str, partitions: u32) {
        let logs = (0..partitions).map(|n| Log::open(&self.file(topic, n)));
        let logs = logs.collect();
        self.topics.insert(topic.to_owned(), logs);
    }

    fn file(&self, topic: &str, number: u32) -> PathBuf {
        self.folder.join(format!("{topic}-{number}.batches"))
    }

    pub(super) fn create(&mut self, topic: &str, partitions: u32) {
        self.add(topic, partitions);
        self.save();
    }

    fn save(&self) {
        let lines = self.topics.iter().map(|(topic, logs)| format!("{topic} {}\n", logs.len()));
        fs::write(self.folder.join("topics"), lines.collect::<String>()).unwrap();
    }

    pub(super) fn delete(&mut self, topic: &str) {
        for number in 0..self.topics.remove(topic).unwrap().len() {
            fs::remove_file(self.file(topic, u32::try_from(number).unwrap())).unwrap();
        }
        self.save();
    }

    pub(super) fn forget(&mut self, topic: &str, number: u32, batches: usize) {
        let file = self.file(topic, number);
        let log = self.log(topic, number).unwrap();
        assert!(log.batches.len() > batches, "nothing would be left");
        let left = log.batches[batches..].iter().flat_map(Stored::framed).collect::<Vec<u8>>();
        fs::write(file, left).unwrap();
    }

    pub(super) fn log(&mut self, topic: &str, number: u32) -> Option<&mut Log> {
        self.topics.get_mut(topic)?.get_mut(number as usize)
    }
}

impl Log {
    fn open(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_default();
        let mut rest = &bytes[..];
        let (mut batches, mut end) = (Vec::new(), 0);
        while let Some((length, more)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            // The last may have been cut off by a kill; nobody was told that it is there.
            let Some((batch, more)) = more.split_at_checked(length) else { break };
            let read: Batch<RawRecords> = Batch::decode_from(&mut &*batch, 0).unwrap();
            end = read.get_last_offset() + 1;
            batches.push(Stored { first: read.base_offset, end, bytes: batch.to_vec() });
            rest = more;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.set_len((bytes.len() - rest.len()) as u64).unwrap();
        Self { file, batches, end }
    }

    /// The first record that is there.
    pub(super) fn first(&self) -> i64 {
        self.batches.first().map_or(self.end, |b| b.first)
    }

    pub(super) fn batches(&self) -> usize {
        self.batches.len()
    }

    pub(super) fn append(&mut self, mut batch: Batch<RawRecords>) {
        batch.base_offset = self.end;
        let first = self.end;
        self.end = batch.get_last_offset() + 1;
        let mut bytes = Vec::new();
        batch.encode(&mut bytes, 0).unwrap();
        let stored = Stored { first, end: self.end, bytes };
        self.file.write_all(&stored.framed()).unwrap();
        self.batches.push(stored);
    }

    /// What stands from the batch of `offset` on, up to so many bytes, wherever they end.
    pub(super) fn read(&self, offset: i64, bytes_max: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for batch in self.batches.iter().filter(|b| b.end > offset) {
            if bytes.len() >= bytes_max {
                break;
            }
            bytes.extend_from_slice(&batch.bytes);
        }
        bytes.truncate(bytes_max);
        bytes
    }
}

impl Stored {
    fn framed(&self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap().to_be_bytes();
        [&length[..], &self.bytes].concat()
    }
}
