//! Reads one table: a [`TableProvider`] over a pinned snapshot and one leaf execution plan.
//!
//! The unit of reading is a slice (row group) or a hot run, newest first, hot runs before files.
//! For a file, conditions over entity columns alone are evaluated once per entity and become row
//! ranges; a slice is left out by the manifest's times and the footer's statistics, and parts of it
//! by the token filters of text columns; what is left is filtered exactly while it is read, row
//! columns that only the answer needs are decoded for the rows that passed, and entity columns are
//! gathered last. Every pushed filter is exact.

mod column;
mod conditions;
mod exec;
mod file;
mod footer;
mod group;
mod identity;
mod ids;
mod keep;
mod memory;
mod overflow;
mod prune;
mod read;
mod tokens;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::utils::split_conjunction;
use datafusion::physical_plan::ExecutionPlan;
use weir_pipeline::signal::timestamp;

pub(super) use self::group::GroupWhileScanning;

use super::cost::Costs;
use super::names::TableUse;
use crate::cache::Cache;
use crate::snapshot::TableSnapshot;

/// The column that every table has.
const TIMESTAMP: &str = "timestamp";
/// The column that names the metric of a row.
pub(super) const METRIC_NAME: &str = "metric.name";
/// The column that says what kind of metric it is.
pub(super) const METRIC_TYPE: &str = "metric.type";

/// Shares of the caches: footers, answers to conditions over entities, groups of slices.
const CACHE_SHARES: [f64; 3] = [0.5, 0.15, 0.35];

/// What queries remember of files and entities.
#[derive(Clone, Debug)]
pub(super) struct Caches {
    footers: Arc<Cache>,
    /// Which entities conditions leave.
    masks: Arc<Cache>,
    /// What slices gave to questions.
    answers: Arc<Cache>,
}

impl Caches {
    /// Empty ones that hold so many bytes together.
    pub(super) fn new(bytes: usize) -> Self {
        let cache = |share: f64| Arc::new(Cache::new((bytes as f64 * share) as usize));
        let [footers, masks, answers] = CACHE_SHARES.map(cache);
        Self { footers, masks, answers }
    }
}

/// A table as one query reads it.
pub(super) struct ScanTable {
    snapshot: Arc<TableSnapshot>,
    metric: Option<String>,
    schema: SchemaRef,
    /// Rows before this are past retention.
    min_time: i64,
    costs: Arc<Costs>,
    caches: Caches,
}

impl std::fmt::Debug for ScanTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ScanTable({})", self.snapshot.table().name())
    }
}

impl ScanTable {
    /// The table behind `used`, read at `now` (UTC nanoseconds).
    pub(super) fn new(
        snapshot: Arc<TableSnapshot>,
        used: &TableUse,
        now: i64,
        costs: Arc<Costs>,
        caches: Caches,
    ) -> Self {
        let schema = full_schema(&snapshot, used);
        let min_time = snapshot.min_time(now);
        let slices = snapshot.files().iter().map(|f| f.meta().slices.len() as u64).sum();
        costs.listed(snapshot.files().len() as u64, slices);
        let aside = snapshot.table().damaged().len();
        if aside > 0 {
            costs.warn(format!(
                "of `{}` {aside} damaged files are set aside: answers lack what they held \
                 (`weir status` names them)",
                snapshot.table().name()
            ));
        }
        Self { snapshot, metric: used.metric.clone(), schema, min_time, costs, caches }
    }

    /// Conditions that hold for every row that may be shown, whatever the query says.
    fn own_filters(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        let mut filters: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        let mut add = |name: &str, op: Operator, value: ScalarValue| {
            if let Ok(i) = self.schema.index_of(name) {
                let column = Arc::new(Column::new(name, i));
                filters.push(Arc::new(BinaryExpr::new(column, op, Arc::new(Literal::new(value)))));
            }
        };
        if let Some(metric) = &self.metric {
            add(METRIC_NAME, Operator::Eq, ScalarValue::Utf8(Some(metric.clone())));
        }
        let files = self.snapshot.files().iter().map(|f| f.meta().min_time);
        let hot = self.snapshot.hot().iter().map(|h| h.min_time());
        if files.chain(hot).any(|t| t < self.min_time) {
            let bound = ScalarValue::TimestampNanosecond(Some(self.min_time), Some("UTC".into()));
            add(TIMESTAMP, Operator::GtEq, bound);
        }
        filters
    }
}

/// Columns of the table, then names that only `attributes` has, then names that nothing has.
fn full_schema(snapshot: &TableSnapshot, used: &TableUse) -> SchemaRef {
    let schema = snapshot.schema();
    let mut fields: Vec<Field> = schema.columns().iter().map(|c| c.field()).collect();
    if schema.column(TIMESTAMP).is_none() {
        fields.push(Field::new(TIMESTAMP, timestamp(), true));
    }
    for key in schema.overflow_keys() {
        if schema.column(key).is_none() {
            fields.push(Field::new(&**key, DataType::Utf8, true));
        }
    }
    let unknown = if schema.overflow_is_open() { DataType::Utf8 } else { DataType::Null };
    for name in &used.missing {
        if !fields.iter().any(|f| f.name() == name) {
            fields.push(Field::new(name, unknown.clone(), true));
        }
    }
    if used.metric.is_some() && !fields.iter().any(|f| f.name() == METRIC_NAME) {
        fields.push(Field::new(METRIC_NAME, DataType::Utf8, true));
    }
    Arc::new(Schema::new(fields))
}

#[async_trait]
impl TableProvider for ScanTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Exact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let df_schema = DFSchema::try_from(self.schema.as_ref().clone())?;
        let mut asked = Vec::new();
        for filter in filters {
            let expr = state.create_physical_expr(filter.clone(), &df_schema)?;
            asked.extend(split_conjunction(&expr).into_iter().cloned());
        }
        let projection = match projection {
            Some(p) => p.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let shared = exec::Shared::new(
            self.snapshot.clone(),
            self.schema.clone(),
            conditions::Filters::new(self.own_filters(), asked),
            self.costs.clone(),
            &self.caches,
            state.runtime_env().memory_pool.clone(),
        );
        let partitions = state.config().target_partitions().max(1);
        Ok(Arc::new(exec::ScanExec::try_new(Arc::new(shared), projection, limit, partitions)?))
    }
}
