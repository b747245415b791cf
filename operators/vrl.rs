//! `vrl` operator: runs a program in the Vector Remap Language on every row.
//!
//! ```toml
//! [operators.clean]
//! type = "vrl"
//! inputs = ["otlp.logs"]
//! source = '''
//! .severity = upcase(string(.severity) ?? "INFO")
//! del(.user.password)
//! '''
//! ```
//!
//! The program stands under `source`, or in a file of its own under `file`. Paths are column
//! names: `.http.route` is the column `http.route`; a path that is only a prefix of names reads,
//! tests, deletes and assigns them as one object; `.` is the whole row, and an array assigned to
//! it gives one row each. `%tenant`, `%source`, `%received` and `%position` are read-only.
//!
//! `abort` drops the row, counted. A row on which the program fails goes to `<id>.errors`,
//! unchanged, with the reason and the place in the program (`on_error = "keep"` passes it on).
//! `now()` is the wall time of the last tick; `random_*` and `uuid_v4` derive from the place of
//! the row in the journal, so that a replay gives the same; `parse_syslog`, `parse_klog` and
//! `parse_linux_authorization` take a missing year from the last tick. Functions that reach the
//! network, files, the environment or the clock do not exist. NaN, which VRL cannot hold, reads as
//! null.
//!
//! Only the columns that the program touches are turned into values. Rows of a batch that have the
//! same in all columns that it reads cost one run, unless it reads `%`, time or chance. A program
//! of nothing but `.a = del(.b)`, `.a = .b`, `.a = "text"` and `del(.b)` moves whole columns. One
//! that touches nothing but entity columns (resource attributes, metric labels) runs once per
//! entity. All this is for paths that are one column each: `.` as a whole, a path into JSON or one
//! that is a prefix of names makes the program run row by row. Rows that take long are shared among
//! the cores, with the same result. State: none.

mod assemble;
mod column;
mod columns;
mod dated;
mod distinct;
mod entities;
mod flat;
mod flat_row;
mod functions;
mod lookups;
mod moves;
mod program;
mod row;
mod rows;
mod values;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{
    Operator, OperatorError, OperatorKind, OperatorPlan, Output, OutputPlan, Tick,
};
use weir_pipeline::config::{Scope, Section, Spanned};
use weir_pipeline::diagnostic::Diagnostics;
use weir_pipeline::edge::Edge;
use weir_pipeline::share::Pace;

use self::program::Compiled;
use crate::entities::Entities;

/// The row of `operators/lib.rs`.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "vrl",
    about: "run a VRL program on every row",
    source: include_str!("vrl.rs"),
    schema: || schemars::schema_for!(Config),
    plan: |section, scope| plan(section, scope),
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The program.
    source: Option<Spanned<String>>,
    /// A file with the program, relative to the pipeline file.
    file: Option<Spanned<String>>,
}

#[derive(Debug)]
struct Vrl {
    program: Arc<Compiled>,
    edge: Edge,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let text =
        section.text_or_file("source", config.source.as_ref(), config.file.as_ref(), scope)?;
    let signal = scope.inputs.first().map(|i| i.edge.signal.clone());
    let Some(signal) = signal else { return Err(Diagnostics::default()) };
    let edge = Edge::open(signal);
    for id in scope.lookups().keys() {
        // Which of them it asks only its functions know; those that it does not name it cannot ask.
        if text.text.contains(&format!("\"{id}\"")) {
            scope.lookup(id, &section.header)?;
        }
    }
    let (program, warnings) = program::compile(&section.id, text, &edge, scope.lookups())?;
    warnings.into_iter().for_each(|w| scope.warn(w));
    Ok(Box::new(Vrl { program: Arc::new(program), edge }))
}

impl OperatorPlan for Vrl {
    fn outputs(&self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: "", edge: self.edge.clone() }]
    }

    fn columns(&self) -> Vec<String> {
        self.program.reads.clone()
    }

    fn state_shape(&self) -> Option<String> {
        None
    }

    fn reach(&self) -> i64 {
        0
    }

    fn build(&self) -> Box<dyn Operator> {
        let (program, entities) = (self.program.clone(), Entities::default());
        Box::new(Running { program, entities, pace: Pace::default() })
    }
}

struct Running {
    program: Arc<Compiled>,
    /// Entities made from those of the input; a cache, not state.
    entities: Entities,
    /// What rows cost, when they have to be shared among the cores; a cache as well.
    pace: Pace,
}

impl Operator for Running {
    fn process(
        &mut self,
        _input: usize,
        batch: Batch,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let (program, entities) = (&*self.program, &mut self.entities);
        if entities::suffices(program, &batch) {
            return entities::process(program, entities, &batch, out);
        }
        let Some(flat) = program.flat.as_ref().filter(|flat| flat.suits(&batch)) else {
            return rows::process(program, (entities, &mut self.pace), &batch, out);
        };
        if let Some(moves) = &program.moves
            && moves::process(moves, flat, entities, &batch, out)?
        {
            return Ok(());
        }
        columns::process(program, flat, (entities, &mut self.pace), &batch, out)
    }

    fn tick(&mut self, _tick: Tick, _out: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }

    fn watermark(&self, inputs: i64) -> i64 {
        inputs
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError> {
        Ok(Vec::new())
    }

    fn restore(&mut self, _state: &[u8]) -> Result<(), OperatorError> {
        Ok(())
    }

    fn flush(&mut self, _tick: Tick, _out: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }
}
