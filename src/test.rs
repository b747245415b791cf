//! `weir test`: runs the `[[tests]]` of the pipeline files on a virtual clock.

use std::process::ExitCode;

use anyhow::Result;
use weir_pipeline::testing;

use crate::check::{count, pipelines, print};
use crate::cli::Local;
use crate::client::{DEGRADED, out};

/// Prints what failed. A file that cannot be planned fails too: its tests did not run.
pub(crate) fn run(args: &Local) -> Result<ExitCode> {
    let loaded = pipelines(args);
    let mut bad = loaded.diagnostics.has_errors();
    if bad {
        print(&loaded.diagnostics);
    }
    let (mut tests, mut failures) = (0, 0);
    for pipeline in loaded.plan.pipelines.values().filter(|p| !p.tests.is_empty()) {
        let wrong = testing::run(pipeline);
        print(&wrong);
        let verdict = if wrong.has_errors() { "FAILED" } else { "ok" };
        let of = count(pipeline.tests.len(), "test");
        out(&format!("{} ({}): {of}: {verdict}", pipeline.name, pipeline.path.display()));
        tests += pipeline.tests.len();
        failures += wrong.0.len();
        bad |= wrong.has_errors();
    }
    out(&format!("{}, {}", count(tests, "test"), count(failures, "failure")));
    Ok(if bad { ExitCode::from(DEGRADED) } else { ExitCode::SUCCESS })
}
