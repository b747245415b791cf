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
//! It is asked every `refresh`, on a connection of its own, in a transaction that can only read; rows
//! that are the same as before, in any order, change nothing. Other rows go live at one mark, as an
//! edit of the pipeline file does. While the database cannot be asked the rows from before stay in
//! use, after a restart too, and `weir status` says why; a pipeline whose table was never
//! read starts once it has been, with the rows that come from then on.
//!
//! Integers, floating point and `decimal`, and times (taken as UTC) have their types; everything else
//! is its text. `tls` turns TLS on.
//!
//! Rows are put in the order of their values: of several with the same keys the greatest is found.
//!
//! `sample` are the rows that `weir check`, `weir test` and `[[tests]]` go by. Limits: 1 GiB,
//! 20 million rows.

use arrow::array::RecordBatch;
use futures::future::BoxFuture;
use mysql_async::consts::ColumnType;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, SslOpts, Value};
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::component::{LookupKind, Services};
use weir_pipeline::config::{Duration, Scope, Secret, Section, Spanned};
use weir_pipeline::diagnostic::Diagnostics;
use weir_pipeline::lookup::{Content, LookupPlan, Place};

use super::answer::Columns;
use super::plain::in_order;
use super::{Asking, Sample, Type, asking, sampled, within};

/// The row of the table.
pub(crate) const KIND: LookupKind = LookupKind {
    name: "mysql",
    about: "what a query on MySQL or MariaDB gives",
    source: include_str!("mysql.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// `mysql://user:password@host:port/database`.
    url: Secret,
    /// The query.
    #[schemars(extend("x-weir-verbatim" = true))]
    query: Spanned<String>,
    /// Time from one query to the next. Default 5m.
    refresh: Option<Spanned<Duration>>,
    /// Longest time that it may take. Default 30s.
    timeout: Option<Spanned<Duration>>,
    /// TLS. Default: none.
    tls: Option<Tls>,
    /// Rows for checks and tests.
    sample: Option<Sample>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Tls {
    /// File with the certificates (PEM) of the authorities that are trusted. Default: those of
    /// Mozilla.
    ca: Option<std::path::PathBuf>,
}

#[derive(Clone, Debug)]
struct MysqlPlan {
    url: Secret,
    query: String,
    asking: Asking,
    tls: Option<Tls>,
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
    Ok(Box::new(MysqlPlan { url, query, asking, tls, sample }))
}

impl LookupPlan for MysqlPlan {
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

impl MysqlPlan {
    async fn rows(&self) -> Result<RecordBatch, String> {
        let url = self.url.reveal().map_err(|e| e.to_string())?;
        // Its message may repeat the text, which holds a password.
        let opts = Opts::from_url(&url)
            .map_err(|_| "`url` is not one that MySQL understands".to_owned())?;
        let mut opts = OptsBuilder::from_opts(opts).prefer_socket(false);
        if let Some(tls) = &self.tls {
            let roots = tls.ca.iter().map(|ca| ca.clone().into()).collect();
            opts = opts.ssl_opts(SslOpts::default().with_root_certs(roots));
        }
        let mut connection = Conn::new(opts).await.map_err(|e| said(&e))?;
        for setting in ["SET time_zone = '+00:00'", "START TRANSACTION READ ONLY"] {
            connection.query_drop(setting).await.map_err(|e| said(&e))?;
        }
        let columns = self.ask(&mut connection).await.map_err(|e| said(&e))??;
        // What it held is read; how the connection ends does not matter.
        let _ = connection.disconnect().await;
        columns.finish()
    }

    async fn ask(
        &self,
        connection: &mut Conn,
    ) -> Result<Result<Columns, String>, mysql_async::Error> {
        let mut answer = connection.query_iter(&self.query).await?;
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

fn kind(kind: ColumnType) -> Type {
    match kind {
        ColumnType::MYSQL_TYPE_TINY
        | ColumnType::MYSQL_TYPE_SHORT
        | ColumnType::MYSQL_TYPE_LONG
        | ColumnType::MYSQL_TYPE_INT24
        | ColumnType::MYSQL_TYPE_LONGLONG
        | ColumnType::MYSQL_TYPE_YEAR => Type::Int,
        ColumnType::MYSQL_TYPE_FLOAT
        | ColumnType::MYSQL_TYPE_DOUBLE
        | ColumnType::MYSQL_TYPE_DECIMAL
        | ColumnType::MYSQL_TYPE_NEWDECIMAL => Type::Double,
        ColumnType::MYSQL_TYPE_TIMESTAMP
        | ColumnType::MYSQL_TYPE_DATETIME
        | ColumnType::MYSQL_TYPE_DATE => Type::Time,
        _ => Type::Text,
    }
}
