use super::*;

fn limited(dir: &Path, max_bytes: u64, retain: Duration) -> Journal {
    Journal::open(dir, JournalOptions { max_bytes, retain, ..options() }, |_| 0).unwrap()
}

#[tokio::test]
async fn a_full_journal_refuses_data_takes_ticks_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let journal = limited(dir.path(), 100_000, Duration::ZERO);
    let fat = "x".repeat(5_000);
    let mut taken = 0;
    let error = loop {
        match journal.append(data(&fat)).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AppendError::Full { retry_after } if !retry_after.is_zero()));
    assert!((15..20).contains(&taken), "{taken}");
    assert!(journal.bytes() <= 100_000);
    // What leads out of it still enters.
    let mark = journal.append(NewEntry::mark(Stamp::default(), "checkpoint")).await.unwrap();
    assert_eq!(journal.register_generation("s", "text").await.unwrap(), 1);
    assert!(journal.trim(mark) > 0);
    journal.append(data(&fat)).await.unwrap();
    // A larger limit helps as well, at once.
    while journal.append(data(&fat)).await.is_ok() {}
    journal.set_options(JournalOptions { max_bytes: 200_000, ..options() });
    journal.append(data(&fat)).await.unwrap();
    let on_disk: u64 =
        segments(dir.path()).iter().map(|p| std::fs::metadata(p).unwrap().len()).sum();
    assert_eq!(journal.bytes(), on_disk);
}

#[tokio::test]
async fn the_reserve_for_ticks_ends_too() {
    let dir = tempfile::tempdir().unwrap();
    let journal = limited(dir.path(), 10, Duration::ZERO);
    let mut mark = NewEntry::mark(Stamp::default(), "stop");
    mark.payload = vec![0; 1 << 20].into();
    let mut taken = 0;
    while journal.append(mark.clone()).await.is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 3);
}

#[tokio::test]
async fn too_much_waiting_is_busy_not_memory() {
    let dir = tempfile::tempdir().unwrap();
    let tuning = Tuning { queue_bytes: 10_000, ..Tuning::default() };
    let journal = Journal::open_with(dir.path(), options(), |_| 0, tuning).unwrap();
    let fat = "x".repeat(4_000);
    // All are queued before the writer has answered any.
    let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(journal.append(data(&fat)))).collect();
    let mut busy = 0;
    for append in &mut waiting {
        busy += usize::from(matches!(
            futures_now(append).await,
            Some(Err(AppendError::Busy { retry_after })) if !retry_after.is_zero()
        ));
    }
    assert!(busy > 0);
    drop(waiting);
    // It passes.
    while matches!(journal.append(data(&fat)).await, Err(AppendError::Busy { .. })) {
        tokio::task::yield_now().await;
    }
    // One entry fits however large.
    let huge = "x".repeat(50_000);
    while matches!(journal.append(data(&huge)).await, Err(AppendError::Busy { .. })) {
        tokio::task::yield_now().await;
    }
    assert_eq!(read_all(&journal, 0).await.last().unwrap().1, huge);
}

#[tokio::test]
async fn trimming_removes_whole_old_segments_below_keep_from_only() {
    let dir = tempfile::tempdir().unwrap();
    let retain = Duration::from_nanos(100);
    let options = JournalOptions { retain, ..options() };
    let journal = Journal::open_with(dir.path(), options, |_| 0, small()).unwrap();
    for i in 0..200 {
        let mut entry = data("payload");
        entry.received = i;
        journal.append(entry).await.unwrap();
    }
    let before = journal.bytes();
    // Nobody is past them; then nothing is old enough; then both.
    assert_eq!(journal.trim_at(1, 1_000), 0);
    assert_eq!(journal.trim_at(200, 100), 0);
    let freed = journal.trim_at(100, 1_000);
    assert!(freed > 0 && journal.bytes() == before - freed);
    let oldest = journal.oldest();
    assert!((50..=100).contains(&oldest), "{oldest}");
    let left: Vec<_> = read_all(&journal, oldest - 1).await.iter().map(|e| e.0).collect();
    assert_eq!(left, (oldest..=200).collect::<Vec<_>>());
    // Only part is old enough.
    assert!(journal.trim_at(201, 250) > 0);
    assert!((100..=150).contains(&journal.oldest()), "{}", journal.oldest());

    let check = |journal: Journal| async move {
        let error = journal.reader(3).next().await.unwrap_err();
        let to = journal.oldest() - 1;
        assert_eq!(Trimmed::of(&error), Some(Trimmed { after: 3, to }));
        let text = format!("journal entries 4 to {to} are needed but were trimmed");
        assert_eq!(error.to_string(), text);
        assert_eq!(journal.reader(to).next().await.unwrap()[0].offset, to + 1);
    };
    check(journal.clone()).await;
    drop(journal);
    check(open_small(dir.path())).await;
}

#[tokio::test]
async fn retain_gives_way_when_the_journal_fills() {
    let dir = tempfile::tempdir().unwrap();
    let journal = limited(dir.path(), 100_000, Duration::from_secs(3600));
    let fat = "x".repeat(5_000);
    let mut now = data(&fat);
    now.received = crate::intake::now();
    while journal.append(now.clone()).await.is_ok() {}
    assert!(journal.trim(journal.head() + 1) > 0);
    assert!((35_000..=50_000).contains(&journal.bytes()), "{}", journal.bytes());
}
