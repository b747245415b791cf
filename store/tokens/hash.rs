//! Finds the tokens of text and hashes them.
//!
//! Every byte of every log record goes through here each time that it is written, so 64 bytes are
//! told into token and other characters at a time, without a branch on any, and ASCII tokens (all
//! of almost all texts) are hashed word by word with a bit set in place of a change of case.

use weir_udfs::token::{fold, is_token_char};

/// Bytes that are looked at together.
const WIDTH: usize = 64;
/// ASCII letters differ in case by this bit. Digits have it; `_` becomes DEL, which is in no token.
const SMALL: u64 = 0x2020_2020_2020_2020;

const SEED: u64 = 0x243f_6a88_85a3_08d3;
const KEY: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of a token; that of others that differ in case alone is the same.
pub(crate) fn hash(token: &str) -> u64 {
    let mut folded = Vec::new();
    if token.is_ascii() { ascii(token.as_bytes()) } else { other(token, &mut folded) }
}

/// Finds tokens; keeps what it takes from text to text.
#[derive(Default)]
pub(crate) struct Tokenizer {
    text: Vec<u8>,
    edges: Vec<u32>,
    folded: Vec<u8>,
}

/// Hashes the tokens of a text.
pub(crate) fn hashes(tokenizer: &mut Tokenizer, text: &str, mut each: impl FnMut(u64)) {
    if text.is_empty() {
        return;
    }
    tokenizer.load(text.as_bytes());
    let ascii_only = tokenizer.find_edges();
    if !ascii_only {
        return by_char(text, &mut tokenizer.folded, each);
    }
    let (pairs, _) = tokenizer.edges.as_chunks::<2>();
    for &[start, end] in pairs {
        each(padded(&tokenizer.text, start as usize, end as usize));
    }
}

/// Slower, and right for any text.
fn by_char(text: &str, folded: &mut Vec<u8>, mut each: impl FnMut(u64)) {
    for at in weir_udfs::token::tokens(text) {
        let token = &text[at];
        each(if token.is_ascii() { ascii(token.as_bytes()) } else { other(token, folded) });
    }
}

impl Tokenizer {
    /// Copies the text, with room behind it to read words past its end.
    fn load(&mut self, text: &[u8]) {
        self.text.clear();
        self.text.extend_from_slice(text);
        self.text.resize(text.len().next_multiple_of(WIDTH) + WIDTH, 0);
    }

    /// Where tokens start and end, in turn; whether all is ASCII.
    fn find_edges(&mut self) -> bool {
        self.edges.clear();
        let mut before = 0;
        let mut all = 0;
        let (blocks, _) = self.text.as_chunks::<WIDTH>();
        for (i, block) in blocks.iter().enumerate() {
            let mask = token_mask(block, &mut all);
            let mut edges = mask ^ (mask << 1 | before);
            before = mask >> (WIDTH - 1);
            while edges != 0 {
                self.edges.push((i * WIDTH) as u32 + edges.trailing_zeros());
                edges &= edges - 1;
            }
        }
        all & 0x80 == 0
    }
}

/// A bit for each byte that is an ASCII token character. `all`: every bit that any byte has.
fn token_mask(block: &[u8; WIDTH], all: &mut u8) -> u64 {
    let mut is = [0_u8; WIDTH];
    for (is, &byte) in is.iter_mut().zip(block) {
        *all |= byte;
        let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
        let digit = byte.wrapping_sub(b'0') < 10;
        *is = u8::from(letter | digit | (byte == b'_'));
    }
    let (words, _) = is.as_chunks::<8>();
    let mut mask = 0;
    for (i, word) in words.iter().enumerate() {
        // Brings the lowest bit of each byte together in the highest byte.
        let bits = u64::from_le_bytes(*word).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        mask |= bits << (i * 8);
    }
    mask
}

fn mixed(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    wide as u64 ^ (wide >> 64) as u64
}

fn step(hash: u64, word: u64) -> u64 {
    mixed(hash ^ word, KEY)
}

fn begin(len: usize) -> u64 {
    SEED ^ (len as u64).wrapping_mul(KEY)
}

/// The first `len` (at most 8) bytes of a word.
fn first(word: u64, len: usize) -> u64 {
    word & u64::MAX >> (64 - 8 * len)
}

/// The hash of the ASCII token at `start..end`, with 8 bytes of anything behind it.
fn padded(text: &[u8], start: usize, end: usize) -> u64 {
    let len = end - start;
    let mut hash = begin(len);
    let mut at = start;
    let word = |at: usize| {
        let bytes = text.get(at..at + 8).and_then(|b| b.first_chunk::<8>());
        bytes.map_or(0, |b| u64::from_le_bytes(*b)) | SMALL
    };
    while end - at > 8 {
        hash = step(hash, word(at));
        at += 8;
    }
    finish(step(hash, first(word(at), end - at)))
}

fn finish(hash: u64) -> u64 {
    mixed(hash, SEED)
}

fn ascii(token: &[u8]) -> u64 {
    words(token, SMALL)
}

/// The hash of any token, folded character by character. Where that gives ASCII only, it is that of
/// the ASCII token.
fn other(token: &str, folded: &mut Vec<u8>) -> u64 {
    debug_assert!(token.chars().all(is_token_char));
    folded.clear();
    let mut buffer = [0; 4];
    for c in token.chars().flat_map(fold) {
        let start = folded.len();
        folded.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
        if c.is_ascii() {
            folded[start] |= 0x20;
        }
    }
    words(folded, 0)
}

fn words(bytes: &[u8], set: u64) -> u64 {
    let mut hash = begin(bytes.len());
    let mut rest = bytes;
    loop {
        let (head, tail) = rest.split_at(rest.len().min(8));
        let mut word = [0; 8];
        word[..head.len()].copy_from_slice(head);
        hash = step(hash, first(u64::from_le_bytes(word) | set, head.len().max(1)));
        if tail.is_empty() {
            return finish(hash);
        }
        rest = tail;
    }
}
