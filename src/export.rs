//! `weir export TABLE FILE`: one version of a table as plain wide Parquet, from the data folder of
//! a server that is stopped. Rows past the retention that `weir.toml` says are left out.
//!
//! Rows that a checkpoint carries because they were too few for a file are taken from there, the
//! way a start does it. Rows that only the journal holds (after a crash) come into tables when the
//! server starts again, and are not in the export.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use weir_pipeline::checkpoint::{Checkpoint, Checkpoints};
use weir_pipeline::component::{Services, Sink, SinkContext};
use weir_pipeline::config::plan_from_bundle;
use weir_pipeline::intake::now;
use weir_pipeline::lookup::Tables;
use weir_pipeline::plan::Work;
use weir_store::{DEFAULT_TENANT, Store, StoreOptions};

use crate::check::count;
use crate::cli::Export;
use crate::client::{DEGRADED, out};
use crate::components::ALL;
use crate::engine::retention;
use crate::folder::Folder;

/// Exit code 1 if damaged files were left out.
pub(crate) fn run(args: &Export) -> Result<ExitCode> {
    let from = args.from.as_deref().map(time).transpose()?.unwrap_or(i64::MIN);
    let to = args.to.as_deref().map(time).transpose()?.unwrap_or(i64::MAX);
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
        Folder::open(data).context("export reads the folder of a server that is stopped")?;
    // Rows past retention are left out as a query leaves them out.
    let options = StoreOptions { retention: retention(&config), ..StoreOptions::default() };
    let store = Store::open(&data.join("tables"), options)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // They hold the rows that their checkpoints carry.
    let sinks = runtime.block_on(recover(data, &store))?;
    let table = store.table(DEFAULT_TENANT, &args.table).ok_or_else(|| {
        let names = store.tables(DEFAULT_TENANT);
        let names: Vec<String> = names.iter().map(|t| format!("`{}`", t.name())).collect();
        anyhow!("there is no table `{}`; there are: {}", args.table, names.join(", "))
    })?;
    let exported = weir_store::export(&table.snapshot(), from, to, now(), &args.output)?;
    drop(sinks);
    let rows = usize::try_from(exported.rows)?;
    out(&format!("{}: {}, {} bytes", args.output.display(), count(rows, "row"), exported.bytes));
    if exported.damaged > 0 {
        let files = count(usize::try_from(exported.damaged)?, "damaged file");
        eprintln!("warning: {files} set aside; their rows are not in it");
        return Ok(ExitCode::from(DEGRADED));
    }
    Ok(ExitCode::SUCCESS)
}

fn time(text: &str) -> Result<i64> {
    let time: jiff::Timestamp = text
        .parse()
        .map_err(|e| anyhow!("not a time: `{text}`: {e}\nhint: such as 2026-01-31T12:00:00Z"))?;
    Ok(i64::try_from(time.as_nanosecond())?)
}

/// The store sinks of all checkpoints, with what they staged committed and what they carried hot.
async fn recover(data: &Path, store: &Arc<Store>) -> Result<Vec<Box<dyn Sink>>> {
    let checkpoints = Checkpoints::open(data)?;
    let (all, damage) = checkpoints.load_all()?;
    for what in damage {
        eprintln!("warning: {what}");
    }
    let mut sinks = Vec::new();
    for checkpoint in all.into_iter().filter(|c| !c.sinks.is_empty()) {
        recover_one(&checkpoints, &checkpoint, store, &mut sinks)
            .await
            .with_context(|| format!("checkpoint of pipeline `{}`", checkpoint.pipeline))?;
    }
    Ok(sinks)
}

async fn recover_one(
    checkpoints: &Checkpoints,
    checkpoint: &Checkpoint,
    store: &Arc<Store>,
    sinks: &mut Vec<Box<dyn Sink>>,
) -> Result<()> {
    let bundle = checkpoints.load_plan(&checkpoint.plan)?;
    let (plan, _) = plan_from_bundle(&bundle, &checkpoint.pipeline, &ALL, &Tables::nothing())
        .map_err(|wrong| anyhow!("its plan cannot be built: {wrong}"))?;
    for node in plan.nodes.iter().filter(|n| n.kind == "store") {
        let (Work::Sink(sink), Some(staged)) = (&node.work, checkpoint.sinks.get(&*node.id)) else {
            continue;
        };
        let mut sink = sink.build(SinkContext {
            journal: checkpoint.journal,
            pipeline: plan.name.clone(),
            sink: node.id.clone(),
            services: Services::default().with(store.clone()),
            metrics: Arc::default(),
        })?;
        if !staged.work.is_empty() {
            sink.commit(checkpoint.position, &staged.work).await?;
        }
        sink.restore(&staged.carry).await?;
        sinks.push(sink);
    }
    Ok(())
}
