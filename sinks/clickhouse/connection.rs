//! Statements over ClickHouse's HTTP interface.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clickhouse::Client;
use clickhouse::error::Error;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use url::Url;
use weir_pipeline::config::{ClientAuth, SecretError, TlsClient};
use weir_pipeline::tls::client_config;

/// Codes of ClickHouse that say that a block can never be taken as it is: of types, of parsing, of
/// constraints.
/// Source: `ErrorCodes.cpp` of ClickHouse.
const NEVER: [u32; 21] =
    [6, 20, 26, 27, 33, 38, 41, 53, 69, 70, 72, 117, 131, 321, 349, 376, 407, 469, 675, 676, 691];

/// A connection that no request used for so long is closed: ClickHouse does so after 3 s.
const IDLE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Settings {
    pub(super) endpoint: Url,
    pub(super) timeout: Duration,
    pub(super) tls: Option<TlsClient>,
    pub(super) auth: ClientAuth,
}

/// Why a statement was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may be if it is tried again.
    Later(String),
    /// It will not be.
    Never(String),
}

impl From<arrow::error::ArrowError> for Failure {
    fn from(e: arrow::error::ArrowError) -> Self {
        Self::Never(e.to_string())
    }
}

/// A client, connected when it is first used.
pub(super) struct Connection {
    settings: Arc<Settings>,
    /// Without credentials; a file of `tls` that is missing is tried again.
    client: Mutex<Option<Client>>,
}

impl Connection {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        Self { settings, client: Mutex::default() }
    }

    /// Does a statement without an answer. What is wrong with it may be mended on the other side.
    pub(super) async fn run(&self, sql: &str) -> Result<(), Failure> {
        let query = self.client()?.query_raw(sql);
        let done = self.in_time(query.execute()).await;
        done.map_err(|failure| Failure::Later(failure.why()))
    }

    /// The rows of an answer.
    pub(super) async fn rows<T: DeserializeOwned>(&self, sql: &str) -> Result<Vec<T>, Failure> {
        let query = self.client()?.query_raw(sql);
        let bytes = self
            .in_time(async { query.fetch_bytes("JSONCompactEachRow")?.collect().await })
            .await?;
        let rows = bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty());
        let rows = rows.map(serde_json::from_slice).collect::<Result<_, _>>();
        rows.map_err(|e| Failure::Later(format!("an answer is not JSON: {e}")))
    }

    /// Sends `data` to the statement `sql`, once for each `token`.
    pub(super) async fn insert(
        &self,
        sql: String,
        data: Vec<u8>,
        token: &str,
    ) -> Result<(), Failure> {
        let insert = self.client()?.insert_formatted_with(sql);
        let insert = insert.with_setting("insert_deduplication_token", token);
        // Data of the past has as many partitions as it has days.
        let mut insert = insert.with_setting("max_partitions_per_insert_block", "0");
        let data = Bytes::from(data);
        self.in_time(async move {
            insert.send(data).await?;
            insert.end().await
        })
        .await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        match tokio::time::timeout(self.settings.timeout, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(e)) => Err(failure(&e)),
            Err(_) => {
                let seconds = self.settings.timeout.as_secs();
                Err(Failure::Later(format!("no answer in {seconds} s")))
            }
        }
    }

    /// With the credentials as they are now.
    fn client(&self) -> Result<Client, Failure> {
        let mut slot = self.client.lock();
        let client = match &*slot {
            Some(client) => client.clone(),
            None => slot.insert(self.connect()?).clone(),
        };
        let known =
            |secret: Result<String, SecretError>| secret.map_err(|e| Failure::Later(e.to_string()));
        let auth = &self.settings.auth;
        let mut client = match (&auth.bearer, &auth.basic) {
            (Some(token), _) => client.with_access_token(known(token.reveal())?),
            (None, Some(basic)) => {
                let password = known(basic.password.reveal())?;
                client.with_user(basic.username.clone()).with_password(password)
            }
            (None, None) => client,
        };
        for (name, value) in &auth.headers {
            client = client.with_header(name.clone(), known(value.reveal())?);
        }
        Ok(client)
    }

    fn connect(&self) -> Result<Client, Failure> {
        let tls = self.settings.tls.clone().unwrap_or_default();
        let tls = client_config(&tls).map_err(|e| Failure::Later(e.to_string()))?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(self.settings.timeout));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http =
            HyperClient::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).build(connector);
        Ok(Client::with_http_client(http)
            .with_url(self.settings.endpoint.as_str())
            .with_product_info("weir", env!("CARGO_PKG_VERSION")))
    }
}

fn failure(error: &Error) -> Failure {
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let text = next.to_string();
        if !why.contains(&text) {
            why = format!("{why}: {text}");
        }
        cause = next.source();
    }
    match error {
        Error::BadResponse(said) if code(said).is_some_and(|code| NEVER.contains(&code)) => {
            Failure::Never(why)
        }
        _ => Failure::Later(why),
    }
}

impl Failure {
    fn why(self) -> String {
        let (Self::Later(why) | Self::Never(why)) = self;
        why
    }

    /// Whether ClickHouse said that a column cannot be changed so: it is of a key, or of a view.
    pub(super) fn is_fixed(&self) -> bool {
        let (Self::Later(why) | Self::Never(why)) = self;
        code(why).is_some_and(|code| FIXED.contains(&code))
    }
}

/// Codes that say that a column cannot be changed.
const FIXED: [u32; 4] = [36, 44, 48, 524];

/// The number in `Code: 60. DB::Exception: ...`.
fn code(said: &str) -> Option<u32> {
    let digits = said.split("Code: ").nth(1)?;
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_decide() {
        let said = |text: &str| failure(&Error::BadResponse(text.into()));
        let table = "Code: 60. DB::Exception: Unknown table expression identifier. (UNKNOWN_TABLE)";
        assert!(matches!(said(table), Failure::Later(why) if why.contains("UNKNOWN_TABLE")));
        assert!(matches!(said("Code: 53. DB::Exception: Type mismatch."), Failure::Never(_)));
        assert!(matches!(said("502 Bad Gateway"), Failure::Later(_)));
    }
}
