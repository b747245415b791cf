//! The order of rows in a file, and where its row groups are cut.

use std::ops::Range;

use crate::layout::{Layout, SLICE_ROWS};

/// Most rows of a row group in the layout by series: they compress better in long stretches.
const SERIES_ROWS: usize = 256 << 10;
/// Decoded bytes that a row group aims at when rows are large.
const GROUP_BYTES: usize = 64 << 20;
/// Sections that a file has at most; rows of wild times would else make a row group each.
const SECTIONS_MAX: usize = 64;

const HOUR_NS: i64 = 3_600_000_000_000;
const DAY_NS: i64 = 24 * HOUR_NS;

/// What decides the place of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowKey {
    /// Place of its entity among all.
    pub(crate) rank: u32,
    /// Its time, UTC nanoseconds.
    pub(crate) time: i64,
    /// Part and row that it comes from.
    pub(crate) place: (u32, u32),
}

/// Sorts `rows` (in order of arrival) as `layout` wants them; the row groups. `row_bytes` is the
/// average size of a row in memory.
pub(crate) fn arrange(rows: &mut [RowKey], layout: Layout, row_bytes: usize) -> Vec<Range<usize>> {
    let by_bytes = (GROUP_BYTES / row_bytes.max(1)).max(1);
    match layout {
        Layout::Slices => {
            rows.sort_unstable_by_key(|r| (r.time, r.place));
            let groups = cut(0..rows.len(), SLICE_ROWS.min(by_bytes));
            for group in &groups {
                rows[group.clone()].sort_unstable_by_key(|r| (r.rank, r.time, r.place));
            }
            groups
        }
        Layout::Series => {
            let section = section_length(rows);
            let of = |r: &RowKey| r.time.div_euclid(section);
            rows.sort_unstable_by_key(|r| (of(r), r.rank, r.time, r.place));
            let mut groups = Vec::new();
            let mut start = 0;
            for part in rows.chunk_by(|a, b| of(a) == of(b)) {
                groups.extend(cut(start..start + part.len(), SERIES_ROWS.min(by_bytes)));
                start += part.len();
            }
            groups
        }
    }
}

/// Hours, unless there are too many of them; then days, or everything as one.
fn section_length(rows: &[RowKey]) -> i64 {
    for length in [HOUR_NS, DAY_NS] {
        let mut sections = std::collections::BTreeSet::new();
        let few = rows.iter().all(|r| {
            sections.insert(r.time.div_euclid(length));
            sections.len() <= SECTIONS_MAX
        });
        if few {
            return length;
        }
    }
    i64::MAX
}

fn cut(rows: Range<usize>, most: usize) -> Vec<Range<usize>> {
    rows.clone().step_by(most).map(|start| start..(start + most).min(rows.end)).collect()
}
