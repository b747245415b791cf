//! Which of the rows that only one side has are one row with other values.
//!
//! Rows of one entry (or tick) and time belong together, first where all that says what a row is
//! about (text, flags) is the same and numbers differ; then where at least half of it is. Of several
//! that fit the most alike are taken. What is left is gone on one side and new on the other.

use std::collections::HashMap;
use std::sync::Arc;

use super::hash::{Column, Hashed};

/// Rows of one entry and time that are compared each with each; more are taken in their order.
const EACH_WITH_EACH_MAX: usize = 64;

/// A row of a batch.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) hashed: &'a Hashed,
    pub(super) row: usize,
}

/// Rows of both sides by their index among those that were given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pairs {
    pub(super) changed: Vec<(usize, usize)>,
    pub(super) gone: Vec<usize>,
    pub(super) added: Vec<usize>,
}

/// Indices of the rows of the live and the edited side that may be one.
type Bucket = (Vec<usize>, Vec<usize>);

/// Pairs rows of the live and the edited side.
pub(super) fn pair(live: &[Row<'_>], edited: &[Row<'_>]) -> Pairs {
    let mut pairs = Pairs {
        gone: (0..live.len()).collect(),
        added: (0..edited.len()).collect(),
        ..Pairs::default()
    };
    let offset = |row: &Row<'_>| row.hashed.offsets[row.row];
    let time = |row: &Row<'_>| row.hashed.time(row.row);
    let identity = |row: &Row<'_>| row.hashed.identity(row.row);
    pairs.by(live, edited, |r| (offset(r), time(r), identity(r)), in_order);
    pairs.by(live, edited, |r| (offset(r), time(r), 0), most_alike);
    pairs.by(live, edited, |r| (offset(r), 0, 0), most_alike);
    pairs.changed.sort_unstable();
    pairs
}

impl Pairs {
    /// Pairs what is left among rows with the same key.
    fn by(
        &mut self,
        live: &[Row<'_>],
        edited: &[Row<'_>],
        key: impl Fn(&Row<'_>) -> (u64, u64, u64),
        find: impl Fn(&[Row<'_>], &[Row<'_>], &Bucket) -> Vec<(usize, usize)>,
    ) {
        if self.gone.is_empty() || self.added.is_empty() {
            return;
        }
        let mut buckets: HashMap<_, Bucket> = HashMap::new();
        for i in &self.gone {
            buckets.entry(key(&live[*i])).or_default().0.push(*i);
        }
        for i in &self.added {
            // Without a row on the live side there is nothing to pair it with.
            if let Some(bucket) = buckets.get_mut(&key(&edited[*i])) {
                bucket.1.push(*i);
            }
        }
        let full = buckets.values().filter(|b| !b.1.is_empty());
        let found: Vec<(usize, usize)> = full.flat_map(|b| find(live, edited, b)).collect();
        let mut taken = (vec![false; live.len()], vec![false; edited.len()]);
        for (l, e) in &found {
            (taken.0[*l], taken.1[*e]) = (true, true);
        }
        self.gone.retain(|i| !taken.0[*i]);
        self.added.retain(|i| !taken.1[*i]);
        self.changed.extend(found);
    }
}

fn in_order(_: &[Row<'_>], _: &[Row<'_>], bucket: &Bucket) -> Vec<(usize, usize)> {
    bucket.0.iter().copied().zip(bucket.1.iter().copied()).collect()
}

fn most_alike(live: &[Row<'_>], edited: &[Row<'_>], bucket: &Bucket) -> Vec<(usize, usize)> {
    if bucket.0.len().max(bucket.1.len()) > EACH_WITH_EACH_MAX {
        let pairs = in_order(live, edited, bucket).into_iter();
        return pairs.filter(|(l, e)| alike(live[*l], edited[*e]).is_some()).collect();
    }
    let mut fits = Vec::new();
    for (i, l) in bucket.0.iter().enumerate() {
        for (j, e) in bucket.1.iter().enumerate() {
            if let Some(same) = alike(live[*l], edited[*e]) {
                fits.push((std::cmp::Reverse(same), i.abs_diff(j), *l, *e));
            }
        }
    }
    fits.sort_unstable();
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for (_, _, l, e) in fits {
        if pairs.iter().all(|(a, b)| *a != l && *b != e) {
            pairs.push((l, e));
        }
    }
    pairs
}

/// How many columns of two rows agree, if they may be one.
fn alike(a: Row<'_>, b: Row<'_>) -> Option<usize> {
    let (mut same, mut told, mut told_same) = (0, 0, 0);
    each(a, b, |x, y| {
        let equal = x.map(|(_, hash)| hash) == y.map(|(_, hash)| hash);
        let identity = [x, y].into_iter().flatten().any(|(column, _)| column.identity);
        same += usize::from(equal);
        told += usize::from(identity);
        told_same += usize::from(identity && equal);
    });
    (told > 0 && told_same * 2 >= told).then_some(same)
}

/// Names of the columns that differ, in order.
pub(super) fn differing(a: Row<'_>, b: Row<'_>) -> Vec<Arc<str>> {
    let mut names = Vec::new();
    each(a, b, |x, y| {
        if x.map(|(_, hash)| hash) != y.map(|(_, hash)| hash) {
            names.extend(x.or(y).map(|(column, _)| column.name.clone()));
        }
    });
    names
}

/// A column and a value in it that is not NULL.
type Value<'a> = Option<(&'a Column, u64)>;

/// Every column in which one of the two has a value.
fn each<'a>(a: Row<'a>, b: Row<'a>, mut look: impl FnMut(Value<'a>, Value<'a>)) {
    let value = |row: Row<'a>, i: usize| {
        let column = row.hashed.columns.get(i)?;
        Some((column, column.hashes[row.row]))
    };
    let (mut i, mut j) = (0, 0);
    loop {
        let (x, y) = (value(a, i), value(b, j));
        let order = match (&x, &y) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((x, _)), Some((y, _))) => x.name.cmp(&y.name),
        };
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
        let x = x.filter(|(_, hash)| order.is_le() && *hash != 0);
        let y = y.filter(|(_, hash)| order.is_ge() && *hash != 0);
        if x.is_some() || y.is_some() {
            look(x, y);
        }
    }
}
