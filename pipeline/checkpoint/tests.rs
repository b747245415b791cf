#![allow(clippy::unwrap_used)]
use super::format::{Unreadable, decode, encode};
use super::*;
use crate::graph::NodeState;

fn sample(position: u64) -> Checkpoint {
    let state = NodeState { shape: "window:x".into(), bytes: vec![1, 2, 3] };
    let staged = Staged { work: b"file".to_vec(), carry: b"rows".to_vec() };
    Checkpoint {
        pipeline: "shop".into(),
        detached: None,
        plan: "abc".into(),
        journal: 7,
        position,
        now: 5,
        watermark: 4,
        removed: false,
        renamed: None,
        states: [("w".to_owned(), state)].into(),
        sinks: [("s".to_owned(), staged)].into(),
    }
}

#[test]
fn round_trip_and_every_cut_and_flip_is_noticed() {
    let bytes = encode(&sample(9)).unwrap();
    assert_eq!(decode(&bytes).unwrap(), sample(9));
    for cut in 0..bytes.len() {
        assert!(matches!(decode(&bytes[..cut]), Err(Unreadable::Damaged(_))), "cut at {cut}");
    }
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(decode(&bad).is_err(), "flip at {at}");
    }
}

#[test]
fn a_damaged_newest_falls_back_to_the_one_before() {
    let data = tempfile::tempdir().unwrap();
    let store = Checkpoints::open(data.path()).unwrap();
    for position in [3, 6, 9] {
        store.save(&sample(position)).unwrap();
    }
    assert_eq!(store.oldest_position(&sample(0).consumer()).unwrap(), Some(6), "two are kept");
    let dir = data.path().join("checkpoints/p-shop");
    let newest = store.files(&dir).unwrap().last().unwrap().1.clone();
    fs::write(&newest, b"WEIRCKPT garbage").unwrap();
    let (all, damage) = store.load_all().unwrap();
    assert_eq!(all, [sample(6)]);
    assert_eq!(damage.len(), 1, "{damage:?}");
    let left = store.files(&dir).unwrap().remove(0).1;
    fs::write(&left, b"WEIRCKPT garbage").unwrap();
    for look in ["the first", "a later"] {
        let (none, damage) = store.load(&sample(0).consumer()).unwrap();
        assert!(none.is_none() && !damage.is_empty(), "{look} look says that it is lost");
    }
}

#[test]
fn an_unknown_version_is_refused_in_a_clear_sentence() {
    let data = tempfile::tempdir().unwrap();
    let store = Checkpoints::open(data.path()).unwrap();
    store.save(&sample(3)).unwrap();
    let path = store.files(&data.path().join("checkpoints/p-shop")).unwrap().remove(0).1;
    let bytes = fs::read(&path).unwrap();
    for version in [0, 9] {
        let mut other = bytes[..bytes.len() - 4].to_vec();
        other[8] = version;
        other.extend(crc32c::crc32c(&other).to_le_bytes());
        fs::write(&path, other).unwrap();
        let error = store.load_all().unwrap_err().to_string();
        let expect = format!(
            "has format version {version}, this binary reads version 1: use the binary that wrote \
             it, or a newer one"
        );
        assert!(error.contains("p-shop") && error.ends_with(&expect), "{error}");
        assert!(path.exists(), "it is nothing damaged");
    }
    store.save_plan("abc", &Bundle::default()).unwrap();
    let path = data.path().join("plans/abc.json");
    let text = fs::read_to_string(&path).unwrap();
    let (json, _) = text.rsplit_once(PLAN_CRC).unwrap();
    let json = json.replace("\"format\": 1", "\"format\": 9");
    let crc = crc32c::crc32c(json.as_bytes());
    fs::write(&path, format!("{json}{PLAN_CRC}{crc:08x}\n")).unwrap();
    let error = store.load_plan("abc").unwrap_err().to_string();
    let expect = "has format version 9, this binary reads version 1: use the binary that wrote it, \
                  or a newer one";
    assert!(error.contains("abc.json") && error.ends_with(expect), "{error}");
    assert!(path.exists(), "it is nothing damaged");
}

/// A sink is detached by its own checkpoint, unless a later one of its pipeline has it.
#[test]
fn which_sinks_are_detached() {
    let data = tempfile::tempdir().unwrap();
    let store = Checkpoints::open(data.path()).unwrap();
    let part = |position| Checkpoint { detached: Some("s".into()), ..sample(position) };
    let without = Checkpoint { sinks: BTreeMap::new(), ..sample(9) };
    let detached = |whole: &Checkpoint| !store.detached("shop", Some(whole)).unwrap().is_empty();
    assert!(!detached(&without), "there is no folder");
    fs::create_dir(data.path().join("checkpoints/p-shop.s")).unwrap();
    assert!(!detached(&without), "a crash came before its checkpoint");
    store.save(&part(3)).unwrap();
    assert!(detached(&without));
    assert!(detached(&sample(3)), "let go after this one");
    assert!(!detached(&sample(9)), "it is back");
    store.save(&part(6)).unwrap();
    assert!(detached(&sample(3)), "its pipeline has an older part of it");
    assert!(!store.detached("shop", None).unwrap().is_empty());
}

#[test]
fn a_flipped_bit_anywhere_in_a_plan_is_noticed_and_the_plan_can_be_saved_again() {
    let data = tempfile::tempdir().unwrap();
    let store = Checkpoints::open(data.path()).unwrap();
    let files = [("a.toml".to_owned(), "source = \".x = 1\"".to_owned())].into();
    let bundle = Bundle { files, ..Bundle::default() };
    store.save_plan("abc", &bundle).unwrap();
    let path = data.path().join("plans/abc.json");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 0x10;
        fs::write(&path, bad).unwrap();
        let error = store.load_plan("abc").unwrap_err().to_string();
        assert!(error.contains("abc.damaged"), "flip at {at}: {error}");
        store.save_plan("abc", &bundle).unwrap();
        assert_eq!(store.load_plan("abc").unwrap(), bundle);
    }
    // As it was written before there were checksums.
    fs::write(&path, serde_json::to_vec_pretty(&bundle).unwrap()).unwrap();
    assert_eq!(store.load_plan("abc").unwrap(), bundle);
}
