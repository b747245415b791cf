//! The lookup tables of a file: which there are, and with which version of each it is planned.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::{Planner, SourceInfo, canonical, hex};
use crate::config::file::Group;
use crate::config::section::Lookups;
use crate::lookup::{Lookup, Place};
use crate::plan::{Guess, LookupDefinition, NodePlan, PipelinePlan};

/// Key of a lookup with rows for where its peer cannot be asked.
const SAMPLE: &str = "sample";

/// The lookup tables of a file.
#[derive(Default)]
pub(super) struct FileLookups {
    pub(super) definitions: BTreeMap<String, Arc<LookupDefinition>>,
    pub(super) tables: Lookups,
    guesses: BTreeMap<String, Guess>,
}

impl Planner<'_> {
    /// Plans the lookup tables of the file, and finds a version of each.
    pub(crate) fn lookups(&mut self) -> Vec<Arc<LookupDefinition>> {
        let file = self.file;
        let mut tables = BTreeMap::new();
        for part in file.parts.iter().filter(|p| p.group == Group::Lookup) {
            let id = &part.section.id;
            let Some(kind) = self.kind(self.components.lookups, part) else { continue };
            let Some(proved) = self.prove(kind, &part.section, Vec::new(), false) else { continue };
            let mut config = proved.config;
            // Rows to go by elsewhere are no matter of what it holds.
            config.remove(SAMPLE);
            let place = match proved.plan.place() {
                Place::File(path) => path.display().to_string(),
                Place::Peer(_) => String::new(),
            };
            let decides = [
                ("type", kind.name.into()),
                ("config", Json::Object(config)),
                ("place", place.into()),
            ];
            let definition = Arc::new(LookupDefinition {
                id: id.clone(),
                kind: kind.name,
                plan: proved.plan.into(),
                key: hex(&Sha256::digest(canonical(&decides))),
                header: part.section.header.clone(),
            });
            match self.version(&definition) {
                Ok((table, guess)) => {
                    tables.insert(id.clone(), table);
                    self.lookups.guesses.extend(guess.map(|guess| (id.clone(), guess)));
                }
                Err(why) => {
                    let message = format!("{}: {why}", part.section.owner);
                    self.error("W047", message, &part.section.header);
                    tables.insert(id.clone(), Arc::new(Lookup::unknown()));
                }
            }
            self.lookups.definitions.insert(id.clone(), definition);
        }
        self.lookups.tables = Arc::new(tables);
        self.lookups.definitions.values().cloned().collect()
    }

    /// The version to plan with, else the sample; and whether it stands for rows that nobody knows.
    fn version(
        &self,
        definition: &LookupDefinition,
    ) -> Result<(Arc<Lookup>, Option<Guess>), String> {
        if let Some(table) = self.versions.of(definition, self.tables)? {
            return Ok((table, None));
        }
        Ok(match sample(definition)? {
            Some(sample) => (sample, Some(Guess::Sample)),
            None => (Arc::new(Lookup::unknown()), Some(Guess::Nothing)),
        })
    }

    /// The tables that `plan` looks into without knowing their rows.
    pub(super) fn guessed(&self, plan: &PipelinePlan) -> BTreeMap<String, Guess> {
        let known = |id: &String| {
            let definition = self.lookups.definitions.get(id);
            definition.is_none_or(|d| !plan.bundle.lookups.contains_key(&d.key))
        };
        let guesses = self.lookups.guesses.iter().filter(|(id, _)| !known(id));
        guesses.map(|(id, guess)| (id.clone(), *guess)).collect()
    }

    /// The nodes of `plan` as its tests run them: with the samples of lookup tables. `None` if
    /// there are none.
    pub(super) fn test_nodes(
        &mut self,
        plan: &PipelinePlan,
        sources: &BTreeMap<String, SourceInfo>,
    ) -> Option<Vec<NodePlan>> {
        if plan.tests.is_empty() {
            return None;
        }
        let mut tables = BTreeMap::clone(&self.lookups.tables);
        for (id, definition) in &self.lookups.definitions {
            if let Ok(Some(sample)) = sample(definition) {
                tables.insert(id.clone(), sample);
            }
        }
        let changed = tables
            .iter()
            .zip(&*self.lookups.tables)
            .any(|((_, a), (_, b))| a.version() != b.version());
        if !changed {
            return None;
        }
        let mut planner = Self::new(
            self.components,
            self.given.clone(),
            (self.tables, self.versions.clone()),
            self.file,
        );
        planner.lookups = FileLookups {
            definitions: self.lookups.definitions.clone(),
            tables: Arc::new(tables),
            guesses: BTreeMap::new(),
        };
        let planned = planner.pipeline_of(sources).pipeline;
        self.wrong.0.extend(planner.wrong.0.into_iter().filter(|_| planned.is_none()));
        planned.map(|p| p.nodes)
    }
}

/// The rows of a table for where its peer cannot be asked.
fn sample(definition: &LookupDefinition) -> Result<Option<Arc<Lookup>>, String> {
    let Some(content) = definition.plan.sample() else { return Ok(None) };
    let kept = format!("{content:?}");
    Lookup::new(&content, kept.as_bytes()).map(|lookup| Some(Arc::new(lookup)))
}
