//! `router` sink: hands the transitions of a pipeline to the router of this server.
//!
//! It is implicit: the engine puts it behind the alerts of every pipeline. Delivery: transitions
//! are in the router's fsynced log when `write` returns, and known by position, so that a
//! recovery which hands them in again changes nothing. What rules say they hold open sets right
//! what the router lost or should have been told (see [`Router::reconcile`]).

use std::sync::Arc;

use arrow::error::ArrowError;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::backlog::Policy;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{Sink, SinkContext, SinkError, SinkKind, SinkPlan, Staged};
use weir_pipeline::config::{Scope, Section};
use weir_pipeline::diagnostic::Diagnostics;

use crate::router::Router;
use crate::transition::{Held, from_batch};

/// The row for the engine.
pub const ROUTER: SinkKind = SinkKind {
    name: "router",
    about: "hand the transitions of alerts to the router",
    source: include_str!("sink.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// It has no keys.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {}

#[derive(Debug)]
struct Plan;

fn plan(section: &Section, _scope: &Scope) -> Result<Box<dyn SinkPlan>, Diagnostics> {
    let Config {} = section.read()?;
    Ok(Box::new(Plan))
}

impl SinkPlan for Plan {
    fn past_backlog(&self) -> Policy {
        Policy::Refuse
    }

    fn build(&self, context: SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        let router = context
            .services
            .get::<Router>()
            .ok_or_else(|| SinkError::permanent("no router is running"))?;
        Ok(Box::new(RouterSink { router, context }))
    }
}

struct RouterSink {
    router: Arc<Router>,
    context: SinkContext,
}

impl Sink for RouterSink {
    fn write(&mut self, batch: Batch) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move {
            let unreadable = |e: ArrowError| SinkError::permanent(e.to_string());
            let (journal, pipeline) = (self.context.journal, &self.context.pipeline);
            let done = match Held::from_batch(&batch).map_err(unreadable)? {
                Some(held) => self.router.reconcile(journal, pipeline, held).await.map(drop),
                None => {
                    let transitions = from_batch(&batch).map_err(unreadable)?;
                    self.router.submit(journal, pipeline, transitions).await.map(drop)
                }
            };
            done.map_err(|e| SinkError::transient(e.to_string()))
        })
    }

    fn tick(&mut self, _offset: u64) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }

    /// Whatever was written is logged already.
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
