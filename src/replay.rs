//! `weir replay`: retained journal through an edited pipeline file, and what differs from what is
//! live.

mod text;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use reqwest::Method;
use reqwest::header::ACCEPT;
use serde_json::{Value, json};
use weir_pipeline::config::{Environment, bundle_of};

use crate::check;
use crate::cli::{Replay, ReplayFormat};
use crate::client::{self, DEGRADED, Failure, out, out_json};
use crate::components::ALL;

/// Exit code 0 whatever differs; 1 if it could not be found for all of the stretch.
pub(crate) fn run(args: &Replay) -> Result<ExitCode> {
    let file = match args.pipeline.as_deref().map(edited).transpose() {
        Ok(file) => file,
        Err(code) => return Ok(code),
    };
    let body = json!({
        "from": args.from, "to": args.to, "warm_up": args.warm_up, "pipeline": args.name,
        "samples": args.samples, "file": file,
    });
    Ok(client::with(&args.remote, |client| {
        let request = client.request(Method::POST, &["api", "v1", "replay"])?;
        let request = request.header(ACCEPT, "application/x-ndjson").json(&body);
        let mut last = Value::Null;
        let mut shown = Shown { terminal: std::io::stderr().is_terminal(), any: false };
        client.lines(request, |mut line| match line.get_mut("progress") {
            Some(progress) => shown.say(progress),
            None => last = line,
        })?;
        shown.clear();
        if let Some(message) = last["error"]["message"].as_str() {
            return Err(Failure::Refused { message: message.to_owned(), place: None });
        }
        let report = &last["report"];
        if !report.is_object() {
            return Err(Failure::Unreachable("the answer broke off".to_owned()));
        }
        if args.remote.json || args.format == ReplayFormat::Json {
            out_json(report);
        } else {
            out(&text::render(report));
        }
        let whole = report["complete"].as_bool().unwrap_or(false);
        Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(DEGRADED) })
    }))
}

/// The file with all that it names, as the server takes it.
fn edited(path: &Path) -> Result<Value, ExitCode> {
    let mut bundle = bundle_of(path, &ALL, &Environment::Process).map_err(|wrong| {
        check::print(&wrong);
        ExitCode::from(DEGRADED)
    })?;
    let path = path.display().to_string();
    let text = bundle.files.remove(&path);
    Ok(json!({
        "path": path, "text": text, "files": bundle.files, "environment": bundle.environment,
    }))
}

/// How far it is, on one line of a terminal.
struct Shown {
    terminal: bool,
    any: bool,
}

impl Shown {
    fn say(&mut self, progress: &Value) {
        if self.terminal {
            let done = progress["done"].as_f64().unwrap_or_default() * 100.0;
            let position = &progress["position"];
            eprint!("\r\u{1b}[Kreplay: entry {position}, {done:.0} %");
            let _ = std::io::stderr().flush();
            self.any = true;
        }
    }

    fn clear(&self) {
        if self.any {
            eprint!("\r\u{1b}[K");
        }
    }
}
