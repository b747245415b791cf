//! `weir merge`: the files of all tables merged as far as they go, in the data folder of a server
//! that is stopped.
//!
//! A server waits for an hour or a day to be over before it merges its last files, and for enough
//! of them before. Where no more will come (an archive, a measurement), this does it at once. What a
//! checkpoint has staged or carries stays as it is; the next start takes it up. Rows that come later
//! for a merged day wait in files of their own, as always.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use weir_pipeline::intake::now;
use weir_pipeline::memory::Parts;
use weir_store::{Store, StoreOptions};

use crate::check::count;
use crate::cli::Merge;
use crate::client::{DEGRADED, out};
use crate::engine::retention;
use crate::folder::Folder;

/// Exit code 1 if files could not be merged.
pub(crate) fn run(args: &Merge) -> Result<ExitCode> {
    let (settings, wrong) = args.local.file().start().map_err(|wrong| anyhow!("{wrong}"))?;
    if let Some(wrong) = wrong {
        eprintln!("{wrong}the last good version of the server file counts");
    }
    let config = settings.config;
    let data = &config.data;
    if !data.is_dir() {
        bail!("there is no data folder: `{}`", data.display());
    }
    let _folder =
        Folder::open(data).context("merge works on the folder of a server that is stopped")?;
    let options = StoreOptions {
        retention: retention(&config),
        upkeep_bytes: Parts::of(config.memory.0).upkeep,
        ..StoreOptions::default()
    };
    let store = Store::open(&data.join("tables"), options)?;
    let mut failed = 0;
    for merged in store.merge_all(now())? {
        let files = count(usize::try_from(merged.files_before)?, "file");
        out(&format!(
            "{}: {files} into {}, {}, {} bytes",
            merged.table,
            merged.files,
            count(usize::try_from(merged.rows)?, "row"),
            merged.bytes
        ));
        failed += merged.failed;
    }
    if failed > 0 {
        let files = count(usize::try_from(failed)?, "file");
        eprintln!("warning: {files} could not be merged; they stay as they are");
        return Ok(ExitCode::from(DEGRADED));
    }
    Ok(ExitCode::SUCCESS)
}
