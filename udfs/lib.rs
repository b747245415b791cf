//! SQL functions used alike by queries, operators and alert rules.

pub mod histogram;
mod histograms;
mod json;
mod quantile;
pub mod sketch;
mod sketches;
pub mod token;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

/// Functions of one row.
pub fn all() -> Vec<Arc<ScalarUDF>> {
    let histograms = histograms::functions();
    [histograms, json::functions(), sketches::functions(), token::functions()].concat()
}

/// Aggregates.
pub fn aggregates() -> Vec<Arc<AggregateUDF>> {
    let mut all = sketches::aggregates();
    all.extend(histograms::aggregates());
    all.push(Arc::new(AggregateUDF::from(quantile::Quantile::default())));
    all
}
