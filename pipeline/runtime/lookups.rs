//! Keeps lookup tables fresh: a table that has another version is a reload, and so goes live at a
//! mark.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use super::reload::Refused;
use super::{Asked, Runtime};
use crate::diagnostic::Diagnostic;
use crate::intake::now;
use crate::lookup::{LookupStatus, Place};
use crate::plan::LookupDefinition;

/// Between looks at whether a table is due.
const LOOK: Duration = Duration::from_secs(1);
/// A table that could not be read is tried again after this, nanoseconds.
const RETRY_NS: i64 = 10_000_000_000;
/// Tables that are read at a time.
const AT_ONCE: usize = 4;
/// A reload waits for a table that nobody has read yet no longer than this; it is read on, and
/// another reload follows.
const FIRST: Duration = Duration::from_secs(10);
/// Versions and plans that nothing needs any more go this often, if there are new ones.
const TIDY: Duration = Duration::from_secs(600);
/// Those that came into use this lately stay: a checkpoint that names them may be under way.
const UNUSED: Duration = Duration::from_secs(3600);

/// Reads tables when they are due, until the runtime stops.
pub(super) async fn run(runtime: Arc<Runtime>) {
    let (mut tidied, mut untidy) = (tokio::time::Instant::now(), true);
    while runtime.stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        let definitions = runtime.definitions.lock().clone();
        if definitions.is_empty() {
            continue;
        }
        if runtime.refresh(&definitions).await.0 {
            runtime.reload().await;
            untidy = true;
        }
        if untidy && tidied.elapsed() >= TIDY {
            (tidied, untidy) = (tokio::time::Instant::now(), false);
            tokio::task::block_in_place(|| runtime.tidy());
        }
    }
}

impl Runtime {
    /// Reads those of the tables that are due. Whether one has another version now, and why others
    /// could not be read.
    async fn refresh(
        &self,
        definitions: &[Arc<LookupDefinition>],
    ) -> (bool, Vec<(Arc<LookupDefinition>, String)>) {
        let time = now();
        let mut due: Vec<Arc<LookupDefinition>> = Vec::new();
        for definition in definitions {
            let known = due.iter().any(|d| d.key == definition.key);
            if !known && self.options.tables.is_due(definition, time, RETRY_NS) {
                due.push(definition.clone());
            }
        }
        let reads: Vec<_> = due.into_iter().map(|d| self.read(d, time)).collect();
        let mut read = futures::stream::iter(reads).buffer_unordered(AT_ONCE);
        let (mut changed, mut failed) = (false, Vec::new());
        while let Some((definition, result)) = read.next().await {
            match result {
                Ok(other) => changed |= other,
                Err(why) => failed.push((definition, why)),
            }
        }
        (changed, failed)
    }

    /// Reads a table, see [`crate::lookup::Tables::refresh`].
    async fn read(
        &self,
        definition: Arc<LookupDefinition>,
        time: i64,
    ) -> (Arc<LookupDefinition>, Result<bool, String>) {
        let (tables, services) = (&self.options.tables, &self.shared.services);
        let changed = tables.refresh(&definition, services, time).await;
        if let Err(why) = &changed {
            tracing::warn!(lookup = definition.id, error = why, "a table cannot be read");
            let help = "Times that a lookup table could not be read";
            self.shared.telemetry.count("weir_lookup_errors_total", help, 1.0);
        }
        (definition, changed)
    }

    /// Before a reload: reads files that changed, and what nobody has read yet. Gives the pipeline
    /// files that cannot run for want of a table.
    pub(super) async fn refresh_first(&self, definitions: &[Arc<LookupDefinition>]) -> Refused {
        let known = |d: &LookupDefinition| matches!(self.options.tables.newest(d), Ok(Some(_)));
        let is_file = |d: &LookupDefinition| matches!(d.plan.place(), Place::File(_));
        let wanted = definitions.iter().filter(|d| is_file(d) || !known(d));
        let wanted: Vec<Arc<LookupDefinition>> = wanted.cloned().collect();
        let refreshed = tokio::time::timeout(FIRST, self.refresh(&wanted)).await;
        let failed = refreshed.map_or_else(|_| Vec::new(), |(_, failed)| failed);
        let mut refused = Refused::new();
        for definition in &wanted {
            let why = failed.iter().find(|(d, _)| d.key == definition.key).map(|(_, why)| why);
            let why = match why {
                Some(why) if is_file(definition) || !known(definition) => why.clone(),
                None if !known(definition) => self.options.tables.error(definition),
                _ => continue,
            };
            let message = format!("lookup `{}` cannot be read: {why}", definition.id);
            let wrong = Diagnostic::error("W047", message)
                .at(&definition.header)
                .hint("it is tried again every ten seconds");
            refused.entry(definition.header.file.path.clone()).or_default().push(wrong);
        }
        refused
    }

    /// What is known of each lookup table.
    pub fn lookups(&self) -> Vec<LookupStatus> {
        self.options.tables.status(&self.definitions.lock())
    }

    /// Forgets versions and plans that nothing names any more.
    fn tidy(&self) {
        let checkpoints = &self.shared.checkpoints;
        let Ok((saved, _)) = checkpoints.load_all() else { return };
        let mut plans: Vec<String> = saved.into_iter().map(|c| c.plan).collect();
        for running in self.running.lock().values() {
            plans.push(running.plan.lock().hash.clone());
            if let Asked::Plan(hash) = &*running.asked.lock() {
                plans.push(hash.clone());
            }
        }
        checkpoints.retain_plans(&plans, UNUSED);
        let kept = checkpoints.kept_plans();
        let versions = kept.into_iter().flat_map(|b| b.lookups.into_values()).collect();
        self.options.tables.tidy(&versions, UNUSED);
    }
}
