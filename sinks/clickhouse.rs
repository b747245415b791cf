//! `clickhouse` sink: inserts rows into a table of ClickHouse, which it creates and widens.
//!
//! ```toml
//! [sinks.warehouse]
//! type = "clickhouse"
//! inputs = ["otlp.logs"]
//! endpoint = "http://127.0.0.1:8123"
//! table = "logs"
//! retention = "30d"
//! auth = { basic = { username = "weir", password = "env:CLICKHOUSE_PASSWORD" } }
//! ```
//!
//! Columns have the names that they have everywhere (`service.name`). Those that the table lacks are
//! added when a row first has them; one that is too narrow for what comes is widened: an integer to a
//! double, anything to text. Columns of other types, in a table that is somebody else's, get what
//! ClickHouse makes of the values. Texts that are the same for all rows of an entity, and the likes of
//! `severity`, are `LowCardinality`; times are `DateTime64(9)`, lists `Array(String)`, histograms
//! JSON. Columns are `Nullable`, but for those of `order_by`, where NULL is the empty text.
//!
//! | key | default | |
//! |---|---|---|
//! | `endpoint` | | URL of the HTTP interface |
//! | `database` | `default` | created if it is missing |
//! | `table` | | |
//! | `create` | `true` | create the table, add and widen columns; else values that fit no column are left out, counted |
//! | `order_by` | of the signal | columns of the sorting key, which come first |
//! | `partition_by` | `toDate(timestamp)` | SQL, of a table that is created |
//! | `retention` | none | `TTL` of rows, of a table that is created |
//! | `engine` | `MergeTree` | of a table that is created, `ReplicatedMergeTree` for instance |
//! | `cluster` | none | statements that create and alter go `ON CLUSTER` |
//! | `timeout` | `30s` | for one request |
//! | `tls`, `auth` | | of the client; secrets are read at each request |
//!
//! Rows go in blocks, by `INSERT ... FORMAT ArrowStream`: at a tick, once there are 50,000 rows or
//! 16 MiB, or the first has waited for 25 ticks (5 s while data flows, 25 s else). What waits is in the
//! checkpoint. A row without a time gets that of its receipt.
//!
//! Delivery: exactly once, by the `insert_deduplication_token` of each block: journal, pipeline, sink
//! and tick. The same rows have the same token in every replay, and a table that Weir creates remembers
//! those of 1,000 blocks. Of another table the log says once whether it remembers none; then it is at
//! least once, as it is where a pipeline is renamed, or `table` changed, while the sink is detached.
//! What fails is tried again, with growing pauses up to 10 s, also where a password or the table is
//! wrong: it can be mended there. Only rows that ClickHouse cannot take as they are (a type, a value, a
//! constraint) are dropped, counted, and said in the log: a block that is refused goes in halves until
//! they are found. Its pipeline waits at most 5 s for a sink that fails; then it is detached and goes
//! on by itself from the journal. Values that fit no column, as that of a key that cannot be widened,
//! are left out, counted.

mod block;
mod connection;
mod table;

use std::sync::Arc;
use std::time::Duration as StdDuration;

use arrow::array::RecordBatch;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{Sink, SinkContext, SinkError, SinkKind, SinkPlan, Staged};
use weir_pipeline::config::{ClientAuth, Duration, Scope, Section, Spanned, TlsClient};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::intake::now;

use self::block::Block;
use self::connection::{Connection, Failure};
use self::table::{Table, TableSettings};

/// The row of the table.
pub(crate) const KIND: SinkKind = SinkKind {
    name: "clickhouse",
    about: "insert rows into a table of ClickHouse",
    source: include_str!("clickhouse.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Rows with which a block is sent at the next tick: ClickHouse likes tens of thousands.
const BLOCK_ROWS: usize = 50_000;
/// Ticks after which a block is sent, however small: about 5 s while data flows.
const BLOCK_TICKS: u32 = 25;
/// Default of `timeout`.
const TIMEOUT: StdDuration = StdDuration::from_secs(30);
/// Bytes of values with which a block is sent at the next tick.
const BLOCK_BYTES: usize = 16 << 20;
/// Requests for one block of which a part is refused: each bad row takes some thirty to be found.
const TRIES_MAX: usize = 1000;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// URL of ClickHouse's HTTP interface.
    endpoint: Spanned<String>,
    /// Database, created if it is missing. Default `default`.
    database: Option<String>,
    /// Table.
    table: Spanned<String>,
    /// Whether to create the table, and to add and widen columns. Default true.
    create: Option<bool>,
    /// Columns of the sorting key. Default: what tells entities apart, then `timestamp`.
    order_by: Option<Spanned<Vec<String>>>,
    /// SQL by which a table that is created is partitioned. Default `toDate(timestamp)`.
    partition_by: Option<String>,
    /// How long a table that is created keeps rows. Default: for ever.
    retention: Option<Spanned<Duration>>,
    /// Engine of a table that is created. Default `MergeTree`.
    engine: Option<String>,
    /// Cluster on which the table is created and altered.
    cluster: Option<String>,
    /// Longest time that a request may take. Default 30 s.
    timeout: Option<Spanned<Duration>>,
    /// TLS to the endpoint.
    tls: Option<TlsClient>,
    /// Credentials for the endpoint.
    #[serde(default)]
    auth: ClientAuth,
}

#[derive(Debug)]
struct ClickHousePlan {
    connection: Arc<connection::Settings>,
    table: Arc<TableSettings>,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn SinkPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let endpoint = Url::parse(&config.endpoint.value).ok();
    let endpoint =
        endpoint.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if endpoint.is_none() {
        let message = "`endpoint` is no URL of `http` or `https`";
        wrong.push(Diagnostic::error("W015", message).at(&section.span(&config.endpoint)));
    }
    for (key, duration) in [("timeout", &config.timeout), ("retention", &config.retention)] {
        if let Some(duration) = duration.as_ref().filter(|d| d.value.0.as_secs() == 0) {
            let message = format!("`{key}` has to be 1 s at least");
            wrong.push(Diagnostic::error("W015", message).at(&section.span(duration)));
        }
    }
    if config.table.value.is_empty() {
        let message = "`table` is empty";
        wrong.push(Diagnostic::error("W015", message).at(&section.span(&config.table)));
    }
    let order_by = match &config.order_by {
        Some(order_by) => order_by.value.clone(),
        None => table::order_by(scope.inputs.first().map(|i| &i.edge.signal)),
    };
    let (Some(endpoint), true) = (endpoint, wrong.0.is_empty()) else { return Err(wrong) };
    let timeout = config.timeout.map_or(TIMEOUT, |t| t.value.0);
    let (tls, auth) = (config.tls, config.auth);
    Ok(Box::new(ClickHousePlan {
        connection: Arc::new(connection::Settings { endpoint, timeout, tls, auth }),
        table: Arc::new(TableSettings {
            database: config.database.unwrap_or_else(|| "default".into()),
            table: config.table.value,
            create: config.create.unwrap_or(true),
            order_by,
            partition_by: config.partition_by.unwrap_or_else(|| "toDate(timestamp)".into()),
            retention_seconds: config.retention.map(|r| r.value.0.as_secs()),
            engine: config.engine.unwrap_or_else(|| "MergeTree".into()),
            cluster: config.cluster,
        }),
    }))
}

impl SinkPlan for ClickHousePlan {
    fn build(&self, context: SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(ClickHouse {
            connection: Connection::new(self.connection.clone()),
            table: Table::new(self.table.clone()),
            context,
            waiting: Block::default(),
            tick: None,
            lacks: false,
        }))
    }
}

struct ClickHouse {
    connection: Connection,
    table: Table,
    context: SinkContext,
    waiting: Block,
    /// The tick that came last, so that one which is tried again counts once.
    tick: Option<u64>,
    /// That values have no column was said.
    lacks: bool,
}

impl ClickHouse {
    /// Sends `block` under the tick at `offset`.
    async fn send(&mut self, block: &Block, offset: u64) -> Result<(), SinkError> {
        match self.insert(block, offset).await {
            Ok(()) => Ok(()),
            Err(Failure::Later(why)) => {
                // What is known of the table may be what is wrong.
                self.table.forget();
                Err(SinkError::transient(why))
            }
            Err(Failure::Never(why)) => {
                self.refused(block.rows() as u64, &why);
                Ok(())
            }
        }
    }

    fn refused(&self, rows: u64, why: &str) {
        let SinkContext { pipeline, sink, metrics, .. } = &self.context;
        metrics.error(rows, "refused", why, now());
        tracing::error!(%pipeline, %sink, rows, error = why, "ClickHouse cannot take rows; they are dropped and counted");
    }

    /// Sends a block; of one that cannot be taken as it is, the parts that can.
    async fn insert(&mut self, block: &Block, offset: u64) -> Result<(), Failure> {
        if block.rows() == 0 {
            return Ok(());
        }
        let SinkContext { journal, pipeline, sink, .. } = &self.context;
        if let Some(note) = self.table.fit(&self.connection, &block.columns()).await? {
            tracing::warn!(%pipeline, %sink, "{note}");
        }
        let (rows, left_out): (RecordBatch, _) = block.joined(self.table.columns())?;
        let token = format!("{journal:032x}/{pipeline}/{sink}/{offset}");
        let mut parts = vec![(rows, token)];
        let (mut tries, mut refused) = (0, 0);
        let mut reason = None;
        while let Some((rows, token)) = parts.pop() {
            tries += 1;
            let sent = match rows.num_columns() {
                0 => Err(Failure::Never("the table has none of the columns".into())),
                _ => {
                    let data = block::arrow_stream(&rows)?;
                    self.connection.insert(self.table.insert(), data, &token).await
                }
            };
            let why = match sent {
                Ok(()) => continue,
                Err(Failure::Never(why)) => why,
                Err(later) => return Err(later),
            };
            let half = rows.num_rows() / 2;
            if half > 0 && rows.num_columns() > 0 && tries < TRIES_MAX {
                parts.push((rows.slice(half, rows.num_rows() - half), format!("{token}/1")));
                parts.push((rows.slice(0, half), format!("{token}/0")));
            } else {
                refused += rows.num_rows() as u64;
                reason = Some(why);
            }
        }
        if let Some(why) = reason {
            self.refused(refused, &why);
        }
        if left_out > 0 {
            let why = "values are left out: the table has no column for them, or one of another \
                       type that Weir may not change";
            self.context.metrics.error(left_out as u64, "no_column", why, now());
            if !std::mem::replace(&mut self.lacks, true) {
                tracing::warn!(%pipeline, %sink, values = left_out, "{why}");
            }
        }
        Ok(())
    }
}

impl Sink for ClickHouse {
    fn write(&mut self, batch: Batch) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move {
            self.waiting.add(&batch).map_err(|e| SinkError::permanent(e.to_string()))
        })
    }

    fn tick(&mut self, offset: u64) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move {
            if self.tick.replace(offset) != Some(offset) && self.waiting.rows() > 0 {
                self.waiting.ticks += 1;
            }
            let Block { ticks, .. } = self.waiting;
            if self.waiting.rows() >= BLOCK_ROWS
                || self.waiting.bytes() >= BLOCK_BYTES
                || ticks >= BLOCK_TICKS
            {
                let block = std::mem::take(&mut self.waiting);
                let sent = self.send(&block, offset).await;
                if sent.is_err() {
                    self.waiting = block;
                }
                return sent;
            }
            Ok(())
        })
    }

    fn stage(&mut self, _mark: u64, last: bool) -> BoxFuture<'_, Result<Staged, SinkError>> {
        Box::pin(async move {
            // Blocks end at ticks that do not depend on where marks are. The last one is sent once
            // the checkpoint names it: before, another plan may still come to send its rows.
            let failed = |e: arrow::error::ArrowError| SinkError::permanent(e.to_string());
            let waiting = self.waiting.encode().map_err(failed)?;
            Ok(match last {
                true => Staged { work: waiting, carry: Vec::new() },
                false => Staged { work: Vec::new(), carry: waiting },
            })
        })
    }

    fn commit(&mut self, mark: u64, work: &[u8]) -> BoxFuture<'_, Result<(), SinkError>> {
        let block = Block::decode(work).map_err(|e| SinkError::permanent(e.to_string()));
        Box::pin(async move { self.send(&block?, mark).await })
    }

    fn restore(&mut self, carry: &[u8]) -> BoxFuture<'_, Result<(), SinkError>> {
        let waiting = Block::decode(carry).map_err(|e| SinkError::permanent(e.to_string()));
        Box::pin(async move {
            self.waiting = waiting?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
