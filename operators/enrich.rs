//! `enrich` operator: adds to each row what a lookup table says of it.
//!
//! ```toml
//! [lookups.hosts]
//! type = "file"
//! file = "hosts.csv"                     # name,owner,tier
//!
//! [operators.owned]
//! type = "enrich"
//! inputs = ["otlp.logs"]
//! lookup = "hosts"
//! on = { "host.name" = "name" }          # column of the row = column of the table
//! take = { "host.owner" = "owner" }      # new column = column of the table
//! ```
//!
//! | key | default | |
//! |---|---|---|
//! | `lookup` | required | `[lookups.*]` of the same file |
//! | `on` | | values that must be equal, as text: 42 finds `42` |
//! | `ignore_case` | `false` | whether capitals make no difference in `on` |
//! | `network` | | `{ "client.address" = "cidr" }`: the address lies in the network; the longest is taken |
//! | `since`, `until` | | columns of the table: between which times a row holds; the newest that holds is taken |
//! | `time` | `timestamp` | column of the row that `since` and `until` are compared with |
//! | `take` | all columns but the keys, under their own names | what is added |
//! | `on_missing` | `keep` | a row that nothing is found for: `keep` it with NULLs, `drop` it, or send it to `<id>.errors` (`error`) |
//!
//! `on`, `network` and `since` go together: a row of the table is found if all hold. If several rows
//! have the same keys the last one is found. A key that is NULL finds nothing. A column that is added
//! replaces one of the same name.
//!
//! A MaxMind database is asked by `network = { "client.address" = "ip" }`, and `take` names fields of
//! its records with dots: `{ "client.geo.country_iso_code" = "country.iso_code" }`.
//!
//! ```toml
//! [lookups.prices]
//! type = "file"
//! file = "prices.csv"                    # product,price,valid_from,valid_to
//! types = { price = "double", valid_from = "time", valid_to = "time" }
//!
//! [operators.priced]
//! type = "enrich"
//! inputs = ["owned"]
//! lookup = "prices"
//! on = { "product.id" = "product" }
//! since = "valid_from"
//! until = "valid_to"
//! ```
//!
//! What is known of a resource or series costs once per resource or series: keys that stand there are
//! looked up once for each, and what is added stands there too. Programs of the operator `vrl` ask
//! the same tables with `get_enrichment_table_record` and `find_enrichment_table_records`.
//!
//! State: none. The version of the table is a part of the plan, so a new one goes live at a mark, and
//! a replay finds what was found.

mod matching;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{
    Operator, OperatorError, OperatorKind, OperatorPlan, Output, OutputPlan, Tick,
};
use weir_pipeline::config::{Scope, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::edge::Edge;
use weir_pipeline::lookup::{IndexKeys, Lookup};

use self::matching::{Asked, Matcher};
use crate::entities::Entities;
use crate::inputs;

/// The row of the table.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "enrich",
    about: "add what a lookup table says of a row",
    source: include_str!("enrich.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Id of the lookup table.
    lookup: Spanned<String>,
    /// Column of the row, and the column of the table that has the same value.
    #[serde(default)]
    on: BTreeMap<String, Spanned<String>>,
    /// Whether capitals make no difference in `on`.
    #[serde(default)]
    ignore_case: bool,
    /// Column of the row with an address, and the column of the table with its network.
    network: Option<BTreeMap<String, Spanned<String>>>,
    /// Column of the table: from when on a row holds.
    since: Option<Spanned<String>>,
    /// Column of the table: until when a row holds.
    until: Option<Spanned<String>>,
    /// Column of the row: at what time. Default `timestamp`.
    time: Option<Spanned<String>>,
    /// New column, and the column of the table that it is taken from.
    take: Option<BTreeMap<String, Spanned<String>>>,
    /// What happens to rows that nothing is found for.
    #[serde(default)]
    on_missing: OnMissing,
}

/// What happens to rows that nothing is found for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OnMissing {
    /// They go on, with NULL in the new columns.
    #[default]
    Keep,
    /// They are dropped and counted.
    Drop,
    /// They go to `<id>.errors`.
    Error,
}

#[derive(Debug)]
struct EnrichPlan {
    matcher: Arc<Matcher>,
    edge: Edge,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let mut edge = inputs::merged(scope);
    let table = scope.lookup(&config.lookup.value, &section.span(&config.lookup))?;
    let network = config.network.iter().flatten().next();
    let mut bad = |message: &str, label: &str| {
        let wrong_use = Diagnostic::error("W015", message).at(&section.header);
        wrong.push(wrong_use.label(label.to_owned()));
    };
    if config.on.is_empty() && network.is_none() {
        bad("`enrich` needs `on` or `network`", "expected by what rows are found");
    }
    if config.network.as_ref().is_some_and(|n| n.len() != 1) {
        bad("`network` is of one column", "expected `{ \"client.address\" = \"cidr\" }`");
    }
    if config.until.is_some() && config.since.is_none() {
        bad("`until` needs `since`", "expected `since` beside it");
    }
    if config.time.is_some() && config.since.is_none() {
        bad("`time` is only for `since`", "expected `since` beside it");
    }
    if table.is_maxmind() && (!config.on.is_empty() || config.since.is_some()) {
        bad("a MaxMind database is asked by `network` alone", "without `on` and `since`");
    }
    let time = config
        .since
        .as_ref()
        .map(|_| config.time.as_ref().map_or_else(|| "timestamp".to_owned(), |t| t.value.clone()));
    let asked = Asked {
        on: config.on.keys().cloned().collect(),
        address: network.map(|(row, _)| row.clone()),
        time,
    };
    for name in asked.columns() {
        match edge.check(name, &section.header) {
            Some(d) if edge.open => scope.warn(d),
            Some(d) => wrong.push(d),
            None => {}
        }
    }
    let keys = IndexKeys {
        exact: config.on.values().map(|v| v.value.clone()).collect(),
        ignore_case: config.ignore_case,
        network: network.map(|(_, column)| column.value.clone()),
        since: config.since.as_ref().map(|s| s.value.clone()),
        until: config.until.as_ref().map(|u| u.value.clone()),
    };
    let take = wrong.ok(taken(section, config.take.as_ref(), &table, &keys));
    let index = if table.is_maxmind() { None } else { Some(table.index(&keys)) };
    let index = index.transpose().map_err(|why| {
        let message = format!("lookup `{}`: {why}", config.lookup.value);
        wrong.push(Diagnostic::error("W047", message).at(&section.span(&config.lookup)));
    });
    let (Some(take), Ok(index)) = (take, index) else { return Err(wrong) };
    if wrong.has_errors() {
        return Err(wrong);
    }
    if let Some(hidden) = index.as_ref().map(|i| i.doubled()).filter(|n| *n > 0) {
        let message = format!(
            "lookup `{}` has {hidden} rows that are not found: others below have the same keys",
            config.lookup.value
        );
        scope.warn(Diagnostic::warning("W048", message).at(&section.span(&config.lookup)));
    }
    for (name, column) in &take {
        let kind = table
            .schema()
            .and_then(|s| s.field_with_name(column).ok().map(|f| f.data_type().clone()));
        let canonical = edge.signal.canonical_type(name);
        if let (Some(wanted), Some(kind)) = (&canonical, &kind)
            && wanted != kind
        {
            let message = format!("column `{name}` is {wanted}, the table has {kind} for it");
            let label = format!("`take` can call `{column}` something else");
            wrong.push(Diagnostic::error("W015", message).at(&section.header).label(label));
        }
        edge.columns.insert(name.clone(), kind.filter(|k| *k != DataType::Null));
    }
    if wrong.has_errors() {
        return Err(wrong);
    }
    let lookup = config.lookup.value;
    let on_missing = config.on_missing;
    let matcher = Matcher { lookup, table, index, asked, take, on_missing };
    Ok(Box::new(EnrichPlan { matcher: Arc::new(matcher), edge }))
}

/// New columns, each with the column of the table that it is taken from.
fn taken(
    section: &Section,
    take: Option<&BTreeMap<String, Spanned<String>>>,
    table: &Lookup,
    keys: &IndexKeys,
) -> Result<Vec<(String, String)>, Diagnostics> {
    let Some(take) = take else {
        if table.is_maxmind() {
            let missing =
                Diagnostic::error("W013", "`enrich` from a MaxMind database needs `take`");
            let label = "expected `take = { \"geo.country_iso_code\" = \"country.iso_code\" }`";
            return Err(missing.at(&section.header).label(label).into());
        }
        let schema = table.schema();
        let fields = schema.iter().flat_map(|s| s.fields().iter());
        let key = |name: &String| {
            let named = [&keys.network, &keys.since, &keys.until];
            keys.exact.contains(name) || named.into_iter().flatten().any(|k| k == name)
        };
        let names = fields.map(|f| f.name()).filter(|n| !key(n));
        return Ok(names.map(|n| (n.clone(), n.clone())).collect());
    };
    let mut wrong = Diagnostics::default();
    if let Some(schema) = table.schema().filter(|s| !s.fields().is_empty()) {
        for column in take.values() {
            if schema.column_with_name(&column.value).is_none() {
                let message = format!("the table has no column `{}`", column.value);
                let names = schema.fields().iter().map(|f| f.name().as_str());
                let near = weir_pipeline::diagnostic::nearest(&column.value, names);
                let unknown = Diagnostic::error("W047", message).at(&section.span(column));
                wrong.push(match near {
                    Some(near) => unknown.label(format!("did you mean `{near}`?")),
                    None => unknown,
                });
            }
        }
    }
    match wrong.has_errors() {
        true => Err(wrong),
        false => Ok(take.iter().map(|(new, c)| (new.clone(), c.value.clone())).collect()),
    }
}

impl OperatorPlan for EnrichPlan {
    fn outputs(&self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: "", edge: self.edge.clone() }]
    }

    fn columns(&self) -> Vec<String> {
        self.matcher.asked.columns().cloned().collect()
    }

    fn state_shape(&self) -> Option<String> {
        None
    }

    fn reach(&self) -> i64 {
        0
    }

    fn build(&self) -> Box<dyn Operator> {
        Box::new(Enrich { matcher: self.matcher.clone(), entities: Entities::default() })
    }
}

struct Enrich {
    matcher: Arc<Matcher>,
    /// Entities with what was found for them; a cache, not state.
    entities: Entities,
}

impl Operator for Enrich {
    fn process(
        &mut self,
        _input: usize,
        batch: Batch,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        match self.matcher.suits_entities(&batch) {
            true => rows::by_entity(&self.matcher, &mut self.entities, &batch, out),
            false => rows::by_row(&self.matcher, &mut self.entities, &batch, out),
        }
    }

    fn tick(&mut self, _: Tick, _: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }

    fn watermark(&self, inputs: i64) -> i64 {
        inputs
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError> {
        Ok(Vec::new())
    }

    fn restore(&mut self, _: &[u8]) -> Result<(), OperatorError> {
        Ok(())
    }

    fn flush(&mut self, _: Tick, _: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }
}
