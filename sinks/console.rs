//! `console` sink: writes rows to standard output, one JSON object a line.
//!
//! ```toml
//! [sinks.debug]
//! type = "console"
//! inputs = ["otlp.logs"]
//! ```
//!
//! Each object has the columns of both levels that have a value, sorted by name; times in RFC
//! 3339. A reader that is slow slows its pipeline down.
//!
//! Delivery: at least once. Lines are written as rows arrive, so a restart repeats what came
//! after the last checkpoint. Nothing is held back: there is nothing to stage or to commit.

use std::fmt::Display;
use std::io::Write;

use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::oneshot;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{Sink, SinkContext, SinkError, SinkKind, SinkPlan, Staged};
use weir_pipeline::config::{Scope, Section};
use weir_pipeline::diagnostic::Diagnostics;

use crate::lines::lines;

/// The row of the table.
pub(crate) const KIND: SinkKind = SinkKind {
    name: "console",
    about: "write rows to standard output as JSON lines",
    source: include_str!("console.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// There are no keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {}

#[derive(Debug)]
struct ConsolePlan;

fn plan(section: &Section, _scope: &Scope) -> Result<Box<dyn SinkPlan>, Diagnostics> {
    let Config {} = section.read()?;
    Ok(Box::new(ConsolePlan))
}

impl SinkPlan for ConsolePlan {
    fn build(&self, _context: SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(Console { out: Out::Standard }))
    }
}

enum Out {
    Standard,
    #[cfg(test)]
    Memory(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>),
}

struct Console {
    out: Out,
}

impl Sink for Console {
    fn write(&mut self, batch: Batch) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move {
            let text = lines(&batch)?;
            match &self.out {
                Out::Standard => {
                    // A terminal or pipe may block: not a thread of the runtime, which a stop
                    // would wait for.
                    let (done, written) = oneshot::channel();
                    let write = move || {
                        let mut out = std::io::stdout().lock();
                        let _ = done.send(out.write_all(&text).and_then(|()| out.flush()));
                    };
                    let failed = |e: &dyn Display| SinkError::transient(e.to_string());
                    let thread = std::thread::Builder::new().name("console".to_owned());
                    thread.spawn(write).map_err(|e| failed(&e))?;
                    let done = written.await.map_err(|e| failed(&e))?;
                    // Without a reader no later try can help.
                    done.map_err(|e| SinkError::permanent(format!("standard output: {e}")))
                }
                #[cfg(test)]
                Out::Memory(memory) => {
                    memory.lock().extend(text);
                    Ok(())
                }
            }
        })
    }

    fn tick(&mut self, _offset: u64) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }

    fn stage(&mut self, _mark: u64, _last: bool) -> BoxFuture<'_, Result<Staged, SinkError>> {
        Box::pin(async { Ok(Staged::default()) })
    }

    fn commit(&mut self, _mark: u64, _work: &[u8]) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }

    fn restore(&mut self, _carry: &[u8]) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }
}

#[cfg(test)]
mod tests;
