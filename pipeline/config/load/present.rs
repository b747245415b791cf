//! The files of the folder as they were read, apart from what is made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{FileState, FileStatus, LastGood, Loaded, Loader, Version, sort};
use crate::component::Components;
use crate::config::environment::Environment;
use crate::config::file;
use crate::config::planner::hex;
use crate::config::section::{emptied, read_text};
use crate::diagnostic::{Diagnostic, Diagnostics, SourceText};
use crate::lookup::{Tables, Versions};

/// The pipeline files of a folder as they were read, to be planned as often as need be.
#[derive(Clone, Debug, Default)]
pub struct Present {
    files: BTreeMap<String, Result<Version, Diagnostics>>,
    /// Why nothing is known of what should run.
    unreadable: Option<Diagnostic>,
}

impl Present {
    /// Reads the pipeline files of `folder`.
    pub fn read(folder: &Path, environment: &Environment) -> Self {
        match file::list(folder) {
            Ok(paths) => {
                let read = |path: PathBuf| {
                    let key = path.display().to_string();
                    (key.clone(), read_version(path, &key, environment))
                };
                Self { files: paths.into_iter().map(read).collect(), unreadable: None }
            }
            Err(e) => {
                let why = e.to_string().to_lowercase();
                let message = format!("folder `{}` cannot be read: {why}", folder.display());
                let hint = "`--pipelines DIR` names another folder";
                let unreadable = Diagnostic::error("W002", message).hint(hint);
                Self { files: BTreeMap::new(), unreadable: Some(unreadable) }
            }
        }
    }

    /// From now on the files that they name are those that `loaded` found, whatever the disk has. One
    /// that could not be read is looked for again.
    pub fn hold(&mut self, loaded: &Loaded) {
        for (path, version) in &mut self.files {
            let Ok(version) = version else { continue };
            if version.given.is_none() {
                version.given = loaded.named.get(path).cloned();
            }
        }
    }

    /// Plans them.
    ///
    /// `good` is what the last load handed out. `refused` are files whose present text must not run
    /// although it can be planned (their own tests fail), and why.
    pub fn plan(
        &self,
        components: &Components,
        tables: &Tables,
        good: &LastGood,
        refused: &BTreeMap<PathBuf, Diagnostics>,
    ) -> Loaded {
        let present = &self.files;
        let mut loader = Loader {
            good,
            states: BTreeMap::new(),
            frozen: BTreeSet::new(),
            said: Diagnostics::default(),
            named: BTreeMap::new(),
        };
        if let Some(unreadable) = &self.unreadable {
            loader.said.push(unreadable.clone());
            // What ran goes on.
            for path in good.keys() {
                loader.states.insert(path.clone(), FileState::Kept);
            }
        }
        for (path, version) in present {
            loader.states.insert(path.clone(), FileState::Live);
            let bad = version.as_ref().err().cloned();
            if let Some(bad) = bad.or_else(|| refused.get(Path::new(path)).cloned()) {
                loader.said.0.extend(bad.0);
                loader.fall_back(path);
            }
        }
        let attempt = loader.settle(present, components, tables);
        let hash = |path: &String| match present.get(path) {
            Some(Ok(version)) => hex(&Sha256::digest(&version.text.text)),
            _ => String::new(),
        };
        let files = loader.states.iter().map(|(path, state)| FileStatus {
            path: path.into(),
            state: *state,
            hash: hash(path),
        });
        let files = files.collect();
        let mut kept = LastGood::new();
        for (path, state) in &loader.states {
            let mut bundle = match state {
                FileState::Live => attempt.bundles.get(path).cloned(),
                FileState::Kept | FileState::LeftOut => good.get(path).cloned(),
            };
            // The tables with which it runs now are the last that suited it.
            if let (FileState::Kept, Some(bundle), Some(runs)) =
                (state, &mut bundle, attempt.bundles.get(path))
            {
                bundle.lookups.clone_from(&runs.lookups);
            }
            kept.extend(bundle.map(|b| (path.clone(), b)));
        }
        let mut diagnostics = loader.said;
        sort(&mut diagnostics);
        Loaded { plan: attempt.plan, diagnostics, files, good: kept, named: loader.named }
    }
}

pub(super) fn read_version(
    path: PathBuf,
    key: &str,
    environment: &Environment,
) -> Result<Version, Diagnostics> {
    let text = read_text(&path).map_err(|why| {
        Diagnostics::from(Diagnostic::error("W002", format!("file `{key}` cannot be read: {why}")))
    })?;
    if text.trim().is_empty() {
        return Err(emptied(key).into());
    }
    let text = Arc::new(SourceText { path, text });
    Ok(Version {
        text,
        name: None,
        environment: environment.clone(),
        given: None,
        lookups: Versions::Newest,
    })
}
