//! Start-up: every pipeline goes on from its newest whole checkpoint, with the plan that the
//! checkpoint names.

use std::sync::Arc;
use std::time::Duration;

use super::pipeline::{Begin, start};
use super::{Running, Runtime};
use crate::checkpoint::Checkpoint;
use crate::config::plan_from_bundle;
use crate::plan::PipelinePlan;

/// How long the checkpoint of a removed pipeline stays, so that it can come back.
pub(super) const REMOVED_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

impl Runtime {
    /// Starts every pipeline that has a checkpoint and was not removed.
    pub(super) async fn recover(&self) -> std::io::Result<()> {
        let (checkpoints, damage) = self.shared.checkpoints.load_all()?;
        for what in damage {
            tracing::error!("{what}; going on from the one before");
        }
        let plans: Vec<String> = checkpoints.iter().map(|c| c.plan.clone()).collect();
        self.shared.checkpoints.retain_plans(&plans);
        let live: Vec<_> = checkpoints.into_iter().filter(|c| self.is_live(c)).collect();
        // Before the first of them can trim: all of them hold the journal.
        *self.shared.holding.lock() = live.iter().map(|c| c.pipeline.as_str().into()).collect();
        for checkpoint in live {
            self.recover_one(checkpoint).await;
        }
        Ok(())
    }

    fn is_live(&self, checkpoint: &Checkpoint) -> bool {
        if checkpoint.removed {
            let age = self.shared.checkpoints.modified(&checkpoint.pipeline);
            if age.and_then(|t| t.elapsed().ok()).is_some_and(|age| age > REMOVED_KEPT) {
                self.shared.checkpoints.forget(&checkpoint.pipeline);
            }
            return false;
        }
        let journal = self.shared.journal.id();
        if checkpoint.journal != journal {
            tracing::error!(
                pipeline = checkpoint.pipeline,
                "its checkpoint belongs to journal {:032x}, this is journal {journal:032x}: it \
                 starts anew; its state and what it carried are left in the checkpoint",
                checkpoint.journal
            );
            return false;
        }
        true
    }

    async fn recover_one(&self, checkpoint: Checkpoint) {
        let name: Arc<str> = checkpoint.pipeline.as_str().into();
        let plan = match self.recorded_plan(&checkpoint) {
            Ok(plan) => Arc::new(plan),
            Err(why) => {
                // The reload that follows starts it with the present file, from this position
                // and with what state still fits.
                tracing::error!(pipeline = %name, error = why, "the plan of the checkpoint cannot be built");
                return;
            }
        };
        let position = checkpoint.position;
        match start(self.shared.clone(), plan, Begin::Checkpoint(Box::new(checkpoint))).await {
            Ok((running, notes)) => {
                tracing::info!(pipeline = %name, position, "recovered");
                for note in notes {
                    tracing::warn!(pipeline = %name, "{note}");
                }
                self.insert(name, running);
            }
            Err(why) => tracing::error!(pipeline = %name, error = why, "not recovered"),
        }
    }

    fn recorded_plan(&self, checkpoint: &Checkpoint) -> Result<PipelinePlan, String> {
        let bundle =
            self.shared.checkpoints.load_plan(&checkpoint.plan).map_err(|e| e.to_string())?;
        plan_from_bundle(&bundle, &checkpoint.pipeline, &self.options.components)
            .map(|(plan, _)| plan)
            .map_err(|e| e.to_string())
    }

    pub(super) fn insert(&self, name: Arc<str>, running: Running) {
        let mut holding = self.shared.holding.lock();
        if !holding.contains(&name) {
            holding.push(name.clone());
        }
        self.pipelines.lock().insert(name, Arc::new(running));
    }
}
