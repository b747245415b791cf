//! `weir notify RECEIVER`: sends a test page and says what came of it.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::Value;

use crate::cli::Notify;
use crate::client::{self, DEGRADED, out, out_json};

/// Exit code 1 if a target did not take the page.
pub(crate) fn run(args: &Notify) -> Result<ExitCode> {
    Ok(client::with(&args.remote, |client| {
        let answer = client.post(&["api", "v1", "notify", &args.receiver])?;
        if args.remote.json {
            out_json(&answer);
        }
        let mut failed = false;
        for outcome in answer["outcomes"].as_array().into_iter().flatten() {
            let target = outcome["target"].as_str().unwrap_or_default();
            let line = match outcome["error"].as_str() {
                Some(error) => {
                    failed = true;
                    format!("{target}: failed: {error}")
                }
                None => format!("{target}: delivered"),
            };
            if !args.remote.json {
                out(&line);
            }
        }
        if answer["outcomes"].as_array().is_none_or(Vec::is_empty) && answer != Value::Null {
            eprintln!("warning: receiver `{}` has no targets", args.receiver);
        }
        Ok(if failed { ExitCode::from(DEGRADED) } else { ExitCode::SUCCESS })
    }))
}
