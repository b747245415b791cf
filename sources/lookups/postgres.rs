//! `postgres` lookup: what a query on PostgreSQL gives.
//!
//! ```toml
//! [lookups.customers]
//! type = "postgres"
//! url = "env:CUSTOMERS_URL"       # postgres://user:password@host:5432/database
//! query = "SELECT id, name, tier FROM customers"
//! refresh = "5m"
//! sample = [{ id = 42, name = "Ada", tier = "gold" }]
//! ```
//!
//! It is asked every `refresh`, on a connection of its own that can only read; rows that are the same
//! as before, in any order, change nothing. Other rows go live at one mark, as an edit of the
//! pipeline file does. While the database cannot be asked the rows from before stay in use, after a
//! restart too, and `weir status` says why; a pipeline whose table was never read
//! starts once it has been, with the rows that come from then on.
//!
//! Integers, floating point and `numeric`, booleans and times (UTC) have their types; everything else
//! is its text. TLS as `sslmode` in `url` says (`disable`, `prefer`, `require`; the default is
//! `prefer`), the server checked against `tls.ca` or the system's authorities.
//!
//! Rows are put in the order of their values: of several with the same keys the greatest is found.
//!
//! `sample` are the rows that `weir check`, `weir test` and `[[tests]]` go by. Limits: 1 GiB,
//! 20 million rows.

use arrow::array::RecordBatch;
use futures::StreamExt;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::Type as PgType;
use weir_pipeline::component::{LookupKind, Services};
use weir_pipeline::config::{Duration, Scope, Secret, Section, Spanned, TlsClient};
use weir_pipeline::diagnostic::Diagnostics;
use weir_pipeline::lookup::{Content, LookupPlan, Place};
use weir_pipeline::tls::client_config;

use super::answer::Columns;
use super::plain::in_order;
use super::{Asking, Sample, Type, asking, sampled, within};

/// The row of the table.
pub(crate) const KIND: LookupKind = LookupKind {
    name: "postgres",
    about: "what a query on PostgreSQL gives",
    source: include_str!("postgres.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Of the connection: it only reads, and writes times as they are read here.
const SETTINGS: &str = "-c default_transaction_read_only=on -c timezone=UTC -c datestyle=ISO";

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// `postgres://user:password@host:port/database`, or `host=... user=... password=...`.
    url: Secret,
    /// The query.
    #[schemars(extend("x-weir-verbatim" = true))]
    query: Spanned<String>,
    /// Time from one query to the next. Default 5m.
    refresh: Option<Spanned<Duration>>,
    /// Longest time that it may take. Default 30s.
    timeout: Option<Spanned<Duration>>,
    /// TLS.
    tls: Option<TlsClient>,
    /// Rows for checks and tests.
    sample: Option<Sample>,
}

#[derive(Clone, Debug)]
struct PostgresPlan {
    url: Secret,
    query: String,
    asking: Asking,
    tls: Option<TlsClient>,
    sample: Option<Content>,
}

fn plan(section: &Section, _: &Scope) -> Result<Box<dyn LookupPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let asking = asking(section, config.refresh.as_ref(), config.timeout.as_ref(), &mut wrong);
    let sample = wrong.ok(sampled(section, config.sample)).flatten();
    if wrong.has_errors() {
        return Err(wrong);
    }
    let (url, query, tls) = (config.url, config.query.value, config.tls);
    Ok(Box::new(PostgresPlan { url, query, asking, tls, sample }))
}

impl LookupPlan for PostgresPlan {
    fn place(&self) -> Place {
        Place::Peer(self.asking.refresh)
    }

    fn read(&self, _: &Services) -> BoxFuture<'static, Result<Content, String>> {
        let plan = self.clone();
        Box::pin(async move {
            let rows = within(plan.asking.timeout, plan.rows()).await?;
            tokio::task::block_in_place(|| in_order(rows)).map(Content::Rows)
        })
    }

    fn sample(&self) -> Option<Content> {
        self.sample.clone()
    }
}

impl PostgresPlan {
    async fn rows(&self) -> Result<RecordBatch, String> {
        let url = self.url.reveal().map_err(|e| e.to_string())?;
        // Its message may repeat the text, which holds a password.
        let mut config: tokio_postgres::Config =
            url.parse().map_err(|_| "`url` is not one that PostgreSQL understands".to_owned())?;
        let own = config.get_options().unwrap_or_default();
        let limit = self.asking.timeout.as_millis();
        config.options(format!("{own} {SETTINGS} -c statement_timeout={limit}"));
        config.application_name("weir");
        let tls = client_config(&self.tls.clone().unwrap_or_default());
        let tls = tokio_postgres_rustls::MakeRustlsConnect::new(tls.map_err(|e| e.to_string())?);
        let (client, connection) = config.connect(tls).await.map_err(|e| said(&e))?;
        // It ends with the client, also if nobody waits for the answer any more.
        tokio::spawn(connection);
        let statement = client.prepare(&self.query).await.map_err(|e| said(&e))?;
        let names = statement.columns().iter().map(|c| c.name().to_owned()).collect();
        let kinds = statement.columns().iter().map(|c| kind(c.type_())).collect();
        let mut columns = Columns::new(names, kinds)?;
        let answer = client.simple_query_raw(&self.query).await.map_err(|e| said(&e))?;
        let mut answer = std::pin::pin!(answer);
        while let Some(message) = answer.next().await {
            if let SimpleQueryMessage::Row(row) = message.map_err(|e| said(&e))? {
                for column in 0..row.len() {
                    columns.value(column, row.get(column))?;
                }
                columns.row();
            }
        }
        columns.finish()
    }
}

/// An error with what the server said.
fn said(error: &tokio_postgres::Error) -> String {
    use std::error::Error;
    match error.as_db_error() {
        Some(e) => e.message().to_owned(),
        None => match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}

fn kind(kind: &PgType) -> Type {
    match *kind {
        PgType::BOOL => Type::Bool,
        PgType::INT2 | PgType::INT4 | PgType::INT8 | PgType::OID => Type::Int,
        PgType::FLOAT4 | PgType::FLOAT8 | PgType::NUMERIC => Type::Double,
        PgType::TIMESTAMP | PgType::TIMESTAMPTZ | PgType::DATE => Type::Time,
        _ => Type::Text,
    }
}
