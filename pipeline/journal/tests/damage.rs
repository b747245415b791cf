use std::collections::BTreeSet;

use super::super::segment::SPAN;
use super::*;

fn flip(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

/// Flips a bit at `at` of segment `which` in a copy of a crashed journal of 40 entries in some
/// segments: the start succeeds, what is lost is at most `lose` entries, all others come once
/// and in order, and damage is named. Gives the number lost.
async fn check(crashed: &Path, which: usize, at: u64, lose: usize) -> usize {
    let crashed = copy(crashed);
    let path = segments(crashed.path())[which].clone();
    let start = frames_start(&path);
    flip(&path, at);
    let journal = open_small(crashed.path());
    let newest = journal.append(data("new")).await.unwrap();
    let got = read_all(&journal, 0).await;
    let offsets: Vec<_> = got.iter().map(|e| e.0).collect();
    assert!(offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");
    for (offset, text) in &got[..got.len() - 1] {
        assert_eq!(*text, format!("entry {offset}"));
    }
    let place = format!("segment {which} byte {at}");
    assert!(newest > 40, "{place}: {newest}");
    let seen: BTreeSet<_> = offsets.iter().copied().collect();
    let lost: Vec<_> = (1..=40).filter(|o| !seen.contains(o)).collect();
    assert!(lost.len() <= lose, "{place}: {lost:?}");
    let named = journal.damage();
    // The last entry of all is a torn tail rather than damage.
    assert!(lost.is_empty() || lost == [40] || named.len() == 1, "{place}: {lost:?} {named:?}");
    if !named.is_empty() {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(named[0].contains(name), "{named:?}");
        assert!(crashed.path().join(format!("{name}.damaged")).exists());
        assert_eq!(path.exists(), at >= start, "{place}");
        // Still there, and still told, at the next start.
        drop(journal);
        let journal = open_small(crashed.path());
        assert!(!journal.damage().is_empty());
        assert_eq!(read_all(&journal, 0).await, got);
    }
    lost.len()
}

async fn crashed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let journal = open_small(dir.path());
    for i in 1..=40 {
        journal.append(data(&format!("entry {i}"))).await.unwrap();
    }
    copy(dir.path())
}

/// Where the frames of a segment begin.
fn frames_start(path: &Path) -> u64 {
    match super::super::segment::read_header(path).unwrap() {
        super::super::segment::HeaderFound::Good(_, start) => start,
        _ => panic!("no header"),
    }
}

#[tokio::test]
async fn a_flipped_bit_in_frames_costs_that_entry_only() {
    let crashed = crashed().await;
    let all = segments(crashed.path());
    assert!(all.len() >= 3, "{}", all.len());
    for which in [0, 1, all.len() - 1] {
        let start = frames_start(&all[which]);
        let end = std::fs::metadata(&all[which]).unwrap().len();
        // The first two frames: lengths, offset, checksums, head, payload.
        for at in (start..start + 160).step_by(3).filter(|at| *at < end) {
            assert_eq!(check(crashed.path(), which, at, 1).await, 1);
        }
        assert_eq!(check(crashed.path(), which, end - 1, 1).await, 1);
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_header_costs_that_segment_only() {
    let crashed = crashed().await;
    let all = segments(crashed.path());
    for which in [0, 1, all.len() - 1] {
        for at in [0, 8, 9, 12, 16, 20, 40, frames_start(&all[which]) - 1] {
            assert!(check(crashed.path(), which, at, 30).await > 1);
        }
    }
}

#[tokio::test]
async fn a_damaged_id_is_not_that_of_another_journal() {
    let crashed = crashed().await;
    let path = crashed.path().join("id");
    let whole = std::fs::read(&path).unwrap();
    let id = open_small(crashed.path()).id();
    for (damaged, named) in [(&b"1234"[..], true), (b"not hex", false), (b"", false)] {
        let crashed = copy(crashed.path());
        let path = crashed.path().join("id");
        std::fs::write(&path, damaged).unwrap();
        let journal = open_small(crashed.path());
        assert_eq!((journal.id(), journal.damage().len()), (id, usize::from(named)));
        assert_eq!(read_all(&journal, 0).await.len(), 40);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }
}

#[tokio::test]
async fn lost_and_short_files_are_named_and_passed() {
    let crashed = crashed().await;
    let path = segments(crashed.path())[1].clone();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(frames_start(&path) + 100).unwrap();
    let journal = open_small(crashed.path());
    let got = read_all(&journal, 0).await;
    assert!(got.len() < 40 && got.last().unwrap().0 == 40);
    assert!(!journal.damage().is_empty());

    // While running, somebody deletes a file.
    std::fs::remove_file(&path).unwrap();
    let got = read_all(&journal, 0).await;
    assert!(got.len() < 40 && got.first().unwrap().0 == 1 && got.last().unwrap().0 == 40);
    assert!(journal.damage().iter().any(|d| d.ends_with("the file is missing")));
}

#[tokio::test]
async fn payloads_that_look_like_frames_do_not_become_entries() {
    // A sender that knows the format puts frames into its payload; then the frame around it is
    // damaged. It cannot know the salt.
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    journal.append(data("first")).await.unwrap();
    let stolen = segments(dir.path()).pop().unwrap();
    let frame =
        std::fs::read(&stolen).unwrap()[usize::try_from(frames_start(&stolen)).unwrap()..].to_vec();
    drop(journal);
    let journal = open(dir.path());
    let mut entry = data("");
    entry.payload = frame.repeat(3).into();
    let at = journal.bytes();
    journal.append(entry).await.unwrap();
    journal.append(data("last")).await.unwrap();
    let crashed = copy(dir.path());
    let path = segments(crashed.path()).pop().unwrap();
    flip(&path, frames_start(&path) + 1);
    assert!(at > 0);
    let journal = open(crashed.path());
    let texts: Vec<_> = read_all(&journal, 0).await.into_iter().map(|e| e.1).collect();
    assert_eq!(texts, ["first", "last"]);
    assert_eq!(journal.damage().len(), 1);
}

#[tokio::test]
async fn when_the_newest_header_is_lost_no_offset_is_given_twice() {
    let crashed = crashed().await;
    let path = segments(crashed.path()).pop().unwrap();
    let base: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    flip(&path, 30);
    let journal = open_small(crashed.path());
    assert_eq!(journal.append(data("new")).await.unwrap(), base + SPAN);
    drop(journal);
    // Nothing but the file set aside is left to tell.
    for path in segments(crashed.path()) {
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(open_small(crashed.path()).append(data("x")).await.unwrap(), base + SPAN);
}
