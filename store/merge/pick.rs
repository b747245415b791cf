//! Which files to merge next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashSet;
use weir_pipeline::signal::COLUMNS_MAX;

use super::{DAY_NS, FAN_IN, HOUR_NS, INPUTS_MAX, Limits};
use crate::file::{EntityPlace, FileEntry};
use crate::layout::Layout;

/// How long after its end an hour counts as over.
const HOUR_CLOSED_NS: i64 = HOUR_NS / 4;
/// How long after its end a day counts as over.
const DAY_CLOSED_NS: i64 = HOUR_NS;
/// Columns past which files are not merged: canonical ones besides the limit of attributes.
const COLUMNS_UNION_MAX: usize = COLUMNS_MAX + 64;

/// A merge to be done.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) inputs: Vec<Arc<FileEntry>>,
    /// Level of the output.
    pub(crate) level: u8,
    /// Whether the output refers to the entity log of its inputs, as they do: it is merged again
    /// soon, and all entities beside each such file take more than its rows.
    pub(crate) keeps_log: bool,
}

/// How long files wait for company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Until a merge is worth its while: more files may come.
    Worthwhile,
    /// Not at all: no more will come, and hours and days count as over.
    Nothing,
}

/// What files must have in common to be merged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    level: u8,
    series: bool,
    entities: bool,
    /// The hour (level 1) or day (level 2) that all rows are in, `None` if they are in several.
    window: Option<i64>,
}

/// The next merge at `now` (UTC nanoseconds), without the files named in `not`.
pub(crate) fn pick(
    files: &[Arc<FileEntry>],
    not: &HashSet<Arc<str>>,
    limits: Limits,
    now: i64,
    patience: Patience,
) -> Option<Job> {
    let mut groups: BTreeMap<Group, Vec<&Arc<FileEntry>>> = BTreeMap::new();
    for file in files {
        let meta = &file.meta;
        if meta.level >= 3 || not.contains(&meta.name) {
            continue;
        }
        if limits.file().admit(meta.rows, meta.raw_bytes) {
            groups.entry(group(file)).or_default().push(file);
        } else if meta.level == 0 {
            // Too large for company, but it may span hours: it goes up alone.
            return Some(Job { inputs: vec![file.clone()], level: 1, keeps_log: false });
        }
    }
    promote_lone(&mut groups, now, patience);
    groups.into_iter().find_map(|(group, mut members)| {
        if members.len() < fan_in(group, files, now, patience) {
            return None;
        }
        members
            .sort_by(|a, b| (a.meta.received, &a.meta.name).cmp(&(b.meta.received, &b.meta.name)));
        // Where the oldest cannot be with the next, its columns being too many, others may.
        let mut starts = (0..members.len()).map(|start| within_budget(&members[start..], limits));
        let inputs = starts.find(|inputs| inputs.len() >= 2);
        // At level 0 nothing may stay for ever.
        let alone = || (group.level == 0).then(|| vec![members[0].clone()]);
        let inputs = inputs.or_else(alone)?;
        let keeps_log = patience == Patience::Worthwhile && keeps_log(&inputs, limits, now);
        Some(Job { inputs, level: group.level + 1, keeps_log })
    })
}

/// Whether what `inputs` become is merged again while the log of their entities is there anyway: if it
/// is small enough, of the first level, and its day is not over.
fn keeps_log(inputs: &[Arc<FileEntry>], limits: Limits, now: i64) -> bool {
    let rows = inputs.iter().map(|f| f.meta.rows).sum();
    let raw = inputs.iter().map(|f| f.meta.raw_bytes).sum();
    let today = |file: &Arc<FileEntry>| match file.meta.entities {
        Some(EntityPlace::Log(day)) => now.div_euclid(DAY_NS) == i64::from(day),
        _ => false,
    };
    let first = inputs.iter().all(|f| f.meta.level == 0 && today(f));
    first && limits.file().admit(rows, raw)
}

fn group(file: &FileEntry) -> Group {
    let meta = &file.meta;
    let length = window_length(meta.level);
    let window = length.and_then(|length| {
        let (first, last) = (meta.min_time.div_euclid(length), meta.max_time.div_euclid(length));
        (first == last).then_some(first)
    });
    let series = meta.layout == Layout::Series;
    Group { level: meta.level, series, entities: meta.entities.is_some(), window }
}

/// The only file of an hour that is over goes with the whole hours, as it is.
fn promote_lone(groups: &mut BTreeMap<Group, Vec<&Arc<FileEntry>>>, now: i64, patience: Patience) {
    let over = |window| patience == Patience::Nothing || is_over(1, window, now);
    let lone: Vec<Group> = groups
        .iter()
        .filter(|(g, members)| g.level == 1 && members.len() == 1 && g.window.is_some_and(over))
        .map(|(g, _)| *g)
        .collect();
    for group in lone {
        let day = group.window.map(|hour| hour.div_euclid(DAY_NS / HOUR_NS));
        for file in groups.remove(&group).unwrap_or_default() {
            groups.entry(Group { level: 2, window: day, ..group }).or_default().push(file);
        }
    }
}

/// Whether `window` of a level is over at `now`, and some time besides.
fn is_over(level: u8, window: i64, now: i64) -> bool {
    let Some(length) = window_length(level) else { return false };
    let wait = if level == 1 { HOUR_CLOSED_NS } else { DAY_CLOSED_NS };
    let end = window.saturating_add(1).saturating_mul(length);
    now > end.saturating_add(wait)
}

/// The window that files of a level are gathered in.
fn window_length(level: u8) -> Option<i64> {
    match level {
        1 => Some(HOUR_NS),
        2 => Some(DAY_NS),
        _ => None,
    }
}

/// Files of a group that make a merge worth its while.
fn fan_in(group: Group, files: &[Arc<FileEntry>], now: i64, patience: Patience) -> usize {
    if patience == Patience::Nothing {
        // One of level 0 goes up to where it may find others.
        return if group.level == 0 { 1 } else { 2 };
    }
    let (Some(window), Some(length)) = (group.window, window_length(group.level)) else {
        return FAN_IN;
    };
    let start = window.saturating_mul(length);
    let end = start.saturating_add(length);
    let closed = is_over(group.level, window, now);
    // Rows that came after the window was merged wait until there are enough of them.
    let merged = files
        .iter()
        .any(|f| f.meta.level > group.level && f.meta.min_time < end && f.meta.max_time >= start);
    if closed && !merged { 2 } else { FAN_IN }
}

fn within_budget(members: &[&Arc<FileEntry>], limits: Limits) -> Vec<Arc<FileEntry>> {
    let (mut rows, mut raw, mut own) = (0, 0, 0);
    // Files of one day's log share its chunks.
    let mut logs: BTreeMap<i32, u64> = BTreeMap::new();
    let mut columns: BTreeSet<Arc<str>> = BTreeSet::new();
    let mut inputs = Vec::new();
    for file in members {
        rows += file.meta.rows;
        raw += file.meta.raw_bytes;
        match file.meta.entities {
            Some(EntityPlace::Log(day)) => {
                let log = logs.entry(day).or_default();
                *log = file.meta.entity_bytes.max(*log);
            }
            _ => own += file.meta.entity_bytes,
        }
        let entities = own + logs.values().sum::<u64>();
        columns.extend(file.meta.columns.iter().map(|c| c.name.clone()));
        // However many entities two have: else they would stay for ever.
        let many = inputs.len() >= 2 && !limits.admit(rows, raw + entities);
        if inputs.len() == INPUTS_MAX
            || !limits.admit(rows, raw)
            || many
            || columns.len() > COLUMNS_UNION_MAX
        {
            break;
        }
        inputs.push((*file).clone());
    }
    inputs
}
