//! Plans queries and lets a few run at a time, each on threads of its own, within a memory and a
//! time limit.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use datafusion::catalog::MemTable;
use datafusion::common::{DataFusionError, TableReference};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder, SessionStateDefaults};
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::optimizer::Analyzer;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser;
use futures::StreamExt;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weir_pipeline::config::Stores;
use weir_pipeline::intake::now;

use super::answer::{Answer, Parcel};
use super::bounds::bounded;
use super::catalog::{COLUMNS, TABLES, TableInfo, Tables};
use super::coerce::{TextAsNumber, TextAsNumberInLists};
use super::cost::Costs;
use super::foreign::Foreign;
use super::names::{Resolved, resolve};
use super::run::{Bounds, Outcome, Threads, met_a_bug, supervise};
use super::scan::{Caches, GroupWhileScanning, ScanTable};
use super::stop::stoppable;
use super::{QueryError, guard};
use crate::store::Store;

/// Batches that wait for a slow client.
const AHEAD_BATCHES: usize = 2;
/// Largest consumers named when memory runs out.
const CONSUMERS_NAMED: usize = 3;

/// How queries run.
#[derive(Clone, Debug)]
pub struct QueryOptions {
    /// Threads of each query.
    pub threads: usize,
    /// Memory that all queries may hold together, in bytes.
    pub memory_bytes: usize,
    /// Footers, answers to conditions over entities and groups of slices that are kept, in bytes.
    /// 128 MiB: some thousand files, and a few dashboards.
    pub cache_bytes: usize,
    /// Folder for what does not fit; emptied of leftovers by whoever owns it.
    pub spill: PathBuf,
    /// Most bytes there.
    pub spill_bytes: u64,
    /// Longest time that one query may take, waiting included.
    pub timeout: Duration,
    /// Queries that run at a time.
    pub running_max: usize,
    /// Queries that wait; further ones are refused.
    pub waiting_max: usize,
    /// Most rows of an answer.
    pub rows_max: u64,
    /// Most bytes of an answer, as Arrow.
    pub bytes_max: u64,
}

impl QueryOptions {
    /// Defaults for a machine with `memory_bytes` for queries, spilling to `spill`.
    pub fn new(memory_bytes: usize, spill: PathBuf) -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            memory_bytes,
            cache_bytes: 128 << 20,
            spill,
            spill_bytes: 10 << 30,
            timeout: Duration::from_secs(60),
            running_max: 8,
            waiting_max: 64,
            rows_max: 10_000_000,
            bytes_max: 4 << 30,
        }
    }
}

/// Answers queries over the tables of a store.
pub struct Queries {
    store: Arc<Store>,
    options: QueryOptions,
    /// Watches over the queries and runs none, so that it always has time. Taken when this is
    /// dropped: a runtime must not be dropped by one of its own threads.
    supervisor: Option<Runtime>,
    environment: Arc<RuntimeEnv>,
    caches: Caches,
    foreign: Foreign,
    pub(super) running: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl std::fmt::Debug for Queries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queries({} waiting)", self.waiting.load(Relaxed))
    }
}

impl Drop for Queries {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.shutdown_background();
        }
    }
}

impl Queries {
    /// Starts what watches over queries.
    ///
    /// # Errors
    /// If a thread cannot be started or the spill folder cannot be used.
    pub fn new(store: Arc<Store>, options: QueryOptions) -> io::Result<Arc<Self>> {
        let supervisor = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("queries")
            .enable_time()
            .build()?;
        std::fs::create_dir_all(&options.spill)?;
        let top =
            std::num::NonZeroUsize::new(CONSUMERS_NAMED).unwrap_or(std::num::NonZeroUsize::MIN);
        let pool = TrackConsumersPool::new(FairSpillPool::new(options.memory_bytes), top);
        let disk = DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![options.spill.clone()]))
            .with_max_temp_directory_size(options.spill_bytes);
        let environment = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(pool))
            .with_disk_manager_builder(disk)
            .build_arc()
            .map_err(io::Error::other)?;
        Ok(Arc::new(Self {
            store,
            supervisor: Some(supervisor),
            environment,
            caches: Caches::new(options.cache_bytes),
            foreign: Foreign::default(),
            running: Arc::new(Semaphore::new(options.running_max.max(1))),
            waiting: AtomicUsize::new(0),
            options,
        }))
    }

    /// From now on tables of these stores can be named, too. Queries that run have the ones before.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn set_stores(&self, stores: &Stores) -> io::Result<()> {
        self.foreign.set(stores)
    }

    /// Tables of a tenant, by name, with their columns.
    pub fn tables(&self, tenant: &str) -> Vec<TableInfo> {
        Tables::new(self.store.clone(), tenant).list()
    }

    /// Answers one read-only statement. Returns once the first rows are ready to be read or the
    /// query has ended or failed before that.
    ///
    /// # Errors
    /// As [`QueryError`]; errors after the first rows come as the last item of the answer.
    pub async fn query(self: &Arc<Self>, tenant: &str, sql: &str) -> Result<Answer, QueryError> {
        let limit = self.options.timeout;
        let deadline = Instant::now() + limit;
        let statement = guard::parse(sql)?;
        let place = self.admit(deadline).await?;
        let stop = CancellationToken::new();
        let ends = stop.clone().drop_guard();
        let (ready, started) = oneshot::channel();
        let (sender, batches) = mpsc::channel(AHEAD_BATCHES);
        let (end, mut ended) = oneshot::channel();
        let threads = Threads::start(self.options.threads.max(1), place)
            .map_err(|e| QueryError::Failed(format!("no threads for the query: {e}")))?;
        let (this, tenant, stopped) = (self.clone(), tenant.to_owned(), stop.clone());
        let output = Output { ready: Some(ready), sender };
        let work = async move { this.run(&tenant, statement, &stopped, output).await };
        let work = threads.spawn(work).ok_or_else(met_a_bug)?;
        let Some(supervisor) = &self.supervisor else {
            return Err(QueryError::Failed("the server is stopping".into()));
        };
        supervisor.spawn(supervise(threads, work, Bounds { stop, deadline, limit }, end));
        tokio::select! {
            biased;
            Ok(Started { schema, warnings, costs }) = started => {
                let end = Some(ended);
                Ok(Answer { schema, warnings, costs, batches, held: None, end, _stop: ends })
            }
            outcome = &mut ended => match outcome {
                Ok(Err(e)) => Err(e),
                _ => Err(met_a_bug()),
            },
        }
    }

    /// Waits for a place among the running queries.
    async fn admit(
        &self,
        deadline: Instant,
    ) -> Result<tokio::sync::OwnedSemaphorePermit, QueryError> {
        if let Ok(permit) = self.running.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let place =
            Waiting::take(&self.waiting, self.options.waiting_max).ok_or(QueryError::Busy {
                running: self.options.running_max,
                waiting: self.options.waiting_max,
            })?;
        let permit = tokio::time::timeout_at(deadline, self.running.clone().acquire_owned()).await;
        drop(place);
        match permit {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(QueryError::Failed("the server is stopping".into())),
            Err(_) => Err(QueryError::Timeout { limit: self.options.timeout }),
        }
    }

    /// Plans and executes; an error before the first row is the whole answer.
    async fn run(
        self: Arc<Self>,
        tenant: &str,
        statement: sqlparser::ast::Statement,
        stop: &CancellationToken,
        mut output: Output,
    ) -> Outcome {
        let costs = Arc::new(Costs::default());
        let (warnings, mut stream) = self.plan(tenant, statement, &costs, stop).await?;
        let waiting = MemoryConsumer::new("rows on their way to the client");
        let waiting = waiting.register(&self.environment.memory_pool);
        let mut started = Some(Started { schema: stream.schema(), warnings, costs });
        let (mut rows, mut bytes) = (0_u64, 0_u64);
        loop {
            let batch = stream.next().await.transpose().map_err(failed)?;
            if let Some(batch) = &batch {
                rows += batch.num_rows() as u64;
                bytes += batch.get_array_memory_size() as u64;
            }
            for (n, limit, unit) in
                [(rows, self.options.rows_max, "rows"), (bytes, self.options.bytes_max, "bytes")]
            {
                if n > limit {
                    return Err(QueryError::TooLarge { limit, unit });
                }
            }
            if let (Some(ready), Some(started)) = (output.ready.take(), started.take())
                && ready.send(started).is_err()
            {
                return Ok(());
            }
            let Some(batch) = batch else { return Ok(()) };
            let held = waiting.new_empty();
            held.try_grow(batch.get_array_memory_size()).map_err(failed)?;
            if output.sender.send((batch, held)).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn plan(
        &self,
        tenant: &str,
        statement: sqlparser::ast::Statement,
        costs: &Arc<Costs>,
        stop: &CancellationToken,
    ) -> Result<(Vec<String>, SendableRecordBatchStream), QueryError> {
        let tables = Tables::new(self.store.clone(), tenant);
        let seconds = self.options.timeout.as_secs();
        let foreign = self.foreign.named(&statement, |name| tables.has(name), seconds).await?;
        let tables = tables.with(foreign);
        let Resolved { statement, tables: used, warnings } = resolve(statement, &tables)?;
        let context = SessionContext::new_with_state(self.state());
        for (key, table) in used {
            let reference = TableReference::bare(key.clone());
            let provider: Arc<dyn datafusion::catalog::TableProvider> =
                if key == TABLES || key == COLUMNS {
                    let rows = tables.listing(&key).map_err(failed)?;
                    Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]]).map_err(failed)?)
                } else if let Some(foreign) = tables.foreign(&table.table) {
                    foreign
                } else {
                    let snapshot = tables.snapshot(&table.table).ok_or_else(|| {
                        QueryError::Plan(format!("table `{}` is gone", table.table))
                    })?;
                    let (costs, caches) = (costs.clone(), self.caches.clone());
                    Arc::new(ScanTable::new(snapshot, &table, now(), costs, caches))
                };
            context.register_table(reference, provider).map_err(failed)?;
        }
        let state = context.state();
        let logical = state
            .statement_to_plan(Statement::Statement(Box::new(statement)))
            .await
            .map_err(plan_error)?;
        let physical = state.create_physical_plan(&logical).await.map_err(plan_error)?;
        let physical = stoppable(physical, stop).map_err(plan_error)?;
        let stream = execute_stream(physical, context.task_ctx()).map_err(failed)?;
        Ok((warnings, stream))
    }

    /// A session that knows no table yet.
    fn state(&self) -> SessionState {
        let mut config = SessionConfig::new()
            .with_target_partitions(self.options.threads.max(1))
            .with_information_schema(false);
        let options = config.options_mut();
        options.sql_parser.enable_ident_normalization = false;
        options.sql_parser.map_string_types_to_utf8view = false;
        options.execution.time_zone = Some("UTC".into());
        let mut planners: Vec<Arc<dyn ExprPlanner>> = vec![Arc::new(TextAsNumber)];
        planners.extend(SessionStateDefaults::default_expr_planners());
        let mut analyzer = Analyzer::new().rules;
        analyzer.insert(0, Arc::new(TextAsNumberInLists));
        let mut scalars = bounded(SessionStateDefaults::default_scalar_functions());
        scalars.extend(weir_udfs::all());
        let mut aggregates = SessionStateDefaults::default_aggregate_functions();
        aggregates.extend(weir_udfs::aggregates());
        SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(self.environment.clone())
            .with_default_features()
            .with_scalar_functions(scalars)
            .with_aggregate_functions(aggregates)
            .with_expr_planners(planners)
            .with_analyzer_rules(analyzer)
            .with_physical_optimizer_rule(Arc::new(GroupWhileScanning))
            // No file format, no factory: nothing but registered tables can be read.
            .with_file_formats(Vec::new())
            .with_table_factories(std::collections::HashMap::new())
            .build()
    }
}

struct Started {
    schema: arrow::datatypes::SchemaRef,
    warnings: Vec<String>,
    costs: Arc<Costs>,
}

/// Where the answer goes.
struct Output {
    /// Taken with the first rows.
    ready: Option<oneshot::Sender<Started>>,
    sender: mpsc::Sender<Parcel>,
}

/// A place in the queue.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn take(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let taken = count.fetch_update(Relaxed, Relaxed, |n| (n < most).then_some(n + 1));
        taken.is_ok().then_some(Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn plan_error(e: DataFusionError) -> QueryError {
    match e.find_root() {
        DataFusionError::ResourcesExhausted(_) | DataFusionError::ArrowError(..) => failed(e),
        root => QueryError::Plan(text(root)),
    }
}

fn failed(e: DataFusionError) -> QueryError {
    match e.find_root() {
        DataFusionError::ResourcesExhausted(why) => QueryError::Memory(why.clone()),
        root => QueryError::Failed(text(root)),
    }
}

/// The error without the words that only name its class.
fn text(e: &DataFusionError) -> String {
    e.strip_backtrace().to_string()
}
