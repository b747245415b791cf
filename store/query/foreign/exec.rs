//! The leaf of the plan that reads a foreign table: one statement there, its answer here.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use arrow::util::display::FormatOptions;
use bytes::Bytes;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{StreamExt, stream};
use tokio::sync::mpsc::Receiver;

use super::client::{Client, short, silence};
use super::types::fits;

/// What ends a stream of Arrow. An answer without it was cut off.
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// Last bytes that are looked through for an error: ClickHouse writes it behind the rows.
const TAIL_BYTES: usize = 4 << 10;

#[derive(Debug)]
pub(super) struct ForeignExec {
    client: Arc<Client>,
    sql: String,
    schema: SchemaRef,
    seconds: u64,
    properties: Arc<PlanProperties>,
}

impl ForeignExec {
    pub(super) fn new(client: Arc<Client>, sql: String, schema: SchemaRef, seconds: u64) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { client, sql, schema, seconds, properties: Arc::new(properties) }
    }
}

impl DisplayAs for ForeignExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ForeignExec: store={}, sql={}", self.client.name(), self.sql)
    }
}

impl ExecutionPlan for ForeignExec {
    fn name(&self) -> &str {
        "ForeignExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() {
            Ok(self)
        } else {
            internal_err!("a foreign table has no children")
        }
    }

    fn execute(
        &self,
        _partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let held = MemoryConsumer::new(format!("rows of store {}", self.client.name()))
            .register(context.memory_pool());
        let answer = Answer {
            pieces: None,
            client: self.client.clone(),
            sql: self.sql.clone(),
            seconds: self.seconds,
            schema: self.schema.clone(),
            decoder: StreamDecoder::new(),
            rest: Buffer::from(Vec::<u8>::new()),
            tail: Vec::new(),
            held,
        };
        let batches = stream::try_unfold(answer, |mut answer| async move {
            let batch = answer.next().await?;
            Ok::<_, DataFusionError>(batch.map(|batch| (batch, answer)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches.boxed())))
    }
}

/// An answer as it comes.
struct Answer {
    client: Arc<Client>,
    sql: String,
    seconds: u64,
    /// Asked for with the first batch.
    pieces: Option<Receiver<std::result::Result<Bytes, String>>>,
    schema: SchemaRef,
    decoder: StreamDecoder,
    /// Of the last piece, what was not decoded yet.
    rest: Buffer,
    /// The last bytes that came.
    tail: Vec<u8>,
    /// Counts what came since the last batch, and that batch.
    held: MemoryReservation,
}

impl Answer {
    fn failed(&self, why: impl fmt::Display) -> DataFusionError {
        DataFusionError::Execution(self.client.error(why))
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        self.held.free();
        loop {
            while !self.rest.is_empty() {
                match self.decoder.decode(&mut self.rest) {
                    Ok(Some(batch)) if batch.num_rows() > 0 => {
                        self.held.free();
                        self.held.try_grow(batch.get_array_memory_size())?;
                        return self.seen(&batch).map(Some);
                    }
                    Ok(_) => {}
                    Err(e) => {
                        // An error behind rows is no Arrow.
                        self.drain().await;
                        return Err(self.broken(&e.to_string()));
                    }
                }
            }
            let Some(piece) = self.piece().await? else { return self.end() };
            self.held.try_grow(piece.len())?;
            self.remember(&piece);
            self.rest = Buffer::from(piece);
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>> {
        let pieces =
            self.pieces.get_or_insert_with(|| self.client.stream(self.sql.clone(), self.seconds));
        match tokio::time::timeout(silence(self.seconds), pieces.recv()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(piece))) => Ok(Some(piece)),
            Ok(Some(Err(why))) => Err(self.failed(why)),
            Err(_) => Err(self.failed(format!("no answer within {} s", self.seconds))),
        }
    }

    fn remember(&mut self, piece: &[u8]) {
        self.tail.extend(&piece[piece.len().saturating_sub(TAIL_BYTES)..]);
        let over = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..over);
    }

    /// Reads on to the error that a broken answer ends with, but no further than it may be.
    async fn drain(&mut self) {
        for _ in 0..2 {
            match self.piece().await {
                Ok(Some(piece)) => self.remember(&piece),
                _ => return,
            }
        }
    }

    /// All came: whether it was all.
    fn end(&mut self) -> Result<Option<RecordBatch>> {
        if self.tail.ends_with(&END) && self.decoder.finish().is_ok() {
            return Ok(None);
        }
        Err(self.broken("the answer was cut off"))
    }

    /// What the store says at the end, or else `why`.
    fn broken(&self, why: &str) -> DataFusionError {
        let tail = String::from_utf8_lossy(&self.tail);
        match tail.rfind("Code: ").filter(|at| tail[*at..].contains("DB::Exception")) {
            Some(at) => self.failed(short(&tail[at..])),
            None => self.failed(why),
        }
    }

    /// The columns with the types that are seen.
    fn seen(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let fields = self.schema.fields();
        if !fields.is_empty() && fields.len() != batch.num_columns() {
            return Err(self.failed("an answer of other columns than were asked for"));
        }
        // A time that is out of range must not become NULL.
        let strict = CastOptions { safe: false, format_options: FormatOptions::default() };
        let cast = |(field, array): (&Arc<arrow::datatypes::Field>, &ArrayRef)| {
            if !fits(array.data_type(), field.data_type()) {
                let (name, given) = (field.name(), array.data_type());
                return Err(self.failed(format!(
                    "column `{name}` came as {given}, not {}",
                    field.data_type()
                )));
            }
            cast_with_options(array, field.data_type(), &strict)
                .map_err(|e| self.failed(format!("column `{}`: {e}", field.name())))
        };
        let columns = fields.iter().zip(batch.columns()).map(cast).collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}
