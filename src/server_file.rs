//! The server file, `weir.toml`, with what the router makes of it; and its last good version, which
//! a start with a broken file runs.

use std::path::{Path, PathBuf};

use weir_alerts::RouterConfig;
use weir_pipeline::checkpoint::write_atomically;
use weir_pipeline::config::{Bundle, Environment, Flags, ServerConfig};
use weir_pipeline::diagnostic::Diagnostics;

/// In the data folder: the last good version. Secrets are references in it.
const LAST_GOOD: &str = "last_good_server.json";

/// Where the server file is, and what goes before it.
#[derive(Clone, Debug)]
pub(crate) struct ServerFile {
    pub(crate) path: PathBuf,
    /// Whether it was asked for, so that it must be there.
    pub(crate) required: bool,
    pub(crate) flags: Flags,
}

/// What the server file says.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) config: ServerConfig,
    pub(crate) router: RouterConfig,
    pub(crate) warnings: Diagnostics,
}

impl ServerFile {
    /// Reads it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn read(&self) -> Result<Settings, Diagnostics> {
        let Self { path, required, flags } = self;
        let read =
            ServerConfig::load(path, *required, &Environment::Process, flags, &RouterConfig::plan);
        read.map(Settings::new)
    }

    /// What to start with: the file, or its last good version and what is wrong with the file.
    ///
    /// # Errors
    /// What is wrong with the file, if it never was right.
    pub(crate) fn start(&self) -> Result<(Settings, Option<Diagnostics>), Diagnostics> {
        let wrong = match self.read() {
            Ok(settings) => return Ok((settings, None)),
            Err(wrong) => wrong,
        };
        let data = ServerConfig::data_folder(&self.path, &Environment::Process, &self.flags);
        match self.last_good(&data) {
            Some(settings) => Ok((settings, Some(wrong))),
            None => Err(wrong),
        }
    }

    fn last_good(&self, data: &Path) -> Option<Settings> {
        let kept = std::fs::read(data.join(LAST_GOOD)).ok()?;
        let kept: Bundle = serde_json::from_slice(&kept).ok()?;
        let read = ServerConfig::from_kept(&kept, &self.flags, &RouterConfig::plan);
        read.map(Settings::new).ok()
    }
}

impl Settings {
    fn new((config, router, warnings): (ServerConfig, RouterConfig, Diagnostics)) -> Self {
        Self { config, router, warnings }
    }

    /// Keeps this version in the data folder `data` for later starts.
    pub(crate) fn keep(&self, data: &Path) {
        let path = data.join(LAST_GOOD);
        let kept = self.config.kept(&Environment::Process);
        let kept = serde_json::to_vec(&kept).unwrap_or_default();
        if let Err(error) = write_atomically(&path, &kept) {
            tracing::error!(%error, path = %path.display(), "the server file cannot be kept");
        }
    }
}
