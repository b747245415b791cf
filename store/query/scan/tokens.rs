//! Which rows may have the words that conditions ask for: what the token filters of files leave.
//!
//! A condition proves a token where it holds only for texts that have it whole: `LIKE '% word %'`
//! does, `LIKE '%word%'` also holds for `wordy`. Regular expressions prove nothing here: their word
//! characters are not those of tokens. What a condition does not prove is not looked up,
//! and every row that is left is still asked the condition itself.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use arrow::buffer::BooleanBuffer;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, InListExpr, LikeExpr, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use weir_udfs::token::{HAS_TOKEN, HAS_TOKEN_CASE_INSENSITIVE, tokens};

use super::column::{Level, Source};
use super::exec::Shared;
use crate::file::FileEntry;
use crate::tokens::{TokenFilters, hash};

type Expr = Arc<dyn PhysicalExpr>;

/// Tokens of one text that are looked up; further ones would hardly leave fewer rows.
const TEXT_TOKENS_MAX: usize = 16;
/// Texts of a list that are looked up; with more, hardly a slice is left out.
const LIST_MAX: usize = 64;
/// How deep conditions are looked into.
const DEPTH_MAX: usize = 64;

/// Tokens that rows must have to pass conditions.
#[derive(Debug)]
pub(super) enum Need {
    Token { column: String, token: String, hash: u64 },
    All(Vec<Need>),
    Any(Vec<Need>),
}

/// The granules of a slice that may have what is needed.
struct Left {
    granule: usize,
    has: BooleanBuffer,
}

impl Need {
    /// What rows need for all of `filters` to be true; `None` if that is not known.
    pub(super) fn of<'a>(filters: impl Iterator<Item = &'a Expr>) -> Option<Self> {
        all(filters.filter_map(|filter| of(filter, 0)).collect())
    }

    fn granules(&self, look: &mut Look<'_>) -> Result<Option<Left>, String> {
        match self {
            Self::Token { column, hash, .. } => look.up(column, *hash),
            Self::All(needs) => {
                let mut both: Option<Left> = None;
                for need in needs {
                    let Some(left) = need.granules(look)? else { continue };
                    both = Some(match both {
                        Some(b) if b.granule == left.granule => {
                            Left { has: &b.has & &left.has, ..b }
                        }
                        Some(b) => b,
                        None => left,
                    });
                }
                Ok(both)
            }
            Self::Any(needs) => {
                let mut any: Option<Left> = None;
                for need in needs {
                    let Some(left) = need.granules(look)? else { return Ok(None) };
                    any = Some(match any {
                        Some(a) if a.granule == left.granule => {
                            Left { has: &a.has | &left.has, ..a }
                        }
                        Some(_) => return Ok(None),
                        None => left,
                    });
                }
                Ok(any)
            }
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (needs, word) = match self {
            Self::Token { column, token, .. } => return write!(f, "{column}: {token}"),
            Self::All(needs) => (needs, " AND "),
            Self::Any(needs) => (needs, " OR "),
        };
        for (i, need) in needs.iter().enumerate() {
            let before = if i == 0 { "" } else { word };
            match need {
                Self::Token { .. } => write!(f, "{before}{need}")?,
                _ => write!(f, "{before}({need})")?,
            }
        }
        Ok(())
    }
}

fn all(mut needs: Vec<Need>) -> Option<Need> {
    if needs.len() > 1 { Some(Need::All(needs)) } else { needs.pop() }
}

fn any(needs: Option<Vec<Need>>) -> Option<Need> {
    let mut needs = needs?;
    if needs.len() > 1 { Some(Need::Any(needs)) } else { needs.pop() }
}

fn of(filter: &Expr, depth: usize) -> Option<Need> {
    if depth > DEPTH_MAX {
        return None;
    }
    if let Some(binary) = filter.downcast_ref::<BinaryExpr>() {
        let (left, right) = (binary.left(), binary.right());
        return match binary.op() {
            Operator::And => {
                all([left, right].into_iter().filter_map(|e| of(e, depth + 1)).collect())
            }
            Operator::Or => any([left, right].map(|e| of(e, depth + 1)).into_iter().collect()),
            Operator::Eq => {
                let (name, text) = asked(left, right).or_else(|| asked(right, left))?;
                whole(name, &Chunk::whole(text))
            }
            _ => None,
        };
    }
    if let Some(like) = filter.downcast_ref::<LikeExpr>().filter(|like| !like.negated()) {
        let (name, pattern) = asked(like.expr(), like.pattern())?;
        return all(like_chunks(pattern).iter().filter_map(|chunk| whole(name, chunk)).collect());
    }
    if let Some(list) = filter.downcast_ref::<InListExpr>() {
        if list.negated() || list.list().len() > LIST_MAX {
            return None;
        }
        let one = |text| asked(list.expr(), text).and_then(|(n, t)| whole(n, &Chunk::whole(t)));
        return any(list.list().iter().map(one).collect());
    }
    let call = filter.downcast_ref::<ScalarFunctionExpr>()?;
    let [text, asked_for] = call.args() else { return None };
    let (name, value) = asked(text, asked_for)?;
    match call.fun().name() {
        HAS_TOKEN | HAS_TOKEN_CASE_INSENSITIVE => whole(name, &Chunk::whole(value)),
        "contains" => whole(name, &Chunk { text: value.into(), start: false, end: false }),
        _ => None,
    }
}

/// A column, and the text that it is compared with.
fn asked<'a>(column: &'a Expr, text: &'a Expr) -> Option<(&'a str, &'a str)> {
    let column = column.downcast_ref::<Column>()?;
    Some((column.name(), text.downcast_ref::<Literal>()?.value().try_as_str()??))
}

/// Part of a text, as a condition has it.
#[derive(Debug, PartialEq)]
struct Chunk {
    text: String,
    /// Whether no token goes on before it, and behind it.
    start: bool,
    end: bool,
}

impl Chunk {
    fn whole(text: &str) -> Self {
        Self { text: text.into(), start: true, end: true }
    }
}

/// The tokens that stand whole in a chunk.
fn whole(column: &str, chunk: &Chunk) -> Option<Need> {
    let text = &chunk.text;
    let found = tokens(text)
        .filter(|at| (at.start > 0 || chunk.start) && (at.end < text.len() || chunk.end))
        .take(TEXT_TOKENS_MAX)
        .map(|at| Need::Token {
            column: column.into(),
            token: text[at.clone()].into(),
            hash: hash(&text[at]),
        });
    all(found.collect())
}

/// The parts of a LIKE pattern between what stands for anything. What is escaped counts as that.
fn like_chunks(pattern: &str) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut chunk = Chunk { text: String::new(), start: true, end: false };
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match c {
            '%' | '_' | '\\' => {
                if c == '\\' {
                    rest.next();
                }
                let next = Chunk { text: String::new(), start: false, end: false };
                chunks.push(std::mem::replace(&mut chunk, next));
            }
            c => chunk.text.push(c),
        }
    }
    chunks.push(Chunk { end: true, ..chunk });
    chunks.retain(|chunk| !chunk.text.is_empty());
    chunks
}

/// Looks tokens up in one slice of a file.
struct Look<'a> {
    entry: &'a FileEntry,
    file: &'a File,
    slice: usize,
    bytes: u64,
}

impl Look<'_> {
    fn up(&mut self, column: &str, hash: u64) -> Result<Option<Left>, String> {
        let Some(filters) = filters(self.entry, column) else { return Ok(None) };
        let slices = &self.entry.meta().slices;
        let found = filters.granules(self.file, self.slice, slices, hash)?;
        Ok(found.map(|(has, bytes)| {
            self.bytes += bytes as u64;
            Left { granule: filters.granule as usize, has }
        }))
    }
}

/// The filters of a column of a file that has it nowhere else.
fn filters<'a>(entry: &'a FileEntry, column: &str) -> Option<&'a TokenFilters> {
    let source = Source::of(entry, column);
    let found = entry.meta().tokens.iter().find(|filters| &*filters.column == column)?;
    (source.level == Level::Row && !source.overflow).then_some(found)
}

/// Takes from `selected`, the rows to read of each slice, those that have not what is needed.
pub(super) fn narrow(
    entry: &FileEntry,
    shared: &Shared,
    selected: &mut [Option<Vec<Range<usize>>>],
) {
    let Some(need) = shared.need.as_ref().filter(|_| !entry.meta().tokens.is_empty()) else {
        return;
    };
    // Whoever reads the rows meets what is wrong with the file.
    let Ok(file) = File::open(entry.path()) else { return };
    for (slice, rows) in selected.iter_mut().enumerate() {
        let Some(ranges) = rows else { continue };
        let mut look = Look { entry, file: &file, slice, bytes: 0 };
        match need.granules(&mut look) {
            Ok(Some(left)) => {
                let kept = left.cut(ranges);
                *rows = (!kept.is_empty()).then_some(kept);
            }
            Ok(None) => {}
            Err(why) => {
                let table = shared.snapshot.table().name();
                shared.costs.warn(format!(
                    "filters of a file of `{table}` are damaged, so its rows were read: {why}"
                ));
            }
        }
        shared.costs.filter_read(look.bytes);
    }
}

impl Left {
    /// What of `ranges` lies in granules that are left.
    fn cut(&self, ranges: &[Range<usize>]) -> Vec<Range<usize>> {
        let mut kept: Vec<Range<usize>> = Vec::new();
        let mut granules = self.has.set_slices().peekable();
        for range in ranges {
            while let Some((first, last)) = granules.peek() {
                let (first, last) = (first * self.granule, last * self.granule);
                if last <= range.start {
                    granules.next();
                    continue;
                }
                if first >= range.end {
                    break;
                }
                kept.push(first.max(range.start)..last.min(range.end));
                if last > range.end {
                    break;
                }
                granules.next();
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests;
