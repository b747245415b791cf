//! `store` sink: writes rows to a table, where SQL finds them.
//!
//! ```toml
//! [sinks.logs]
//! type = "store"
//! inputs = ["otlp.logs"]
//! table = "logs"
//! ```
//!
//! Rows are there for queries at once. At each checkpoint they become files, or stay in the
//! checkpoint while they are fewer than 1 MiB. A table is made when it is first written to; its
//! columns follow from what arrives. Several sinks may write to one table.
//!
//! Delivery: exactly once, across crashes and reloads. Rows older than the table's retention, and
//! rows stamped over an hour ahead of their receipt, go to the table `<table>.late` and are
//! counted. A row without `timestamp` has the time of its receipt.
//!
//! Table names are lower-case letters, digits, `_` and `.`, a letter first, at most 95 bytes.
//!
//! Limits: while merges do not keep up with new files, each batch waits a moment
//! (`weir_table_pauses_total`). While the disk refuses, rows wait in memory up to their part of
//! `server.memory`; then the pipeline waits.

use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::backlog::Policy;
use weir_pipeline::batch::{Batch, TENANT};
use weir_pipeline::component::{Sink, SinkContext, SinkError, SinkKind, SinkPlan, Staged};
use weir_pipeline::config::{Scope, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::telemetry::{ComponentMetrics, Telemetry};
use weir_store::{
    LATE_SUFFIX, NAME_BYTES_MAX, Store, StoreError, TableWriter, WriterId, check_name,
};

/// The row of the table.
pub(crate) const KIND: SinkKind = SinkKind {
    name: "store",
    about: "write rows to a table that SQL reads",
    source: include_str!("store.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Name of the table.
    table: Spanned<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct StorePlan {
    table: String,
}

fn plan(section: &Section, _scope: &Scope) -> Result<Box<dyn SinkPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let table = config.table.value.clone();
    // Late rows have a table of their own, whose name is longer.
    let late = if table.ends_with(LATE_SUFFIX) { "" } else { LATE_SUFFIX };
    if check_name(&table).is_err() || check_name(&format!("{table}{late}")).is_err() {
        let bytes = NAME_BYTES_MAX - late.len();
        let wrong = Diagnostic::error("W080", format!("`{table}` is no table name"))
            .at(&section.span(&config.table))
            .label(format!(
                "lower-case letters, digits, `_` and `.`, a letter first, at most {bytes} bytes"
            ));
        return Err(wrong.into());
    }
    Ok(Box::new(StorePlan { table }))
}

impl SinkPlan for StorePlan {
    fn table(&self) -> Option<&str> {
        Some(&self.table)
    }

    fn past_backlog(&self) -> Policy {
        Policy::Refuse
    }

    fn build(&self, context: SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        let store = context
            .services
            .get::<Store>()
            .ok_or_else(|| SinkError::permanent("there is no store in this process"))?;
        let id = WriterId {
            journal: context.journal,
            pipeline: context.pipeline.clone(),
            sink: context.sink.clone(),
        };
        let writer = store.writer(TENANT, &self.table, id).map_err(sink_error)?;
        Ok(Box::new(StoreSink {
            writer: Arc::new(Mutex::new(writer)),
            metrics: context.metrics,
            telemetry: context.services.get::<Telemetry>(),
        }))
    }
}

/// The lock is never contended: calls of one sink follow each other.
struct StoreSink {
    writer: Arc<Mutex<TableWriter>>,
    metrics: Arc<ComponentMetrics>,
    telemetry: Option<Arc<Telemetry>>,
}

impl StoreSink {
    /// Waits if the table has more new files than merges keep up with.
    async fn keep_pace(&self) {
        let table = self.writer.lock().table().clone();
        let Some(pause) = table.pause() else { return };
        if let Some(telemetry) = &self.telemetry {
            let series = format!("weir_table_pauses_total{{table=\"{}\"}}", table.name());
            telemetry.count(&series, "Batches that waited for merges", 1.0);
        }
        tokio::time::sleep(pause).await;
    }

    /// Brings rows to files if there are too many for memory. The stage that would do it waits
    /// behind this batch, so it is done here; as long as it fails the batch is not taken, and the
    /// pipeline stops reading.
    async fn make_room(&self) -> Result<(), SinkError> {
        if !self.writer.lock().is_full() {
            return Ok(());
        }
        self.blocking(TableWriter::relieve).await.map_err(|e| {
            SinkError::transient(format!(
                "rows wait in memory, as many as may, and cannot be written to files: {}",
                e.message
            ))
        })
    }

    /// Runs what waits for the disk on a thread that may.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut TableWriter) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, SinkError>> {
        let writer = self.writer.clone();
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || work(&mut writer.lock())).await;
            done.map_err(|e| SinkError::transient(e.to_string()))?.map_err(sink_error)
        })
    }
}

impl Sink for StoreSink {
    fn write(&mut self, batch: Batch) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move {
            self.make_room().await?;
            self.keep_pace().await;
            let appended = self.writer.lock().append(&batch).map_err(sink_error)?;
            if appended.late > 0 {
                self.metrics.late(appended.late);
            }
            Ok(())
        })
    }

    fn tick(&mut self, _offset: u64) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }

    fn stage(&mut self, mark: u64, last: bool) -> BoxFuture<'_, Result<Staged, SinkError>> {
        self.blocking(move |writer| {
            let staged = writer.stage(mark, last)?;
            Ok(Staged { work: staged.work, carry: staged.carry })
        })
    }

    fn commit(&mut self, mark: u64, work: &[u8]) -> BoxFuture<'_, Result<(), SinkError>> {
        let work = work.to_vec();
        self.blocking(move |writer| writer.commit(mark, &work))
    }

    fn restore(&mut self, carry: &[u8]) -> BoxFuture<'_, Result<(), SinkError>> {
        let carry = carry.to_vec();
        self.blocking(move |writer| writer.restore(&carry))
    }
}

fn sink_error(e: StoreError) -> SinkError {
    SinkError { message: e.to_string(), retry: e.is_transient() }
}

#[cfg(test)]
mod tests;
