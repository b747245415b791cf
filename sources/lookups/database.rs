//! What lookups by a query on a database server share.

use std::fmt::Debug;

use arrow::array::RecordBatch;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use weir_pipeline::component::Services;
use weir_pipeline::config::{Duration, Secret, Section, Spanned};
use weir_pipeline::diagnostic::Diagnostics;
use weir_pipeline::lookup::{Content, LookupPlan, Place};

use super::query::arranged;
use super::{Asking, Sample, asking, sampled, within};

/// As written; `T` is what the server's client takes for TLS.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Config<T> {
    /// Where the database is, with user and password.
    url: Secret,
    /// The query.
    #[schemars(extend("x-weir-verbatim" = true))]
    query: Spanned<String>,
    /// Time from one query to the next. Default 5m.
    refresh: Option<Spanned<Duration>>,
    /// Longest time that it may take. Default 30s.
    timeout: Option<Spanned<Duration>>,
    /// TLS.
    tls: Option<T>,
    /// Rows for checks and tests.
    sample: Option<Sample>,
}

/// A query as proved.
#[derive(Clone, Debug)]
pub(super) struct Query<T> {
    pub(super) url: Secret,
    pub(super) query: String,
    pub(super) asking: Asking,
    pub(super) tls: Option<T>,
    sample: Option<Content>,
    rows: Rows<T>,
}

/// Asks the database.
pub(super) type Rows<T> = fn(Query<T>) -> BoxFuture<'static, Result<RecordBatch, String>>;

/// Plans a lookup whose rows `rows` gets.
pub(super) fn plan<T>(section: &Section, rows: Rows<T>) -> Result<Box<dyn LookupPlan>, Diagnostics>
where
    T: Clone + Debug + DeserializeOwned + JsonSchema + Send + Sync + 'static,
{
    let config: Config<T> = section.read()?;
    let mut wrong = Diagnostics::default();
    let asking = asking(section, config.refresh.as_ref(), config.timeout.as_ref(), &mut wrong);
    let sample = wrong.ok(sampled(section, config.sample)).flatten();
    if wrong.has_errors() {
        return Err(wrong);
    }
    let (url, query, tls) = (config.url, config.query.value, config.tls);
    Ok(Box::new(Query { url, query, asking, tls, sample, rows }))
}

impl<T: Clone + Debug + Send + Sync + 'static> LookupPlan for Query<T> {
    fn place(&self) -> Place {
        Place::Peer(self.asking.refresh)
    }

    fn order_counts(&self) -> bool {
        true
    }

    fn read(&self, _: &Services) -> BoxFuture<'static, Result<Content, String>> {
        let query = self.clone();
        Box::pin(async move {
            let rows = within(query.asking.timeout, (query.rows)(query.clone())).await?;
            arranged(rows, &query.query).map(Content::Rows)
        })
    }

    fn sample(&self) -> Option<Content> {
        self.sample.clone()
    }
}
