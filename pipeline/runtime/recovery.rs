//! How a pipeline goes on from its newest whole checkpoint, with the plan that the checkpoint
//! names: at start-up, and after its loop failed.

use std::sync::Arc;
use std::time::Duration;

use super::Runtime;
use super::pipeline::{Begin, Running, build_sink, detached, rename_part, start};
use crate::checkpoint::{Checkpoint, Consumer};
use crate::component::Staged;
use crate::config::plan_from_bundle;
use crate::intake::now;
use crate::plan::PipelinePlan;

/// How long the checkpoint of a removed pipeline stays, so that it can come back.
pub(super) const REMOVED_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is known of a pipeline that does not run.
pub(super) enum Saved {
    /// It goes on from here.
    Live(Box<Checkpoint>),
    /// It was removed here, everything committed, and goes on from here if it comes back.
    Removed(Box<Checkpoint>),
    /// Nothing.
    Nothing,
    /// There were checkpoints, all of them damaged.
    Lost,
}

/// What a checkpoint is good for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Worth {
    /// It belongs to another journal.
    Foreign,
    Live,
    Removed,
    /// Removed too long ago.
    Expired,
}

/// What is missing if a pipeline that left off behind `position` goes on behind `after`.
pub(super) fn gap(position: u64, after: u64) -> Option<String> {
    (after > position).then(|| {
        format!(
            "it left off behind entry {position}, and the journal no longer has entries {} to \
             {after}: what they held is missing from what it makes",
            position + 1
        )
    })
}

impl Runtime {
    /// Starts every pipeline that has a checkpoint and was not removed.
    pub(super) async fn recover(&self) -> std::io::Result<()> {
        let (checkpoints, damage) = self.shared.checkpoints.load_all()?;
        for what in damage {
            tracing::error!("{what}; going on from the one before");
        }
        let plans = self.shared.checkpoints.plans_named()?;
        self.shared.checkpoints.retain_plans(&plans, Duration::ZERO);
        // A crash came between the first checkpoint under a new name and the end of the old one.
        let void = |c: &Checkpoint| {
            let renamed = |new: &Checkpoint| {
                new.renamed.as_ref() == Some(&c.pipeline) && new.detached == c.detached
            };
            checkpoints.iter().any(|new| renamed(new) && c.position <= new.position)
        };
        let (void, saved): (Vec<_>, Vec<_>) = checkpoints.iter().cloned().partition(void);
        void.iter().for_each(|c| self.shared.checkpoints.forget(&c.consumer()));
        let saved = self.rename_parts(saved).await;
        let mut live = Vec::new();
        for checkpoint in saved {
            if let Saved::Live(checkpoint) = self.judge(checkpoint).await {
                // Before the first of them can trim: all of them hold the journal.
                self.shared.holds.take(&checkpoint.consumer(), || checkpoint.position);
                live.push(checkpoint);
            }
        }
        for checkpoint in live {
            let who = checkpoint.consumer();
            match self.go_on(checkpoint, None).await {
                Ok((running, notes)) => {
                    for note in notes {
                        tracing::warn!(pipeline = %who.pipeline, "{note}");
                    }
                    self.insert(who, running);
                }
                Err(why) => self.is_down(&who, None, None, &why),
            }
        }
        Ok(())
    }

    /// A crash came between the first checkpoint of a pipeline under a new name and those of its
    /// detached sinks.
    async fn rename_parts(&self, saved: Vec<Checkpoint>) -> Vec<Checkpoint> {
        let wholes: Vec<_> = saved.iter().filter(|c| c.detached.is_none()).cloned().collect();
        let mut all = Vec::new();
        for part in saved {
            let new = wholes.iter().find(|w| w.renamed.as_ref() == Some(&part.pipeline));
            let Some(new) = new.filter(|_| part.detached.is_some()) else {
                all.push(part);
                continue;
            };
            let plans = (self.recorded_plan(&part), self.recorded_plan(new));
            let renamed = async {
                let (before, after) = (plans.0?, plans.1?);
                rename_part(&self.shared, &part.consumer(), &before, &after).await?;
                let who = Consumer { pipeline: after.name.clone(), ..part.consumer() };
                self.shared.checkpoints.load(&who).map_err(|e| e.to_string())
            };
            match renamed.await {
                Ok((checkpoint, _)) => all.extend(checkpoint),
                Err(error) => {
                    tracing::error!(pipeline = part.pipeline, error, "detached sink not renamed");
                }
            }
        }
        all
    }

    /// What is saved of `who`.
    ///
    /// # Errors
    /// If the disk refuses: then nothing is known, which is not the same as nothing being there.
    pub(super) async fn saved(&self, who: &Consumer) -> Result<Saved, String> {
        let loaded = self.shared.checkpoints.load(who);
        let (checkpoint, damage) = loaded.map_err(|e| format!("its checkpoint: {e}"))?;
        for what in &damage {
            tracing::error!(pipeline = %who.pipeline, "{what}");
        }
        match checkpoint {
            Some(checkpoint) => Ok(self.judge(checkpoint).await),
            None if damage.is_empty() => Ok(Saved::Nothing),
            None => Ok(Saved::Lost),
        }
    }

    /// As [`Runtime::saved`], leaving everything as it is.
    pub(super) fn peek(&self, who: &Consumer) -> Result<Saved, String> {
        let peeked = self.shared.checkpoints.peek(who);
        let (checkpoint, damaged) = peeked.map_err(|e| format!("its checkpoint: {e}"))?;
        let Some(checkpoint) = checkpoint.map(Box::new) else {
            return Ok(if damaged { Saved::Lost } else { Saved::Nothing });
        };
        Ok(match self.worth(&checkpoint) {
            Worth::Foreign | Worth::Expired => Saved::Nothing,
            Worth::Live => Saved::Live(checkpoint),
            Worth::Removed => Saved::Removed(checkpoint),
        })
    }

    fn worth(&self, checkpoint: &Checkpoint) -> Worth {
        if checkpoint.journal != self.shared.journal.id() {
            return Worth::Foreign;
        }
        if !checkpoint.removed {
            return Worth::Live;
        }
        let age =
            self.shared.checkpoints.modified(&checkpoint.consumer()).and_then(|t| t.elapsed().ok());
        if age.is_some_and(|age| age > REMOVED_KEPT) { Worth::Expired } else { Worth::Removed }
    }

    /// Does what a checkpoint is good for. Commits of a removed pipeline are repeated here, since
    /// nobody else will.
    async fn judge(&self, checkpoint: Checkpoint) -> Saved {
        let name = checkpoint.pipeline.clone();
        let journal = self.shared.journal.id();
        let worth = self.worth(&checkpoint);
        if worth == Worth::Foreign {
            let aside = self.shared.checkpoints.set_aside(&checkpoint);
            let aside = aside.map_or_else(|e| e.to_string(), |path| path.display().to_string());
            tracing::error!(
                pipeline = name,
                aside,
                "its checkpoint belongs to journal {:032x}, this is journal {journal:032x}: it \
                 starts anew; its state and what it carried are in the checkpoint set aside",
                checkpoint.journal
            );
            return Saved::Nothing;
        }
        if worth == Worth::Live {
            return Saved::Live(Box::new(checkpoint));
        }
        if worth == Worth::Expired {
            self.shared.checkpoints.forget(&checkpoint.consumer());
            return Saved::Nothing;
        }
        if let Err(why) = self.commit_removed(&checkpoint).await {
            tracing::error!(pipeline = name, error = why, "removed, but not all is committed");
        }
        Saved::Removed(Box::new(checkpoint))
    }

    async fn commit_removed(&self, checkpoint: &Checkpoint) -> Result<(), String> {
        if checkpoint.sinks.values().all(|s| s.work.is_empty()) {
            return Ok(());
        }
        let plan = self.recorded_plan(checkpoint)?;
        for node in &plan.nodes {
            let Some(staged) = checkpoint.sinks.get(&*node.id) else { continue };
            if let Some(mut sink) = build_sink(&self.shared, &plan, node)? {
                sink.restore(Some((checkpoint.position, staged))).await?;
            }
        }
        Ok(())
    }

    /// Delivers what the sinks of a checkpoint had staged and carried, which nobody goes on with.
    ///
    /// # Errors
    /// The first sink that does not take it.
    pub(super) async fn settle_sinks(&self, checkpoint: &Checkpoint) -> Result<(), String> {
        let holds = |s: &Staged| !s.work.is_empty() || !s.carry.is_empty();
        if !checkpoint.sinks.values().any(holds) {
            return Ok(());
        }
        let plan = self.recorded_plan(checkpoint)?;
        for node in &plan.nodes {
            let staged = checkpoint.sinks.get(&*node.id).filter(|s| holds(s));
            let Some(staged) = staged else { continue };
            if let Some(sink) = build_sink(&self.shared, &plan, node)? {
                sink.settle(checkpoint.position, staged).await?;
            }
        }
        Ok(())
    }

    /// Removes a pipeline that is down: what its sinks had staged is delivered, what its operators
    /// hold stays in its checkpoint, in case that it comes back. Gives what people should know.
    ///
    /// # Errors
    /// If the disk refuses.
    pub(super) async fn remove_down(&self, who: &Consumer) -> Result<String, String> {
        let (checkpoint, _) = self.shared.checkpoints.load(who).map_err(|e| e.to_string())?;
        let mut note = "it was down".to_owned();
        if let Some(mut checkpoint) = checkpoint.filter(|c| !c.removed) {
            let position = checkpoint.position;
            note += &format!(", and what came behind entry {position} is not in what it made");
            match self.settle_sinks(&checkpoint).await {
                Ok(()) => checkpoint.sinks.values_mut().for_each(|s| *s = Staged::default()),
                Err(why) => note += &format!("; what it had staged is not delivered: {why}"),
            }
            checkpoint.removed = true;
            self.shared.checkpoints.save(&checkpoint).map_err(|e| e.to_string())?;
        }
        self.shared.holds.release(who);
        self.down.lock().remove(who);
        Ok(note)
    }

    /// Starts a pipeline from a checkpoint: as `plan`, or else as the plan that the checkpoint
    /// names. Its hold on the journal is taken.
    ///
    /// # Errors
    /// If neither plan can be built, or a sink does not take its part back.
    pub(super) async fn go_on(
        &self,
        checkpoint: Box<Checkpoint>,
        plan: Option<Arc<PipelinePlan>>,
    ) -> Result<(Running, Vec<String>), String> {
        let who = checkpoint.consumer();
        let mut notes = Vec::new();
        let plan = match plan {
            Some(plan) => plan,
            None => self.recorded_plan(&checkpoint)?,
        };
        let position = checkpoint.position;
        let after = self.shared.holds.take(&who, || position);
        notes.extend(gap(position, after));
        if after > position {
            self.shared.gaps.add(&who, position, after, now());
        }
        // A detached sink would keep the others waiting while it does not get on; what kills above it
        // kills its pipeline too.
        let careful = who.sink.is_none() && self.shared.poison.starts(&who, position);
        if careful {
            notes.push("it died twice without progress: it goes entry by entry".to_owned());
        }
        let begin = Begin::Checkpoint { checkpoint, after, careful };
        let (running, more) = start(self.shared.clone(), who.clone(), plan, begin).await?;
        let (sink, head) = (who.sink.as_deref(), self.shared.journal.head());
        tracing::info!(pipeline = %who.pipeline, sink, position, head, "goes on from its checkpoint");
        notes.extend(more);
        Ok((running, notes))
    }

    /// The plan with which a pipeline that does not run goes on from its checkpoint, and what
    /// people should know. One that was not removed changes to the present plan at a later mark.
    pub(super) fn resumed(
        &self,
        checkpoint: &Checkpoint,
        present: &Arc<PipelinePlan>,
    ) -> (Arc<PipelinePlan>, Vec<String>) {
        if checkpoint.removed || checkpoint.plan == present.hash {
            return (present.clone(), Vec::new());
        }
        match self.recorded_plan(checkpoint) {
            Ok(recorded) => (recorded, Vec::new()),
            Err(why) => (present.clone(), vec![why]),
        }
    }

    /// The plan that a checkpoint names; of a detached sink, its part.
    pub(super) fn recorded_plan(
        &self,
        checkpoint: &Checkpoint,
    ) -> Result<Arc<PipelinePlan>, String> {
        let bundle =
            self.shared.checkpoints.load_plan(&checkpoint.plan).map_err(|e| e.to_string())?;
        let (components, tables) = (&self.options.components, &self.options.tables);
        let (plan, _) = plan_from_bundle(&bundle, &checkpoint.pipeline, components, tables)
            .map_err(|e| format!("the plan of its checkpoint cannot be built: {e}"))?;
        match &checkpoint.detached {
            None => Ok(Arc::new(plan)),
            Some(sink) => detached(&plan, sink),
        }
    }
}
