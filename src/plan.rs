//! `weir plan`: what a reload would do, before it does it.

mod text;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::Remote;
use crate::client::{self, DEGRADED, out, out_json};

/// Exit code 1 if a file would not be live as it stands.
pub(crate) fn run(args: &Remote) -> Result<ExitCode> {
    Ok(client::with(args, |client| {
        let planned = client.get(&["api", "v1", "plan"])?;
        if args.json {
            out_json(&planned);
        } else {
            out(&text::render(&planned));
        }
        let ok = planned["ok"].as_bool().unwrap_or(false);
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(DEGRADED) })
    }))
}
