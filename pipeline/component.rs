//! What a component is: the rows of the tables in `sources`, `operators`, `sinks`, and the traits
//! behind them. The engine knows no concrete component; it is handed a [`Components`].
//!
//! Planning is pure and proves everything (addresses parsed, VRL compiled, SQL parsed). Building
//! and running follow it, and are the only steps that touch the world.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::future::BoxFuture;

use crate::backlog::Policy;
use crate::batch::{Batch, Keys};
use crate::config::{Scope, Section};
use crate::diagnostic::Diagnostics;
use crate::edge::Edge;
use crate::entity::EntitySpace;
use crate::intake::Intake;
use crate::journal::Envelope;
use crate::listen::Listeners;
use crate::lookup::LookupPlan;
use crate::signal::Signal;
use crate::telemetry::ComponentMetrics;

/// The tables of everything that a pipeline file can name.
#[derive(Clone, Copy)]
pub struct Components {
    /// `sources/lib.rs`.
    pub sources: &'static [SourceKind],
    /// `operators/lib.rs`.
    pub operators: &'static [OperatorKind],
    /// `sinks/lib.rs`.
    pub sinks: &'static [SinkKind],
    /// What `[lookups.*]` can be, of `sources/lib.rs`.
    pub lookups: &'static [LookupKind],
    /// `[alerts.*]`: an operator whose main output is a stream of transitions.
    pub alert: &'static OperatorKind,
    /// Takes the transitions of all alerts of a pipeline to the router.
    pub router: &'static SinkKind,
    /// Type of the sink that takes rows of `.errors` that nobody reads (table `weir_errors`).
    pub errors: &'static str,
}

/// What a component says of itself; what `list`, `describe` and the reference pages show.
#[derive(Clone, Copy)]
pub struct Kind<P: ?Sized + 'static> {
    /// `type` in TOML, file name, metric label.
    pub name: &'static str,
    /// One line: what it does.
    pub about: &'static str,
    /// Source text of its module, whose leading `//!` lines are its reference page.
    pub source: &'static str,
    /// JSON schema of its own keys (not of `type`, `inputs` and the like).
    pub schema: fn() -> schemars::Schema,
    /// From what was written to what is proved. No I/O but through `scope`.
    pub plan: fn(&Section, &Scope) -> Result<Box<P>, Diagnostics>,
}

/// A row of `sources/lib.rs`.
pub type SourceKind = Kind<dyn SourcePlan>;
/// A row of `operators/lib.rs`.
pub type OperatorKind = Kind<dyn OperatorPlan>;
/// A row of `sinks/lib.rs`.
pub type SinkKind = Kind<dyn SinkPlan>;
/// A row of the table of lookups in `sources/lib.rs`.
pub type LookupKind = Kind<dyn LookupPlan>;

impl<P: ?Sized> Kind<P> {
    /// The reference text: the module's leading `//!` lines.
    pub fn doc(&self) -> String {
        module_doc(self.source)
    }
}

/// The leading `//!` lines of a module's source text.
pub fn module_doc(source: &str) -> String {
    let lines = source.lines().take_while(|l| l.starts_with("//!"));
    lines.map(|l| l[3..].strip_prefix(' ').unwrap_or(&l[3..])).fold(String::new(), |mut s, l| {
        s.push_str(l);
        s.push('\n');
        s
    })
}

/// One output of a node, as planned.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputPlan {
    /// Empty for the main output, else what stands behind the dot in `id.output`.
    pub name: &'static str,
    /// What flows there.
    pub edge: Edge,
}

// --- sources -------------------------------------------------------------------------------

/// A source as proved from its configuration.
pub trait SourcePlan: Debug + Send + Sync {
    /// For the running source, which reads its settings back out of the plan.
    fn as_any(&self) -> &dyn Any;
    /// What `inputs` can name. A source has no main output unless it says so.
    fn outputs(&self) -> Vec<OutputPlan>;
    /// The sockets it needs; the engine binds them before a reload's mark.
    fn listens(&self) -> Vec<Listen>;
    /// Entry to batches. Pure: the same entry gives the same batches, whatever the time.
    fn decoder(&self) -> Arc<dyn Decoder>;
    /// If it reads what can be read again: how its rows are told apart by partition, each of which
    /// has an event time up to which it is complete. `None` for what is sent: that is complete up to
    /// the clock.
    fn partitioned(&self) -> Option<Partitioned> {
        None
    }
    /// Takes in data until `context.stop` is cancelled, then finishes what it has accepted.
    /// Lives across reloads: it watches `context.settings` and swaps behind open sockets.
    fn run(&self, context: SourceContext) -> BoxFuture<'static, ()>;
}

/// See [`SourcePlan::partitioned`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partitioned {
    /// Columns that together name a partition.
    pub columns: &'static [&'static str],
    /// A partition that gives nothing for this long of running time holds nobody up, nanoseconds.
    pub idle: i64,
}

/// A socket that a source needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listen {
    /// A listening TCP socket.
    Tcp(SocketAddr),
    /// A bound UDP socket.
    Udp(SocketAddr),
}

/// Pure decoding of one journal entry.
pub trait Decoder: Send + Sync {
    /// Turns the payload of one entry into rows. `entities` is where rows find or make their
    /// entities; take one table from it and use that for the whole entry.
    ///
    /// # Errors
    /// If nothing of the payload can be used. Rows that alone are bad are counted in
    /// [`Decoded::rejected`] instead.
    fn decode(
        &self,
        head: &EntryHead<'_>,
        payload: &Bytes,
        entities: &EntitySpace,
    ) -> Result<Decoded, DecodeError>;
}

/// What a decoder may know of an entry besides its payload.
#[derive(Clone, Copy, Debug)]
pub struct EntryHead<'a> {
    /// When it was received, UTC nanoseconds.
    pub received: i64,
    /// How it arrived.
    pub envelope: &'a Envelope,
}

/// Rows of one entry.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// At most one per output.
    pub batches: Vec<DecodedBatch>,
    /// Rows that were left out, and why.
    pub rejected: Vec<Rejected>,
    /// Whether the same payload again adds nothing: its rows have their own times, and whoever
    /// asks for one of them does not want it twice. A sender that repeats it because it got no
    /// answer is answered without a second entry then. Not for logs: two equal lines are two lines.
    pub idempotent: bool,
}

/// Rows of one entry for one output.
#[derive(Clone, Debug)]
pub struct DecodedBatch {
    /// Name of the output.
    pub output: &'static str,
    /// What kind of telemetry.
    pub signal: Signal,
    /// Row columns.
    pub rows: RecordBatch,
    /// Entity of each row.
    pub entities: Option<Keys>,
}

/// Rows of an otherwise good entry that were left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// How many.
    pub rows: u64,
    /// A short word for the metric label (`too_wide`, `bad_id`).
    pub reason: &'static str,
    /// For the sender and for `weir status`: what is wrong, with a sample.
    pub message: String,
}

/// Why a payload was refused whole. It is answered to the sender and not journaled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    /// A short word for the metric label (`malformed`, `too_large`, `encoding`).
    pub reason: &'static str,
    /// What is wrong, and where.
    pub message: String,
}

impl DecodeError {
    /// A refused payload.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What a running source works with.
#[derive(Clone)]
pub struct SourceContext {
    /// Source id.
    pub id: Arc<str>,
    /// The plan in force; changes at a reload. The generation of the settings goes into each
    /// entry, so that replay decodes with the settings that received it.
    pub settings: tokio::sync::watch::Receiver<Arc<SourceSettings>>,
    /// Sockets; they outlive generations of settings.
    pub listeners: Arc<Listeners>,
    /// Where data goes in.
    pub intake: Intake,
    /// Cancelled when the source shall stop.
    pub stop: tokio_util::sync::CancellationToken,
}

/// One generation of a source's settings.
#[derive(Debug)]
pub struct SourceSettings {
    /// Grows by one at each change of this source.
    pub generation: u32,
    /// What was planned; downcast by [`SourcePlan::as_any`].
    pub plan: Arc<dyn SourcePlan>,
}

// --- operators -----------------------------------------------------------------------------

/// An operator as proved from its configuration.
pub trait OperatorPlan: Debug + Send + Sync {
    /// The main output first. `.errors` is the engine's and not listed.
    fn outputs(&self) -> Vec<OutputPlan>;
    /// Names of the columns that it reads, as far as they can be told: `weir status` names those
    /// that no row has had.
    fn columns(&self) -> Vec<String>;
    /// What must be equal for the state of one plan to be taken over by another; `None` if it
    /// keeps no state.
    fn state_shape(&self) -> Option<String>;
    /// How far back in time that lies which decides what it gives now, nanoseconds: 0 if it keeps
    /// no state. How long a replay runs before its first row counts follows from it.
    fn reach(&self) -> i64;
    /// A fresh one, without state.
    fn build(&self) -> Box<dyn Operator>;
}

/// A deterministic function of what it is given: it never reads the clock, the network or a
/// random number.
pub trait Operator: Send {
    /// Takes one batch of the input at index `input` (the order of `inputs`).
    ///
    /// # Errors
    /// If the whole batch cannot be processed: the engine sends it to `.errors`. Single bad rows
    /// go there by [`Output::reject`].
    fn process(
        &mut self,
        input: usize,
        batch: Batch,
        out: &mut Output,
    ) -> Result<(), OperatorError>;

    /// Time moved on: the only place where windows emit and timers fire.
    fn tick(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError>;

    /// The event time up to which its outputs are complete, given that of its inputs (their
    /// minimum). Stateless operators give it back.
    fn watermark(&self, inputs: i64) -> i64;

    /// State as bytes that [`Operator::restore`] takes; the same state gives the same bytes.
    fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError>;

    /// Takes over what an operator of the same [`OperatorPlan::state_shape`] saved.
    fn restore(&mut self, state: &[u8]) -> Result<(), OperatorError>;

    /// The operator is being removed: emit what is held (open windows, `resolved` with reason
    /// `removed`).
    fn flush(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError>;
}

/// A point in the journal that carries time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// Wall time, UTC nanoseconds. It follows the clock of the machine, also backwards.
    pub time: i64,
    /// Nanoseconds that Weir has been running in all; never goes back, whatever the wall clock
    /// does. Timers (`for`, `idle`, `resolve_after`) count in it.
    pub elapsed: i64,
    /// Journal offset of the tick.
    pub offset: u64,
    /// Event time up to which the inputs of this operator are complete (their minimum), UTC
    /// nanoseconds; `i64::MIN` before anything is known. For push sources it is
    /// the wall time of the tick: rows cannot move it.
    pub watermark: i64,
    /// By how much the wall clock was set since the tick before, nanoseconds; 0 if it just ran.
    /// After a step back the watermark goes back with it, the only time that it does.
    pub step: i64,
}

/// Why an operator could not go on with a batch.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct OperatorError {
    /// What went wrong.
    pub reason: String,
    /// Where in the program or file (`pipelines.d/shop.toml:12:3`), if known.
    pub place: Option<String>,
}

impl OperatorError {
    /// Without a place.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), place: None }
    }
}

impl From<arrow::error::ArrowError> for OperatorError {
    fn from(e: arrow::error::ArrowError) -> Self {
        Self::new(e.to_string())
    }
}

/// Collects what an operator emits, in order.
#[derive(Debug, Default)]
pub struct Output {
    /// (output name, batch), the main output being "".
    pub emitted: Vec<(&'static str, Batch)>,
    /// Rows for `.errors`, each batch with the reason of each row.
    pub rejected: Vec<(Batch, Vec<OperatorError>)>,
    /// Rows that the operator dropped on purpose (filter, `abort`), for the metric.
    pub dropped: u64,
    /// What `now` means here: wall time of the last tick, UTC nanoseconds. Set by the engine.
    pub now: i64,
}

impl Output {
    /// Emits on the main output.
    pub fn emit(&mut self, batch: Batch) {
        self.emit_to("", batch);
    }

    /// Emits on the output `name`. Empty batches vanish.
    pub fn emit_to(&mut self, name: &'static str, batch: Batch) {
        if batch.num_rows() > 0 {
            self.emitted.push((name, batch));
        }
    }

    /// Sends rows to `.errors`: one error per row of `batch`.
    pub fn reject(&mut self, batch: Batch, errors: Vec<OperatorError>) {
        if batch.num_rows() > 0 {
            self.rejected.push((batch, errors));
        }
    }
}

// --- sinks ---------------------------------------------------------------------------------

/// A sink as proved from its configuration.
pub trait SinkPlan: Debug + Send + Sync {
    /// A running one. Connects lazily: a dead peer is no reason to fail here.
    ///
    /// # Errors
    /// If a service that it needs is missing.
    fn build(&self, context: SinkContext) -> Result<Box<dyn Sink>, SinkError>;

    /// The table that it writes to, if that is what it does: people know its rows by this name.
    fn table(&self) -> Option<&str> {
        None
    }

    /// What happens, if its section says nothing else, when it lags further behind than it may:
    /// what goes to the outside is skipped, Weir's own tables and alerts must miss nothing.
    fn past_backlog(&self) -> Policy {
        Policy::Skip
    }
}

/// Takes batches out of a pipeline: stages, then commits.
///
/// `write` calls between two `stage` calls are one epoch. The engine saves what `stage` gives in
/// a checkpoint, and only then calls `commit`.
pub trait Sink: Send {
    /// Takes one batch. The store shows it to readers at once; other sinks may send it now
    /// (at-least-once) or hold it until `commit`.
    fn write(&mut self, batch: Batch) -> BoxFuture<'_, Result<(), SinkError>>;

    /// All rows up to the tick at this offset have been written. Ticks stand in the journal, so
    /// what is sent between two of them is the same in every replay: requests to the outside are
    /// cut and named by them.
    fn tick(&mut self, offset: u64) -> BoxFuture<'_, Result<(), SinkError>>;

    /// Makes everything written so far durable on this side, outside what readers of the
    /// destination see as committed. `last`: the sink is going away, nothing may be carried on.
    fn stage(&mut self, mark: u64, last: bool) -> BoxFuture<'_, Result<Staged, SinkError>>;

    /// Makes the work staged at `mark` visible. Idempotent by (pipeline, sink, mark): recovery
    /// repeats it.
    fn commit(&mut self, mark: u64, work: &[u8]) -> BoxFuture<'_, Result<(), SinkError>>;

    /// Takes back what an earlier instance carried on in its checkpoint. Before any `write`.
    fn restore(&mut self, carry: &[u8]) -> BoxFuture<'_, Result<(), SinkError>>;
}

/// What a sink saved at a mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Staged {
    /// What `commit` needs (names of staged files, for instance); empty if nothing is to commit.
    pub work: Vec<u8>,
    /// What goes on into the next epoch (a few rows too small for a file).
    pub carry: Vec<u8>,
}

/// What a running sink works with.
#[derive(Clone)]
pub struct SinkContext {
    /// Journal id; with pipeline, sink and mark it names a commit.
    pub journal: u128,
    /// Pipeline name.
    pub pipeline: Arc<str>,
    /// Sink id.
    pub sink: Arc<str>,
    /// Handles that the program offers (the store, the router), by type.
    pub services: Services,
    /// Its counters.
    pub metrics: Arc<ComponentMetrics>,
}

/// Handles by type, so that the engine need not know what sinks and alerts work with.
#[derive(Clone, Default)]
pub struct Services(Arc<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl Services {
    /// Adds a handle; at start only.
    #[must_use]
    pub fn with<T: Any + Send + Sync>(self, service: Arc<T>) -> Self {
        let mut map = (*self.0).clone();
        map.insert(TypeId::of::<T>(), service);
        Self(Arc::new(map))
    }

    /// The handle of type `T`.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.get(&TypeId::of::<T>())?.clone().downcast().ok()
    }
}

/// Why a sink could not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    /// What went wrong.
    pub message: String,
    /// Whether trying again may help.
    pub retry: bool,
}

impl SinkError {
    /// An error worth another try.
    pub fn transient(message: impl Into<String>) -> Self {
        Self { message: message.into(), retry: true }
    }

    /// An error that stays.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self { message: message.into(), retry: false }
    }
}
