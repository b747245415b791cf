//! The rows that come to one table or sink, on both sides, as far as they differ.
//!
//! Rows of one step (a push or a tick) that are equal cancel at once. What is left waits: a row
//! whose like comes later on the other side (because `lateness` changed, say) cancels with it.
//! After a stretch of journal time, or when too much waits, the oldest are settled: rows that
//! belong together are changed ones, the others are gone or added.

use std::collections::{HashMap, VecDeque};

use serde_json::{Map, Value};

use super::hash::{Hashed, same};
use super::pairs::{self, Row};
use super::{ChangedSample, OutputReport, RowSample};
use crate::batch::Batch;
use crate::testing::to_rows;

/// Longest text in a sample, in bytes: samples are for people.
const TEXT_BYTES_MAX: usize = 1 << 10;

/// The live side and the edited one.
pub(super) const LIVE: usize = 0;
pub(super) const EDITED: usize = 1;

/// Where a step lies.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// Counts steps.
    pub(super) number: u64,
    /// Time of the journal there, UTC nanoseconds.
    pub(super) time: i64,
    /// Whether rows count; they do not during the warm-up.
    pub(super) counts: bool,
}

/// Rows of one side and step whose like has not come.
struct Chunk {
    side: usize,
    step: Step,
    hashed: Hashed,
    waits: Vec<bool>,
    left: usize,
}

/// The comparison of one output.
pub(super) struct Output {
    pub(super) report: OutputReport,
    samples_max: usize,
    /// Bytes of rows that may wait: past that the oldest are settled early, and a row that comes
    /// later than on the other side counts as gone there and added here.
    waiting_max: usize,
    /// Journal time after which rows wait no longer, nanoseconds.
    patience: i64,
    /// Oldest first; the number of the first one.
    chunks: VecDeque<Chunk>,
    first: u64,
    /// Rows that wait, by hash: of one side only, since those of both cancel.
    waiting: HashMap<u64, (usize, VecDeque<(u64, usize)>)>,
    bytes: usize,
}

impl Output {
    pub(super) fn new(
        class: &'static str,
        name: String,
        samples_max: usize,
        waiting_max: usize,
        patience: i64,
    ) -> Self {
        Self {
            report: OutputReport { class, name, ..OutputReport::default() },
            samples_max,
            waiting_max,
            patience,
            chunks: VecDeque::new(),
            first: 0,
            waiting: HashMap::new(),
            bytes: 0,
        }
    }

    /// Takes what came on both sides in one step.
    pub(super) fn take(&mut self, sides: [Vec<Batch>; 2], step: Step) {
        if step.counts {
            let rows = |batches: &[Batch]| batches.iter().map(|b| b.num_rows() as u64).sum::<u64>();
            self.report.live += rows(&sides[LIVE]);
            self.report.edited += rows(&sides[EDITED]);
        }
        let [mut live, mut edited] = sides;
        let equal = live.iter().zip(&edited).take_while(|(a, b)| same(a, b)).count();
        live.drain(..equal);
        edited.drain(..equal);
        if live.is_empty() && edited.is_empty() {
            return;
        }
        let mut sides = [live, edited].map(|batches| {
            let hashed = batches.into_iter().map(Hashed::new);
            hashed.map(|h| (vec![true; h.rows.len()], h)).collect::<Vec<_>>()
        });
        cancel(&mut sides);
        for (side, batches) in sides.into_iter().enumerate() {
            for (waits, hashed) in batches {
                self.wait(side, step, waits, hashed);
            }
        }
        self.tick(step.time);
    }

    /// Time is now `time`: what has waited long enough, or is too much, is settled.
    pub(super) fn tick(&mut self, time: i64) {
        while let Some(front) = self.chunks.front() {
            let old = front.step.time.saturating_add(self.patience) < time;
            if !old && self.bytes <= self.waiting_max {
                break;
            }
            self.settle();
        }
    }

    /// Nothing more comes.
    pub(super) fn finish(mut self) -> OutputReport {
        while !self.chunks.is_empty() {
            self.settle();
        }
        self.report
    }

    /// Cancels rows with those of the other side that wait, and lets the rest wait.
    fn wait(&mut self, side: usize, step: Step, mut waits: Vec<bool>, hashed: Hashed) {
        for (row, waits) in waits.iter_mut().enumerate().filter(|(_, w)| **w) {
            let hash = hashed.rows[row];
            let Some((other, rows)) = self.waiting.get_mut(&hash) else { continue };
            if *other == side {
                continue;
            }
            let Some((number, other)) = rows.pop_front() else { continue };
            if rows.is_empty() {
                self.waiting.remove(&hash);
            }
            *waits = false;
            let index = usize::try_from(number - self.first).unwrap_or(usize::MAX);
            if let Some(chunk) = self.chunks.get_mut(index) {
                chunk.waits[other] = false;
                chunk.left -= 1;
            }
        }
        let Some(hashed) = hashed.filter(&waits).filter(|h| !h.rows.is_empty()) else { return };
        let number = self.first + self.chunks.len() as u64;
        for (row, hash) in hashed.rows.iter().enumerate() {
            let (_, rows) = self.waiting.entry(*hash).or_insert((side, VecDeque::new()));
            rows.push_back((number, row));
        }
        self.bytes += hashed.bytes();
        let left = hashed.rows.len();
        self.chunks.push_back(Chunk { side, step, waits: vec![true; left], left, hashed });
    }

    /// Settles the oldest step.
    fn settle(&mut self) {
        let Some(step) = self.chunks.front().map(|c| c.step) else { return };
        let mut sides: [Vec<Chunk>; 2] = Default::default();
        while let Some(chunk) = self.chunks.pop_front_if(|c| c.step.number == step.number) {
            self.bytes -= chunk.hashed.bytes();
            if chunk.left > 0 {
                self.forget(&chunk);
                sides[chunk.side].push(chunk);
            }
            self.first += 1;
        }
        if !step.counts {
            return;
        }
        let [live, edited] = sides.each_ref().map(|chunks| {
            let rows = chunks.iter().flat_map(|c| {
                let waits = c.waits.iter().enumerate().filter(|(_, w)| **w);
                waits.map(|(row, _)| Row { hashed: &c.hashed, row })
            });
            rows.collect::<Vec<_>>()
        });
        self.count(&live, &edited);
    }

    /// Takes rows out of those that wait.
    fn forget(&mut self, chunk: &Chunk) {
        for (row, _) in chunk.waits.iter().enumerate().filter(|(_, w)| **w) {
            let hash = chunk.hashed.rows[row];
            let Some((_, rows)) = self.waiting.get_mut(&hash) else { continue };
            // It is the first: those before it are settled.
            if rows.front() == Some(&(self.first, row)) {
                rows.pop_front();
            }
            if rows.is_empty() {
                self.waiting.remove(&hash);
            }
        }
    }

    fn count(&mut self, live: &[Row<'_>], edited: &[Row<'_>]) {
        let pairs = pairs::pair(live, edited);
        let max = self.samples_max;
        let report = &mut self.report;
        report.gone += pairs.gone.len() as u64;
        report.added += pairs.added.len() as u64;
        report.changed += pairs.changed.len() as u64;
        let room = max.saturating_sub(report.samples.gone.len());
        report.samples.gone.extend(pairs.gone.iter().take(room).map(|i| sample(live[*i])));
        let room = max.saturating_sub(report.samples.added.len());
        report.samples.added.extend(pairs.added.iter().take(room).map(|i| sample(edited[*i])));
        for (l, e) in pairs.changed {
            let names = pairs::differing(live[l], edited[e]);
            for name in &names {
                match report.columns.get_mut(&**name) {
                    Some(count) => *count += 1,
                    None => drop(report.columns.insert(name.to_string(), 1)),
                }
            }
            if report.samples.changed.len() < max {
                report.samples.changed.push(ChangedSample {
                    position: edited[e].hashed.offsets[edited[e].row],
                    columns: names.iter().map(ToString::to_string).collect(),
                    live: to_json(live[l]),
                    edited: to_json(edited[e]),
                });
            }
        }
    }
}

/// Cancels equal rows of one step.
fn cancel(sides: &mut [Vec<(Vec<bool>, Hashed)>; 2]) {
    let [live, edited] = sides;
    let mut waiting: HashMap<u64, VecDeque<(usize, usize)>> = HashMap::new();
    for (batch, (_, hashed)) in live.iter().enumerate() {
        for (row, hash) in hashed.rows.iter().enumerate() {
            waiting.entry(*hash).or_default().push_back((batch, row));
        }
    }
    for (waits, hashed) in edited {
        for (waits, hash) in waits.iter_mut().zip(&hashed.rows) {
            if let Some((batch, row)) = waiting.get_mut(hash).and_then(VecDeque::pop_front) {
                *waits = false;
                live[batch].0[row] = false;
            }
        }
    }
}

fn sample(row: Row<'_>) -> RowSample {
    RowSample { position: row.hashed.offsets[row.row], row: to_json(row) }
}

fn to_json(row: Row<'_>) -> Map<String, Value> {
    let mask: Vec<bool> = (0..row.hashed.rows.len()).map(|i| i == row.row).collect();
    let one = row.hashed.batch.filter(&mask.into()).ok();
    let mut json = one.and_then(|one| to_rows(&one).pop()).unwrap_or_default();
    for value in json.values_mut() {
        shorten(value);
    }
    json
}

/// Cuts a long text.
fn shorten(value: &mut Value) {
    if let Value::String(text) = value
        && text.len() > TEXT_BYTES_MAX
    {
        let mut end = TEXT_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
}
