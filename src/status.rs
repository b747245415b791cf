//! `weir status`: walks each path from source to sink and marks the first place where flow stops.

pub(crate) mod text;

use std::process::ExitCode;

use anyhow::Result;
use serde_json::Value;

use crate::cli::Remote;
use crate::client::{self, DEGRADED, out, out_json};

/// Exit code 1 if something needs somebody's attention. Firing alerts do not count: they say
/// something of what is watched, not of Weir.
pub(crate) fn run(args: &Remote) -> Result<ExitCode> {
    Ok(client::with(args, |client| {
        let status = client.get(&["api", "v1", "status"])?;
        if args.json {
            out_json(&status);
        } else {
            out(&text::render(&status));
        }
        Ok(if degraded(&status) { ExitCode::from(DEGRADED) } else { ExitCode::SUCCESS })
    }))
}

fn degraded(status: &Value) -> bool {
    let undelivered = |target: &Value| target["error"].is_string();
    !status["ready"].as_bool().unwrap_or(false)
        || !status["reload"]["ok"].as_bool().unwrap_or(false)
        || !list(&status["problems"]).is_empty()
        || list(&status["alerts"]["notifications"]).iter().any(undelivered)
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
