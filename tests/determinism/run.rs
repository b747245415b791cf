//! Runs a case through the real graph, checkpoints and store: straight, or interrupted.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use arrow::array::Array;
use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
use tempfile::TempDir;
use weir_pipeline::batch::{Batch, TENANT};
use weir_pipeline::checkpoint::{Checkpoint, Checkpoints};
use weir_pipeline::component::{
    Components, Decoder, EntryHead, Services, Sink, SinkContext, Staged, Tick,
};
use weir_pipeline::config::{Environment, LastGood, load};
use weir_pipeline::entity::EntitySpace;
use weir_pipeline::graph::{Graph, States, ToSink};
use weir_pipeline::intake;
use weir_pipeline::lookup::Tables;
use weir_pipeline::plan::{NodePlan, PipelinePlan, Plan, Work};
use weir_pipeline::tap::Taps;
use weir_pipeline::telemetry::{ComponentLabels, Telemetry};
use weir_store::query::{Queries, QueryOptions};
use weir_store::{Store, StoreOptions};

use super::inputs::{self, Data, Step, Time};
use super::random::Random;
use super::{Lines, Totals, pipelines, same};

const COMPONENTS: Components = Components {
    sources: weir_sources::ALL,
    operators: weir_operators::ALL,
    sinks: weir_sinks::ALL,
    lookups: weir_sources::LOOKUPS,
    alert: &weir_alerts::ALERT,
    router: &weir_alerts::ROUTER,
    errors: "store",
};

const JOURNAL: u128 = 7;

/// A pipeline, and what is in the journal.
pub(super) struct Case {
    pub(super) text: String,
    plan: Plan,
    pipeline: Arc<PipelinePlan>,
    steps: Vec<Step>,
}

impl Case {
    pub(super) fn new(seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let text = pipelines::generate(random);
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("case.toml"), &text).unwrap();
        let environment = Environment::Fixed(BTreeMap::new());
        let none = BTreeMap::new();
        let outside = (&environment, &Tables::default());
        let loaded = load(folder.path(), &COMPONENTS, outside, &LastGood::new(), &none);
        assert!(!loaded.diagnostics.has_errors(), "{}", loaded.diagnostics);
        let pipeline = loaded.plan.pipelines["case"].clone();
        Self { text, plan: loaded.plan, pipeline, steps: inputs::generate(random) }
    }
}

/// What came of a case.
pub(super) struct Observed {
    /// The rows of every output of every node, in order.
    pub(super) edges: Lines,
    /// What SQL finds, sorted.
    pub(super) tables: Lines,
    /// What every operator would save after the last entry.
    pub(super) states: Lines,
}

/// Each entry a batch of its own, and nothing in between.
pub(super) fn straight(case: &Case) -> Observed {
    let folder = TempDir::new().unwrap();
    let mut world = World::new(case, folder.path());
    let mut process = Process::start(&world, None);
    while let Some(step) = case.steps.get(process.position) {
        process.take(&mut world, step, true);
    }
    let states = process.graph.snapshot().unwrap();
    process.flush(&mut world);
    process.observe(world, &states)
}

/// Entries joined at random, checkpoints and swaps at random ticks, deaths anywhere.
pub(super) fn interrupted(
    case: &Case,
    random: &mut Random,
    expected: &Lines,
) -> (Observed, Totals) {
    let folder = TempDir::new().unwrap();
    let mut world = World::new(case, folder.path());
    let mut totals = Totals::default();
    let mut process = Process::start(&world, None);
    let states = process.states();
    process.save(&world, states, BTreeMap::new());
    let joins = *random.pick(&[0, 50, 90, 100]);
    let (states, saved) = loop {
        match process.go_on(&mut world, random, joins, &mut totals) {
            Ok(states) => break (states, process),
            Err(Death) => {
                drop(process);
                totals.deaths += 1;
                for (name, lines) in world.lines() {
                    let before = expected.get(&name).map_or(&[][..], Vec::as_slice);
                    let before = before[..lines.len().min(before.len())].to_vec();
                    let one = |lines| BTreeMap::from([(name.clone(), lines)]);
                    same(case, "before a death", &one(before), &one(lines));
                }
                process = world.recover();
            }
        }
    };
    totals.files = saved.files();
    (saved.observe(world, &states), totals)
}

/// What outlives a process: the disk, and who looks on.
struct World<'a> {
    case: &'a Case,
    folder: &'a Path,
    checkpoints: Checkpoints,
    runtime: tokio::runtime::Runtime,
    /// Rows by output, each with the offset up to which the journal was read then.
    seen: BTreeMap<String, Vec<(usize, String)>>,
}

impl<'a> World<'a> {
    fn new(case: &'a Case, folder: &'a Path) -> Self {
        Self {
            case,
            folder,
            checkpoints: Checkpoints::open(folder).unwrap(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            seen: BTreeMap::new(),
        }
    }

    fn lines(&self) -> Lines {
        let lines = |seen: &Vec<(usize, String)>| seen.iter().map(|(_, l)| l.clone()).collect();
        self.seen.iter().map(|(name, seen)| (name.clone(), lines(seen))).collect()
    }

    /// A new process, from the newest checkpoint. What was seen behind that comes again.
    fn recover(&mut self) -> Process<'a> {
        let (mut all, damage) = self.checkpoints.load_all().unwrap();
        assert!(damage.is_empty(), "{damage:?}");
        let checkpoint = all.pop().unwrap();
        let position = usize::try_from(checkpoint.position).unwrap();
        for seen in self.seen.values_mut() {
            seen.retain(|(offset, _)| *offset <= position);
        }
        self.seen.retain(|_, seen| !seen.is_empty());
        Process::start(self, Some(checkpoint))
    }
}

/// What a process holds in memory.
struct Process<'a> {
    case: &'a Case,
    store: Arc<Store>,
    graph: Graph,
    sinks: BTreeMap<Arc<str>, Box<dyn Sink>>,
    decoders: HashMap<Arc<str>, (Arc<dyn Decoder>, EntitySpace)>,
    joining: Joining,
    /// Entries taken in.
    position: usize,
    tick: Tick,
    /// Staged, and not on disk yet.
    checkpoint: Option<Checkpoint>,
}

/// Rows of consecutive entries of one source output.
#[derive(Default)]
struct Joining {
    source: &'static str,
    output: &'static str,
    batches: Vec<Batch>,
}

/// The process is gone.
struct Death;

impl<'a> Process<'a> {
    fn start(world: &World<'a>, checkpoint: Option<Checkpoint>) -> Self {
        let case = world.case;
        let store = Store::open(&world.folder.join("tables"), StoreOptions::default()).unwrap();
        let sources = case.plan.sources.values();
        let decoder = |s: &Arc<weir_pipeline::plan::SourceDefinition>| {
            (s.id.clone(), (s.plan.decoder(), EntitySpace::default()))
        };
        let mut process = Self {
            case,
            store,
            graph: build(case),
            sinks: BTreeMap::new(),
            decoders: sources.map(decoder).collect(),
            joining: Joining::default(),
            position: 0,
            tick: Tick { watermark: i64::MIN, ..Tick::default() },
            checkpoint: None,
        };
        let saved = checkpoint.unwrap_or_default();
        for node in &case.pipeline.nodes {
            process.start_sink(world, node, saved.position, saved.sinks.get(&*node.id));
        }
        if saved.journal == JOURNAL {
            process.restore(&saved.states, saved.now);
            process.position = usize::try_from(saved.position).unwrap();
            process.tick = Tick { time: saved.now, watermark: saved.watermark, ..process.tick };
        }
        process
    }

    fn start_sink(&mut self, world: &World, node: &NodePlan, mark: u64, staged: Option<&Staged>) {
        // The router is not part of what is deterministic; what it would get is seen on the edges.
        let Work::Sink(plan) = &node.work else { return };
        if node.kind != "store" {
            return;
        }
        let labels = ComponentLabels {
            pipeline: self.case.pipeline.name.clone(),
            component: node.id.clone(),
            class: "sink",
            kind: node.kind,
        };
        let context = SinkContext {
            journal: JOURNAL,
            pipeline: self.case.pipeline.name.clone(),
            sink: node.id.clone(),
            services: Services::default().with(self.store.clone()),
            metrics: Telemetry::default().component(labels),
        };
        let mut sink = plan.build(context).unwrap();
        let Staged { work, carry } = staged.cloned().unwrap_or_default();
        world.runtime.block_on(async {
            if !work.is_empty() {
                sink.commit(mark, &work).await.unwrap();
            }
            sink.restore(&carry).await.unwrap();
        });
        self.sinks.insert(node.id.clone(), sink);
    }

    fn restore(&mut self, states: &States, now: i64) {
        self.graph.set_now(now);
        let dropped = self.graph.restore(&self.case.pipeline, states);
        assert!(dropped.is_empty(), "{dropped:?}\n{}", self.case.text);
        let again = self.states();
        assert!(again == *states, "a state is another one once restored\n{}", self.case.text);
    }

    fn states(&mut self) -> States {
        self.graph.snapshot().unwrap()
    }

    /// Reads on to the end; gives the states there.
    fn go_on(
        &mut self,
        world: &mut World<'a>,
        random: &mut Random,
        joins: i64,
        totals: &mut Totals,
    ) -> Result<States, Death> {
        while let Some(step) = self.case.steps.get(self.position) {
            self.take(world, step, !random.chance(joins));
            if self.checkpoint.is_some() && random.chance(40) {
                self.finish(world, random)?;
            }
            // The last tick is the mark of the end: there is one checkpoint at a mark.
            if matches!(step, Step::Tick(_)) && self.position < self.case.steps.len() {
                match random.range(0, 20) {
                    0..4 => {
                        self.finish(world, random)?;
                        let staged = self.stage(world, &[]);
                        let states = self.states();
                        self.checkpoint = Some(self.describe(states, staged));
                        totals.checkpoints += 1;
                    }
                    4 | 5 => {
                        self.finish(world, random)?;
                        self.swap(world, random)?;
                        totals.swaps += 1;
                    }
                    _ => {}
                }
            }
            die(random, 3)?;
        }
        self.finish(world, random)?;
        let states = self.states();
        // The end is that of a pipeline which is removed.
        self.flush(world);
        let all: Vec<Arc<str>> = self.sinks.keys().cloned().collect();
        let staged = self.stage(world, &all);
        self.save(world, states.clone(), staged.clone());
        self.commit(world, &staged, random, 0)?;
        Ok(states)
    }

    /// Takes one entry in. `cut`: rows before it and behind it are not joined with it.
    fn take(&mut self, world: &mut World, step: &Step, cut: bool) {
        self.position += 1;
        match step {
            Step::Data(data) => {
                for (output, batch) in self.decode(data) {
                    if !self.graph.reads(data.source, output) {
                        continue;
                    }
                    let Joining { source, output: of, .. } = self.joining;
                    let other = (source, of) != (data.source, output);
                    if other || cut || !self.graph.joinable() {
                        self.push(world);
                        self.joining.source = data.source;
                        self.joining.output = output;
                    }
                    self.joining.batches.push(batch);
                }
                if cut {
                    self.push(world);
                }
            }
            Step::Tick(Time { time, elapsed }) => {
                self.push(world);
                self.tick = Tick {
                    time: *time,
                    elapsed: *elapsed,
                    offset: self.position as u64,
                    watermark: self.tick.watermark.max(*time),
                    step: 0,
                };
                let mut to_sinks = Vec::new();
                self.graph.tick(self.tick, &mut to_sinks);
                self.send(world, to_sinks);
            }
        }
    }

    fn decode(&self, data: &Data) -> Vec<(&'static str, Batch)> {
        let (decoder, entities) = &self.decoders[data.source];
        let head = EntryHead { received: data.received, envelope: &data.envelope };
        let decoded = intake::decode_guarded(&**decoder, &head, &data.payload, entities).unwrap();
        let batches = intake::batches(&data.source.into(), data.received, decoded).unwrap();
        batches.into_iter().map(|(o, b)| (o, b.with_offset(self.position as u64))).collect()
    }

    /// As the loop of a pipeline does.
    fn push(&mut self, world: &mut World) {
        let Joining { source, output, batches } = std::mem::take(&mut self.joining);
        if batches.is_empty() {
            return;
        }
        let mut to_sinks = Vec::new();
        match Batch::join(&batches) {
            Some(batch) => self.graph.push(source, output, &batch, &mut to_sinks),
            None => {
                for batch in &batches {
                    self.graph.push(source, output, batch, &mut to_sinks);
                }
            }
        }
        self.send(world, to_sinks);
    }

    fn send(&mut self, world: &mut World, to_sinks: Vec<ToSink>) {
        for ToSink { node, batch } in to_sinks {
            if let Some(sink) = self.sinks.get_mut(&self.case.pipeline.nodes[node].id) {
                world.runtime.block_on(sink.write(batch)).unwrap();
            }
        }
        for captured in self.graph.captured() {
            // Not a result: by it a rule that begins anew tells the router what it holds.
            if captured.output == "held" {
                continue;
            }
            let name = match captured.output.as_str() {
                "" => captured.id,
                output => format!("{}.{output}", captured.id),
            };
            let rows = lines(&captured.batch).into_iter().map(|line| (self.position, line));
            world.seen.entry(name).or_default().extend(rows);
        }
    }

    fn flush(&mut self, world: &mut World) {
        self.push(world);
        let mut to_sinks = Vec::new();
        self.graph.flush(self.tick, &|_| true, &mut to_sinks);
        self.send(world, to_sinks);
    }

    fn stage(&mut self, world: &World, leaving: &[Arc<str>]) -> BTreeMap<String, Staged> {
        let mark = self.position as u64;
        let stage = |(id, sink): (&Arc<str>, &mut Box<dyn Sink>)| {
            let staged = world.runtime.block_on(sink.stage(mark, leaving.contains(id)));
            (id.to_string(), staged.unwrap())
        };
        self.sinks.iter_mut().map(stage).collect()
    }

    fn describe(&self, states: States, sinks: BTreeMap<String, Staged>) -> Checkpoint {
        Checkpoint {
            pipeline: self.case.pipeline.name.to_string(),
            plan: self.case.pipeline.hash.clone(),
            journal: JOURNAL,
            position: self.position as u64,
            now: self.tick.time,
            watermark: self.tick.watermark,
            states,
            sinks,
            ..Checkpoint::default()
        }
    }

    fn save(&self, world: &World, states: States, sinks: BTreeMap<String, Staged>) {
        world.checkpoints.save(&self.describe(states, sinks)).unwrap();
    }

    /// Renames the checkpoint that is under way into place, if there is one; then commits.
    fn finish(&mut self, world: &World, random: &mut Random) -> Result<(), Death> {
        let Some(checkpoint) = self.checkpoint.take() else { return Ok(()) };
        die(random, 5)?;
        world.checkpoints.save(&checkpoint).unwrap();
        self.commit_at(world, checkpoint.position, &checkpoint.sinks, random, 5)
    }

    fn commit(
        &mut self,
        world: &World,
        staged: &BTreeMap<String, Staged>,
        random: &mut Random,
        percent: i64,
    ) -> Result<(), Death> {
        self.commit_at(world, self.position as u64, staged, random, percent)
    }

    fn commit_at(
        &mut self,
        world: &World,
        mark: u64,
        staged: &BTreeMap<String, Staged>,
        random: &mut Random,
        percent: i64,
    ) -> Result<(), Death> {
        for (id, Staged { work, .. }) in staged.iter().filter(|(_, s)| !s.work.is_empty()) {
            die(random, percent)?;
            let sink = self.sinks.get_mut(id.as_str()).unwrap();
            world.runtime.block_on(sink.commit(mark, work)).unwrap();
        }
        die(random, percent)
    }

    /// A reload: everything is built anew, some sinks too.
    fn swap(&mut self, world: &World, random: &mut Random) -> Result<(), Death> {
        let leaving: Vec<Arc<str>> =
            self.sinks.keys().filter(|_| random.chance(60)).cloned().collect();
        let staged = self.stage(world, &leaving);
        let states = self.states();
        die(random, 5)?;
        self.save(world, states.clone(), staged.clone());
        self.commit(world, &staged, random, 5)?;
        let nodes = self.case.pipeline.nodes.iter();
        for node in nodes.filter(|n| leaving.contains(&n.id)) {
            self.start_sink(world, node, 0, None);
        }
        self.graph = build(self.case);
        self.restore(&states, self.tick.time);
        let carried = staged.into_iter();
        let carried = carried.map(|(id, s)| (id, Staged { work: Vec::new(), carry: s.carry }));
        self.save(world, states, carried.collect());
        Ok(())
    }

    /// Files that tables list.
    fn files(&self) -> u64 {
        self.store.tables(TENANT).iter().map(|t| t.snapshot().files().len() as u64).sum()
    }

    fn observe(&self, world: World, states: &States) -> Observed {
        let options =
            QueryOptions { threads: 1, ..QueryOptions::new(256 << 20, world.folder.join("spill")) };
        let queries = Queries::new(self.store.clone(), options).unwrap();
        let rows = |table: &str| {
            let sql = format!("SELECT * FROM \"{table}\"");
            world.runtime.block_on(async {
                let mut answer = queries.query(TENANT, &sql).await.unwrap();
                answer.collect().await.unwrap()
            })
        };
        let mut tables = Lines::new();
        for table in self.store.tables(TENANT) {
            let rows = rows(table.name());
            let mut lines: Vec<String> = rows.iter().flat_map(cells).collect();
            lines.sort();
            let types = rows.first().map(types).unwrap_or_default();
            tables.insert(table.name().to_string(), [types, lines].concat());
        }
        let state = |bytes: &[u8]| bytes.chunks(64).map(|c| format!("{c:02x?}")).collect();
        let states = states.iter().map(|(id, s)| (id.clone(), state(&s.bytes)));
        Observed { edges: world.lines(), tables, states: states.collect() }
    }
}

fn build(case: &Case) -> Graph {
    let taps = Arc::new(Taps::default());
    let mut graph = Graph::build(&case.pipeline, &Telemetry::default(), taps);
    graph.capture();
    graph
}

fn die(random: &mut Random, percent: i64) -> Result<(), Death> {
    if random.chance(percent) { Err(Death) } else { Ok(()) }
}

/// Rows with the place that they come from.
fn lines(batch: &Batch) -> Vec<String> {
    let runs = batch.runs().iter();
    let places = runs.flat_map(|r| (0..r.rows).map(|_| format!("{}@{}", r.offset, r.received)));
    let cells = cells(&batch.wide().unwrap());
    places.zip(cells).map(|(place, cells)| format!("{place} {cells}")).collect()
}

/// Columns with their types, sorted.
fn types(rows: &RecordBatch) -> Vec<String> {
    let schema = rows.schema();
    let fields = schema.fields().iter();
    let mut types: Vec<String> =
        fields.map(|f| format!("{} {}", f.name(), f.data_type())).collect();
    types.sort();
    types
}

/// Rows as `name=value`, NULLs left out.
fn cells(rows: &RecordBatch) -> Vec<String> {
    let schema = rows.schema();
    let mut columns: Vec<_> =
        schema.fields().iter().map(|f| f.name()).zip(rows.columns()).collect();
    columns.sort_by_key(|(name, _)| *name);
    let row = |i: usize| {
        let cells = columns.iter().filter(|(_, array)| array.is_valid(i));
        let cells = cells.map(|(n, a)| format!("{n}={}", array_value_to_string(a, i).unwrap()));
        cells.collect::<Vec<_>>().join(" ")
    };
    (0..rows.num_rows()).map(row).collect()
}
