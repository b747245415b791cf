//! Expressions over some columns of a scan.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};

use crate::query::scan::read::{Part, Rows};

/// Expressions and the columns that they read.
#[derive(Clone, Debug)]
pub(super) struct Exprs {
    pub(super) part: Part,
    /// Over the schema of `part`.
    exprs: Vec<Arc<dyn PhysicalExpr>>,
}

impl Exprs {
    /// `exprs` are over `output`, the columns of a scan.
    pub(super) fn new(output: &[FieldRef], exprs: &[Arc<dyn PhysicalExpr>]) -> Result<Self> {
        let mut used: Vec<usize> =
            exprs.iter().flat_map(collect_columns).map(|c| c.index()).collect();
        used.sort_unstable();
        used.dedup();
        let part = Part::new(output, used);
        let over = |e: &Arc<dyn PhysicalExpr>| reassign_expr_columns(e.clone(), &part.schema);
        let exprs = exprs.iter().map(over).collect::<Result<_>>()?;
        Ok(Self { part, exprs })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        self.exprs.iter()
    }

    /// The type of each.
    pub(super) fn schema(&self) -> Result<SchemaRef> {
        let field = |(i, e): (usize, &Arc<dyn PhysicalExpr>)| -> Result<Field> {
            let schema = &self.part.schema;
            Ok(Field::new(i.to_string(), e.data_type(schema)?, e.nullable(schema)?))
        };
        let fields = self.exprs.iter().enumerate().map(field).collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(Schema::new(fields)))
    }

    /// Their values for each of `rows`.
    pub(super) fn of(&self, rows: &Rows) -> Result<Vec<ArrayRef>> {
        let batch = rows.columns(&self.part)?;
        self.evaluate(batch.columns().to_vec(), rows.len())
    }

    /// Their values where the columns that they read are `arrays`.
    pub(super) fn evaluate(&self, arrays: Vec<ArrayRef>, rows: usize) -> Result<Vec<ArrayRef>> {
        let batch = self.part.batch(arrays, rows)?;
        self.exprs.iter().map(|e| e.evaluate(&batch)?.into_array(rows)).collect()
    }
}
