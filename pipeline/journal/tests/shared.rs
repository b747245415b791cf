use arrow::array::{RecordBatch, TimestampNanosecondArray};
use arrow::datatypes::{Field, Schema};

use super::*;
use crate::batch::{Batch, Run, TENANT};
use crate::signal::{Signal, timestamp};

/// Two rows whose entry is not known yet.
fn batch() -> Batch {
    let schema = Arc::new(Schema::new(vec![Field::new("timestamp", timestamp(), true)]));
    let times = TimestampNanosecondArray::from(vec![1, 2]).with_timezone("UTC");
    let rows = RecordBatch::try_new(schema, vec![Arc::new(times)]).unwrap();
    let run = |rows| Run { offset: 0, received: 7, source: "s".into(), rows };
    Batch::new(Signal::Logs, TENANT.into(), rows, None, [run(1), run(1)].into()).unwrap()
}

#[tokio::test]
async fn readers_that_keep_up_share_the_decoded_rows_laggards_get_the_payload() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open_small(dir.path());
    let (mut one, mut two) = (journal.reader(0), journal.reader(0));
    let mut entry = data("x");
    entry.decoded = Some(vec![("logs", batch()), ("", batch())]);
    journal.append(data("not decoded")).await.unwrap();
    assert_eq!(journal.append(entry).await.unwrap(), 2);

    let (a, b) = (one.next().await.unwrap(), two.next().await.unwrap());
    assert!(a.len() == 2 && a.iter().zip(&b).all(|(a, b)| Arc::ptr_eq(a, b)));
    assert!(a[0].batches.get().is_none());
    let batches = a[1].batches.get().unwrap();
    assert_eq!(batches.iter().map(|b| b.0).collect::<Vec<_>>(), ["logs", ""]);
    for (_, batch) in batches.iter() {
        assert!(batch.num_rows() == 2 && batch.runs().len() == 2);
        assert!(batch.runs().iter().all(|r| r.offset == 2 && r.received == 7 && r.rows == 1));
    }
    assert!(a[1].head.decoded.is_none());

    for _ in 0..10 {
        journal.append(data("later")).await.unwrap();
    }
    let late = journal.reader(1).next().await.unwrap();
    assert_eq!((late[0].offset, text(&late[0])), (2, "x".to_owned()));
    assert!(late[0].batches.get().is_none());
}

#[tokio::test]
async fn memory_is_bounded_by_bytes_of_rows_too() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions { memory_bytes: 4_000, ..options() };
    let journal = Journal::open(dir.path(), options, |_| 0).unwrap();
    for _ in 0..100 {
        let mut entry = data("x");
        entry.decoded = Some(vec![("logs", batch())]);
        journal.append(entry).await.unwrap();
    }
    let state = journal.shared().state.lock();
    assert!((1..8).contains(&state.memory.len()), "{}", state.memory.len());
    assert!(state.memory_bytes <= 4_000);
}

#[tokio::test]
async fn memory_lets_go_of_what_all_have_read() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), options(), |_| 0).unwrap();
    let held = || {
        let state = journal.shared().state.lock();
        state.memory.iter().map(|(entry, _)| entry.offset).collect::<Vec<_>>()
    };
    let (mut fast, mut slow) = (journal.reader(0), journal.reader(0));
    for _ in 0..3 {
        journal.append(data("x")).await.unwrap();
    }
    assert_eq!(fast.next().await.unwrap().len(), 3);
    journal.append(data("x")).await.unwrap();
    assert_eq!(held(), [1, 2, 3, 4], "the other one has read nothing");
    assert_eq!(slow.next().await.unwrap().len(), 4);
    journal.append(data("x")).await.unwrap();
    assert_eq!(held(), [4, 5]);
    // One that starts earlier reads from disk, and for it memory keeps what comes.
    let mut late = journal.reader(1);
    fast.next().await.unwrap();
    slow.next().await.unwrap();
    journal.append(data("x")).await.unwrap();
    assert_eq!(held(), [4, 5, 6]);
    let mut offsets = Vec::new();
    while offsets.last() != Some(&6) {
        offsets.extend(late.next().await.unwrap().iter().map(|e| e.offset));
    }
    assert_eq!(offsets, [2, 3, 4, 5, 6]);
    drop(slow);
    fast.next().await.unwrap();
    journal.append(data("x")).await.unwrap();
    assert_eq!(held(), [7], "who is gone holds nothing");
}
