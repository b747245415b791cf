use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::super::disk::{Disk, DiskFile, RealDisk};
use super::*;

/// A disk that can be told to fail.
#[derive(Default)]
pub(super) struct Failing {
    /// Bytes that it takes yet.
    room: AtomicU64,
    pub(super) sync_fails: AtomicBool,
    /// Syncs do not end while this is set.
    pub(super) syncs_wait: AtomicBool,
    cut_fails: AtomicBool,
}

impl Failing {
    pub(super) fn new() -> Arc<Self> {
        let disk = Self::default();
        disk.room.store(u64::MAX / 2, Relaxed);
        Arc::new(disk)
    }
}

struct Handed(Arc<Failing>);
struct FailingFile(Box<dyn DiskFile>, Arc<Failing>);

impl Disk for Handed {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FailingFile(RealDisk.create(path)?, self.0.clone())))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
}

impl DiskFile for FailingFile {
    fn write(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let all: Vec<u8> = parts.iter().flat_map(|p| p.to_vec()).collect();
        let fits = usize::try_from(self.1.room.load(Relaxed)).unwrap().min(all.len());
        self.1.room.fetch_sub(fits as u64, Relaxed);
        self.0.write(&mut [IoSlice::new(&all[..fits])])?;
        if fits < all.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()?;
        while self.1.syncs_wait.load(Relaxed) {
            std::thread::yield_now();
        }
        if self.1.sync_fails.load(Relaxed) {
            return Err(io::Error::other("the disk is on fire"));
        }
        Ok(())
    }
    fn cut(&mut self, len: u64) -> io::Result<()> {
        if self.1.cut_fails.load(Relaxed) {
            return Err(io::Error::other("the disk is on fire"));
        }
        self.0.cut(len)
    }
}

pub(super) fn open_on(dir: &Path, disk: &Arc<Failing>) -> Journal {
    let tuning = Tuning { disk: Arc::new(Handed(disk.clone())), ..small() };
    Journal::open_with(dir, options(), |_| 0, tuning).unwrap()
}

/// Entries acknowledged around failures are there once, in order; those refused are nowhere, and
/// their offsets are not given out again, now or after a crash.
async fn check(break_it: impl Fn(&Failing), mend: impl Fn(&Failing)) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Failing::new();
    let journal = open_on(dir.path(), &disk);
    let mut kept = Vec::new();
    for round in 0..5 {
        for i in 0..10 {
            let text = format!("good {round} {i}");
            kept.push((journal.append(data(&text)).await.unwrap(), text));
        }
        break_it(&disk);
        for _ in 0..3 {
            let refused = journal.append(data("refused")).await;
            assert!(matches!(refused, Err(AppendError::Io(_))), "{refused:?}");
            assert_eq!(journal.head(), kept.last().unwrap().0);
        }
        mend(&disk);
        let text = format!("after {round}");
        let offset = journal.append(data(&text)).await.unwrap();
        assert!(offset > kept.last().unwrap().0 + 1, "the offset of a failed write was reused");
        kept.push((offset, text));
    }
    assert_eq!(read_all(&journal, 0).await, kept);
    let crashed = copy(dir.path());
    let journal = open_small(crashed.path());
    assert_eq!(read_all(&journal, 0).await, kept);
    assert!(journal.damage().is_empty(), "{:?}", journal.damage());
    let offset = journal.append(data("new")).await.unwrap();
    assert!(offset > kept.last().unwrap().0 + 3);
}

#[tokio::test]
async fn a_failed_sync_is_not_taken_for_written() {
    let set = |on| move |disk: &Failing| disk.sync_fails.store(on, Relaxed);
    check(set(true), set(false)).await;
}

#[tokio::test]
async fn what_cannot_even_be_cut_does_not_come_back() {
    let set = |on| {
        move |disk: &Failing| {
            disk.sync_fails.store(on, Relaxed);
            disk.cut_fails.store(on, Relaxed);
        }
    };
    check(set(true), set(false)).await;
}

#[tokio::test]
async fn a_full_disk_recovers_by_itself() {
    for room in [0, 1, 30, 60] {
        let fill = |disk: &Failing| disk.room.store(room, Relaxed);
        check(fill, |disk| disk.room.store(u64::MAX / 2, Relaxed)).await;
    }
}

#[tokio::test]
async fn what_is_only_retained_gives_way_to_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Failing::new();
    let tuning = Tuning { disk: Arc::new(Handed(disk.clone())), ..small() };
    let options = JournalOptions { retain: Duration::from_secs(3600), ..options() };
    let journal = Journal::open_with(dir.path(), options, |_| 0, tuning).unwrap();
    let mut entry = data(&"x".repeat(5_000));
    entry.received = crate::intake::now();
    for _ in 0..10 {
        journal.append(entry.clone()).await.unwrap();
    }
    let all = journal.head() + 1;
    assert_eq!(journal.trim(all), 0, "it is retained");
    disk.room.store(0, Relaxed);
    journal.append(entry.clone()).await.unwrap_err();
    assert_eq!(journal.trim(1), 0, "it is needed");
    assert!(journal.trim(all) > 0);
    disk.room.store(u64::MAX / 2, Relaxed);
    journal.append(entry).await.unwrap();
    assert_eq!(journal.trim(all), 0, "there is room again");
}

#[tokio::test]
async fn a_disk_that_is_full_at_start_does_not_stop_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Failing::new();
    disk.room.store(0, Relaxed);
    let journal = open_on(dir.path(), &disk);
    assert!(matches!(journal.append(data("a")).await, Err(AppendError::Io(_))));
    assert!(matches!(journal.register_generation("s", "x").await, Err(AppendError::Io(_))));
    assert_eq!(journal.generation("s", 1), None);
    disk.room.store(u64::MAX / 2, Relaxed);
    assert_eq!(journal.register_generation("s", "y").await.unwrap(), 1);
    assert_eq!(journal.append(data("a")).await.unwrap(), 1);
    assert_eq!(segments(dir.path()).len(), 1);
}
