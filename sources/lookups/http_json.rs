//! `http_json` lookup: a table that a web service gives as JSON.
//!
//! ```toml
//! [lookups.owners]
//! type = "http_json"
//! url = "https://catalog.example/api/services"
//! pointer = "/items"
//! refresh = "5m"
//! auth = { bearer = "env:CATALOG_TOKEN" }
//! sample = [{ name = "cart", team = "shop" }]
//! ```
//!
//! The answer is a JSON array of objects, at `pointer` (RFC 6901) if that is not the whole, or an
//! object per line. Nested objects are dotted columns. It is asked for every `refresh`; rows that
//! are the same as before, in any order, change nothing. Other rows go live at one mark, as an edit
//! of the pipeline file does. While it cannot be had the rows from before stay in use, after a
//! restart too, and `weir status` says why; a pipeline whose table was never read waits for it, and
//! then begins where its file came.
//!
//! Of several rows with the same keys the last one is found, in the order in which they were given
//! when these rows came first: a service that gives the same rows in another order each time makes no
//! version of it.
//!
//! A number that neither an integer of 64 bits nor a double holds with all of its digits is text, and
//! so is its column; as a key it finds the same.
//!
//! `sample` are the rows that `weir check`, `weir test` and `[[tests]]` go by. Limits: 128 MiB,
//! 20 million rows. Secrets belong into `auth`, which is never shown; of the URL host and path are.

use arrow::array::RecordBatch;
use futures::StreamExt;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use weir_pipeline::component::{LookupKind, Services};
use weir_pipeline::config::{ClientAuth, Duration, Scope, Section, Spanned, TlsClient};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::http_client::{client, credentials, describe};
use weir_pipeline::lookup::{Content, LookupPlan, Place};

use super::file::flat;
use super::numbers::exact_json;
use super::{Asking, Sample, asking, sampled, within};

/// The row of the table.
pub(crate) const KIND: LookupKind = LookupKind {
    name: "http_json",
    about: "a table that a web service gives as JSON",
    source: include_str!("http_json.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Longest answer: parsed JSON takes about fifteen times its length for a moment.
const BODY_BYTES_MAX: usize = 128 << 20;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Where it is, `http` or `https`.
    url: Spanned<String>,
    /// Where in the answer the array of rows is, a JSON pointer. Default: it is the answer.
    pointer: Option<Spanned<String>>,
    /// Time from one request to the next. Default 5m.
    refresh: Option<Spanned<Duration>>,
    /// Longest time that an answer may take. Default 30s.
    timeout: Option<Spanned<Duration>>,
    /// Credentials.
    #[serde(default)]
    auth: ClientAuth,
    /// TLS.
    tls: Option<TlsClient>,
    /// Rows for checks and tests.
    sample: Option<Sample>,
}

#[derive(Clone, Debug)]
struct HttpPlan {
    url: url::Url,
    pointer: String,
    asking: Asking,
    auth: ClientAuth,
    tls: Option<TlsClient>,
    sample: Option<Content>,
}

fn plan(section: &Section, _: &Scope) -> Result<Box<dyn LookupPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let asking = asking(section, config.refresh.as_ref(), config.timeout.as_ref(), &mut wrong);
    let url = url::Url::parse(&config.url.value)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if url.is_none() {
        let message = format!("`{}` is no URL that can be asked", config.url.value);
        let bad = Diagnostic::error("W015", message).at(&section.span(&config.url));
        wrong.push(bad.label("expected `http://` or `https://`"));
    }
    if let Some(pointer) =
        config.pointer.as_ref().filter(|p| !p.value.is_empty() && !p.value.starts_with('/'))
    {
        let message = format!("`pointer` cannot be `{}`", pointer.value);
        let bad = Diagnostic::error("W015", message).at(&section.span(pointer));
        wrong.push(bad.label("expected a JSON pointer such as `/data/items`"));
    }
    let sample = wrong.ok(sampled(section, config.sample)).flatten();
    let Some(url) = url.filter(|_| !wrong.has_errors()) else { return Err(wrong) };
    Ok(Box::new(HttpPlan {
        url,
        pointer: config.pointer.map(|p| p.value).unwrap_or_default(),
        asking,
        auth: config.auth,
        tls: config.tls,
        sample,
    }))
}

impl LookupPlan for HttpPlan {
    fn place(&self) -> Place {
        Place::Peer(self.asking.refresh)
    }

    fn order_counts(&self) -> bool {
        false
    }

    fn read(&self, _: &Services) -> BoxFuture<'static, Result<Content, String>> {
        let plan = self.clone();
        Box::pin(async move {
            let body = within(plan.asking.timeout, plan.body()).await?;
            let rows = tokio::task::block_in_place(|| rows(&body, &plan.pointer));
            let rows = rows.map_err(|why| format!("what `{}` answers: {why}", plan.shown()))?;
            Ok(Content::Rows(rows))
        })
    }

    fn sample(&self) -> Option<Content> {
        self.sample.clone()
    }
}

impl HttpPlan {
    /// The URL without what may be a secret.
    fn shown(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port().map(|p| format!(":{p}")).unwrap_or_default();
        format!("{}://{host}{port}{}", self.url.scheme(), self.url.path())
    }

    async fn body(&self) -> Result<Vec<u8>, String> {
        let client = client(self.tls.as_ref())?;
        let request = client
            .get(self.url.clone())
            .header(http::header::ACCEPT, "application/json")
            .headers(credentials(&self.auth)?);
        let answer = request.send().await.map_err(|e| describe(&e.without_url()))?;
        if !answer.status().is_success() {
            return Err(format!("`{}` answers {}", self.shown(), answer.status()));
        }
        let (mut body, mut parts) = (Vec::new(), answer.bytes_stream());
        while let Some(part) = parts.next().await {
            body.extend_from_slice(&part.map_err(|e| describe(&e.without_url()))?);
            if body.len() > BODY_BYTES_MAX {
                return Err(format!("the answer is larger than {} MiB", BODY_BYTES_MAX >> 20));
            }
        }
        Ok(body)
    }
}

/// The rows of an answer.
pub(super) fn rows(body: &[u8], pointer: &str) -> Result<RecordBatch, String> {
    let body = exact_json(body);
    let parsed = serde_json::Deserializer::from_slice(&body).into_iter::<Value>();
    let parsed: Vec<Value> = parsed.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let objects = match <[Value; 1]>::try_from(parsed) {
        Ok([whole]) => match whole.pointer(pointer) {
            Some(Value::Array(rows)) => rows.clone(),
            Some(one @ Value::Object(_)) if pointer.is_empty() => vec![one.clone()],
            Some(_) => return Err(format!("no array of rows is at `{pointer}`")),
            None => return Err(format!("nothing is at `{pointer}`")),
        },
        Err(lines) if pointer.is_empty() => lines,
        Err(_) => return Err("it is not one JSON value".to_owned()),
    };
    let row = |(i, value): (usize, Value)| -> Result<Map<String, Value>, String> {
        match value {
            Value::Object(row) => Ok(flat(row)),
            _ => Err(format!("row {} is no object", i + 1)),
        }
    };
    let rows: Vec<Map<String, Value>> =
        objects.into_iter().enumerate().map(row).collect::<Result<_, _>>()?;
    match Content::of_objects(&rows)? {
        Content::Rows(rows) => Ok(rows),
        Content::MaxMind(_) => Err("it has no rows".to_owned()),
    }
}
