#![allow(clippy::unwrap_used)]

use std::io::Write;

use arrow::array::{Array, ArrayRef, StringArray};
use proptest::prelude::*;
use weir_udfs::token::tokens;

use super::build::Making;
use super::hash::{Tokenizer, hashes};
use super::*;
use crate::file::FileColumn;

fn column() -> FileColumn {
    FileColumn { name: "body".into(), kind: ColumnType::Text, json: false, origin: None }
}

/// Filters of slices with these texts, in a file behind some other bytes.
fn filters(slices: &[StringArray], compressed: u64) -> (TokenFilters, File, Vec<Slice>) {
    let parts: Vec<&dyn Array> = slices.iter().map(|s| s as &dyn Array).collect();
    let mut making = Making::of(&column(), &parts).unwrap();
    for slice in slices {
        making.slice(&(Arc::new(slice.clone()) as ArrayRef), compressed);
    }
    let (meta, bytes) = making.finish(5);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"other").unwrap();
    file.write_all(&bytes).unwrap();
    let of = |s: &StringArray| Slice { rows: s.len() as u32, min_time: 0, max_time: 0 };
    (meta, file, slices.iter().map(of).collect())
}

#[test]
fn tokens_of_one_kind_have_one_hash() {
    let same = |a: &str, b: &str| assert_eq!(hash(a), hash(b), "{a} {b}");
    same("Unusual", "uNUSUAL");
    same("x_Request_ID_12345678901", "X_REQUEST_id_12345678901");
    same("uſer", "USER");
    same("\u{212a}elvin", "kelvin");
    same("ΣΊΣΥΦΟΣ", "σίσυφος");
    let different = ["a", "aa", "a_", "a0", "aP", "12345678", "123456789", "ä", "_", "0"];
    for (i, a) in different.iter().enumerate() {
        assert!(different[..i].iter().all(|b| hash(a) != hash(b)), "{a}");
    }
}

#[test]
fn one_answer_in_a_hundred_is_wrong_and_none_misses() {
    let text = |n: u32| format!("GET /cart/{n} took {}ms from cache", n % 100);
    let slices: Vec<StringArray> = (0..3)
        .map(|s| (s * 20_000..s * 20_000 + 20_000 - s * 7_000).map(|n| Some(text(n))).collect())
        .collect();
    let (meta, file, of) = filters(&slices, u64::MAX);
    let (mut asked, mut wrong) = (0_usize, 0_usize);
    for (slice, texts) in slices.iter().enumerate() {
        for n in (0..60_000).step_by(501) {
            let (has, _) = meta.granules(&file, slice, &of, hash(&n.to_string())).unwrap().unwrap();
            assert_eq!(has.len(), texts.len().div_ceil(meta.granule as usize));
            let at = (n as usize).checked_sub(slice * 20_000).filter(|row| *row < texts.len());
            let at = at.map(|row| row / meta.granule as usize);
            assert!(at.is_none_or(|granule| has.value(granule)), "{n} in {slice}");
            asked += has.len();
            wrong += has.count_set_bits() - usize::from(at.is_some());
        }
    }
    // Numbers up to 100 are in every granule.
    assert!(wrong * 40 < asked, "{wrong} of {asked}");
    let bytes = file.metadata().unwrap().len() as usize;
    assert!(bytes < 45_000 * 2, "{bytes}");
}

#[test]
fn they_keep_to_a_share_of_their_column() {
    let texts: StringArray = (0..50_000_u64).map(|n| Some(format!("{:x}", n << 20))).collect();
    let (_, file, _) = filters(std::slice::from_ref(&texts), 80_000);
    assert!(file.metadata().unwrap().len() <= 5 + 20_000);
}

#[test]
fn damage_is_noticed() {
    let texts: StringArray = (0..100).map(|n| Some(format!("word {n}"))).collect();
    let (meta, file, of) = filters(&[texts], u64::MAX);
    assert!(meta.granules(&file, 0, &of, hash("word")).unwrap().unwrap().0.value(0));
    let unknown = TokenFilters { version: VERSION + 1, ..meta.clone() };
    assert!(unknown.granules(&file, 0, &of, hash("word")).unwrap().is_none());
    let len = file.metadata().unwrap().len();
    let wrong = vec![0; len as usize];
    file.write_all_at(&wrong, 0).unwrap();
    assert!(meta.granules(&file, 0, &of, hash("word")).is_err());
    file.set_len(len / 2).unwrap();
    assert!(meta.granules(&file, 0, &of, hash("9")).is_err());
}

proptest! {
    #[test]
    fn tokens_are_found_however_text_is_cut(text in r"(\PC|[a-zA-Z0-9_ =./-]{1,20}){0,12}") {
        let mut found = Vec::new();
        hashes(&mut Tokenizer::default(), &text, |hash| found.push(hash));
        let expect: Vec<u64> = tokens(&text).map(|at| hash(&text[at])).collect();
        prop_assert_eq!(found, expect);
    }
}
