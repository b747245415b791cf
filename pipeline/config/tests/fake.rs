//! `fake` source: what a component author would write, without the work.
//!
//! ```toml
//! [sources.a]
//! type = "fake"
//! listen = "127.0.0.1:4317"
//! ```

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::component::*;
use crate::config::{
    ByteSize, ClientAuth, Duration, Scope, Section, ServerAuth, Spanned, TlsServer,
};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::edge::Edge;
use crate::signal::Signal;

pub(super) const COMPONENTS: Components = Components {
    sources: SOURCES,
    operators: &[
        kind("keep", "keep rows", schema::<Keep>, plan_keep),
        kind("window", "group rows", schema::<Window>, plan_window),
    ],
    sinks: &[kind("store", "store rows", schema::<Store>, plan_store)],
    lookups: &[],
    alert: &kind("alert", "wake someone", schema::<Alert>, plan_alert),
    router: &kind("router", "to the router", schema::<Nothing>, plan_router),
    errors: "store",
};

pub(super) const SOURCES: &[SourceKind] =
    &[kind("fake", "rows from nowhere", schema::<Fake>, plan_fake)];

const fn kind<P: ?Sized>(
    name: &'static str,
    about: &'static str,
    schema: fn() -> schemars::Schema,
    plan: fn(&Section, &Scope) -> Result<Box<P>, Diagnostics>,
) -> Kind<P> {
    Kind { name, about, source: include_str!("fake.rs"), schema, plan }
}

fn schema<T: JsonSchema>() -> schemars::Schema {
    schemars::schema_for!(T)
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// How a stream is cut.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Framing {
    /// At line ends.
    #[default]
    Newline,
    /// Length first.
    OctetCounting,
    /// Blocks.
    #[allow(dead_code)]
    Fixed {
        /// Bytes of a block.
        size: ByteSize,
    },
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Fake {
    /// Address to listen on.
    listen: Spanned<String>,
    /// Certificate.
    tls: Option<TlsServer>,
    /// Who may send.
    auth: Option<Auth>,
    /// How it is cut.
    #[serde(default)]
    framing: Framing,
    /// Ports.
    #[serde(default)]
    ports: Vec<u16>,
    /// A type with a parser of its own.
    level: Option<Level>,
    /// A token.
    token: Option<crate::config::Secret>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Auth {
    bearer: Option<crate::config::Secret>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, crate::config::Header>,
    #[serde(default)]
    basic: Vec<crate::config::Basic>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
struct Level(#[allow(dead_code)] u8);

impl TryFrom<String> for Level {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Level).map_err(|_| format!("`{text}` is no level"))
    }
}

#[derive(Debug, PartialEq)]
struct FakePlan(SocketAddr);

fn plan_fake(section: &Section, _: &Scope) -> Result<Box<dyn SourcePlan>, Diagnostics> {
    let config: Fake = section.read()?;
    let listen = config.listen.value.parse().map_err(|_| {
        Diagnostic::error("W015", format!("`{}` is no address", config.listen.value))
            .at(&section.span(&config.listen))
    })?;
    Ok(Box::new(FakePlan(listen)))
}

impl SourcePlan for FakePlan {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn outputs(&self) -> Vec<OutputPlan> {
        let output = |name, signal| OutputPlan { name, edge: Edge::open(signal) };
        vec![output("logs", Signal::Logs), output("metrics", Signal::Metrics)]
    }
    fn listens(&self) -> Vec<Listen> {
        vec![Listen::Tcp(self.0)]
    }
    fn decoder(&self) -> Arc<dyn Decoder> {
        unreachable!("never decodes")
    }
    fn run(&self, _: SourceContext) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

#[derive(Debug)]
struct OperatorFake(Vec<OutputPlan>);

impl OperatorPlan for OperatorFake {
    fn outputs(&self) -> Vec<OutputPlan> {
        self.0.clone()
    }
    fn columns(&self) -> Vec<String> {
        Vec::new()
    }
    fn state_shape(&self) -> Option<String> {
        None
    }
    fn reach(&self) -> i64 {
        0
    }
    fn build(&self) -> Box<dyn Operator> {
        unreachable!("never runs")
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Keep {
    r#where: Option<Spanned<String>>,
    file: Option<Spanned<String>>,
}

/// Its "expression" is `true`, or the name of one column.
fn plan_keep(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Keep = section.read()?;
    let (inline, file) = (config.r#where.as_ref(), config.file.as_ref());
    let text = section.text_or_file("where", inline, file, scope)?;
    let edge = scope.inputs[0].edge.clone();
    let name = text.text.trim();
    if name.contains('?') {
        let error = Diagnostic::error("W150", format!("`{name}` is no expression"));
        return Err(error.at(&text.locate(0..text.text.len())).into());
    }
    let start = text.text.find(name).unwrap();
    let place = text.locate(start..start + name.len());
    if let Some(said) = edge.check(name, &place).filter(|_| name != "true") {
        if said.severity == crate::diagnostic::Severity::Error {
            return Err(said.into());
        }
        scope.warn(said);
    }
    Ok(Box::new(OperatorFake(vec![OutputPlan { name: "", edge }])))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Window {
    every: Duration,
    #[serde(default)]
    group_by: Vec<String>,
    aggregate: std::collections::BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    emit_empty: bool,
    max_groups: Option<u32>,
    memory: Option<ByteSize>,
    late: Option<Late>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Late {
    Drop,
    Keep,
}

fn plan_window(section: &Section, _: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Window = section.read()?;
    let mut columns: std::collections::BTreeMap<_, _> =
        config.aggregate.keys().map(|k| (k.clone(), None)).collect();
    columns.insert("window_start".to_owned(), None);
    let edge = Edge { signal: Signal::named(&section.id), columns, open: false };
    let late = OutputPlan { name: "late", edge: Edge::open(Signal::Logs) };
    Ok(Box::new(OperatorFake(vec![OutputPlan { name: "", edge }, late])))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Alert {
    when: Spanned<String>,
}

fn plan_alert(section: &Section, _: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let _: Alert = section.read()?;
    let edge = Edge::open(Signal::named("transitions"));
    Ok(Box::new(OperatorFake(vec![OutputPlan { name: "", edge }])))
}

#[derive(Debug)]
struct SinkFake;

impl SinkPlan for SinkFake {
    fn build(&self, _: SinkContext) -> Result<Box<dyn Sink>, SinkError> {
        Err(SinkError::permanent("never runs"))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Store {
    table: String,
    #[serde(default)]
    credentials: Vec<ClientAuth>,
    #[serde(default)]
    auth: Option<ServerAuth>,
}

fn plan_store(section: &Section, _: &Scope) -> Result<Box<dyn SinkPlan>, Diagnostics> {
    let _: Store = section.read()?;
    Ok(Box::new(SinkFake))
}

fn plan_router(section: &Section, _: &Scope) -> Result<Box<dyn SinkPlan>, Diagnostics> {
    let _: Nothing = section.read()?;
    Ok(Box::new(SinkFake))
}
