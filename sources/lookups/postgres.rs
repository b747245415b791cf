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
//! It is asked every `refresh`, on a connection of its own that can only read; the same rows as before
//! change nothing. Other rows go live at one mark, as an edit of the pipeline file does. While the
//! database cannot be asked the rows from before stay in use, after a restart too, and `weir status`
//! says why; a pipeline whose table was never read waits for it, and then begins where its file came.
//!
//! Integers, floating point, booleans and times (UTC) have their types. No digit of a `numeric` is
//! lost: a column of them is integers if all are written as such and fit 64 bits, else doubles if
//! these hold all of them exactly, else text without needless zeros; as a key each finds the same. An
//! average has more digits than a double: cast what only is to be about right, `avg(x)::float8`.
//! Everything else is its text. TLS as `sslmode` in `url` says (`disable`, `prefer`, `require`; the
//! default is `prefer`), the server checked against `tls.ca` or the system's authorities.
//!
//! Of several rows with the same keys the last one is found, in the order of the query's `ORDER BY`:
//! name enough columns there, since the same rows in another order are another version. Without
//! `ORDER BY` the rows are put in the order of their values, and the greatest is found.
//!
//! `sample` are the rows that `weir check`, `weir test` and `[[tests]]` go by. Limits: 1 GiB,
//! 20 million rows.

use arrow::array::RecordBatch;
use futures::StreamExt;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::Type as PgType;
use weir_pipeline::component::LookupKind;
use weir_pipeline::config::{Scope, Section, TlsClient};
use weir_pipeline::diagnostic::Diagnostics;
use weir_pipeline::lookup::LookupPlan;
use weir_pipeline::tls::client_config;

use super::Type;
use super::answer::{Columns, Kind};
use super::database::{self, Config, Query};

/// The row of the table.
pub(crate) const KIND: LookupKind = LookupKind {
    name: "postgres",
    about: "what a query on PostgreSQL gives",
    source: include_str!("postgres.rs"),
    schema: || schemars::schema_for!(Config<TlsClient>),
    plan,
};

/// Of the connection: it only reads, and writes times as they are read here.
const SETTINGS: &str = "-c default_transaction_read_only=on -c timezone=UTC -c datestyle=ISO";

fn plan(section: &Section, _: &Scope) -> Result<Box<dyn LookupPlan>, Diagnostics> {
    database::plan::<TlsClient>(section, |query| Box::pin(rows(query)))
}

async fn rows(query: Query<TlsClient>) -> Result<RecordBatch, String> {
    let url = query.url.reveal().map_err(|e| e.to_string())?;
    // Its message may repeat the text, which holds a password.
    let mut config: tokio_postgres::Config =
        url.parse().map_err(|_| "`url` is not one that PostgreSQL understands".to_owned())?;
    let own = config.get_options().unwrap_or_default();
    let limit = query.asking.timeout.as_millis();
    config.options(format!("{own} {SETTINGS} -c statement_timeout={limit}"));
    config.application_name("weir");
    let tls = client_config(&query.tls.unwrap_or_default());
    let tls = tokio_postgres_rustls::MakeRustlsConnect::new(tls.map_err(|e| e.to_string())?);
    let (client, connection) = config.connect(tls).await.map_err(|e| said(&e))?;
    // It ends with the client, also if nobody waits for the answer any more.
    tokio::spawn(connection);
    let statement = client.prepare(&query.query).await.map_err(|e| said(&e))?;
    let names = statement.columns().iter().map(|c| c.name().to_owned()).collect();
    let kinds = statement.columns().iter().map(|c| kind(c.type_())).collect();
    let mut columns = Columns::new(names, kinds)?;
    let answer = client.simple_query_raw(&query.query).await.map_err(|e| said(&e))?;
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

fn kind(kind: &PgType) -> Kind {
    Kind::Of(match *kind {
        PgType::NUMERIC => return Kind::Number,
        PgType::BOOL => Type::Bool,
        PgType::INT2 | PgType::INT4 | PgType::INT8 | PgType::OID => Type::Int,
        PgType::FLOAT4 | PgType::FLOAT8 => Type::Double,
        PgType::TIMESTAMP | PgType::TIMESTAMPTZ | PgType::DATE => Type::Time,
        _ => Type::Text,
    })
}
