//! What bytes of a line are.

pub(super) const SPACE: u8 = 1;
pub(super) const LETTER: u8 = 2;
pub(super) const DIGIT: u8 = 4;
pub(super) const JOINER: u8 = 8;
/// Ends a value after `=`.
pub(super) const ENDS: u8 = 16;
pub(super) const SMALL: u8 = 32;

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut b = 0;
    while b < 256 {
        let c = b as u8;
        table[b] = match c {
            0..=b' ' => SPACE | ENDS,
            b'0'..=b'9' => DIGIT,
            b'a'..=b'z' => LETTER | SMALL,
            b'A'..=b'Z' => LETTER,
            0x80..=0xff => LETTER | SMALL,
            b'.' | b'_' | b'-' | b'/' | b'@' | b'#' | b'$' | b'+' | b'%' | b'\\' | b'~' | b'&'
            | b'*' | b'^' => JOINER,
            b',' | b';' | b')' | b']' | b'}' | b'>' | b'"' => ENDS,
            _ => 0,
        };
        b += 1;
    }
    table[b'&' as usize] |= ENDS;
    table
}

static CLASSES: [u8; 256] = classes();

/// The class of a byte: none, one or more of the constants above.
pub(super) fn class(b: u8) -> u8 {
    CLASSES[b as usize]
}
