//! SQL expressions over batches.

use arrow::array::{ArrayRef, BooleanArray};

use crate::batch::Batch;
use crate::component::OperatorError;
use crate::config::{Scope, Text};
use crate::diagnostic::Diagnostics;
use crate::edge::Edge;

/// A SQL expression, parsed once and compiled per batch schema.
#[derive(Debug)]
pub struct Expression {}

impl Expression {
    /// Parses `text` and checks it against `edge`: unknown columns are errors on a closed edge,
    /// on an open one a warning when near a known name.
    ///
    /// # Errors
    /// With the place inside the text.
    pub fn parse(_text: &Text, _edge: &Edge, _scope: &Scope) -> Result<Self, Diagnostics> {
        unimplemented!()
    }
    /// Names of the columns that it reads.
    pub fn columns(&self) -> &[String] {
        unimplemented!()
    }
    /// One value per row. An expression over entity columns alone is evaluated once per entity.
    ///
    /// # Errors
    /// If evaluation fails (a cast of bad data, a division by zero).
    pub fn evaluate(&self, _batch: &Batch) -> Result<ArrayRef, OperatorError> {
        unimplemented!()
    }
    /// The expression as a condition; NULL stays NULL.
    ///
    /// # Errors
    /// As [`Expression::evaluate`], or if it is not boolean.
    pub fn mask(&self, _batch: &Batch) -> Result<BooleanArray, OperatorError> {
        unimplemented!()
    }
}
