//! The server file, `weir.toml`: optional, every key with a default.
//!
//! ```toml
//! [server]
//! listen = "127.0.0.1:9347"
//! data = "data"
//! memory = "1GiB"
//! hosts = ["weir.example"]      # names that the `Host` header may have besides loopback
//!
//! [server.tls]
//! cert = "/etc/weir/cert.pem"
//! key = "/etc/weir/key.pem"
//!
//! [server.auth]
//! tokens = ["env:WEIR_TOKEN"]
//!
//! [journal]
//! max_bytes = "10GiB"
//! retain = "15m"                # how long entries stay that no checkpoint needs, room provided
//!
//! [tables.logs]
//! retention = "30d"
//!
//! [stores.warehouse]            # `SELECT ... FROM warehouse.events` reads its tables
//! type = "clickhouse"
//! endpoint = "http://127.0.0.1:8123"
//! ```
//! Precedence: flag, `WEIR_*` variable, file, default. `[receivers.*]` and `[route]` are handed on
//! as they are: the router reads them.

mod show;
mod stores;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::bundle::Bundle;
use super::environment::{Environment, interpolate};
use super::section::{Section, Spanned, read_text};
use super::tree::{self, Table, Value};
use super::types::{ByteSize, Duration, Secret, TlsServer};
use crate::diagnostic::{Diagnostic, Diagnostics, SourceText, Span};

pub use self::stores::{StoreConfig, StoreKind, Stores};

/// Where the API listens unless told otherwise.
const LISTEN: &str = "127.0.0.1:9347";
/// The data folder.
const DATA: &str = "data";
/// Memory for hot rows, caches and queries together.
const MEMORY: &str = "1GiB";
/// Disk for the journal.
const JOURNAL_MAX_BYTES: &str = "10GiB";
/// How long entries stay that no checkpoint needs.
const JOURNAL_RETAIN: &str = "15m";

/// What the server runs with.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Address of the API.
    pub listen: SocketAddr,
    /// The data folder.
    pub data: PathBuf,
    /// The folder of pipeline files.
    pub pipelines: PathBuf,
    /// Memory for hot rows, caches and queries together.
    pub memory: ByteSize,
    /// Names that the `Host` header may have besides loopback ones.
    pub hosts: Vec<String>,
    /// Whether a pipeline file that is saved is live at once; otherwise by `weir reload`.
    pub watch: bool,
    /// Whether to serve a network without TLS and tokens.
    pub insecure: bool,
    /// Certificate of the API.
    pub tls: Option<TlsServer>,
    /// Bearer tokens of the API; empty means open.
    pub tokens: Vec<Secret>,
    /// Most bytes of the journal.
    pub journal_max_bytes: ByteSize,
    /// How long journal entries stay that no checkpoint needs any more.
    pub journal_retain: Duration,
    /// By table name.
    pub tables: BTreeMap<String, TableConfig>,
    /// Stores of others, by name.
    pub stores: Stores,
    /// `[receivers.*]`, for the router to read.
    pub receivers: Vec<Section>,
    /// `[route]`, for the router to read.
    pub route: Option<Section>,
    /// The text that it was read from.
    pub text: Arc<SourceText>,
    explained: Vec<Explained>,
}

/// `[tables.<name>]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableConfig {
    /// How long rows stay; for ever if not given.
    pub retention: Option<Duration>,
}

/// What the command line says; each goes before everything else.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--listen`.
    pub listen: Option<String>,
    /// `--data`.
    pub data: Option<String>,
    /// `--pipelines`.
    pub pipelines: Option<String>,
}

/// A resolved value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Explained {
    /// `server.listen`.
    pub key: String,
    /// As TOML would have it; secrets are references.
    pub value: String,
    /// "default", "flag `--data`", "variable `WEIR_DATA`", "`weir.toml:3`".
    pub origin: String,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct File {
    server: Server,
    journal: Journal,
    tables: BTreeMap<String, Spanned<TableConfig>>,
    stores: stores::Written,
    receivers: BTreeMap<String, serde_json::Value>,
    route: Option<serde_json::Value>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Server {
    listen: Option<Spanned<String>>,
    data: Option<Spanned<String>>,
    memory: Option<Spanned<ByteSize>>,
    hosts: Option<Spanned<Vec<String>>>,
    watch: Option<Spanned<bool>>,
    insecure: Option<Spanned<bool>>,
    tls: Option<Spanned<TlsServer>>,
    auth: Auth,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Auth {
    tokens: Option<Spanned<Vec<Secret>>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Journal {
    max_bytes: Option<Spanned<ByteSize>>,
    retain: Option<Spanned<Duration>>,
}

/// Reads the sections that are the router's: `[receivers.*]` and `[route]`.
type Router<'a, R> = &'a dyn Fn(&[Section], Option<&Section>) -> Result<R, Diagnostics>;

impl ServerConfig {
    /// Reads the file at `path`; a file that does not exist says nothing, unless `required`.
    /// Gives what `router` makes of its sections, and warnings, beside the result.
    ///
    /// # Errors
    /// Everything that is wrong with the file, the flags and the variables.
    pub fn load<R>(
        path: &Path,
        required: bool,
        environment: &Environment,
        flags: &Flags,
        router: Router<'_, R>,
    ) -> Result<(Self, R, Diagnostics), Diagnostics> {
        let text = match read_text(path) {
            Ok(text) => text,
            Err(_) if !required && !path.exists() => String::new(),
            Err(why) => {
                let message = format!("file `{}` cannot be read: {why}", path.display());
                return Err(Diagnostic::error("W002", message).into());
            }
        };
        let text = Arc::new(SourceText { path: path.into(), text });
        Self::from_text(text, environment, flags, router)
    }

    /// The same for a text.
    ///
    /// # Errors
    /// As [`ServerConfig::load`].
    pub fn from_text<R>(
        text: Arc<SourceText>,
        environment: &Environment,
        flags: &Flags,
        router: Router<'_, R>,
    ) -> Result<(Self, R, Diagnostics), Diagnostics> {
        let (mut table, mut wrong) = tree::parse(&text);
        let parses = wrong.0.is_empty();
        let section = |id: &str, owner: String, header: Span, table: Table| Section {
            id: id.to_owned(),
            file: text.clone(),
            header,
            owner,
            kind: String::new(),
            table,
            environment: Some(environment.clone()),
            broken: Diagnostics::default(),
        };
        let span =
            |range: &std::ops::Range<usize>| Span { file: text.clone(), range: range.clone() };
        // The router's parts are taken out, so that it alone reports what is in them.
        let mut receivers = Vec::new();
        let mut route = None;
        for entry in &mut table.0 {
            let Value::Table(inner) = &mut entry.node.value else { continue };
            match entry.key.as_str() {
                "receivers" => {
                    inner.0.retain_mut(|receiver| {
                        let Value::Table(keys) = &mut receiver.node.value else { return true };
                        let owner = format!("receiver `{}`", receiver.key);
                        let header = span(&receiver.node.range);
                        let keys = std::mem::take(keys);
                        receivers.push(section(&receiver.key, owner, header, keys));
                        false
                    });
                    for stray in &inner.0 {
                        let what = stray.node.value.what();
                        let message = format!("receiver `{}` is {what}", stray.key);
                        let stray = Diagnostic::error("W012", message).at(&span(&stray.node.range));
                        wrong.push(stray.label("expected a table: `[receivers.id]`"));
                    }
                }
                "route" => {
                    let keys = std::mem::take(inner);
                    let header = span(&entry.node.range);
                    route = Some(section("route", "route".into(), header, keys));
                }
                _ => {}
            }
        }
        let start = span(&(0..0));
        let all = section("", "server file".into(), start, table);
        let (file, more) = all.read_loosely::<File>();
        wrong.0.extend(more.0);
        // Of a file that does not parse, nobody knows what these sections hold.
        let routed = parses.then(|| wrong.ok(router(&receivers, route.as_ref()))).flatten();
        let file = file.unwrap_or_default();
        let mut resolver = Resolver { file: &text, environment, wrong, explained: Vec::new() };
        let server = file.server;
        let r = &mut resolver;
        let listen = r.parsed(
            "server.listen",
            "WEIR_LISTEN",
            flags.listen.as_deref(),
            server.listen,
            LISTEN,
        );
        let data: Option<PathBuf> =
            r.parsed("server.data", "WEIR_DATA", flags.data.as_deref(), server.data, DATA);
        let pipelines: Option<PathBuf> = r.parsed(
            "pipelines",
            "WEIR_PIPELINES",
            flags.pipelines.as_deref(),
            None,
            "pipelines.d",
        );
        let memory = r.value("server.memory", "WEIR_MEMORY", server.memory, MEMORY);
        let hosts = r.hosts(server.hosts);
        let watch = r.value("server.watch", "WEIR_WATCH", server.watch, "true");
        let insecure = r.value("server.insecure", "WEIR_INSECURE", server.insecure, "false");
        let tls = r.given("server.tls", server.tls, |t| {
            let ca = t.client_ca.as_ref();
            let ca = ca.map(|c| format!(", client_ca = {c:?}")).unwrap_or_default();
            format!("{{ cert = {:?}, key = {:?}{ca} }}", t.cert, t.key)
        });
        let tokens = r.given("server.auth.tokens", server.auth.tokens, |tokens| {
            let names: Vec<&str> = tokens.iter().map(Secret::reference).collect();
            format!("{names:?}")
        });
        let journal = file.journal;
        let max = r.value(
            "journal.max_bytes",
            "WEIR_JOURNAL_MAX_BYTES",
            journal.max_bytes,
            JOURNAL_MAX_BYTES,
        );
        let retain =
            r.value("journal.retain", "WEIR_JOURNAL_RETAIN", journal.retain, JOURNAL_RETAIN);
        let mut tables = BTreeMap::new();
        for (name, table) in file.tables {
            let key = format!("tables.{name}.retention");
            let table = r.given(&key, Some(table), |t| {
                t.retention.map_or_else(|| "forever".to_owned(), |d| format!("\"{d}\""))
            });
            tables.extend(table.map(|t| (name, t)));
        }
        let mut stores = Stores::new();
        for (name, store) in file.stores {
            let at = r.in_file(&store).0;
            r.wrong.0.extend(store.value.check(&name, &at));
            let store = r.given(&format!("stores.{name}"), Some(store), StoreConfig::shown);
            stores.extend(store.map(|s| (name, s)));
        }
        let Resolver { mut wrong, explained, .. } = resolver;
        let values = (listen, data, pipelines, memory, watch, insecure, max, retain, routed);
        let (
            Some(listen),
            Some(data),
            Some(pipelines),
            Some(memory),
            Some(watch),
            Some(insecure),
            Some(max),
            Some(retain),
            Some(routed),
        ) = values
        else {
            return Err(wrong);
        };
        let config = Self {
            listen,
            data,
            pipelines,
            memory,
            hosts,
            watch,
            insecure,
            tls,
            tokens: tokens.unwrap_or_default(),
            journal_max_bytes: max,
            journal_retain: retain,
            tables,
            stores,
            receivers,
            route,
            text: text.clone(),
            explained,
        };
        if !wrong.has_errors() {
            wrong.0.extend(config.exposure());
        }
        if wrong.has_errors() { Err(wrong) } else { Ok((config, routed, wrong)) }
    }

    /// Where the data folder is according to a file that may be broken.
    pub fn data_folder(path: &Path, environment: &Environment, flags: &Flags) -> PathBuf {
        let text = read_text(path).unwrap_or_default();
        let (table, _) = tree::parse(&Arc::new(SourceText { path: path.into(), text }));
        let server = table.get("server").map(|e| &e.node.value);
        let written = match server {
            Some(Value::Table(server)) => server.get("data").map(|e| &e.node.value),
            _ => None,
        };
        let written = match written {
            Some(Value::String(text)) => interpolate(text, environment, &mut BTreeMap::new()).ok(),
            _ => None,
        };
        let data = flags.data.clone().or_else(|| environment.get("WEIR_DATA")).or(written);
        data.unwrap_or_else(|| DATA.to_owned()).into()
    }

    /// The text with the values of the variables that it names: enough to read it again with
    /// [`ServerConfig::from_kept`], whatever becomes of the file. Secrets are references in it.
    pub fn kept(&self, environment: &Environment) -> Bundle {
        let mut used = BTreeMap::new();
        // Also what stands in comments: more is no harm, and what is unset there is not missed.
        let _ = interpolate(&self.text.text, environment, &mut used);
        let path = self.text.path.display().to_string();
        Bundle {
            files: [(path, self.text.text.clone())].into(),
            environment: used,
            ..Bundle::default()
        }
    }

    /// Reads again what [`ServerConfig::kept`] gave.
    ///
    /// # Errors
    /// As [`ServerConfig::load`].
    pub fn from_kept<R>(
        kept: &Bundle,
        flags: &Flags,
        router: Router<'_, R>,
    ) -> Result<(Self, R, Diagnostics), Diagnostics> {
        let (path, text) = kept.files.first_key_value().ok_or_else(|| {
            Diagnostic::error("W044", "what was kept of the server file holds no text")
        })?;
        let text = Arc::new(SourceText { path: path.into(), text: text.clone() });
        let environment = Environment::Over(kept.environment.clone());
        Self::from_text(text, &environment, flags, router)
    }

    /// Every key with its value and where that comes from, for `weir config`. Secrets are
    /// references, or masked where somebody wrote one into an address.
    pub fn explain(&self) -> Vec<Explained> {
        let mut all = self.explained.clone();
        for receiver in &self.receivers {
            all.extend(show::section(&format!("receivers.{}", receiver.id), receiver));
        }
        match &self.route {
            Some(route) => all.extend(show::section("route", route)),
            None => all.push(Explained {
                key: "route".to_owned(),
                value: "{ receiver = \"console\" }".to_owned(),
                origin: "default".to_owned(),
            }),
        }
        all
    }

    /// Design: a non-loopback address without TLS and tokens is refused unless `insecure`.
    fn exposure(&self) -> Option<Diagnostic> {
        if self.listen.ip().is_loopback() || (self.tls.is_some() && !self.tokens.is_empty()) {
            return None;
        }
        let missing = match (self.tls.is_some(), self.tokens.is_empty()) {
            (false, true) => "TLS and tokens",
            (false, false) => "TLS",
            _ => "tokens",
        };
        let what = format!("`{}` can be reached from outside, without {missing}", self.listen);
        Some(if self.insecure {
            Diagnostic::warning("W061", what)
        } else {
            Diagnostic::error("W060", what)
                .hint("set `[server.tls]` and `[server.auth] tokens`, or `insecure = true`")
        })
    }
}

struct Resolver<'a> {
    file: &'a Arc<SourceText>,
    environment: &'a Environment,
    wrong: Diagnostics,
    explained: Vec<Explained>,
}

impl Resolver<'_> {
    fn note(&mut self, key: &str, value: String, origin: String) {
        self.explained.push(Explained { key: key.to_owned(), value, origin });
    }

    fn in_file<T>(&self, value: &Spanned<T>) -> (Span, String) {
        let span = Span { file: self.file.clone(), range: value.range.clone() };
        let origin = format!("`{}:{}`", self.file.path.display(), span.line_column().0);
        (span, origin)
    }

    /// A value that stands in the file as text.
    fn parsed<T: FromStr<Err: std::fmt::Display>>(
        &mut self,
        key: &str,
        variable: &str,
        flag: Option<&str>,
        written: Option<Spanned<String>>,
        default: &str,
    ) -> Option<T> {
        let name = variable.trim_start_matches("WEIR_").to_ascii_lowercase();
        let (text, origin, span) = if let Some(text) = flag {
            (text.to_owned(), format!("flag `--{name}`"), None)
        } else if let Some(text) = self.environment.get(variable) {
            (text, format!("variable `{variable}`"), None)
        } else if let Some(written) = written {
            let (span, origin) = self.in_file(&written);
            (written.value, origin, Some(span))
        } else {
            (default.to_owned(), "default".to_owned(), None)
        };
        match text.parse() {
            Ok(value) => {
                self.note(key, format!("{text:?}"), origin);
                Some(value)
            }
            Err(e) => {
                let why = e.to_string();
                let message = match span {
                    Some(_) => format!("`{key}` cannot be `{text}`: {why}"),
                    None => format!("{origin} cannot be `{text}`: {why}"),
                };
                let mut bad = Diagnostic::error("W015", message);
                if let Some(span) = span {
                    bad = bad.at(&span);
                }
                self.wrong.push(bad);
                None
            }
        }
    }

    /// A value that the file holds as what it is.
    fn value<T: FromStr<Err: std::fmt::Display> + std::fmt::Display>(
        &mut self,
        key: &str,
        variable: &str,
        written: Option<Spanned<T>>,
        default: &str,
    ) -> Option<T> {
        match (self.environment.get(variable), written) {
            (None, Some(written)) => {
                let (_, origin) = self.in_file(&written);
                self.note(key, written.value.to_string(), origin);
                Some(written.value)
            }
            _ => {
                let at = self.explained.len();
                let value: Option<T> = self.parsed(key, variable, None, None, default);
                if let (Some(value), Some(last)) = (&value, self.explained.get_mut(at)) {
                    last.value = value.to_string();
                }
                value
            }
        }
    }

    fn hosts(&mut self, written: Option<Spanned<Vec<String>>>) -> Vec<String> {
        let (hosts, origin) = match (self.environment.get("WEIR_HOSTS"), written) {
            (Some(text), _) => {
                let hosts = text.split(',').map(str::trim).filter(|h| !h.is_empty());
                (hosts.map(str::to_owned).collect(), "variable `WEIR_HOSTS`".to_owned())
            }
            (None, Some(written)) => {
                let (_, origin) = self.in_file(&written);
                (written.value, origin)
            }
            (None, None) => (Vec::new(), "default".to_owned()),
        };
        self.note("server.hosts", format!("{hosts:?}"), origin);
        hosts
    }

    /// A value that only the file can give.
    fn given<T>(
        &mut self,
        key: &str,
        written: Option<Spanned<T>>,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        match written {
            Some(written) => {
                let (_, origin) = self.in_file(&written);
                self.note(key, show(&written.value), origin);
                Some(written.value)
            }
            None => {
                self.note(key, "none".to_owned(), "default".to_owned());
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
