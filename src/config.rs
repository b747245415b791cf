//! `weir config`: the resolved server settings with their origin.

use std::process::ExitCode;

use anyhow::Result;
use weir_pipeline::config::Explained;

use crate::check;
use crate::cli::Local;
use crate::client::{DEGRADED, out};

/// Prints one line per key. Secrets are shown as the references that they are.
pub(crate) fn run(args: &Local) -> Result<ExitCode> {
    let settings = match args.file().read() {
        Ok(settings) => settings,
        Err(wrong) => {
            check::print(&wrong);
            return Ok(ExitCode::from(DEGRADED));
        }
    };
    let rows = settings.config.explain();
    let width = |text: fn(&Explained) -> &str| {
        rows.iter().map(|r| text(r).chars().count()).max().unwrap_or(0)
    };
    let (first, second) = (width(|r| &r.key), width(|r| &r.value));
    for Explained { key, value, origin } in &rows {
        out(&format!("{key:first$}  {value:second$}  {origin}"));
    }
    check::print(&settings.warnings);
    Ok(ExitCode::SUCCESS)
}
