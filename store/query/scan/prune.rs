//! Which slices cannot hold a row that is wanted.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, TimestampNanosecondArray, UInt64Array};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column as PhysicalColumn, Literal};
use datafusion::physical_expr::utils::conjunction;
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::ParquetMetaData;

use super::TIMESTAMP;
use super::column::{Level, Source};
use super::ids;
use crate::cache::Cache;
use crate::file::FileEntry;
use crate::layout::Slice;

/// Earliest and latest `timestamp` (both inclusive) that the conditions leave.
pub(super) fn time_range(filters: &[Arc<dyn PhysicalExpr>]) -> (i64, i64) {
    let bounds = filters.iter().filter_map(time_bound);
    bounds.fold((i64::MIN, i64::MAX), |(a, b), (low, high)| (a.max(low), b.min(high)))
}

/// The stretch of time (both ends inclusive) that `filter` asks for, if it asks nothing else.
pub(super) fn time_bound(filter: &Arc<dyn PhysicalExpr>) -> Option<(i64, i64)> {
    let binary = filter.downcast_ref::<BinaryExpr>()?;
    let (op, value) = match (time_of(binary.left())?, time_of(binary.right())?) {
        (Side::Column, Side::Literal(v)) => (*binary.op(), v),
        (Side::Literal(v), Side::Column) => (binary.op().swap()?, v),
        _ => return None,
    };
    match op {
        Operator::Eq => Some((value, value)),
        Operator::GtEq => Some((value, i64::MAX)),
        Operator::Gt => Some((value.checked_add(1)?, i64::MAX)),
        Operator::LtEq => Some((i64::MIN, value)),
        Operator::Lt => Some((i64::MIN, value.checked_sub(1)?)),
        _ => None,
    }
}

/// The condition that a time is within `range` but not in `stretch` (both with both ends inclusive).
pub(super) fn outside(
    range: (i64, i64),
    stretch: (i64, i64),
    schema: &Schema,
) -> Result<Arc<dyn PhysicalExpr>> {
    let time: Arc<dyn PhysicalExpr> = Arc::new(PhysicalColumn::new_with_schema(TIMESTAMP, schema)?);
    let binary =
        |left, op, right| -> Arc<dyn PhysicalExpr> { Arc::new(BinaryExpr::new(left, op, right)) };
    let is = |op, nanos| {
        let value = ScalarValue::TimestampNanosecond(Some(nanos), Some("UTC".into()));
        binary(time.clone(), op, Arc::new(Literal::new(value)))
    };
    let before = binary(is(Operator::GtEq, range.0), Operator::And, is(Operator::Lt, stretch.0));
    let after = binary(is(Operator::Gt, stretch.1), Operator::And, is(Operator::LtEq, range.1));
    Ok(binary(before, Operator::Or, after))
}

enum Side {
    Column,
    Literal(i64),
}

fn time_of(expr: &Arc<dyn PhysicalExpr>) -> Option<Side> {
    if let Some(column) = expr.downcast_ref::<PhysicalColumn>() {
        return (column.name() == TIMESTAMP).then_some(Side::Column);
    }
    match expr.downcast_ref::<Literal>()?.value() {
        ScalarValue::TimestampNanosecond(Some(v), _) => Some(Side::Literal(*v)),
        _ => None,
    }
}

/// The conditions as a test of statistics; `None` if they say nothing about any.
pub(super) fn predicate(
    filters: &[Arc<dyn PhysicalExpr>],
    schema: &SchemaRef,
) -> Option<Arc<PruningPredicate>> {
    if filters.is_empty() {
        return None;
    }
    let all = conjunction(filters.iter().cloned());
    PruningPredicateBuilder::new().with_file_schema(schema.clone()).build(all)
}

/// What is known of stretches of rows by their times alone.
pub(super) struct Times<'a>(pub(super) &'a [Slice]);

impl PruningStatistics for Times<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        (column.name == TIMESTAMP).then(|| times(self.0.iter().map(|s| s.min_time)))
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        (column.name == TIMESTAMP).then(|| times(self.0.iter().map(|s| s.max_time)))
    }

    fn num_containers(&self) -> usize {
        self.0.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        // No row is without a time.
        let none = UInt64Array::from_value(0, self.0.len());
        (column.name == TIMESTAMP).then(|| Arc::new(none) as ArrayRef)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let rows = self.0.iter().map(|s| u64::from(s.rows));
        Some(Arc::new(UInt64Array::from_iter_values(rows)))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampNanosecondArray::from_iter_values(values).with_timezone("UTC"))
}

/// What manifest and footer say of the slices of a file. Only columns that are stored in the
/// type of the table, and have no value elsewhere, have statistics here.
pub(super) struct Slices<'a> {
    pub(super) file: &'a FileEntry,
    pub(super) footer: &'a ParquetMetaData,
    pub(super) file_schema: &'a Schema,
    pub(super) table_schema: &'a Schema,
    /// Of footers, and what belongs to them.
    pub(super) footers: &'a Cache,
}

impl Slices<'_> {
    fn converter<'s>(&'s self, column: &Column) -> Option<StatisticsConverter<'s>> {
        let source = Source::of(self.file, &column.name);
        if source.level != Level::Row || source.overflow {
            return None;
        }
        let stored = self.file_schema.field_with_name(&column.name).ok()?.data_type();
        let wanted = self.table_schema.field_with_name(&column.name).ok()?.data_type();
        if stored != wanted || stored.is_nested() {
            return None;
        }
        let schema = self.footer.file_metadata().schema_descr();
        StatisticsConverter::try_new(&column.name, self.file_schema, schema).ok()
    }

    /// Whether no row of the file has the column.
    fn absent(&self, column: &Column) -> bool {
        let source = Source::of(self.file, &column.name);
        source.level == Level::Absent && !source.overflow
    }
}

impl PruningStatistics for Slices<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        if column.name == TIMESTAMP {
            return Times(&self.file.meta().slices).min_values(column);
        }
        self.converter(column)?.row_group_mins(self.footer.row_groups()).ok()
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        if column.name == TIMESTAMP {
            return Times(&self.file.meta().slices).max_values(column);
        }
        self.converter(column)?.row_group_maxes(self.footer.row_groups()).ok()
    }

    fn num_containers(&self) -> usize {
        self.file.meta().slices.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        if column.name == TIMESTAMP {
            return Times(&self.file.meta().slices).null_counts(column);
        }
        if self.absent(column) {
            return self.row_counts();
        }
        let converter = self.converter(column)?.with_missing_null_counts_as_zero(false);
        let counts = converter.row_group_null_counts(self.footer.row_groups()).ok()?;
        Some(Arc::new(counts))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Times(&self.file.meta().slices).row_counts()
    }

    fn contained(&self, column: &Column, values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        if Source::of(self.file, &column.name).overflow {
            return None;
        }
        ids::contained(self.file, self.footer, self.footers, &column.name, values)
    }
}
