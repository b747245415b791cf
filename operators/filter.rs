//! `filter` operator: keeps the rows for which a SQL expression is true.
//!
//! ```toml
//! [operators.errors]
//! type = "filter"
//! inputs = ["otlp.logs"]
//! where = "severity_number >= 17 AND service.name <> 'canary'"
//! ```
//!
//! NULL counts as false: a row that lacks a column is dropped unless the expression says otherwise
//! (`x IS NULL`, `coalesce(x, 0)`). Rows for which the expression fails (a division by zero) go to
//! `<id>.errors`. Dropped rows are counted.
//!
//! State: none. An expression over entity columns alone costs once per entity, not once per row.

use arrow::array::{Array, BooleanArray};
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{
    Operator, OperatorError, OperatorKind, OperatorPlan, Output, OutputPlan, Tick,
};
use weir_pipeline::config::{Scope, Section, Spanned};
use weir_pipeline::diagnostic::Diagnostics;
use weir_pipeline::edge::Edge;
use weir_pipeline::expression::Expression;

use crate::inputs;

/// The row of the table.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "filter",
    about: "keep the rows for which a SQL expression is true",
    source: include_str!("filter.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// SQL expression that is true for the rows to keep.
    r#where: Spanned<String>,
}

#[derive(Debug)]
struct FilterPlan {
    keep: Expression,
    edge: Edge,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let edge = inputs::merged(scope);
    let keep = Expression::condition(&section.text(&config.r#where), &edge, scope)?;
    Ok(Box::new(FilterPlan { keep, edge }))
}

impl OperatorPlan for FilterPlan {
    fn outputs(&self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: "", edge: self.edge.clone() }]
    }

    fn columns(&self) -> Vec<String> {
        self.keep.columns().to_vec()
    }

    fn state_shape(&self) -> Option<String> {
        None
    }

    fn reach(&self) -> i64 {
        0
    }

    fn build(&self) -> Box<dyn Operator> {
        Box::new(Filter { keep: self.keep.clone() })
    }
}

struct Filter {
    keep: Expression,
}

impl Operator for Filter {
    fn process(
        &mut self,
        _input: usize,
        batch: Batch,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let (mask, errors) = self.keep.mask_each(&batch)?;
        let kept = (0..mask.len()).filter(|&i| mask.is_valid(i) && mask.value(i)).count();
        out.dropped += (batch.num_rows() - kept - errors.len()) as u64;
        if kept == batch.num_rows() {
            out.emit(batch);
            return Ok(());
        }
        if !errors.is_empty() {
            let (rows, reasons): (Vec<usize>, Vec<OperatorError>) = errors.into_iter().unzip();
            out.reject(batch.filter(&only(&rows, batch.num_rows()))?, reasons);
        }
        if kept > 0 {
            out.emit(batch.filter(&mask)?);
        }
        Ok(())
    }

    fn tick(&mut self, _: Tick, _: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }

    fn watermark(&self, inputs: i64) -> i64 {
        inputs
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError> {
        Ok(Vec::new())
    }

    fn restore(&mut self, _: &[u8]) -> Result<(), OperatorError> {
        Ok(())
    }

    fn flush(&mut self, _: Tick, _: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }
}

/// A mask that is true for `rows`, which are sorted.
pub(crate) fn only(rows: &[usize], len: usize) -> BooleanArray {
    let mut mask = vec![false; len];
    rows.iter().for_each(|&r| mask[r] = true);
    BooleanArray::from(mask)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use crate::testing::{self, Row, run};

    #[track_caller]
    fn check(sql: &str, rows: &[Row], keep: &[usize], reject: &[usize], drop: u64) {
        let plan = testing::plan(&super::KIND, &format!("where = \"{sql}\"")).unwrap();
        let batch = testing::batch(rows);
        let out = run(&mut *plan.build(), |o, out| o.process(0, batch, out).unwrap());
        let got: Vec<i64> = testing::ints(&out.emitted, "i");
        assert_eq!(got, keep.iter().map(|&i| i as i64).collect::<Vec<_>>(), "{sql}");
        let rejected: Vec<_> = out.rejected.iter().map(|(b, _)| ("", b.clone())).collect();
        let got: Vec<i64> = testing::ints(&rejected, "i");
        assert_eq!(got, reject.iter().map(|&i| i as i64).collect::<Vec<_>>(), "{sql}");
        assert_eq!(out.rejected.iter().map(|(_, e)| e.len()).sum::<usize>(), reject.len());
        assert_eq!(out.dropped, drop, "{sql}");
    }

    #[test]
    fn keeps_what_is_true() {
        let rows = vec![
            testing::row(0).set("i", 0).set("x", 5).entity("service.name", "shop"),
            testing::row(0).set("i", 1).set("x", 0).entity("service.name", "cart"),
            testing::row(0).set("i", 2).entity("service.name", "shop"),
        ];
        check("true", &rows, &[0, 1, 2], &[], 0);
        check("x > 1", &rows, &[0], &[], 2);
        check("x IS NULL OR x = 0", &rows, &[1, 2], &[], 1);
        check("service.name = 'shop'", &rows, &[0, 2], &[], 1);
        check("10 / x > 1", &rows, &[0], &[1], 1);
        check("nowhere = 1", &rows, &[], &[], 3);
    }

    #[test]
    fn a_condition_is_boolean() {
        let e = testing::plan(&super::KIND, "where = \"severity_number + 1\"").unwrap_err();
        assert!(e.to_string().contains("W307"), "{e}");
    }
}
