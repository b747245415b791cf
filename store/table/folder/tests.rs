//! What a start does with the files of a table whose manifest was lost.
#![allow(clippy::unwrap_used)]

use std::fs;

use super::*;
use crate::store::Store;
use crate::testing::{START, batch, from_entry, logs, open, rows_of, text, times, writer};
use crate::writer::TableWriter;

fn names(folder: &Path) -> Vec<String> {
    if !folder.is_dir() {
        return Vec::new();
    }
    let mut names: Vec<String> = list(folder).unwrap().into_iter().map(|(_, name)| name).collect();
    names.sort();
    names
}

/// All data and entity files of the table in `folder`, wherever they are.
fn all_files(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        ["files", "entities", "damaged"].iter().flat_map(|f| names(&folder.join(f))).collect();
    all.sort();
    all
}

fn commit(writer: &mut TableWriter, mark: u64) {
    writer.append(&from_entry(logs(50, START + mark as i64, 1_000, 3), mark)).unwrap();
    let staged = writer.stage(mark, true).unwrap();
    writer.commit(mark, &staged.work).unwrap();
}

/// A table with three commits, in a stopped store; its folder.
fn stopped(dir: &Path) -> PathBuf {
    let store = open(dir);
    let mut writer = writer(&store, "t");
    writer.restore(&[]).unwrap();
    (1..=3).for_each(|mark| commit(&mut writer, mark));
    drop(writer);
    dir.join("default/t")
}

fn the_log(folder: &Path) -> PathBuf {
    let manifest = folder.join("manifest");
    let mut logs = names(&manifest);
    logs.retain(|name| name.starts_with("log-"));
    manifest.join(logs.pop().unwrap())
}

fn damage(store: &Arc<Store>) -> Vec<(Arc<str>, String)> {
    store.table("default", "t").unwrap().damaged()
}

/// Starts twice, with what a writer does at its start: no file is deleted, each is named, and the
/// table goes on.
fn nothing_is_deleted(dir: &Path, folder: &Path, before: &[String], what: &str) {
    let store = open(dir);
    let named = damage(&store);
    assert!(named.iter().any(|(name, _)| &**name == "manifest"), "{what}: {named:?}");
    assert_eq!(all_files(folder), before, "{what}");
    drop(store);
    // The doubt outlives a start after which no writer came.
    let store = open(dir);
    store.table("default", "t").unwrap().sweep_old(SystemTime::now() + STAGED_KEPT * 2).unwrap();
    assert_eq!(all_files(folder), before, "{what}");
    drop(store);
    let store = open(dir);
    let mut writer = writer(&store, "t");
    writer.restore(&[]).unwrap();
    assert_eq!(names(&folder.join("damaged")), before, "{what}");
    commit(&mut writer, 9);
    assert_eq!(rows_of(writer.table()).len(), 50, "{what}");
    drop((writer, store));
    let store = open(dir);
    assert_eq!(damage(&store), [], "{what}");
    assert_eq!(rows_of(&store.table("default", "t").unwrap()).len(), 50, "{what}");
    assert!(!folder.join("manifest/doubt").exists(), "{what}");
}

#[test]
fn a_log_cut_at_any_byte_before_its_first_change_deletes_nothing() {
    let pristine = tempfile::tempdir().unwrap();
    let whole = fs::read(the_log(&stopped(pristine.path()))).unwrap();
    // The header of 12 bytes, and the first change, which is empty, of 22.
    for cut in 0..34 {
        let dir = tempfile::tempdir().unwrap();
        let folder = stopped(dir.path());
        let before = all_files(&folder);
        assert!(before.len() >= 4, "{before:?}");
        fs::write(the_log(&folder), &whole[..cut]).unwrap();
        nothing_is_deleted(dir.path(), &folder, &before, &format!("cut at {cut}"));
    }
}

#[test]
fn a_missing_log_or_folder_deletes_nothing() {
    for whole_folder in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let folder = stopped(dir.path());
        let before = all_files(&folder);
        if whole_folder {
            fs::remove_dir_all(folder.join("manifest")).unwrap();
        } else {
            fs::remove_file(the_log(&folder)).unwrap();
        }
        nothing_is_deleted(dir.path(), &folder, &before, &format!("folder: {whole_folder}"));
    }
}

#[test]
fn a_log_cut_within_a_change_deletes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = stopped(dir.path());
    let length = fs::metadata(the_log(&folder)).unwrap().len();
    for cut in [40, length / 2, length - 1] {
        let dir = tempfile::tempdir().unwrap();
        let folder = stopped(dir.path());
        let before = all_files(&folder);
        let log = fs::OpenOptions::new().write(true).open(the_log(&folder)).unwrap();
        log.set_len(cut).unwrap();
        let store = open(dir.path());
        writer(&store, "t").restore(&[]).unwrap();
        assert_eq!(all_files(&folder), before, "cut at {cut}");
        for name in names(&folder.join("damaged")) {
            assert!(damage(&store).iter().any(|(named, _)| **named == *name), "{name}");
        }
    }
}

/// Writes a snapshot of the manifest now.
fn snapshot(table: &Table) {
    let mut manifest = table.manifest.lock();
    let (listing, next) = manifest.begin_snapshot().unwrap();
    Manifest::write_snapshot_file(manifest.folder(), &listing, next).unwrap();
    manifest.finish_snapshot(next);
}

#[test]
fn a_lost_log_or_snapshot_of_a_table_with_both_deletes_nothing() {
    for lost in ["log", "all logs", "newest snapshot", "all snapshots"] {
        let dir = tempfile::tempdir().unwrap();
        let folder = stopped(dir.path());
        let store = open(dir.path());
        let mut w = writer(&store, "t");
        w.restore(&[]).unwrap();
        for mark in 4..=5 {
            snapshot(w.table());
            commit(&mut w, mark);
        }
        drop((w, store));
        let before = all_files(&folder);
        let manifest = folder.join("manifest");
        let mut files = names(&manifest);
        files.retain(|f| f.starts_with(if lost.contains("log") { "log" } else { "snapshot" }));
        // The logs before the first snapshot would bring all of it back.
        let gone = if lost.starts_with("all") { 0 } else { files.len() - 1 };
        for name in &files[gone..] {
            fs::remove_file(manifest.join(name)).unwrap();
        }
        if lost == "all snapshots" {
            let first = names(&manifest).into_iter().find(|f| f.starts_with("log")).unwrap();
            fs::remove_file(manifest.join(first)).unwrap();
        }
        let store = open(dir.path());
        let w = &mut writer(&store, "t");
        w.restore(&[]).unwrap();
        assert_eq!(all_files(&folder), before, "{lost}");
        let listed = rows_of(w.table()).len();
        if lost == "newest snapshot" {
            assert_eq!((listed, damage(&store)), (250, Vec::new()), "{lost}");
        } else {
            assert!(listed < 250, "{lost}: {listed}");
            let named = damage(&store);
            assert!(named.iter().any(|(name, _)| &**name == "manifest"), "{lost}: {named:?}");
            for file in names(&folder.join("damaged")) {
                assert!(named.iter().any(|(name, _)| **name == *file), "{lost}: {file}");
            }
        }
    }
}

#[test]
fn a_new_table_and_one_killed_before_its_first_commit_are_quiet() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("default/t");
    fs::create_dir_all(folder.join("manifest")).unwrap();
    let store = open(dir.path());
    assert_eq!(damage(&store), []);
    // Without entities no chunk is listed before the file is staged.
    let columns = vec![("timestamp", times([START])), ("body", text(["x".to_owned()]))];
    let rows = batch(weir_pipeline::signal::Signal::Logs, columns, None, START);
    let mut w = writer(&store, "t");
    w.restore(&[]).unwrap();
    w.append(&rows).unwrap();
    w.stage(1, true).unwrap();
    drop((w, store));
    let store = open(dir.path());
    assert_eq!(all_files(&folder).len(), 1);
    writer(&store, "t").restore(&[]).unwrap();
    assert_eq!((damage(&store), all_files(&folder)), (Vec::new(), Vec::new()));
}
