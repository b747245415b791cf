//! The client of Fluvio of components that read topics or write to them: where its controller (SC)
//! is, its TLS, which partition is led by which SPU, and topics that are to be created.
//!
//! The messages are those of Fluvio's own crates; the connections are ours ([`line`](self)). Fluvio's
//! client works on threads of its own, says neither where a partition begins nor how many records
//! wait, ends batches when it likes, and takes a batch that was cut off by the end of a fetch for a
//! whole one.

mod batch;
mod line;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fluvio::dataplane::link::ErrorCode;
use fluvio::dataplane::{Decoder, Encoder};
use fluvio::metadata::AdminSpec;
use fluvio::metadata::objects::{
    CommonCreateRequest, CreateRequest, ListFilter, ListRequest, ListResponse, Metadata,
    ObjectApiCreateRequest, ObjectApiListRequest,
};
use fluvio::metadata::partition::PartitionSpec;
use fluvio::metadata::spu::SpuSpec;
use fluvio::metadata::topic::TopicSpec;
use fluvio_sc_schema::TryEncodableFrom;
use rustls::ClientConfig;
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::batch::{encode, records};
pub use self::line::{Answer, Line, Sent};
use crate::config::{Scope, Section, Spanned, TlsClient};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::tls::client_config;

/// A request has to be answered within this time.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest name of a topic.
/// Source: `MAX_RESOURCE_NAME_LEN` of Fluvio.
const TOPIC_CHARS_MAX: usize = 63;

/// `create`: topics that are not there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FluvioCreate {
    /// How many partitions they get. Default 1.
    pub partitions: Option<u16>,
    /// How many SPUs have each partition. Default 1.
    pub replicas: Option<u8>,
}

/// How to reach Fluvio.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FluvioConnection {
    endpoints: Vec<String>,
    tls: Option<TlsClient>,
}

/// What the controller says there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    /// Partitions of each topic, with the SPU that leads it.
    pub partitions: BTreeMap<String, BTreeMap<u32, i32>>,
    /// Address of each SPU.
    pub spus: BTreeMap<i32, String>,
}

impl FluvioConnection {
    /// Checks what was written.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn plan(
        section: &Section,
        scope: &Scope,
        endpoints: &Spanned<Vec<String>>,
        tls: Option<TlsClient>,
    ) -> Result<Self, Diagnostics> {
        let is_address = |text: &str| {
            let parts = text.rsplit_once(':');
            parts.is_some_and(|(host, port)| {
                let plain = !host.contains(|c: char| c.is_whitespace() || "/@".contains(c));
                !host.is_empty() && plain && port.parse::<u16>().is_ok()
            })
        };
        let bad = endpoints.value.iter().position(|e| !is_address(e));
        if endpoints.value.is_empty() || bad.is_some() {
            let message = match bad {
                Some(at) => format!("`endpoints`: number {} is no host and port", at + 1),
                None => "`endpoints` is empty".to_owned(),
            };
            let error = Diagnostic::error("W015", message).at(&section.span(endpoints));
            return Err(error.hint("for example `endpoints = [\"127.0.0.1:9003\"]`").into());
        }
        let tls = tls.map(|tls| tls.resolved(&scope.base));
        Ok(Self { endpoints: endpoints.value.clone(), tls })
    }

    /// The addresses, for people.
    pub fn shown(&self) -> String {
        self.endpoints.join(",")
    }

    /// Connects to the controller: to the first that answers. Certificates are read now.
    ///
    /// # Errors
    /// Why none does.
    pub async fn controller(&self) -> Result<Controller, String> {
        let mut said = String::new();
        for endpoint in &self.endpoints {
            match self.line(endpoint).await {
                Ok(line) => return Ok(Controller { line }),
                Err(why) if said.is_empty() => said = why,
                Err(why) => said = format!("{said}; {why}"),
            }
        }
        Err(said)
    }

    /// Connects to the SPU at an address. Certificates are read now.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn line(&self, address: &str) -> Result<Line, String> {
        let tls: Option<Arc<ClientConfig>> = match &self.tls {
            Some(tls) => Some(Arc::new(client_config(tls).map_err(|e| e.to_string())?)),
            None => None,
        };
        match tokio::time::timeout(TIMEOUT, Line::open(address, tls)).await {
            Ok(opened) => opened,
            Err(_) => Err(format!("{address}: no answer within {} s", TIMEOUT.as_secs())),
        }
    }
}

/// A connection to the controller.
#[derive(Debug)]
pub struct Controller {
    line: Line,
}

impl Controller {
    /// What there is.
    ///
    /// # Errors
    /// If it does not say.
    pub async fn topics(&mut self) -> Result<Topics, String> {
        let mut topics = Topics::default();
        for partition in self.all::<PartitionSpec>().await? {
            // The name of a topic may have `-`, too.
            let Some((topic, number)) = partition.name.rsplit_once('-') else { continue };
            let Ok(number) = number.parse() else { continue };
            let partitions = topics.partitions.entry(topic.to_owned()).or_default();
            partitions.insert(number, partition.spec.leader);
        }
        for spu in self.all::<SpuSpec>().await? {
            topics.spus.insert(spu.spec.id, spu.spec.public_endpoint.addr());
        }
        Ok(topics)
    }

    async fn all<S>(&mut self) -> Result<Vec<Metadata<S>>, String>
    where
        S: AdminSpec,
        S::Status: Encoder + Decoder + std::fmt::Debug,
    {
        let request: ListRequest<S> = ListRequest::new(Vec::<ListFilter>::new(), false);
        let version = self.line.version::<ObjectApiListRequest>()?;
        let request = ObjectApiListRequest::try_encode_from(request, version)
            .map_err(|e| format!("{}: {e}", S::LABEL))?;
        let response = self.line.ask(request).await?;
        let all: Option<ListResponse<S>> =
            response.downcast().map_err(|e| format!("{}: {e}", S::LABEL))?;
        let none = || format!("the controller answers something else when asked for {}", S::LABEL);
        Ok(all.ok_or_else(none)?.inner())
    }

    /// Creates a topic that is not there.
    ///
    /// # Errors
    /// If the controller does not.
    pub async fn create(&mut self, name: &str, how: &FluvioCreate) -> Result<(), String> {
        let partitions = u32::from(how.partitions.unwrap_or(1));
        let replicas = u32::from(how.replicas.unwrap_or(1));
        let common = CommonCreateRequest {
            name: name.to_owned(),
            dry_run: false,
            timeout: u32::try_from(TIMEOUT.as_millis() / 2).ok(),
        };
        let spec = TopicSpec::new_computed(partitions, replicas, None);
        let request = CreateRequest::new(common, spec);
        let version = self.line.version::<ObjectApiCreateRequest>()?;
        let failed = |why: String| format!("topic `{name}` cannot be created: {why}");
        let request = ObjectApiCreateRequest::try_encode_from(request, version)
            .map_err(|e| failed(e.to_string()))?;
        let status = self.line.ask(request).await.map_err(failed)?;
        match (status.error_code, status.error_message) {
            // Somebody else was faster.
            (ErrorCode::None | ErrorCode::TopicAlreadyExists, _) => Ok(()),
            (code, Some(message)) => Err(failed(format!("{code}: {message}"))),
            (code, None) => Err(failed(code.to_string())),
        }
    }
}

/// Whether Fluvio takes it as the name of a topic.
/// Source: `validate_resource_name` of Fluvio.
pub fn is_topic(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edge = name.starts_with('-') || name.ends_with('-');
    !name.is_empty() && name.len() <= TOPIC_CHARS_MAX && !edge && name.chars().all(plain)
}

/// `text` as the name of a topic: what cannot stand in one becomes `-`, letters become small, and at
/// the ends nothing but letters and digits is left.
pub fn topic(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = text.chars().map(plain).collect();
    let name: String = name.trim_matches('-').chars().take(TOPIC_CHARS_MAX).collect();
    let name = name.trim_end_matches('-');
    if name.is_empty() { "topic".to_owned() } else { name.to_owned() }
}
