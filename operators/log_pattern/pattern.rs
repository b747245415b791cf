//! One pattern: what its lines have in common.

use super::shape::{HOLE, Part, Piece, Shape, WIDE};
use super::words;

/// How a hole looks in a template.
const HOLE_TEXT: &str = "<*>";

/// Least words that must stand around one that turns out to vary: with fewer, what is left would
/// say nothing.
const WORDS_AROUND_MIN: usize = 2;

/// Most words of a line of which one may turn out to vary: longer ones are mostly free text, where
/// no two lines are that much alike, and looking at all their words would cost the more.
const LEARNED_WORDS_MAX: usize = 24;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pattern {
    /// Hash of the shape of the line that founded it.
    pub(super) id: u64,
    /// Number of that line.
    pub(super) first: u64,
    /// Number of the last line of it.
    pub(super) seen: u64,
    /// Wording, [`HOLE`]s and [`WIDE`]s, each followed by 0.
    pub(super) shape: Box<[u8]>,
    /// For each part what stands before it, 0, its text or [`HOLE`], 0.
    pub(super) layout: Box<[u8]>,
    /// Made from the two before: parts where names stand that were the same so far.
    names: Box<[(u16, Box<[u8]>)]>,
    /// Which parts are words that vary.
    pub(super) wide: u64,
    pub(super) template: Box<str>,
}

impl Pattern {
    /// The pattern of its first line.
    pub(super) fn found(line: &[u8], shape: &Shape, id: u64, first: u64) -> Self {
        let mut layout = Vec::with_capacity(line.len().min(512));
        let mut at = 0;
        for part in &shape.parts {
            let gap = line.get(at..part.start as usize).unwrap_or_default();
            layout.extend(gap.iter().map(|&b| if b < b' ' { b' ' } else { b }));
            layout.push(0);
            match part.piece {
                Piece::Hole => layout.push(HOLE),
                _ => layout.extend_from_slice(part.text(line)),
            }
            layout.push(0);
            at = part.end as usize;
        }
        Self::new(id, first, first, shape.text.as_slice().into(), layout.into())
    }

    /// From what a state holds.
    pub(super) fn new(id: u64, first: u64, seen: u64, shape: Box<[u8]>, layout: Box<[u8]>) -> Self {
        let (names, template) = (Box::default(), Box::default());
        let mut pattern = Self { id, first, seen, shape, layout, names, wide: 0, template };
        pattern.derive();
        pattern
    }

    fn derive(&mut self) {
        let mut template = Vec::with_capacity(self.layout.len());
        let mut names = Vec::new();
        self.wide = 0;
        for (at, (piece, (gap, text))) in pieces(&self.shape).zip(parts(&self.layout)).enumerate() {
            template.extend_from_slice(gap);
            match text {
                [HOLE] => template.extend_from_slice(HOLE_TEXT.as_bytes()),
                text => template.extend_from_slice(text),
            }
            if piece == [HOLE] && text != [HOLE] {
                names.push((at as u16, text.into()));
            }
            if piece == [WIDE] && at < 64 {
                self.wide |= 1 << at;
            }
        }
        self.names = names.into();
        self.template = String::from_utf8_lossy(&template).trim().into();
    }

    /// Takes a line of its shape in. Says whether the template became wider by it.
    pub(super) fn take(&mut self, line: &[u8], shape: &Shape) -> bool {
        let same = |(at, name): &(u16, Box<[u8]>)| {
            shape.parts.get(usize::from(*at)).is_some_and(|part| part.text(line) == &**name)
        };
        if self.names.iter().all(same) {
            return false;
        }
        let other: Vec<u16> = self.names.iter().filter(|n| !same(n)).map(|n| n.0).collect();
        self.open(|at| other.contains(&(at as u16)));
        true
    }

    /// Makes holes of parts.
    fn open(&mut self, which: impl Fn(usize) -> bool) {
        let mut layout = Vec::with_capacity(self.layout.len());
        for (at, (gap, text)) in parts(&self.layout).enumerate() {
            layout.extend_from_slice(gap);
            layout.push(0);
            layout.extend_from_slice(if which(at) { &[HOLE] } else { text });
            layout.push(0);
        }
        self.layout = layout.into();
        self.derive();
    }

    /// Becomes the pattern of all `others` too, which differ from it in the word at `at` only.
    pub(super) fn widen(&mut self, at: usize, others: &[Self]) {
        let mut open = vec![at];
        for other in others {
            let both = parts(&self.layout).zip(parts(&other.layout)).enumerate();
            open.extend(both.filter(|(_, (a, b))| a.1 != b.1).map(|(at, _)| at));
            self.seen = self.seen.max(other.seen);
        }
        let (mut shape, wide) = (Vec::with_capacity(self.shape.len()), at);
        for (at, piece) in pieces(&self.shape).enumerate() {
            shape.extend_from_slice(if at == wide { &[WIDE] } else { piece });
            shape.push(0);
        }
        self.shape = shape.into();
        self.open(|at| open.contains(&at));
    }

    /// The parts that are parameters of a line of it.
    pub(super) fn parameters<'a>(&'a self, parts: &'a [Part]) -> impl Iterator<Item = &'a Part> {
        let is = |at: usize, part: &Part| match part.piece {
            Piece::Fixed => at < 64 && self.wide >> at & 1 == 1,
            _ => !self.names.iter().any(|(name, _)| usize::from(*name) == at),
        };
        parts.iter().enumerate().filter(move |(at, part)| is(*at, part)).map(|(_, part)| part)
    }

    /// Calls `each` with the words that may turn out to vary, and a hash of the shape without each
    /// of them.
    pub(super) fn neighbours(&self, mut each: impl FnMut(usize, u64)) {
        let is_word = |piece: &[u8]| piece.first().is_some_and(|b| b.is_ascii_alphabetic());
        let words = pieces(&self.shape).filter(|p| is_word(p)).count();
        if !(WORDS_AROUND_MIN + 1..=LEARNED_WORDS_MAX).contains(&words) {
            return;
        }
        // A sum over pieces: without one of them it need not be made anew.
        let all = pieces(&self.shape).enumerate();
        let sum = all.fold(0, |sum: u64, (at, piece)| sum.wrapping_add(placed(piece, at)));
        for (at, piece) in pieces(&self.shape).enumerate().take(64) {
            if is_word(piece) && !words::is_grammar(piece) {
                let rest = sum.wrapping_sub(placed(piece, at));
                each(at, rest.wrapping_add(placed(&[WIDE], at)));
            }
        }
    }

    /// Bytes that it holds.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let names: usize =
            self.names.iter().map(|(_, n)| n.len() + size_of::<(u16, Box<[u8]>)>()).sum();
        size_of::<Self>() + self.shape.len() + self.layout.len() + self.template.len() + names
    }
}

/// Hash of a piece at its place.
fn placed(piece: &[u8], at: usize) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(piece, at as u64)
}

/// The pieces of a shape.
fn pieces(shape: &[u8]) -> impl Iterator<Item = &[u8]> {
    shape.strip_suffix(&[0]).into_iter().flat_map(|s| s.split(|&b| b == 0))
}

/// The parts of a layout: what stands before, and the text.
fn parts(layout: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut texts = pieces(layout);
    std::iter::from_fn(move || Some((texts.next()?, texts.next()?)))
}

/// Hash of what kinds of parts stand where: lines that differ in words alone have the same.
pub(super) fn skeleton(shape: &[u8], text: &mut Vec<u8>) -> u64 {
    text.clear();
    for piece in pieces(shape) {
        match piece {
            [first, ..] if *first == WIDE || first.is_ascii_alphanumeric() || *first >= 0x80 => {
                text.push(WIDE);
            }
            piece => text.extend_from_slice(piece),
        }
        text.push(0);
    }
    xxhash_rust::xxh3::xxh3_64(text)
}
