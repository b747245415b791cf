//! `sql` lookup: what a query on Weir's own tables gives.
//!
//! ```toml
//! [lookups.releases]
//! type = "sql"
//! query = '''
//! SELECT service.name, max_by(service.version, timestamp) AS version
//! FROM spans WHERE timestamp > now() - INTERVAL '1 hour' GROUP BY service.name
//! '''
//! refresh = "1m"
//! sample = [{ "service.name" = "cart", version = "1.4.0" }]
//! ```
//!
//! It is asked every `refresh`; the same rows as before change nothing. Other rows go live at one
//! mark, as an edit of the pipeline file does: what is looked up does not depend on when the query ran
//! but on the mark, and is the same in every replay. While the query fails the rows from before stay in
//! use, after a restart too, and `weir status` says why; a pipeline whose table was never read waits
//! for it, and then begins where its file came. Decimals are as those of the lookup `postgres`.
//!
//! Of several rows with the same keys the last one is found, in the order of the query's `ORDER BY`:
//! name enough columns there, since the same rows in another order are another version. Without
//! `ORDER BY` the rows are put in the order of their values, and the greatest is found.
//!
//! `sample` are the rows that `weir check`, `weir test` and `[[tests]]` go by. The limits of queries
//! hold, and 20 million rows.

use std::sync::Arc;

use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::component::{LookupKind, Services};
use weir_pipeline::config::{Duration, Scope, Section, Spanned};
use weir_pipeline::diagnostic::Diagnostics;
use weir_pipeline::lookup::{Content, LookupPlan, OwnTables, Place};

use super::plain::plain;
use super::query::arranged;
use super::{Asking, Sample, asking, sampled, within};

/// The row of the table.
pub(crate) const KIND: LookupKind = LookupKind {
    name: "sql",
    about: "what a query on Weir's own tables gives",
    source: include_str!("sql.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The query.
    #[schemars(extend("x-weir-verbatim" = true))]
    query: Spanned<String>,
    /// Time from one query to the next. Default 5m.
    refresh: Option<Spanned<Duration>>,
    /// Longest time that it may take. Default 30s.
    timeout: Option<Spanned<Duration>>,
    /// Rows for checks and tests.
    sample: Option<Sample>,
}

#[derive(Debug)]
struct SqlPlan {
    query: String,
    asking: Asking,
    sample: Option<Content>,
}

fn plan(section: &Section, _: &Scope) -> Result<Box<dyn LookupPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let asking = asking(section, config.refresh.as_ref(), config.timeout.as_ref(), &mut wrong);
    let sample = wrong.ok(sampled(section, config.sample)).flatten();
    match wrong.has_errors() {
        true => Err(wrong),
        false => Ok(Box::new(SqlPlan { query: config.query.value, asking, sample })),
    }
}

impl LookupPlan for SqlPlan {
    fn place(&self) -> Place {
        Place::Peer(self.asking.refresh)
    }

    fn order_counts(&self) -> bool {
        true
    }

    fn read(&self, services: &Services) -> BoxFuture<'static, Result<Content, String>> {
        let tables: Option<Arc<OwnTables>> = services.get();
        let (query, timeout) = (self.query.clone(), self.asking.timeout);
        let asked = query.clone();
        Box::pin(async move {
            let tables = tables.ok_or("there is no store to ask")?;
            let rows = within(timeout, tables.0.ask(query)).await?;
            let rows = tokio::task::block_in_place(|| plain(&rows))?;
            arranged(rows, &asked).map(Content::Rows)
        })
    }

    fn sample(&self) -> Option<Content> {
        self.sample.clone()
    }
}
