//! The order of rows in a file, and where its row groups are cut.

use std::ops::Range;

use crate::layout::{Layout, SLICE_ROWS};
use crate::merge::HOUR_NS;

/// Most rows of a row group in the layout by series: they compress better in long stretches.
const SERIES_ROWS: usize = 256 << 10;
/// Decoded bytes that a row group aims at when rows are large.
const GROUP_BYTES: usize = 64 << 20;
/// Sections that a file has at most; rows of wild times would else make a row group each.
const SECTIONS_MAX: usize = 64;

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

/// Sorts `rows` (in order of arrival, which is that of their places) as `layout` wants them; the row
/// groups. `row_bytes` is the average size of a row in memory.
pub(crate) fn arrange(rows: &mut [RowKey], layout: Layout, row_bytes: usize) -> Vec<Range<usize>> {
    let by_bytes = (GROUP_BYTES / row_bytes.max(1)).max(1);
    let ranks = rows.iter().map(|r| r.rank as usize + 1).max().unwrap_or_default();
    match layout {
        Layout::Slices => {
            // Stable, and quick where rows come nearly in order.
            rows.sort_by_key(|r| r.time);
            let groups = cut(0..rows.len(), SLICE_ROWS.min(by_bytes));
            for group in &groups {
                by_bucket(&mut rows[group.clone()], ranks, |r| r.rank as usize);
            }
            groups
        }
        Layout::Series => {
            let (min, max) = span(rows);
            let section = section_length(rows, min, max);
            let (first, last) = (min.div_euclid(section), max.div_euclid(section));
            // Mostly all rows are of one: a division for each would cost more than the rest.
            let of = |r: &RowKey| if first == last { first } else { r.time.div_euclid(section) };
            // Far from each other they take more room than a sort by numbers is worth.
            let sections = usize::try_from(last.abs_diff(first)).unwrap_or(usize::MAX);
            let buckets = sections.saturating_add(1).saturating_mul(ranks);
            if buckets == usize::MAX {
                rows.sort_unstable_by_key(|r| (of(r), r.rank, r.time, r.place));
            } else {
                let bucket = |r: &RowKey| of(r).abs_diff(first) as usize * ranks + r.rank as usize;
                by_bucket(rows, buckets, bucket);
            }
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

/// Buckets for each row past which they are not counted.
const BUCKETS_PER_ROW: usize = 4;

/// Buckets that rows are spread to at a time: for each of them some rows are in the nearest caches.
const SPREAD: usize = 1_024;

/// Sorts rows by bucket, time and place: by counting, since rows of one bucket mostly come in order.
fn by_bucket(rows: &mut [RowKey], buckets: usize, bucket: impl Fn(&RowKey) -> usize) {
    if buckets > rows.len().saturating_mul(BUCKETS_PER_ROW) {
        return rows.sort_unstable_by_key(|r| (bucket(r), r.time, r.place));
    }
    let arrived = rows.to_vec();
    if buckets <= SPREAD {
        spread(&arrived, rows, buckets, &bucket);
        return by_time(rows, &bucket);
    }
    // First to groups of buckets, then each of these to its buckets: to all at once every row would
    // go to memory that no cache has.
    let width = buckets.div_ceil(SPREAD).next_power_of_two();
    let coarse = |r: &RowKey| bucket(r) / width;
    let mut grouped = arrived;
    let ends = spread(rows, &mut grouped, buckets.div_ceil(width), &coarse);
    let mut start = 0;
    for (group, end) in ends.into_iter().enumerate() {
        let fine = |r: &RowKey| bucket(r) - group * width;
        let part = &mut rows[start..end];
        spread(&grouped[start..end], part, width, &fine);
        by_time(part, &fine);
        start = end;
    }
}

/// Copies rows to where their buckets are, in the order in which they come; the end of each bucket.
fn spread(
    from: &[RowKey],
    to: &mut [RowKey],
    buckets: usize,
    bucket: &impl Fn(&RowKey) -> usize,
) -> Vec<usize> {
    let mut next = vec![0_usize; buckets];
    from.iter().for_each(|r| next[bucket(r)] += 1);
    let mut start = 0;
    for n in &mut next {
        start += std::mem::replace(n, start);
    }
    for row in from {
        let place = &mut next[bucket(row)];
        to[*place] = *row;
        *place += 1;
    }
    next
}

/// Sorts the rows of each bucket, which follow each other.
fn by_time(rows: &mut [RowKey], bucket: &impl Fn(&RowKey) -> usize) {
    for part in rows.chunk_by_mut(|a, b| bucket(a) == bucket(b)) {
        if !part.is_sorted_by_key(|r| (r.time, r.place)) {
            part.sort_unstable_by_key(|r| (r.time, r.place));
        }
    }
}

/// Earliest and latest time.
fn span(rows: &[RowKey]) -> (i64, i64) {
    let Some(first) = rows.first() else { return (0, 0) };
    rows.iter().fold((first.time, first.time), |(min, max), r| (min.min(r.time), max.max(r.time)))
}

/// Hours, unless there are too many of them; then days, or everything as one. Rows are from `min` to
/// `max`.
fn section_length(rows: &[RowKey], min: i64, max: i64) -> i64 {
    for length in [HOUR_NS, DAY_NS] {
        if max.div_euclid(length).abs_diff(min.div_euclid(length)) < SECTIONS_MAX as u64 {
            return length;
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_are_sorted_however_they_come(
            mut rows in prop::collection::vec((0..40_u32, 0..10 * HOUR_NS / 7), 1..1_000),
            sparse in 0..3_u32,
            wild in any::<bool>(),
        ) {
            if wild {
                rows.push((1, i64::MAX));
                rows.push((1, i64::MIN + 1));
            }
            let mut keys: Vec<RowKey> = rows
                .iter()
                .enumerate()
                .map(|(i, (rank, time))| {
                    let rank = rank * 100_u32.pow(sparse);
                    RowKey { rank, time: *time, place: (i as u32 / 300, i as u32 % 300) }
                })
                .collect();
            let arrived = keys.clone();
            let (min, max) = span(&arrived);
            let section = section_length(&arrived, min, max);
            let of = |r: &RowKey| r.time.div_euclid(section);
            arrange(&mut keys, Layout::Series, 30);
            let mut expected = arrived.clone();
            expected.sort_by_key(|r| (of(r), r.rank, r.time, r.place));
            prop_assert_eq!(&keys, &expected);
            let mut keys = arrived.clone();
            let groups = arrange(&mut keys, Layout::Slices, GROUP_BYTES / 300);
            let mut expected = arrived;
            expected.sort_by_key(|r| (r.time, r.place));
            for group in groups {
                expected[group].sort_by_key(|r| (r.rank, r.time, r.place));
            }
            prop_assert_eq!(&keys, &expected);
        }
    }
}
