//! One pipeline of a replay: its live and its edited plan in lock-step.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::alerts::Alert;
use super::rows::{EDITED, LIVE, Output, Step};
use super::side::{Key, Side, sources};
use super::{NodeReport, PipelineReport};
use crate::batch::Batch;
use crate::component::Tick;
use crate::config::ERRORS_ID;
use crate::edge::ERRORS;
use crate::graph::ToSink;
use crate::joining::{Joined, Joining};
use crate::journal::Stamp;
use crate::plan::PipelinePlan;

/// What a [`Twin`] is made of.
pub(crate) struct TwinOptions<'a> {
    /// The live plan, if there is one.
    pub(crate) live: Option<Arc<PipelinePlan>>,
    /// The edited plan, if there is one.
    pub(crate) edited: Option<Arc<PipelinePlan>>,
    /// Type of the sink that takes transitions.
    pub(crate) router: &'a str,
    /// Entries that are skipped because they kill.
    pub(crate) skipped: HashSet<u64>,
    /// Samples of each kind.
    pub(crate) samples: usize,
    /// Bytes of rows that may wait for their like, of all outputs.
    pub(crate) waiting: usize,
    /// How much later, in time of the journal, a row may come on one side than on the other,
    /// nanoseconds.
    pub(crate) patience: i64,
}

/// Both plans of one pipeline, and what differs so far.
pub(crate) struct Twin {
    pub(crate) name: Arc<str>,
    sides: [Option<Side>; 2],
    skipped: HashSet<u64>,
    places: BTreeMap<Key, usize>,
    compared: Vec<Compared>,
    joining: Joining,
    tick: Tick,
    step: u64,
    counts: bool,
    rows: u64,
    /// Sources of which nothing has come that counts.
    silent: BTreeSet<Arc<str>>,
}

enum Compared {
    Rows(Output),
    Alert(Alert),
}

impl Twin {
    pub(crate) fn new(options: TwinOptions<'_>) -> Self {
        let TwinOptions { live, edited, router, skipped, samples, waiting, patience } = options;
        let one = live.as_ref().or(edited.as_ref());
        let name = one.map_or_else(|| "".into(), |p| p.name.clone());
        let sides = [live, edited].map(|plan| plan.map(|plan| Side::new(&plan, &name, router)));
        let mut keys: Vec<&Key> = Vec::new();
        for key in sides.iter().flatten().flat_map(|s| &s.keys).flatten() {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let waiting = waiting / keys.len().max(1);
        let compared = keys.iter().map(|(class, name)| match *class {
            "alert" => Compared::Alert(Alert::new(name.clone(), samples)),
            class => Compared::Rows(Output::new(class, name.clone(), samples, waiting, patience)),
        });
        let compared = compared.collect();
        let places = keys.iter().enumerate().map(|(place, key)| ((*key).clone(), place)).collect();
        let silent = sides.iter().flatten().flat_map(|s| sources(&s.plan)).collect();
        Self {
            name,
            sides,
            skipped,
            places,
            compared,
            joining: Joining::default(),
            tick: Tick { watermark: i64::MIN, ..Tick::default() },
            step: 0,
            counts: false,
            rows: 0,
            silent,
        }
    }

    /// Whether one of the two reads anything of a source.
    pub(crate) fn reads(&self, source: &str) -> bool {
        self.sides.iter().flatten().any(|s| s.graph.reads_source(source))
    }

    /// Whether it skips an entry.
    pub(crate) fn skips(&self, offset: u64) -> bool {
        self.skipped.contains(&offset)
    }

    /// Takes the rows of an entry.
    pub(crate) fn rows(&mut self, source: &Arc<str>, batches: &[(&'static str, Batch)]) {
        if self.counts {
            self.silent.remove(source);
        }
        let joinable = self.sides.iter().flatten().all(|s| s.graph.joinable());
        for (output, batch) in batches {
            if !self.sides.iter().flatten().any(|s| s.graph.reads(source, output)) {
                continue;
            }
            if self.counts {
                self.rows += batch.num_rows() as u64;
            }
            let joined = self.joining.add(source, output, batch, joinable);
            self.push_joined(joined);
        }
    }

    /// Takes an entry that cannot be used, as rows of `<source>.errors`.
    pub(crate) fn set_aside(&mut self, source: &Arc<str>, batch: &Batch) {
        self.flush();
        self.push(source, ERRORS, batch);
    }

    /// Takes a tick or mark.
    pub(crate) fn tick(&mut self, stamp: Stamp, offset: u64) {
        self.flush();
        let Stamp { time, elapsed, step } = stamp;
        // As a live pipeline does it: a clock that was ahead takes the watermark back with it.
        let watermark = if step < 0 { time } else { self.tick.watermark.max(time) };
        self.tick = Tick { time, elapsed, offset, watermark, step };
        let tick = self.tick;
        self.step(|side| side.tick(tick));
        for compared in &mut self.compared {
            if let Compared::Rows(output) = compared {
                output.tick(time);
            }
        }
    }

    /// From here on it counts.
    pub(crate) fn begin(&mut self) {
        self.flush();
        self.counts = true;
        self.sides.iter_mut().flatten().for_each(Side::begin);
        for compared in &mut self.compared {
            if let Compared::Alert(alert) = compared {
                alert.begin();
            }
        }
    }

    /// What differs. Nothing more comes.
    pub(crate) fn finish(mut self) -> PipelineReport {
        self.flush();
        let mut report = PipelineReport {
            name: self.name.to_string(),
            rows: self.rows,
            nodes: nodes(&self.sides),
            ..PipelineReport::default()
        };
        if let Some(edited) = self.sides[EDITED].as_ref().or(self.sides[LIVE].as_ref()) {
            report.file = edited.plan.path.display().to_string();
        }
        for compared in self.compared {
            match compared {
                Compared::Rows(output) => {
                    let output = output.finish();
                    // What no file has is of interest where there are rows.
                    let implied = output.class == "late" || output.name == ERRORS_ID;
                    if !implied || output.live + output.edited > 0 {
                        report.outputs.push(output);
                    }
                }
                Compared::Alert(alert) => report.alerts.push(alert.finish(self.counts)),
            }
        }
        let nothing =
            self.silent.iter().map(|s| format!("nothing of source `{s}` is in the stretch"));
        report.notes.extend(nothing);
        report
    }

    /// Pushes what was joined, as it is live.
    fn flush(&mut self) {
        let joined = self.joining.take();
        self.push_joined(joined);
    }

    fn push_joined(&mut self, joined: Option<Joined>) {
        let Some(Joined { source, output, batches }) = joined else { return };
        batches.iter().for_each(|batch| self.push(&source, output, batch));
    }

    fn push(&mut self, source: &str, output: &str, batch: &Batch) {
        self.step(|side| side.push(source, output, batch));
    }

    /// Lets both sides do the same, and compares what comes of it.
    fn step(&mut self, work: impl Fn(&mut Side) -> Vec<ToSink>) {
        let mut came: BTreeMap<usize, [Vec<Batch>; 2]> = BTreeMap::new();
        for (index, side) in self.sides.iter_mut().enumerate() {
            let Some(side) = side else { continue };
            for ToSink { node, batch } in work(side) {
                let key = side.keys.get(node).and_then(Option::as_ref);
                if let Some(place) = key.and_then(|key| self.places.get(key)) {
                    came.entry(*place).or_default()[index].push(batch);
                }
            }
        }
        self.step += 1;
        let step = Step { number: self.step, time: self.tick.time, counts: self.counts };
        for (place, sides) in came {
            match &mut self.compared[place] {
                Compared::Rows(output) => output.take(sides, step),
                Compared::Alert(alert) => alert.take(&sides, self.counts),
            }
        }
    }
}

/// Counts of both sides, in the order of the live plan, then of the edited one.
fn nodes(sides: &[Option<Side>; 2]) -> Vec<NodeReport> {
    let mut nodes: Vec<NodeReport> = Vec::new();
    for (index, side) in sides.iter().enumerate() {
        let Some(side) = side else { continue };
        let counts = side.counts();
        for node in &side.plan.nodes {
            let Some(counts) = counts.get(&node.id).copied() else { continue };
            let known = nodes.iter().position(|n| *n.id == *node.id);
            let known = known.unwrap_or_else(|| {
                let (id, class) = (node.id.to_string(), node.work.class());
                nodes.push(NodeReport { id, class, ..NodeReport::default() });
                nodes.len() - 1
            });
            let node = &mut nodes[known];
            let place = if index == LIVE { &mut node.live } else { &mut node.edited };
            *place = Some(counts);
        }
    }
    nodes
}
