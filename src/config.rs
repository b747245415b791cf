//! `weir config`: the resolved server settings with their origin.

use std::process::ExitCode;

use anyhow::Result;
use weir_alerts::RouterConfig;
use weir_pipeline::config::{Environment, ServerConfig};

use crate::check;
use crate::cli::Local;
use crate::client::{DEGRADED, out};

/// Prints one line per key. Secrets are shown as the references that they are.
pub(crate) fn run(args: &Local) -> Result<ExitCode> {
    let (file, required) = (args.file(), args.config.is_some());
    let loaded = ServerConfig::load(&file, required, &Environment::Process, &args.flags());
    let (config, warnings) = match loaded {
        Ok(loaded) => loaded,
        Err(wrong) => {
            check::print(&wrong);
            return Ok(ExitCode::from(DEGRADED));
        }
    };
    let mut rows: Vec<[String; 3]> = config
        .explain()
        .iter()
        .map(|e| [e.key.clone(), e.value.clone(), e.origin.clone()])
        .collect();
    let place = |section: &weir_pipeline::config::Section| {
        let line = section.header.line_column().0;
        format!("`{}:{line}`", section.file.path.display())
    };
    for receiver in &config.receivers {
        rows.push([format!("receivers.{}", receiver.id), "a receiver".into(), place(receiver)]);
    }
    let (value, origin) = match &config.route {
        Some(route) => ("a routing tree".to_owned(), place(route)),
        None => ("everything to `console`".to_owned(), "default".to_owned()),
    };
    rows.push(["route".to_owned(), value, origin]);
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    for [key, value, origin] in &rows {
        out(&format!("{key:first$}  {value:second$}  {origin}"));
    }
    let mut wrong = warnings;
    if let Err(router) = RouterConfig::plan(&config.receivers, config.route.as_ref()) {
        wrong.0.extend(router.0);
    }
    check::print(&wrong);
    Ok(if wrong.has_errors() { ExitCode::from(DEGRADED) } else { ExitCode::SUCCESS })
}
