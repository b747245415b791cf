//! `weir tap PIPELINE NODE`: rows of an edge as they flow, one JSON object per line.

use std::process::ExitCode;

use anyhow::Result;
use reqwest::Method;

use crate::cli::Tap;
use crate::client;

/// Runs until the limit, or until it is interrupted.
pub(crate) fn run(args: &Tap) -> Result<ExitCode> {
    Ok(client::with(&args.remote, |client| {
        let path = ["api", "v1", "pipelines", &args.pipeline, "tap", &args.node];
        let mut request = client.request(Method::GET, &path)?;
        if let Some(limit) = args.limit {
            request = request.query(&[("limit", limit)]);
        }
        client.copy(request)?;
        Ok(ExitCode::SUCCESS)
    }))
}
