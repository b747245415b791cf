//! An answer that streams: batches, warnings, cost. Dropping it ends the query.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::Stream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::QueryError;
use super::cost::{Cost, Costs};

/// The answer to one query. Its batches come as a [`Stream`]; an error is the last item.
pub struct Answer {
    pub(super) schema: SchemaRef,
    pub(super) warnings: Vec<String>,
    pub(super) costs: Arc<Costs>,
    pub(super) batches: mpsc::Receiver<Result<RecordBatch, QueryError>>,
    pub(super) task: AbortHandle,
}

impl Answer {
    /// Columns. Names are unique.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
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
        self.batches.recv().await
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
        self.batches.poll_recv(context)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
