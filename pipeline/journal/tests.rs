#![allow(clippy::unwrap_used, clippy::expect_used)]

mod damage;
mod failing;
mod frames;
mod limits;
mod recovery;
mod repeats;
mod shared;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::state::Tuning;
use super::*;

/// Plenty of room, nothing retained.
fn options() -> JournalOptions {
    JournalOptions { max_bytes: 1 << 30, retain: Duration::ZERO, memory_bytes: 64 << 20 }
}

/// Small segments and next to no memory, so that every path is taken with few entries.
fn small() -> Tuning {
    Tuning { segment_bytes: 1_000, memory_entries: 3, ..Tuning::default() }
}

fn open(dir: &Path) -> Journal {
    Journal::open(dir, options(), |_| 0).unwrap()
}

fn open_small(dir: &Path) -> Journal {
    Journal::open_with(dir, options(), |_| 0, small()).unwrap()
}

/// An entry of source `s` that says which one it is.
fn data(text: &str) -> NewEntry {
    NewEntry {
        kind: EntryKind::Data,
        source: "s".into(),
        generation: 1,
        tenant: "default".into(),
        received: 7,
        cursor: Bytes::new(),
        envelope: Envelope { path: "/v1/logs".into(), ..Envelope::default() },
        payload: Bytes::copy_from_slice(text.as_bytes()),
        idempotent: false,
        decoded: None,
    }
}

fn text(entry: &Entry) -> String {
    String::from_utf8(entry.head.payload.to_vec()).unwrap()
}

/// Every entry above `after` up to the head: offset and text.
async fn read_all(journal: &Journal, after: u64) -> Vec<(u64, String)> {
    let mut reader = journal.reader(after);
    let mut all = Vec::new();
    while reader.position() < journal.head() {
        let left = tokio::time::timeout(Duration::from_secs(60), reader.next());
        all.extend(left.await.unwrap().unwrap().iter().map(|e| (e.offset, text(e))));
    }
    all
}

/// As a crash leaves it: nothing is closed.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
    }
    to
}

/// The segments, oldest first.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|f| f.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "seg"))
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn offsets_start_at_one_and_go_on_after_an_orderly_stop() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let id = journal.id();
    assert_eq!((journal.head(), journal.oldest()), (0, 1));
    assert_eq!(journal.append(data("a")).await.unwrap(), 1);
    assert_eq!(journal.append(data("b")).await.unwrap(), 2);
    journal.close().await;
    assert!(matches!(journal.append(data("x")).await, Err(AppendError::Stopped)));

    let journal = open(dir.path());
    assert_eq!((journal.id(), journal.head(), journal.oldest()), (id, 2, 1));
    assert_eq!(journal.append(data("c")).await.unwrap(), 3);
    let all = [(1, "a"), (2, "b"), (3, "c")].map(|(o, t)| (o, t.to_owned()));
    assert_eq!(read_all(&journal, 0).await, all);
    assert_eq!(read_all(&journal, 2).await, all[2..]);
    drop(journal);

    // A checkpoint or a manifest knows a higher offset.
    let journal = Journal::open(dir.path(), options(), |_| 1000).unwrap();
    assert_eq!(journal.head(), 3);
    assert_eq!(journal.append(data("d")).await.unwrap(), 1001);
    assert!(journal.damage().is_empty());
}

#[tokio::test]
async fn an_entry_comes_back_from_disk_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut entry = data("x");
    entry.generation = 77;
    entry.received = -3;
    entry.cursor = Bytes::from_static(b"\0\xff");
    entry.idempotent = true;
    entry.envelope = Envelope {
        content_type: "a/b".into(),
        encoding: "gzip".into(),
        path: "/p".into(),
        peer: "127.0.0.1:9".into(),
        target: "http://t".into(),
        outcome: "timeout".into(),
    };
    // Longer than what is read at once.
    entry.payload = vec![0; 1 << 20].into();
    let journal = open(dir.path());
    journal.append(entry.clone()).await.unwrap();
    let memory = journal.reader(0).next().await.unwrap();
    drop(journal);
    let disk = open(dir.path()).reader(0).next().await.unwrap();
    for got in [&memory[0], &disk[0]] {
        assert_eq!(format!("{:?}", got.head), format!("{entry:?}"));
    }
}

#[tokio::test]
async fn a_reader_at_the_head_waits_and_may_be_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open_small(dir.path());
    let mut reader = journal.reader(0);
    for i in 0..50 {
        // Polled once and dropped, at the head as well as in the middle of a read from disk.
        drop(futures_now(reader.next()).await);
        journal.append(data(&i.to_string())).await.unwrap();
        if i % 10 == 0 {
            continue;
        }
    }
    let mut reader = journal.reader(0);
    let mut got = Vec::new();
    while got.len() < 50 {
        if let Some(some) = futures_now(reader.next()).await {
            got.extend(some.unwrap().iter().map(|e| e.offset));
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(got, (1..=50).collect::<Vec<_>>());
    let waiting = tokio::spawn(async move { reader.next().await.map(|e| e[0].offset) });
    assert_eq!(journal.append(data("new")).await.unwrap(), 51);
    assert_eq!(waiting.await.unwrap().unwrap(), 51);
}

/// What a future gives when polled once.
async fn futures_now<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match future.as_mut().poll(cx) {
            std::task::Poll::Ready(out) => Some(out),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn a_closed_journal_ends_its_readers_behind_the_last_entry() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let mut reader = journal.reader(0);
    journal.append(data("a")).await.unwrap();
    journal.close().await;
    assert_eq!(reader.next().await.unwrap().len(), 1);
    assert_eq!(reader.next().await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_racing_appends_rolls_and_trims_see_each_offset_once_in_order() {
    const ENTRIES: usize = 4_000;
    let dir = tempfile::tempdir().unwrap();
    let journal = open_small(dir.path());
    let appenders: Vec<_> = (0..8)
        .map(|a| {
            let journal = journal.clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                for i in 0..ENTRIES / 8 {
                    let text = format!("{a}/{i}");
                    mine.push((journal.append(data(&text)).await.unwrap(), text));
                }
                mine
            })
        })
        .collect();
    // Some keep up, some are made to lag behind memory.
    let readers: Vec<_> = (0..4)
        .map(|r| {
            let mut reader = journal.reader(0);
            let progress = Arc::new(std::sync::atomic::AtomicU64::new(0));
            let seen = progress.clone();
            let task = tokio::spawn(async move {
                let mut got = Vec::new();
                while got.len() < ENTRIES {
                    got.extend(reader.next().await.unwrap().iter().map(|e| (e.offset, text(e))));
                    seen.store(reader.position(), Relaxed);
                    for _ in 0..r * 20 {
                        tokio::task::yield_now().await;
                    }
                }
                got
            });
            (task, progress)
        })
        .collect();
    let slowest = || readers.iter().map(|(_, p)| p.load(Relaxed)).min().unwrap();
    let mut freed = 0;
    while slowest() < ENTRIES as u64 {
        freed += journal.trim(slowest() + 1);
        tokio::task::yield_now().await;
    }
    assert!(freed > 0);
    let mut appended = Vec::new();
    for task in appenders {
        appended.extend(task.await.unwrap());
    }
    appended.sort();
    assert_eq!(appended.iter().map(|a| a.0).collect::<Vec<_>>(), (1..=4000).collect::<Vec<_>>());
    for (task, _) in readers {
        assert_eq!(task.await.unwrap(), appended);
    }
    assert!(journal.damage().is_empty(), "{:?}", journal.damage());
}

#[tokio::test]
async fn ticks_and_marks_say_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    assert_eq!(journal.last_tick(), None);
    let stamp = Stamp { time: 5, elapsed: 6, step: 0 };
    journal.append(NewEntry::tick(stamp)).await.unwrap();
    let later = Stamp { time: 8, elapsed: 9, step: -7 };
    journal.append(NewEntry::mark(later, "reload")).await.unwrap();
    journal.append(data("x")).await.unwrap();
    drop(journal);
    let journal = open(dir.path());
    let got = journal.reader(0).next().await.unwrap();
    let got: Vec<_> = got.iter().map(|e| (e.stamp(), e.mark_reason())).collect();
    let reload = Some("reload".to_owned());
    assert_eq!(got, [(Some(stamp), None), (Some(later), reload), (None, None)]);
    assert_eq!((journal.last_stamp(), journal.last_tick()), (Some(later), Some(8)));
}

#[tokio::test]
async fn who_looks_for_a_time_starts_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open_small(dir.path());
    // The clock goes back once.
    let times: Vec<i64> = (1..50).chain(30..100).collect();
    for time in &times {
        let entry = NewEntry { received: *time, ..data(&"x".repeat(100)) };
        journal.append(entry).await.unwrap();
    }
    assert!(segments(dir.path()).len() > 5);
    assert_eq!(journal.surely_before(0), 0);
    for time in 1..101 {
        let first = times.iter().position(|t| *t >= time).unwrap_or(times.len());
        assert!(journal.surely_before(time) <= first as u64, "{time}");
    }
    assert!(journal.surely_before(90) > 80, "{}", journal.surely_before(90));
    journal.trim(60);
    assert_eq!(journal.surely_before(0), journal.oldest() - 1);
}
