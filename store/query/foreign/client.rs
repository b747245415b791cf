//! Statements over ClickHouse's HTTP interface.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use reqwest::Response;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use weir_pipeline::config::StoreConfig;
use weir_pipeline::http_client;

use super::types::{self, Column};

/// Pieces of an answer that wait for the query: some hundred KiB.
const PIECES: usize = 4;

/// Most bytes that are read of an error.
const ERROR_BYTES_MAX: usize = 16 << 10;

/// Most bytes that the description of a table has: tens of thousands of columns.
const DESCRIPTION_BYTES_MAX: usize = 8 << 20;

/// Characters of an error that are told.
const ERROR_CHARS_MAX: usize = 1_000;

/// What an answer is made of. Values are plain and uncompressed, so that any Arrow reads them; blocks
/// are small, so that little waits in memory.
/// What a profile may say of answers that are too long must not make them shorter without a word.
const SETTINGS: [(&str, &str); 12] = [
    ("default_format", "ArrowStream"),
    ("output_format_arrow_compression_method", "none"),
    ("output_format_arrow_string_as_string", "1"),
    ("output_format_arrow_low_cardinality_as_dictionary", "0"),
    ("max_block_size", "8192"),
    ("preferred_block_size_bytes", "1048576"),
    ("cancel_http_readonly_queries_on_client_close", "1"),
    ("result_overflow_mode", "throw"),
    ("read_overflow_mode", "throw"),
    ("timeout_overflow_mode", "throw"),
    ("limit", "0"),
    ("offset", "0"),
];

/// A store, connected when it is first asked.
pub(super) struct Client {
    name: String,
    pub(super) config: StoreConfig,
    http: Mutex<Option<reqwest::Client>>,
    runtime: Handle,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.name)
    }
}

impl Client {
    pub(super) fn new(name: &str, config: StoreConfig, runtime: Handle) -> Self {
        Self { name: name.to_owned(), config, http: Mutex::default(), runtime }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What went wrong, said of this store.
    pub(super) fn error(&self, why: impl fmt::Display) -> String {
        format!("store `{}`: {why}", self.name)
    }

    /// The client; a file of `tls` that is missing is looked for again.
    fn http(&self) -> Result<reqwest::Client, String> {
        let mut slot = self.http.lock();
        if let Some(http) = &*slot {
            return Ok(http.clone());
        }
        Ok(slot.insert(http_client::client(self.config.tls.as_ref())?).clone())
    }

    async fn send(
        self: std::sync::Arc<Self>,
        sql: String,
        settings: Vec<(&'static str, String)>,
    ) -> Result<Response, String> {
        let headers = http_client::credentials(&self.config.auth)?;
        let request = self.http()?.post(&self.config.endpoint).headers(headers);
        let request = request.query(&settings).body(sql);
        let answer = request.send().await.map_err(|e| http_client::describe(&e.without_url()))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let said = body(answer, ERROR_BYTES_MAX).await.unwrap_or_else(|(read, _)| read);
        let said = short(&String::from_utf8_lossy(&said));
        Err(if said.is_empty() { format!("it answered {status}") } else { said })
    }

    /// The columns of a table that can be read.
    ///
    /// # Errors
    /// If the store gives no answer in time, or has no such table.
    pub(super) async fn describe(
        self: &std::sync::Arc<Self>,
        database: &str,
        table: &str,
    ) -> Result<Vec<Column>, String> {
        let sql = format!("DESCRIBE TABLE {}.{}", types::name(database), types::name(table));
        let settings = vec![("default_format", "JSONCompactEachRow".to_owned())];
        let (done, told) = oneshot::channel();
        let this = self.clone();
        let limit = self.config.timeout.0;
        let asking = self.runtime.spawn(async move {
            let work = async {
                let answer = this.send(sql, settings).await?;
                let read = body(answer, DESCRIPTION_BYTES_MAX).await;
                read.map_err(|(_, why)| why)
            };
            let _ = done.send(match tokio::time::timeout(limit, work).await {
                Ok(read) => read,
                Err(_) => Err(format!("no answer within {:?} (`timeout`)", limit)),
            });
        });
        // Nobody waits for it: the query is gone.
        let asking = Aborting(asking);
        let read = told.await.unwrap_or_else(|_| Err("the server is stopping".into()));
        drop(asking);
        let columns = read.and_then(|read| columns(&read)).map_err(|why| self.error(why))?;
        match columns.is_empty() {
            true => Err(self.error(format!("`{database}.{table}` has no column that can be read"))),
            false => Ok(columns),
        }
    }

    /// The answer to a statement, as it comes; ends early if this end of it goes.
    pub(super) fn stream(
        self: &std::sync::Arc<Self>,
        sql: String,
        seconds: u64,
    ) -> mpsc::Receiver<Result<Bytes, String>> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let this = self.clone();
        let mut settings: Vec<(&'static str, String)> =
            SETTINGS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        settings.push(("max_execution_time", seconds.to_string()));
        self.runtime.spawn(async move {
            let pass = async {
                let mut answer = this.send(sql, settings).await?;
                while let Some(piece) = piece(&mut answer).await? {
                    if sender.send(Ok(piece)).await.is_err() {
                        break;
                    }
                }
                Ok::<(), String>(())
            };
            let done = tokio::select! {
                done = pass => done,
                // Dropping the request closes its connection.
                () = sender.closed() => Ok(()),
            };
            if let Err(why) = done {
                let _ = sender.send(Err(why)).await;
            }
        });
        receiver
    }
}

/// Ends a task when it is dropped.
struct Aborting(tokio::task::JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn piece(answer: &mut Response) -> Result<Option<Bytes>, String> {
    let piece = answer.chunk().await;
    piece.map_err(|e| format!("the answer broke off: {}", http_client::describe(&e.without_url())))
}

/// All of an answer.
///
/// # Errors
/// With what was read, if it breaks off or is longer than `limit`.
async fn body(mut answer: Response, limit: usize) -> Result<Vec<u8>, (Vec<u8>, String)> {
    let mut all = Vec::new();
    loop {
        match piece(&mut answer).await {
            Ok(None) => return Ok(all),
            Ok(Some(piece)) if all.len() + piece.len() > limit => {
                all.extend(piece.iter().take(limit - all.len()));
                return Err((all, format!("the answer is longer than {limit} bytes")));
            }
            Ok(Some(piece)) => all.extend(piece),
            Err(why) => return Err((all, why)),
        }
    }
}

/// The start of what a store said, in one line.
pub(super) fn short(said: &str) -> String {
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    match said.char_indices().nth(ERROR_CHARS_MAX) {
        Some((end, _)) => format!("{} ...", &said[..end]),
        None => said,
    }
}

/// Columns out of the rows of DESCRIBE TABLE.
fn columns(rows: &[u8]) -> Result<Vec<Column>, String> {
    let mut columns: Vec<Column> = Vec::new();
    for line in rows.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let row: Vec<Value> = serde_json::from_slice(line)
            .map_err(|e| format!("it is no ClickHouse: what describes a table is not JSON: {e}"))?;
        let text = |i: usize| row.get(i).and_then(Value::as_str);
        let (Some(name), Some(kind)) = (text(0), text(1)) else {
            return Err("it is no ClickHouse: a row that describes a table lacks a type".into());
        };
        // Some columns are for INSERT alone.
        if text(2) == Some("EPHEMERAL") || columns.iter().any(|c| c.field.name() == name) {
            continue;
        }
        columns.extend(Column::new(name, kind));
    }
    Ok(columns)
}

#[cfg(test)]
pub(super) fn columns_for_tests(rows: &[u8]) -> Vec<Column> {
    columns(rows).unwrap_or_default()
}

/// Bounds how long a store may keep silent within an answer: as long as a query may take.
pub(super) fn silence(seconds: u64) -> Duration {
    Duration::from_secs(seconds.max(1))
}
