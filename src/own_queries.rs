//! Lookup tables of Weir's own rows: asks the store for the engine.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use futures::future::BoxFuture;
use weir_pipeline::batch::TENANT;
use weir_pipeline::lookup::Ask;
use weir_store::query::Queries;

/// Answers by the queries that people use, within their limits.
pub(crate) struct OwnQueries(pub(crate) Arc<Queries>);

impl Ask for OwnQueries {
    fn ask(&self, sql: String) -> BoxFuture<'static, Result<RecordBatch, String>> {
        let queries = self.0.clone();
        Box::pin(async move {
            let mut answer = queries.query(TENANT, &sql).await.map_err(|e| e.to_string())?;
            let schema = answer.schema().clone();
            let rows = answer.collect().await.map_err(|e| e.to_string())?;
            concat_batches(&schema, &rows).map_err(|e| e.to_string())
        })
    }
}
