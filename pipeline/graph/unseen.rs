//! Columns that a node reads and that no row has had so far: most likely they are misspelt. Costs
//! nothing once all have been seen.

use crate::batch::Batch;
use crate::diagnostic::nearest;
use crate::signal::ATTRIBUTES;
use crate::telemetry::{ComponentMetrics, UnseenColumn};

/// What one node still waits for.
pub(super) struct Unseen {
    names: Vec<String>,
    /// Whether that was said to the metrics.
    told: bool,
}

impl Unseen {
    pub(super) fn new(mut names: Vec<String>) -> Self {
        names.sort();
        names.dedup();
        names.retain(|name| name != ATTRIBUTES);
        Self { names, told: false }
    }

    /// Takes the columns of `batch` for seen.
    pub(super) fn look(&mut self, batch: &Batch, metrics: &ComponentMetrics) {
        if self.names.is_empty() && self.told {
            return;
        }
        let before = self.names.len();
        // Names without a column of their own cannot be told from here.
        let all = batch.overflow().is_some();
        self.names.retain(|name| !all && !has(batch, name));
        if self.names.len() == before && self.told {
            return;
        }
        self.told = true;
        let present = batch.names();
        let unseen = self.names.iter().map(|name| UnseenColumn {
            name: name.clone(),
            nearest: nearest(name, present.iter().map(|(n, _)| &**n)).map(str::to_owned),
        });
        metrics.unseen(unseen.collect());
    }
}

/// Whether a row can have a value under `name`: a column, or columns below it.
fn has(batch: &Batch, name: &str) -> bool {
    let below = |n: &str| n.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    batch.level(name).is_some() || batch.names().iter().any(|(n, _)| below(n))
}
