use super::super::segment::SPAN;
use super::*;

#[tokio::test]
async fn a_tail_torn_at_every_byte_is_cut_and_its_offsets_stay_unused() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let mut ends = Vec::new();
    for i in 1..=4 {
        journal.append(data(&format!("entry {i}"))).await.unwrap();
        ends.push(journal.bytes());
    }
    let crashed = copy(dir.path());
    let path = segments(crashed.path()).pop().unwrap();
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(whole.len() as u64, ends[3]);
    for length in ends[1]..=ends[3] {
        let crashed = copy(crashed.path());
        let path = segments(crashed.path()).pop().unwrap();
        std::fs::write(&path, &whole[..usize::try_from(length).unwrap()]).unwrap();
        let journal = open(crashed.path());
        let left = ends.iter().filter(|e| **e <= length).count() as u64;
        assert_eq!(journal.head(), left, "cut at {length}");
        assert!(journal.damage().is_empty(), "{:?}", journal.damage());
        let next = journal.append(data("new")).await.unwrap();
        assert_eq!(next, 1 + SPAN);
        let all = read_all(&journal, 0).await;
        let mut expect: Vec<_> = (1..=left).map(|i| (i, format!("entry {i}"))).collect();
        expect.push((next, "new".into()));
        assert_eq!(all, expect);
        drop(journal);
        // The torn bytes do not come back.
        assert_eq!(read_all(&open(crashed.path()), 0).await, expect);
    }
}

#[tokio::test]
async fn garbage_and_zeros_behind_the_end_are_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    journal.append(data("a")).await.unwrap();
    for tail in [vec![0; 5_000], vec![0xff; 3], (0..=255).cycle().take(700_000).collect()] {
        let crashed = copy(dir.path());
        let path = segments(crashed.path()).pop().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend(tail);
        std::fs::write(&path, bytes).unwrap();
        let journal = open(crashed.path());
        assert_eq!((journal.head(), journal.damage().len()), (1, 0));
    }
}

#[tokio::test]
async fn half_made_segments_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).append(data("a")).await.unwrap();
    std::fs::write(dir.path().join("00000000000000000009.tmp"), b"WEIR").unwrap();
    let journal = open(dir.path());
    assert_eq!(journal.append(data("b")).await.unwrap(), 2);
    assert!(journal.damage().is_empty());
}

#[tokio::test]
async fn generations_cursors_and_ticks_survive_trims_and_crashes() {
    let dir = tempfile::tempdir().unwrap();
    let mut at = dir;
    let mut number = 0;
    let mut texts = Vec::new();
    for round in 0..6 {
        let journal = open_small(at.path());
        assert_eq!(
            journal.register_generation("s", &format!("v{round}")).await.unwrap(),
            round + 1
        );
        // The same again is the same.
        assert_eq!(
            journal.register_generation("s", &format!("v{round}")).await.unwrap(),
            round + 1
        );
        assert_eq!(journal.register_generation("other", "x").await.unwrap(), 1);
        texts.push(format!("v{round}"));
        for _ in 0..60 {
            number += 1;
            let mut entry = data("some payload");
            entry.generation = round + 1;
            entry.cursor = format!("c{number}").into();
            journal.append(entry).await.unwrap();
        }
        let stamp = Stamp { time: i64::from(number), elapsed: 3, step: 0 };
        journal.append(NewEntry::tick(stamp)).await.unwrap();
        for _ in 0..60 {
            let mut entry = data("no cursor here");
            entry.source = "third".into();
            journal.append(entry).await.unwrap();
        }
        assert!(segments(at.path()).len() > 5);
        if round % 2 == 1 {
            assert!(journal.trim(journal.head() + 1) > 0);
            assert_eq!(segments(at.path()).len(), 1);
        }
        // A crash, or an orderly stop.
        let next = copy(at.path());
        if round % 3 == 0 {
            drop(journal);
        } else {
            at = next;
        }
        let journal = open_small(at.path());
        assert_eq!(journal.cursor("s").unwrap(), format!("c{number}"));
        assert_eq!(journal.cursor("third"), None);
        assert_eq!(journal.last_stamp(), Some(stamp));
        assert_eq!(&*journal.generation("other", 1).unwrap(), "x");
        let newest = texts.last().unwrap();
        assert_eq!(&*journal.generation("s", round + 1).unwrap(), newest);
        assert_eq!(journal.generation("s", round + 2), None);
        // Every entry that is left can be decoded.
        let mut reader = journal.reader(journal.oldest() - 1);
        while reader.position() < journal.head() {
            for e in reader.next().await.unwrap().iter().filter(|e| &*e.head.source == "s") {
                let known = journal.generation("s", e.head.generation).unwrap();
                assert_eq!(&*known, texts[e.head.generation as usize - 1]);
            }
        }
    }
}

#[tokio::test]
async fn a_generation_that_no_header_kept_comes_back_with_its_entry() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open_small(dir.path());
    journal.register_generation("s", "old").await.unwrap();
    journal.register_generation("s", "new").await.unwrap();
    let fill = || async {
        for _ in 0..40 {
            let mut entry = data("filler of some length");
            entry.generation = 2;
            journal.append(entry).await.unwrap();
        }
        journal.trim(journal.head() + 1);
    };
    fill().await;
    fill().await;
    // A request that was decoded long ago, under the old settings.
    journal.append(data("slow")).await.unwrap();
    // The first headers behind it still have them, as it is still there.
    fill().await;
    fill().await;
    let crashed = copy(dir.path());
    assert_eq!(open_small(crashed.path()).generation("s", 1), None);
    journal.append(data("slow")).await.unwrap();
    let crashed = copy(dir.path());
    assert_eq!(&*open_small(crashed.path()).generation("s", 1).unwrap(), "old");
}
