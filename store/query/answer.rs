//! An answer that streams: batches, warnings, cost. Dropping it ends the query.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

use super::QueryError;
use super::cost::{Cost, Costs};
use super::run::Outcome;

/// Rows on their way to whoever asked, and the memory that is set aside for them.
pub(super) type Parcel = (RecordBatch, MemoryReservation);

/// The answer to one query. Its batches come as a [`Stream`]; an error is the last item.
pub struct Answer {
    pub(super) schema: SchemaRef,
    pub(super) warnings: Vec<String>,
    pub(super) costs: Arc<Costs>,
    pub(super) batches: mpsc::Receiver<Parcel>,
    /// For the batch that was given out last.
    pub(super) held: Option<MemoryReservation>,
    /// Taken once it is known. No batch is the last one until this says so.
    pub(super) end: Option<oneshot::Receiver<Outcome>>,
    /// Ends the query when this is dropped.
    pub(super) _stop: DropGuard,
}

impl Answer {
    /// Columns. Names are unique.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Adds something that the person who asked should know.
    pub fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// What the person who asked should know; complete once the stream has ended.
    pub fn warnings(&self) -> Vec<String> {
        let mut all = self.warnings.clone();
        all.extend(self.costs.warnings());
        all
    }

    /// What it cost so far.
    pub fn cost(&self) -> Cost {
        self.costs.read()
    }

    /// The next batch; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<RecordBatch, QueryError>> {
        StreamExt::next(self).await
    }

    /// All batches.
    ///
    /// # Errors
    /// The first that occurs.
    pub async fn collect(&mut self) -> Result<Vec<RecordBatch>, QueryError> {
        let mut all = Vec::new();
        while let Some(batch) = self.next().await {
            all.push(batch?);
        }
        Ok(all)
    }
}

impl Stream for Answer {
    type Item = Result<RecordBatch, QueryError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.held = None;
        loop {
            let batch = this.batches.poll_recv(context);
            if let Poll::Ready(Some((batch, held))) = batch {
                this.held = Some(held);
                return Poll::Ready(Some(Ok(batch)));
            }
            let Some(end) = &mut this.end else { return Poll::Ready(None) };
            let outcome = ready!(end.poll_unpin(context));
            this.end = None;
            let stopping = |_| Err(QueryError::Failed("the server is stopping".into()));
            if let Err(e) = outcome.unwrap_or_else(stopping) {
                return Poll::Ready(Some(Err(e)));
            }
            // It may have sent its last batches since they were looked for.
        }
    }
}
