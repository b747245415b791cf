//! `mysql` lookup: what a query on MySQL or MariaDB gives.
//!
//! ```toml
//! [lookups.customers]
//! type = "mysql"
//! url = "env:CUSTOMERS_URL"       # mysql://user:password@host:3306/database
//! query = "SELECT id, name, tier FROM customers"
//! refresh = "5m"
//! sample = [{ id = 42, name = "Ada", tier = "gold" }]
//! ```
//!
//! It is asked every `refresh`, on a connection of its own, in a transaction that can only read; the
//! same rows as before change nothing. Other rows go live at one mark, as an edit of the pipeline file
//! does. While the database cannot be asked the rows from before stay in use, after a restart too, and
//! `weir status` says why; a pipeline whose table was never read waits for it, and then begins where
//! its file came.
//!
//! Integers, floating point and times (taken as UTC) have their types. No digit of a `decimal` or of
//! an unsigned integer is lost: a column of them is integers if all are written as such and fit 64
//! bits, else doubles if these hold all of them exactly, else text without needless zeros; as a key
//! each finds the same. Everything else is its text. `tls` turns TLS on.
//!
//! Of several rows with the same keys the last one is found, in the order of the query's `ORDER BY`:
//! name enough columns there, since the same rows in another order are another version. Without
//! `ORDER BY` the rows are put in the order of their values, and the greatest is found.
//!
//! `sample` are the rows that `weir check`, `weir test` and `[[tests]]` go by. Limits: 1 GiB,
//! 20 million rows.

use arrow::array::RecordBatch;
use mysql_async::consts::ColumnType;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, SslOpts, Value};
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::component::LookupKind;
use weir_pipeline::config::{Scope, Section};
use weir_pipeline::diagnostic::Diagnostics;
use weir_pipeline::lookup::LookupPlan;

use super::Type;
use super::answer::{Columns, Kind};
use super::database::{self, Config, Query};

/// The row of the table.
pub(crate) const KIND: LookupKind = LookupKind {
    name: "mysql",
    about: "what a query on MySQL or MariaDB gives",
    source: include_str!("mysql.rs"),
    schema: || schemars::schema_for!(Config<Tls>),
    plan,
};

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Tls {
    /// File with the certificates (PEM) of the authorities that are trusted. Default: those of
    /// Mozilla.
    ca: Option<std::path::PathBuf>,
}

fn plan(section: &Section, _: &Scope) -> Result<Box<dyn LookupPlan>, Diagnostics> {
    database::plan::<Tls>(section, |query| Box::pin(rows(query)))
}

async fn rows(query: Query<Tls>) -> Result<RecordBatch, String> {
    let url = query.url.reveal().map_err(|e| e.to_string())?;
    // Its message may repeat the text, which holds a password.
    let opts =
        Opts::from_url(&url).map_err(|_| "`url` is not one that MySQL understands".to_owned())?;
    let mut opts = OptsBuilder::from_opts(opts).prefer_socket(false);
    if let Some(tls) = &query.tls {
        let roots = tls.ca.iter().map(|ca| ca.clone().into()).collect();
        opts = opts.ssl_opts(SslOpts::default().with_root_certs(roots));
    }
    let mut connection = Conn::new(opts).await.map_err(|e| said(&e))?;
    for setting in ["SET time_zone = '+00:00'", "START TRANSACTION READ ONLY"] {
        connection.query_drop(setting).await.map_err(|e| said(&e))?;
    }
    let columns = ask(&query.query, &mut connection).await.map_err(|e| said(&e))??;
    // What it held is read; how the connection ends does not matter.
    let _ = connection.disconnect().await;
    columns.finish()
}

async fn ask(
    query: &str,
    connection: &mut Conn,
) -> Result<Result<Columns, String>, mysql_async::Error> {
    let mut answer = connection.query_iter(query).await?;
    let described = answer.columns();
    let described = described.as_deref().unwrap_or_default();
    let names = described.iter().map(|c| c.name_str().into_owned()).collect();
    let kinds = described.iter().map(|c| kind(c.column_type())).collect();
    let mut columns = match Columns::new(names, kinds) {
        Ok(columns) => columns,
        Err(why) => return Ok(Err(why)),
    };
    while let Some(row) = answer.next().await? {
        for (column, value) in row.unwrap().into_iter().enumerate() {
            if let Err(why) = push(&mut columns, column, &value) {
                return Ok(Err(why));
            }
        }
        columns.row();
    }
    Ok(Ok(columns))
}

fn push(columns: &mut Columns, column: usize, value: &Value) -> Result<(), String> {
    match value {
        Value::NULL => columns.value(column, None),
        Value::Bytes(bytes) => columns.value(column, Some(&String::from_utf8_lossy(bytes))),
        other => columns.value(column, Some(&other.as_sql(true))),
    }
}

/// An error without the text of a query, which the server may repeat at length.
fn said(error: &mysql_async::Error) -> String {
    match error {
        mysql_async::Error::Server(e) => format!("{} (error {})", e.message, e.code),
        other => other.to_string(),
    }
}

fn kind(kind: ColumnType) -> Kind {
    Kind::Of(match kind {
        // Unsigned ones are larger than an integer here may be.
        ColumnType::MYSQL_TYPE_LONGLONG
        | ColumnType::MYSQL_TYPE_DECIMAL
        | ColumnType::MYSQL_TYPE_NEWDECIMAL => return Kind::Number,
        ColumnType::MYSQL_TYPE_TINY
        | ColumnType::MYSQL_TYPE_SHORT
        | ColumnType::MYSQL_TYPE_LONG
        | ColumnType::MYSQL_TYPE_INT24
        | ColumnType::MYSQL_TYPE_YEAR => Type::Int,
        ColumnType::MYSQL_TYPE_FLOAT | ColumnType::MYSQL_TYPE_DOUBLE => Type::Double,
        ColumnType::MYSQL_TYPE_TIMESTAMP
        | ColumnType::MYSQL_TYPE_DATETIME
        | ColumnType::MYSQL_TYPE_DATE => Type::Time,
        _ => Type::Text,
    })
}
