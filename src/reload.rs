//! `weir reload`: makes the server read its files now, waits, prints the outcome.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::Value;

use crate::cli::Remote;
use crate::client::{self, DEGRADED, out, out_json};

/// Exit code 1 if a file is not live as it stands.
pub(crate) fn run(args: &Remote) -> Result<ExitCode> {
    Ok(client::with(args, |client| {
        let report = client.post(&["api", "v1", "reload"])?;
        if args.json {
            out_json(&report);
        } else {
            out(&text(&report));
        }
        let ok = report["ok"].as_bool().unwrap_or(false);
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(DEGRADED) })
    }))
}

/// The outcome of a reload for people.
pub(crate) fn text(report: &Value) -> String {
    let mut lines = Vec::new();
    let list = |key: &str| report[key].as_array().into_iter().flatten();
    for diagnostic in list("diagnostics").filter_map(Value::as_str) {
        lines.push(format!("{}\n", diagnostic.trim_end()));
    }
    for file in list("files") {
        let path = file["path"].as_str().unwrap_or_default();
        match file["state"].as_str().unwrap_or_default() {
            "live" => {}
            "kept" => lines.push(format!("{path}: has a mistake, its last good version runs")),
            "left_out" => lines.push(format!("{path}: has a mistake, left out")),
            other => lines.push(format!("{path}: {other}")),
        }
    }
    lines.extend(list("events").filter_map(Value::as_str).map(str::to_owned));
    let files = list("files").count();
    let live = list("files").filter(|f| f["state"] == "live").count();
    lines.push(format!("reload {}: {live} of {files} files live", report["number"]));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_files_are_not_live() {
        let report = serde_json::json!({
            "number": 3, "ok": false, "diagnostics": ["error[W014]: no such field\n"],
            "files": [{"path": "a.toml", "state": "live"}, {"path": "b.toml", "state": "kept"}],
            "events": ["pipeline `a` replaced"],
        });
        let expected = "error[W014]: no such field\n\n\
            b.toml: has a mistake, its last good version runs\n\
            pipeline `a` replaced\nreload 3: 1 of 2 files live";
        assert_eq!(text(&report), expected);
    }
}
