//! `staleness` operator: says when a scraped series is no more.
//!
//! ```toml
//! [operators.scraped]
//! type = "staleness"
//! inputs = ["node.metrics"]
//! after = "5m"
//! ```
//!
//! For metrics of `prometheus_scrape`, where one journal entry is one scrape of one target (the
//! entity columns `job` and `instance`). A series that the previous scrape of its target had and
//! this one lacks gets a row at the time of this scrape with `stale = true` and no value; after a
//! failed scrape (`up` = 0) all series of the target do but `up` and the `scrape_*` ones. A target
//! without any scrape for `after` (default 5 m) loses all its series at the next tick, `up` too,
//! stamped with the time of that tick. All rows of the input pass through unchanged.
//!
//! Rows without both `instance` and `job`, and series that come with a timestamp of their own
//! beside the one of the scrape, pass through and never go stale.
//!
//! State: the attributes of every live series, once. Limit: `max_series` (default 1,000,000);
//! series beyond it are not watched, and counted in the log at each tick that found more.

mod state;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::component::{Operator, OperatorKind, OperatorPlan, OutputPlan};
use weir_pipeline::config::{Duration, Scope, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::edge::Edge;

use crate::inputs;

/// The row of the table.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "staleness",
    about: "mark scraped series that are no more",
    source: include_str!("staleness.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Default of `after`: what Prometheus looks back, 5 minutes, in nanoseconds.
const AFTER: i64 = 300_000_000_000;

/// Default of `max_series`: about 1 KiB each with its attributes.
const SERIES_MAX: usize = 1_000_000;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// How long a target may be silent before its series end; default 5 m.
    after: Option<Spanned<Duration>>,
    /// Most series that are watched; default 1,000,000.
    max_series: Option<usize>,
}

#[derive(Debug)]
struct StalenessPlan {
    after: i64,
    series_max: usize,
    edge: Edge,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let after = config.after.as_ref().map_or(AFTER, |a| a.value.nanos());
    if let Some(written) = &config.after
        && after <= 0
    {
        let d = Diagnostic::error("W310", "`after` of no length");
        return Err(d.at(&section.span(written)).label("expected more than 0s").into());
    }
    let series_max = config.max_series.unwrap_or(SERIES_MAX);
    Ok(Box::new(StalenessPlan { after, series_max, edge: inputs::merged(scope) }))
}

impl OperatorPlan for StalenessPlan {
    fn outputs(&self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: "", edge: self.edge.clone() }]
    }

    fn columns(&self) -> Vec<String> {
        Vec::new()
    }

    fn state_shape(&self) -> Option<String> {
        Some("staleness 1".into())
    }

    fn reach(&self) -> i64 {
        self.after
    }

    fn build(&self) -> Box<dyn Operator> {
        Box::new(state::Staleness::new(self.after, self.series_max))
    }
}
