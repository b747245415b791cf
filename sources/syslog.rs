//! `syslog` source: takes in messages over UDP, TCP or TLS, as RFC 5424, as RFC 3164 and as what
//! real senders make of the two.
//!
//! ```toml
//! [sources.syslog]
//! type = "syslog"
//! listen = "127.0.0.1:5514"
//! protocol = "tcp"
//! ```
//!
//! Output: `logs`. Over TCP and TLS each message may be framed by its length or by a newline (or
//! NUL); which one is told by how it starts (RFC 6587).
//!
//! | column | level | what |
//! |---|---|---|
//! | `timestamp` | row | that of the message, else the time of receipt |
//! | `severity`, `severity_number` | row | by the mapping of OpenTelemetry; empty without a priority |
//! | `body` | row | the message; all of it where nothing else was understood |
//! | `host.name`, `service.name` | resource | host and application (tag) |
//! | `process.pid`, else `syslog.procid` | row | process id, if it is a number; else its text |
//! | `syslog.facility`, `syslog.msgid`, `syslog.sequence`, `syslog.version` | row | keyword; message id or Cisco mnemonic; number of a Cisco device; only if it is not 1 |
//! | `syslog.structured_data.<id>.<param>` | row | structured data; a list if the parameter came more than once; `true` under `<id>` alone if it has none |
//! | `network.peer.address` | row | who sent it |
//! | `syslog.raw` | row | the bytes in base64, if they are not UTF-8 |
//! | `syslog.timestamp` | row | its text, if there is no such time |
//! | `syslog.truncated` | row | `true` if it was longer than `max_message_bytes`, or broke off |
//!
//! A time without a zone is in `timezone`; one without a year is in the year that brings it
//! nearest to the time of receipt. Without a time only `name[pid]:` is taken as a tag.
//!
//! Delivery: syslog has no acknowledgement. TCP and TLS are read no faster than messages come to
//! disk, so senders wait and nothing that was read is lost but by a crash. Over UDP up to 4 MiB
//! wait for the disk; what comes beyond is dropped and counted (`overflow`).
//!
//! An address that others can reach needs `protocol = "tls"` or `insecure = true`.

mod decode;
mod frames;
mod framing;
mod parse;
mod server;
#[cfg(test)]
mod tests;
mod time;

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::component::{
    Decoder, Listen, OutputPlan, SourceContext, SourceKind, SourcePlan,
};
use weir_pipeline::config::{ByteSize, Scope, Section, Spanned, TlsServer};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::edge::Edge;
use weir_pipeline::signal::Signal;

use crate::http::{address, resolve_tls};
use decode::SyslogDecoder;

/// The row of the table.
pub(crate) const KIND: SourceKind = SourceKind {
    name: "syslog",
    about: "take in syslog over UDP, TCP or TLS",
    source: include_str!("syslog.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// The one output.
const OUTPUT: &str = "logs";

/// Where it listens unless told otherwise: 514 takes rights that Weir should not have.
const LISTEN: &str = "127.0.0.1:5514";
/// Longest message by default: what a datagram can hold.
const MESSAGE_BYTES: u64 = 64 << 10;
/// RFC 5424, section 6.1: receivers must take at least 480 bytes.
const MESSAGE_BYTES_MIN: u64 = 480;
/// A connection holds one message; with many connections more than this is too much.
const MESSAGE_BYTES_MAX: u64 = 16 << 20;
/// Connections by default, well below the usual limit of 1,024 open files.
const CONNECTIONS: u32 = 512;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Address to listen on; `127.0.0.1:5514` by default.
    listen: Option<Spanned<String>>,
    /// `udp` (default), `tcp` or `tls`.
    protocol: Option<Spanned<Protocol>>,
    /// Certificate and key for `protocol = "tls"`.
    tls: Option<Spanned<TlsServer>>,
    /// Zone of times that name none: an IANA name or an offset such as `+02:00`. UTC by default.
    timezone: Option<Spanned<String>>,
    /// Longer messages are cut; `64KiB` by default.
    max_message_bytes: Option<Spanned<ByteSize>>,
    /// Connections at a time, 512 by default; further ones wait.
    max_connections: Option<Spanned<u32>>,
    /// Allow an address that others can reach though anyone can read and forge what is sent.
    #[serde(default)]
    insecure: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    #[default]
    Udp,
    Tcp,
    Tls,
}

#[derive(Debug)]
struct SyslogPlan {
    listen: SocketAddr,
    protocol: Protocol,
    tls: Option<TlsServer>,
    decoder: Arc<SyslogDecoder>,
    message_bytes_max: usize,
    connections_max: usize,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn SourcePlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let mut error =
        |message: String, span| wrong.push(Diagnostic::error("W015", message).at(&span));
    let protocol = config.protocol.as_ref().map(|p| p.value).unwrap_or_default();
    match (&config.tls, protocol) {
        (None, Protocol::Tls) => {
            let span = config.protocol.as_ref().map_or(section.header.clone(), |p| section.span(p));
            error("`protocol = \"tls\"` needs `tls` with `cert` and `key`".to_owned(), span);
        }
        (Some(tls), Protocol::Udp | Protocol::Tcp) => {
            error("`tls` is used only with `protocol = \"tls\"`".to_owned(), section.span(tls));
        }
        _ => {}
    }
    let zone =
        match &config.timezone {
            None => TimeZone::UTC,
            Some(text) => time::zone(text.value.trim()).unwrap_or_else(|| {
                let message = format!("`timezone` is not a time zone: `{}`", text.value);
                wrong.push(Diagnostic::error("W015", message).at(&section.span(text)).label(
                    "expected a name such as `Europe/Berlin` or an offset such as `+02:00`",
                ));
                TimeZone::UTC
            }),
        };
    let mut in_range = |key: &str, value: u64, span, range: std::ops::RangeInclusive<u64>| {
        if !range.contains(&value) {
            let message =
                format!("`{key}` is {value}, expected {} to {}", range.start(), range.end());
            wrong.push(Diagnostic::error("W015", message).at(&span));
        }
        value
    };
    let message_bytes_max = config.max_message_bytes.as_ref().map_or(MESSAGE_BYTES, |m| {
        let range = MESSAGE_BYTES_MIN..=MESSAGE_BYTES_MAX;
        in_range("max_message_bytes", m.value.0, section.span(m), range)
    });
    let connections_max = config.max_connections.as_ref().map_or(CONNECTIONS.into(), |m| {
        in_range("max_connections", m.value.into(), section.span(m), 1..=65_536)
    });
    let listen = match &config.listen {
        None => LISTEN.parse().ok(),
        Some(listen) => wrong.ok(address(section, "listen", listen)),
    };
    if let (Some(listen), Some(value)) = (listen, &config.listen) {
        wrong.ok(exposed(section, scope, (listen, value), protocol, config.insecure));
    }
    match listen {
        Some(listen) if !wrong.has_errors() => Ok(Box::new(SyslogPlan {
            listen,
            protocol,
            tls: config.tls.map(|tls| resolve_tls(scope, tls.value)),
            decoder: Arc::new(SyslogDecoder { zone }),
            message_bytes_max: message_bytes_max as usize,
            connections_max: connections_max as usize,
        })),
        _ => Err(wrong),
    }
}

/// Refuses an address that others can reach, unless they need a certificate to be believed or
/// `insecure` says that this is meant.
fn exposed(
    section: &Section,
    scope: &Scope,
    (listen, value): (SocketAddr, &Spanned<String>),
    protocol: Protocol,
    insecure: bool,
) -> Result<(), Diagnostics> {
    if listen.ip().to_canonical().is_loopback() || protocol == Protocol::Tls {
        return Ok(());
    }
    let message = "`listen` can be reached from outside, without `tls`".to_owned();
    let span = section.span(value);
    if insecure {
        scope.warn(Diagnostic::warning("W061", message).at(&span).label("`insecure` allows it"));
        return Ok(());
    }
    let hint = "use `protocol = \"tls\"`, or set `insecure = true` if the network keeps others out";
    let error = Diagnostic::error("W060", message).at(&span).label("not a loopback address");
    Err(error.hint(hint).into())
}

impl SourcePlan for SyslogPlan {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn outputs(&self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: OUTPUT, edge: Edge::open(Signal::Logs) }]
    }

    fn listens(&self) -> Vec<Listen> {
        match self.protocol {
            Protocol::Udp => vec![Listen::Udp(self.listen)],
            Protocol::Tcp | Protocol::Tls => vec![Listen::Tcp(self.listen)],
        }
    }

    fn decoder(&self) -> Arc<dyn Decoder> {
        self.decoder.clone()
    }

    fn run(&self, context: SourceContext) -> BoxFuture<'static, ()> {
        Box::pin(server::run(context))
    }
}
