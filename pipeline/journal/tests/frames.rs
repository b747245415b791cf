use proptest::prelude::*;
use prost::Message;

use super::super::frame::{self, Head, Names, Parsed, body_crc, parse, prefix};
use super::super::segment::{Header, HeaderFound, read_header};
use super::*;

fn any_entry() -> impl Strategy<Value = NewEntry> {
    let kind = prop_oneof![Just(EntryKind::Data), Just(EntryKind::Tick), Just(EntryKind::Mark)];
    let words = proptest::collection::vec(".{0,12}", 8);
    let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
    (kind, words, any::<u32>(), any::<i64>(), bytes(), bytes(), any::<bool>()).prop_map(
        |(kind, w, generation, received, cursor, payload, idempotent)| NewEntry {
            kind,
            source: w[0].as_str().into(),
            generation,
            tenant: w[1].as_str().into(),
            received,
            cursor: cursor.into(),
            envelope: Envelope {
                content_type: w[2].clone(),
                encoding: w[3].clone(),
                path: w[4].clone(),
                peer: w[5].clone(),
                target: w[6].clone(),
                outcome: w[7].clone(),
            },
            payload: payload.into(),
            idempotent,
            decoded: None,
        },
    )
}

fn encode(salt: u32, offset: u64, entry: &NewEntry) -> Vec<u8> {
    let head = Head::of(entry).encode_to_vec();
    let crc = body_crc(&head, &entry.payload);
    let mut out = prefix(salt, offset, head.len(), entry.payload.len(), crc).to_vec();
    out.extend_from_slice(&head);
    out.extend_from_slice(&entry.payload);
    out
}

fn is_frame(salt: u32, bytes: &[u8]) -> bool {
    matches!(parse(salt, bytes), Parsed::Frame { .. })
}

proptest! {
    #[test]
    fn decode_undoes_encode(entry in any_entry(), salt: u32, offset: u64) {
        let bytes = Bytes::from(encode(salt, offset, &entry));
        let Parsed::Frame { offset: got, head, payload } = parse(salt, &bytes) else {
            panic!("not a frame");
        };
        prop_assert_eq!(got, offset);
        prop_assert_eq!(payload.end, bytes.len());
        let head = Head::decode(bytes.slice(head)).unwrap();
        let back = head.entry(bytes.slice(payload), &mut Names::default()).unwrap();
        prop_assert_eq!(format!("{back:?}"), format!("{entry:?}"));
    }

    #[test]
    fn no_flipped_bit_and_no_other_salt_passes(
        entry in any_entry(), salt: u32, offset: u64, at: prop::sample::Index, bit in 0..8u8,
    ) {
        let mut bytes = encode(salt, offset, &entry);
        prop_assert!(!is_frame(!salt, &bytes));
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(!is_frame(salt, &bytes));
    }

    #[test]
    fn arbitrary_bytes_are_no_frame_and_no_panic(bytes: Vec<u8>, salt: u32) {
        prop_assert!(!is_frame(salt, &bytes));
        drop(frame::Head::decode(bytes.as_slice()));
    }

    #[test]
    fn arbitrary_bytes_are_no_header_and_no_panic(bytes: Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, &bytes).unwrap();
        prop_assert!(matches!(read_header(&path).unwrap(), HeaderFound::Bad(_)));
    }
}

#[tokio::test]
async fn an_unknown_version_is_refused_in_a_clear_sentence() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).append(data("a")).await.unwrap();
    let path = segments(dir.path()).pop().unwrap();
    let mut bytes = Header { base: 1, ..Header::default() }.to_bytes();
    bytes[8] = 9;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), &bytes[20..]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let error = Journal::open(dir.path(), options(), |_| 0).err().unwrap().to_string();
    let expect = "has format version 9, this Weir reads version 1: start the Weir that wrote it, \
                  or a newer one";
    assert!(error.ends_with(expect), "{error}");
    assert!(path.exists());
}
