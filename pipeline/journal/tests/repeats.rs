use super::failing::{Failing, open_on};
use super::*;

const SECOND: i64 = 1_000_000_000;

/// A request of some source, received at `second`.
fn request(second: i64, text: &str) -> NewEntry {
    NewEntry { idempotent: true, received: second * SECOND, ..data(text) }
}

/// Appends, and gives its offset and whether it was there.
async fn append(journal: &Journal, entry: NewEntry) -> (u64, bool) {
    let Appended { offset, repeated } = journal.append_once(entry).await.unwrap();
    (offset, repeated)
}

#[tokio::test]
async fn the_same_request_is_written_once_within_five_minutes() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    assert_eq!(append(&journal, request(0, "a")).await, (1, false));
    assert_eq!(append(&journal, request(300, "a")).await, (1, true));
    // Five minutes after the first one, however often it came since.
    assert_eq!(append(&journal, request(301, "a")).await, (2, false));
    // The clock was set back by an hour.
    assert_eq!(append(&journal, request(-3_300, "a")).await, (2, true));
    let all = [(1, "a"), (2, "a")].map(|(o, t)| (o, t.to_owned()));
    assert_eq!(read_all(&journal, 0).await, all);
}

#[tokio::test]
async fn what_differs_in_anything_is_another_request() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let same = request(0, "a");
    append(&journal, same.clone()).await;
    let mut others = vec![same.clone(); 6];
    others[0].payload = Bytes::from_static(b"b");
    others[1].tenant = "other".into();
    others[2].source = "other".into();
    others[3].envelope.path.clear();
    others[4].envelope.content_type = "application/json".into();
    others[5].envelope.encoding = "gzip".into();
    for other in others {
        assert!(!append(&journal, other.clone()).await.1, "{other:?}");
        assert!(append(&journal, other).await.1);
    }
    // Who sends it, and under which settings, does not matter.
    let mut again = same;
    (again.envelope.peer, again.generation) = ("10.0.0.9:1".into(), 9);
    assert_eq!(append(&journal, again).await, (1, true));
    // Two equal lines are two lines.
    for _ in 0..2 {
        assert!(!append(&journal, data("a")).await.1);
    }
}

/// Long enough that a few hundred of them make some segments.
fn numbered(i: i64) -> String {
    format!("request {i:02000}")
}

/// Of 400 requests, one a second, some come again after a stop and after a crash.
async fn check_restart(journal: Journal, dir: &Path, trim: bool) {
    let mut offsets = Vec::new();
    for i in 0..400 {
        offsets.push(append(&journal, request(i, &numbered(i))).await.0);
    }
    assert!(segments(dir).len() > 3);
    if trim {
        journal.trim(journal.head() + 1);
        assert_eq!(segments(dir).len(), 1);
    }
    let crashed = copy(dir);
    drop(journal);
    for dir in [crashed.path(), dir] {
        let journal = Journal::open_with(dir, options(), |_| 0, restarted()).unwrap();
        for i in [399, 398, 250, 100] {
            let entry = request(400, &numbered(i));
            let first = offsets[usize::try_from(i).unwrap()];
            assert_eq!(append(&journal, entry).await, (first, true), "request {i}");
        }
        assert!(!append(&journal, request(400, &numbered(99))).await.1);
        assert!(!append(&journal, request(400, "new")).await.1);
    }
}

/// Segments with room for all keys in their headers.
fn restarted() -> Tuning {
    Tuning { segment_bytes: 256 << 10, ..small() }
}

#[tokio::test]
async fn requests_are_known_over_crashes_stops_and_trims() {
    for trim in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open_with(dir.path(), options(), |_| 0, restarted()).unwrap();
        check_restart(journal, dir.path(), trim).await;
    }
}

#[tokio::test]
async fn what_failed_is_written_when_it_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Failing::new();
    let journal = open_on(dir.path(), &disk);
    append(&journal, request(0, "other")).await;
    disk.sync_fails.store(true, Relaxed);
    for _ in 0..2 {
        let refused = journal.append_once(request(0, "a")).await;
        assert!(matches!(refused, Err(AppendError::Io(_))), "{refused:?}");
    }
    disk.sync_fails.store(false, Relaxed);
    let (offset, repeated) = append(&journal, request(0, "a")).await;
    assert!(!repeated);
    assert_eq!(append(&journal, request(0, "a")).await, (offset, true));
    let texts: Vec<_> = read_all(&journal, 0).await.into_iter().map(|e| e.1).collect();
    assert_eq!(texts, ["other", "a"]);
}

#[tokio::test]
async fn the_second_waits_for_the_first_and_takes_its_place_if_that_fails() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Failing::new();
    let journal = open_on(dir.path(), &disk);
    for fails in [true, false] {
        let text = format!("fails: {fails}");
        disk.syncs_wait.store(true, Relaxed);
        let first = journal.append_once(request(0, &text));
        let mut first = std::pin::pin!(first);
        assert!(futures_now(first.as_mut()).await.is_none());
        let second = journal.append_once(request(1, &text));
        let mut second = std::pin::pin!(second);
        assert!(futures_now(second.as_mut()).await.is_none(), "acknowledged before it is durable");
        disk.sync_fails.store(fails, Relaxed);
        disk.syncs_wait.store(false, Relaxed);
        let first = first.await;
        disk.sync_fails.store(false, Relaxed);
        let second = second.await.unwrap();
        match first {
            Err(AppendError::Io(_)) if fails => assert!(!second.repeated),
            Ok(first) if !fails => {
                assert_eq!(second, Appended { offset: first.offset, repeated: true });
            }
            other => panic!("{other:?}"),
        }
    }
    let texts: Vec<_> = read_all(&journal, 0).await.into_iter().map(|e| e.1).collect();
    assert_eq!(texts, ["fails: true", "fails: false"]);
}

#[tokio::test]
async fn a_sender_that_is_gone_leaves_what_it_sent() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    // Polled once: it is queued, and nobody waits for the answer.
    drop(futures_now(journal.append_once(request(0, "a"))).await);
    assert!(append(&journal, request(1, "a")).await.1);
    assert_eq!(read_all(&journal, 0).await, [(1, "a".to_owned())]);
}
