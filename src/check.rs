//! `weir check`: everything that is wrong with the files. Needs no server, network or secret.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use weir_pipeline::config::{Environment, LastGood, Loaded, load};
use weir_pipeline::diagnostic::{Diagnostics, Severity};
use weir_pipeline::lookup::Tables;

use crate::cli::{Check, Local};
use crate::client::{DEGRADED, out};
use crate::components::ALL;

/// Prints every mistake of all files, and how many there are.
pub(crate) fn run(args: &Check) -> Result<ExitCode> {
    let mut found = server(&args.local);
    let loaded = pipelines(&args.local);
    found.0.extend(loaded.diagnostics.0.iter().cloned());
    let (errors, warnings) = print(&found);
    let files = loaded.files.len();
    let plan = &loaded.plan;
    out(&format!(
        "{}: {}, {}, {}; {}, {}",
        args.local.pipelines().display(),
        count(files, "file"),
        count(plan.sources.len(), "good source"),
        count(plan.pipelines.len(), "good pipeline"),
        count(errors, "error"),
        count(warnings, "warning"),
    ));
    let bad = errors > 0 || (args.strict && warnings > 0);
    Ok(if bad { ExitCode::from(DEGRADED) } else { ExitCode::SUCCESS })
}

/// What is wrong with the server file, receivers and routes included.
pub(crate) fn server(local: &Local) -> Diagnostics {
    local.file().read().map_or_else(|wrong| wrong, |settings| settings.warnings)
}

/// The pipeline files, planned.
pub(crate) fn pipelines(local: &Local) -> Loaded {
    let environment = Environment::Process;
    load(
        &local.pipelines(),
        &ALL,
        (&environment, &Tables::default()),
        &LastGood::new(),
        &BTreeMap::new(),
    )
}

/// Prints diagnostics with a blank line after each; counts errors and warnings.
pub(crate) fn print(found: &Diagnostics) -> (usize, usize) {
    for diagnostic in &found.0 {
        out(&format!("{diagnostic}\n"));
    }
    let errors = found.0.iter().filter(|d| d.severity == Severity::Error).count();
    (errors, found.0.len() - errors)
}

/// "1 file", "2 files".
pub(crate) fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_wrong_field_hides_no_other_mistake() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"
[sources.otlp]
type = "${KIND:-otlp}"
grpc = "127.0.0.1:0"
[operators.w]
type = "window"
inputs = ["${IN:-otlp}.logs"]
every = "10"
agregate = { x = "count(*" }
[alerts.b]
inputs = ["w"]
when = "total > "
for = "30"
summary = "{{ $labels.x }}"
annotations = { a = "{{ x | byts }}" }
"#;
        std::fs::write(dir.path().join("a.toml"), text).unwrap();
        let empty = Environment::Fixed(BTreeMap::new());
        let outside = (&empty, &Tables::default());
        let loaded = load(dir.path(), &ALL, outside, &LastGood::new(), &BTreeMap::new());
        let errors = loaded.diagnostics.0.iter().filter(|d| d.severity == Severity::Error);
        let codes: Vec<&str> = errors.map(|d| d.code).collect();
        assert_eq!(
            codes,
            ["W015", "W014", "W301", "W301", "W015", "W161", "W162"],
            "{}",
            loaded.diagnostics
        );
    }
}
