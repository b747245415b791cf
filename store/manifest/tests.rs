#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use super::*;
use crate::file::{FileColumn, FileMeta, Overflow};
use crate::layout::{Layout, Slice};
use crate::types::ColumnType;

fn file(n: u64) -> FileMeta {
    let column =
        |name: &str, kind| FileColumn { name: name.into(), kind, json: false, origin: None };
    FileMeta {
        name: format!("f-{n:08}").into(),
        level: 0,
        version: 1,
        layout: Layout::Slices,
        rows: 10,
        bytes: 1_000,
        raw_bytes: 2_000,
        entity_bytes: 0,
        crc: 7,
        received: 1,
        min_time: 1_000_000_000 + n as i64 % 7,
        max_time: 2_000_000_000,
        columns: [column("body", ColumnType::Text), column("timestamp", ColumnType::Time)].into(),
        overflow: Overflow::None,
        slices: vec![Slice { rows: 10, min_time: 1, max_time: 2 }],
        entities: None,
        runs: None,
        entity_max: None,
        tokens: Vec::new(),
    }
}

fn writer() -> WriterId {
    WriterId { journal: u128::MAX - 1, pipeline: "p".into(), sink: "s".into() }
}

fn commit(manifest: &mut Manifest, mark: u64) {
    let mut records = Vec::new();
    manifest.listing().add(&file(mark), &mut records);
    records.push(Record::Commit { writer: writer(), mark });
    manifest.append(&records).unwrap();
}

fn names(manifest: &Manifest) -> Vec<Arc<str>> {
    manifest.listing().files.keys().cloned().collect()
}

fn only_log(folder: &Path) -> PathBuf {
    let logs = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut logs: Vec<PathBuf> =
        logs.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("log-")).collect();
    logs.retain(|p| p.extension().is_none());
    assert_eq!(logs.len(), 1, "{logs:?}");
    logs.remove(0)
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_to_the_last_whole_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut ends = vec![frame::HEADER as u64];
    let (mut manifest, _) = Manifest::open(dir.path()).unwrap();
    for mark in 1..=4 {
        commit(&mut manifest, mark);
        ends.push(manifest.log.as_ref().unwrap().len);
    }
    drop(manifest);
    let whole = std::fs::read(only_log(dir.path())).unwrap();
    assert_eq!(*ends.last().unwrap(), whole.len() as u64);
    for cut in 0..=whole.len() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(format!("log-{:020}", 0)), &whole[..cut]).unwrap();
        let (mut manifest, repairs) = Manifest::open(dir.path()).unwrap();
        let good = ends.iter().filter(|e| **e <= cut as u64).count().saturating_sub(1);
        assert_eq!(names(&manifest).len(), good, "cut at {cut}");
        assert!(repairs.is_empty(), "cut at {cut}: {repairs:?}");
        // It goes on from there, and that holds too.
        commit(&mut manifest, 100);
        drop(manifest);
        let (manifest, repairs) = Manifest::open(dir.path()).unwrap();
        assert_eq!(names(&manifest).len(), good + 1, "cut at {cut}");
        assert_eq!(manifest.listing().commits[&writer()], 100);
        assert!(repairs.is_empty(), "cut at {cut}: {repairs:?}");
    }
}

#[test]
fn a_flipped_byte_is_named_and_costs_one_change() {
    let dir = tempfile::tempdir().unwrap();
    let (mut manifest, _) = Manifest::open(dir.path()).unwrap();
    let mut ends = vec![frame::HEADER];
    for mark in 1..=3 {
        commit(&mut manifest, mark);
        ends.push(manifest.log.as_ref().unwrap().len as usize);
    }
    drop(manifest);
    let whole = std::fs::read(only_log(dir.path())).unwrap();
    // Within the second change, whose columns the first has defined.
    for at in ends[1]..ends[2] {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        std::fs::write(dir.path().join(format!("log-{:020}", 0)), &bytes).unwrap();
        let (manifest, repairs) = Manifest::open(dir.path()).unwrap();
        assert_eq!(names(&manifest), [Arc::from("f-00000001"), "f-00000003".into()], "at {at}");
        assert!(repairs.iter().any(|r| r.contains("damaged")), "at {at}: {repairs:?}");
        assert!(dir.path().join(format!("log-{:020}.damaged", 0)).exists());
        drop(manifest);
        // Repaired for good.
        let (manifest, repairs) = Manifest::open(dir.path()).unwrap();
        assert_eq!(names(&manifest).len(), 2, "at {at}");
        assert!(repairs.is_empty(), "at {at}: {repairs:?}");
    }
}

#[test]
fn a_change_that_does_not_follow_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (mut manifest, _) = Manifest::open(dir.path()).unwrap();
    let end = |m: &Manifest| m.log.as_ref().unwrap().len as usize;
    commit(&mut manifest, 1);
    commit(&mut manifest, 2);
    let start = end(&manifest);
    commit(&mut manifest, 3);
    let stop = end(&manifest);
    // A merge of 2 and 3 into 50: without 3 it must not be listed beside 2.
    let mut records =
        vec![Record::Remove { name: file(2).name }, Record::Remove { name: file(3).name }];
    manifest.listing().add(&file(50), &mut records);
    manifest.append(&records).unwrap();
    commit(&mut manifest, 4);
    drop(manifest);
    let path = only_log(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[start + 30] ^= 1;
    assert!(start + 30 < stop);
    std::fs::write(&path, &bytes).unwrap();
    let (manifest, repairs) = Manifest::open(dir.path()).unwrap();
    let expected = [file(1).name, file(2).name, file(4).name];
    assert_eq!(names(&manifest), expected);
    assert_eq!(repairs.len(), 3, "{repairs:?}");
}

#[test]
fn what_does_not_follow_is_refused_before_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (mut manifest, _) = Manifest::open(dir.path()).unwrap();
    commit(&mut manifest, 1);
    let before = manifest.appended();
    let gone = Record::Remove { name: "never".into() };
    assert!(manifest.append(&[gone]).is_err());
    let mut twice = Vec::new();
    manifest.listing().add(&file(1), &mut twice);
    assert!(manifest.append(&twice).is_err());
    assert_eq!(manifest.appended(), before);
}

#[test]
fn a_commit_costs_the_same_at_ten_files_and_at_two_thousand() {
    let dir = tempfile::tempdir().unwrap();
    let (mut manifest, _) = Manifest::open(dir.path()).unwrap();
    let mut costs = Vec::new();
    let mut snapshots = 0_u64;
    for mark in 0..2_000 {
        let before = manifest.appended();
        commit(&mut manifest, mark);
        costs.push(manifest.appended() - before);
        if manifest.wants_snapshot() {
            let (listing, next) = manifest.begin_snapshot().unwrap();
            Manifest::write_snapshot_file(dir.path(), &listing, next).unwrap();
            manifest.finish_snapshot(next);
            snapshots += 1;
        }
    }
    let early = costs[5..15].iter().max().unwrap();
    let late = costs[1_990..].iter().max().unwrap();
    // Numbers in the record grow by some digits, and the columns are defined once a snapshot.
    assert!(*late <= early + 16, "{early} bytes at first, {late} later");
    // Snapshots come at distances that grow with the number of files.
    assert!((1..=5).contains(&snapshots), "{snapshots}");
    drop(manifest);
    let (manifest, repairs) = Manifest::open(dir.path()).unwrap();
    assert!(repairs.is_empty(), "{repairs:?}");
    assert_eq!(names(&manifest).len(), 2_000);
    assert_eq!(manifest.listing().commits[&writer()], 1_999);
    assert!(manifest.listing().files.values().all(|f| f.columns.len() == 2));
}

#[test]
fn a_damaged_snapshot_gives_way_to_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let (mut manifest, _) = Manifest::open(dir.path()).unwrap();
    for round in 0..3 {
        for mark in round * 10..round * 10 + 10 {
            commit(&mut manifest, mark);
        }
        let (listing, next) = manifest.begin_snapshot().unwrap();
        Manifest::write_snapshot_file(dir.path(), &listing, next).unwrap();
        manifest.finish_snapshot(next);
    }
    commit(&mut manifest, 99);
    drop(manifest);
    let newest = dir.path().join(format!("snapshot-{:020}", 30));
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let (manifest, repairs) = Manifest::open(dir.path()).unwrap();
    assert_eq!(names(&manifest).len(), 31);
    assert!(repairs[0].contains("snapshot"), "{repairs:?}");
}

#[test]
fn a_flipped_bit_in_header_or_last_change_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (mut manifest, _) = Manifest::open(dir.path()).unwrap();
    let mut ends = Vec::new();
    for mark in 1..=2 {
        commit(&mut manifest, mark);
        ends.push(manifest.log.as_ref().unwrap().len as usize);
    }
    drop(manifest);
    let whole = std::fs::read(only_log(dir.path())).unwrap();
    for at in (0..frame::HEADER).chain(ends[0]..ends[1]) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(dir.path().join(format!("log-{:020}", 0)), &bytes).unwrap();
        let (manifest, repairs) = Manifest::open(dir.path()).unwrap();
        let left = if at < frame::HEADER { 2 } else { 1 };
        assert_eq!(names(&manifest).len(), left, "at {at}");
        assert!(repairs.iter().any(|r| r.contains("damaged")), "at {at}: {repairs:?}");
        drop(manifest);
        let (manifest, repairs) = Manifest::open(dir.path()).unwrap();
        assert_eq!((names(&manifest).len(), repairs.len()), (left, 0), "at {at}: {repairs:?}");
    }
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = frame::header();
    bytes[8] = 9;
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    std::fs::write(dir.path().join(format!("log-{:020}", 0)), bytes).unwrap();
    let error = Manifest::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Version { found: 9, known: 1, .. }), "{error}");
}

#[test]
fn what_a_newer_weir_wrote_is_named_and_not_taken_for_damage() {
    let write = |json: &str| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest");
        let (mut manifest, _) = Manifest::open(&path).unwrap();
        commit(&mut manifest, 1);
        let log = only_log(&path);
        drop(manifest);
        let mut bytes = std::fs::read(&log).unwrap();
        bytes.extend(frame::encode_json(1, json.as_bytes()));
        std::fs::write(&log, bytes).unwrap();
        (Manifest::open(&path), dir)
    };
    let mut newer = serde_json::to_value(file(2)).unwrap();
    newer["version"] = 3.into();
    let add = serde_json::json!([{"add": {"shape": 1, "file": newer}}]).to_string();
    let error = write(&add).0.unwrap_err().to_string();
    assert!(error.contains("f-00000002"), "{error}");
    assert!(error.contains("format version 3") && error.contains("up to 2"), "{error}");
    let chunk = r#"{"file": "e-1", "first": 0, "entities": 1, "bytes": 1, "crc": 1, "columns": []"#;
    for record in [
        format!(r#"[{{"chunk": {{"day": 1, "chunk": {chunk}, "version": 2}}}}}}]"#),
        format!(r#"[{{"chunks": {{"day": 1, "chunks": [{chunk}, "version": 2}}]}}}}]"#),
    ] {
        let error = write(&record).0.unwrap_err().to_string();
        assert!(error.contains("entities/e-1` has format version 2, this binary"), "{error}");
        assert!(error.contains("use the binary that wrote it"), "{error}");
    }
    let (manifest, _dir) = write(&format!(r#"[{{"chunk": {{"day": 1, "chunk": {chunk}}}}}}}]"#));
    assert_eq!(manifest.unwrap().0.listing().logs[&1][0].version, 1, "as first written");
    let error = write(r#"[{"tombstone": {"name": "x"}}]"#).0.unwrap_err().to_string();
    assert!(error.contains("`tombstone`"), "{error}");
    let (manifest, _dir) =
        write(r#"[{"optional_index": {"name": "x"}}, {"signal": {"name": "logs"}}]"#);
    let (manifest, repairs) = manifest.unwrap();
    assert!(repairs.is_empty(), "{repairs:?}");
    assert_eq!((names(&manifest).len(), manifest.listing().signal.as_deref()), (1, Some("logs")));
}
