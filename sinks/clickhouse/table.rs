//! The table in ClickHouse: what columns it has, and the statements that make it fit.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use weir_pipeline::signal::{Signal, timestamp};

use super::block::Wanted;
use super::connection::{Connection, Failure};

/// Blocks whose tokens a table that is created remembers. A replay repeats those of some tens of
/// seconds, at most five a second.
const REMEMBERED_BLOCKS: u32 = 1000;
/// For how long a replicated one does, seconds: a week.
const REMEMBERED_SECONDS: u32 = 7 * 86_400;

/// Row columns with few different texts.
const FEW: [&str; 4] = ["severity", "name", "kind", "status"];

#[derive(Debug)]
pub(super) struct TableSettings {
    pub(super) database: String,
    pub(super) table: String,
    pub(super) create: bool,
    pub(super) order_by: Vec<String>,
    pub(super) partition_by: String,
    pub(super) retention_seconds: Option<u64>,
    pub(super) engine: String,
    pub(super) cluster: Option<String>,
}

/// The sorting key that suits a signal: what people ask for first, then the time.
pub(super) fn order_by(signal: Option<&Signal>) -> Vec<String> {
    let names: &[&str] = match signal {
        Some(Signal::Logs | Signal::Profiles) => &["service.name", "timestamp"],
        Some(Signal::Metrics) => &["metric.name", "timestamp"],
        Some(Signal::Spans) => &["service.name", "name", "timestamp"],
        Some(Signal::Named(_)) | None => &["timestamp"],
    };
    names.iter().map(|n| (*n).to_owned()).collect()
}

/// Types of columns that Weir makes, from narrow to wide where one can become another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int,
    Double,
    Time,
    Texts,
    Text,
}

impl Kind {
    /// What holds the values of `data_type`.
    pub(super) fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Boolean => Self::Bool,
            DataType::Int64 => Self::Int,
            DataType::Float64 => Self::Double,
            DataType::Timestamp(..) => Self::Time,
            DataType::List(_) => Self::Texts,
            _ => Self::Text,
        }
    }

    /// That of the type of a column in ClickHouse; `None` if it is none of Weir's.
    fn of_column(column: &str) -> Option<Self> {
        let inside = |text: &str, outer: &str| {
            let inner = text.strip_prefix(outer)?.strip_prefix('(')?.strip_suffix(')')?;
            Some(inner.to_owned())
        };
        let mut bare = column.to_owned();
        for outer in ["LowCardinality", "Nullable"] {
            bare = inside(&bare, outer).unwrap_or(bare);
        }
        Some(match bare.as_str() {
            "Bool" => Self::Bool,
            "Int64" => Self::Int,
            "Float64" => Self::Double,
            "String" => Self::Text,
            "Array(String)" => Self::Texts,
            time if time.starts_with("DateTime64(9") => Self::Time,
            _ => return None,
        })
    }

    /// The narrowest that holds both.
    pub(super) fn with(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::Int, Self::Double) | (Self::Double, Self::Int) => Self::Double,
            _ => Self::Text,
        }
    }

    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Time => timestamp(),
            Self::Texts => DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
            Self::Text => DataType::Utf8,
        }
    }

    /// The type of a column, and how it is packed. `few`: it has few different values.
    fn column(self, few: bool, key: bool) -> String {
        let nullable = |kind: &str, codec: &str| match key {
            true => format!("{kind}{codec}"),
            false => format!("Nullable({kind}){codec}"),
        };
        match self {
            Self::Bool => nullable("Bool", ""),
            Self::Int => nullable("Int64", " CODEC(Delta, ZSTD(1))"),
            Self::Double => nullable("Float64", " CODEC(Gorilla, ZSTD(1))"),
            Self::Time => nullable("DateTime64(9, 'UTC')", " CODEC(DoubleDelta, ZSTD(1))"),
            Self::Texts => "Array(String) CODEC(ZSTD(1))".to_owned(),
            Self::Text if few => {
                format!("LowCardinality({}) CODEC(ZSTD(1))", nullable("String", ""))
            }
            Self::Text => nullable("String", " CODEC(ZSTD(1))"),
        }
    }
}

/// The table as far as it is known.
#[derive(Debug)]
pub(super) struct Table {
    settings: Arc<TableSettings>,
    /// Types by name, `None` for one that is not Weir's; empty before it was looked at.
    columns: BTreeMap<String, Option<Kind>>,
    /// That it remembers no tokens was said.
    said: bool,
}

impl Table {
    pub(super) fn new(settings: Arc<TableSettings>) -> Self {
        Self { settings, columns: BTreeMap::new(), said: false }
    }

    /// Looks at it again before the next block.
    pub(super) fn forget(&mut self) {
        self.columns.clear();
    }

    pub(super) fn columns(&self) -> &BTreeMap<String, Option<Kind>> {
        &self.columns
    }

    /// Makes it fit for a block with the columns `wanted`, if it may. What people should know, if
    /// anything.
    pub(super) async fn fit(
        &mut self,
        connection: &Connection,
        wanted: &BTreeMap<String, Wanted>,
    ) -> Result<Option<String>, Failure> {
        let mut note = None;
        if self.columns.is_empty() {
            self.look(connection).await?;
            if self.columns.is_empty() && self.settings.create {
                // Whoever may create a table here need not be allowed to create databases.
                if !self.has_database(connection).await? {
                    connection.run(&self.create_database()).await?;
                }
                connection.run(&self.create_table(wanted)).await?;
                self.look(connection).await?;
            }
            if self.columns.is_empty() {
                return Err(Failure::Later(format!("there is no table {}", self.name())));
            }
            let forgets = self.forgets(connection).await?;
            note = forgets.filter(|_| !std::mem::replace(&mut self.said, true));
        }
        if self.settings.create && !self.changes(wanted).is_empty() {
            // Others may have changed it meanwhile, and what is wide must not become narrow.
            self.look(connection).await?;
            for change in self.changes(wanted) {
                let alter = format!("ALTER TABLE {} {change}", self.name_on_cluster());
                match connection.run(&alter).await {
                    // Its values go as what it is, as far as they can.
                    Err(failure) if failure.is_fixed() => {}
                    done => done?,
                }
            }
            self.look(connection).await?;
        }
        Ok(note)
    }

    /// The statement that takes rows; their columns are found by name. It goes in the URL, which has
    /// no room for thousands of names.
    pub(super) fn insert(&self) -> String {
        format!("INSERT INTO {} FORMAT ArrowStream", self.name())
    }

    async fn look(&mut self, connection: &Connection) -> Result<(), Failure> {
        let TableSettings { database, table, .. } = &*self.settings;
        let sql = format!(
            "SELECT name, type FROM system.columns WHERE database = {} AND table = {} \
             AND default_kind NOT IN ('MATERIALIZED', 'ALIAS')",
            text(database),
            text(table)
        );
        let rows: Vec<(String, String)> = connection.rows(&sql).await?;
        self.columns =
            rows.into_iter().map(|(name, kind)| (name, Kind::of_column(&kind))).collect();
        Ok(())
    }

    async fn has_database(&self, connection: &Connection) -> Result<bool, Failure> {
        let name = text(&self.settings.database);
        let sql = format!("SELECT name FROM system.databases WHERE name = {name}");
        Ok(!connection.rows::<(String,)>(&sql).await?.is_empty())
    }

    /// That it does not remember blocks, if so.
    async fn forgets(&self, connection: &Connection) -> Result<Option<String>, Failure> {
        let TableSettings { database, table, .. } = &*self.settings;
        let sql = format!(
            "SELECT engine, engine_full FROM system.tables WHERE database = {} AND name = {}",
            text(database),
            text(table)
        );
        let rows: Vec<(String, String)> = connection.rows(&sql).await?;
        Ok(rows.first().filter(|(engine, full)| !remembers(engine, full)).map(|_| {
            format!(
                "table {} remembers no blocks: after a crash some rows may be there twice; \
                 set its `non_replicated_deduplication_window` to {REMEMBERED_BLOCKS}",
                self.name()
            )
        }))
    }

    fn create_database(&self) -> String {
        let TableSettings { database, .. } = &*self.settings;
        format!("CREATE DATABASE IF NOT EXISTS {}{}", quoted(database), self.on_cluster())
    }

    fn create_table(&self, wanted: &BTreeMap<String, Wanted>) -> String {
        let TableSettings { order_by, partition_by, retention_seconds, engine, .. } =
            &*self.settings;
        let mut columns: Vec<String> = Vec::new();
        // Those that ordering and retention need are there from the start.
        for name in order_by.iter().map(String::as_str).chain(["timestamp"]) {
            let definition = self.definition(name, wanted.get(name).copied());
            if !columns.contains(&definition) {
                columns.push(definition);
            }
        }
        let others = wanted.iter().filter(|(n, _)| !self.is_first(n));
        columns.extend(others.map(|(name, wanted)| self.definition(name, Some(*wanted))));
        let keys: Vec<String> = order_by.iter().map(|n| quoted(n)).collect();
        let mut sql = format!(
            "CREATE TABLE IF NOT EXISTS {} ({}) ENGINE = {engine} PARTITION BY {partition_by} ORDER BY ({})",
            self.name_on_cluster(),
            columns.join(", "),
            keys.join(", ")
        );
        if let Some(seconds) = retention_seconds {
            let _ = write!(sql, " TTL toDateTime(timestamp) + toIntervalSecond({seconds})");
        }
        let _ = match engine.starts_with("Replicated") {
            true => write!(
                sql,
                " SETTINGS replicated_deduplication_window = {REMEMBERED_BLOCKS}, \
                 replicated_deduplication_window_seconds = {REMEMBERED_SECONDS}"
            ),
            false => {
                write!(sql, " SETTINGS non_replicated_deduplication_window = {REMEMBERED_BLOCKS}")
            }
        };
        sql
    }

    fn is_first(&self, name: &str) -> bool {
        name == "timestamp" || self.settings.order_by.iter().any(|n| n == name)
    }

    fn definition(&self, name: &str, wanted: Option<Wanted>) -> String {
        let key = self.is_first(name);
        let kind =
            wanted.map_or(if name == "timestamp" { Kind::Time } else { Kind::Text }, |w| w.kind);
        let few = key || FEW.contains(&name) || wanted.is_some_and(|w| w.entity);
        format!("{} {}", quoted(name), kind.column(few, key))
    }

    /// What the table lacks for `wanted`.
    fn changes(&self, wanted: &BTreeMap<String, Wanted>) -> Vec<String> {
        let change = |(name, wanted): (&String, &Wanted)| match self.columns.get(name) {
            None => {
                let definition = self.definition(name, Some(*wanted));
                Some(format!("ADD COLUMN IF NOT EXISTS {definition}"))
            }
            Some(None) => None,
            Some(Some(kind)) if kind.with(wanted.kind) == *kind => None,
            // The key of a table cannot be changed: its values are sent as what it is.
            Some(Some(_)) if self.is_first(name) => None,
            Some(Some(kind)) => {
                let wide = Wanted { kind: kind.with(wanted.kind), ..*wanted };
                Some(format!("MODIFY COLUMN {}", self.definition(name, Some(wide))))
            }
        };
        wanted.iter().filter_map(change).collect()
    }

    fn name(&self) -> String {
        format!("{}.{}", quoted(&self.settings.database), quoted(&self.settings.table))
    }

    fn name_on_cluster(&self) -> String {
        format!("{}{}", self.name(), self.on_cluster())
    }

    fn on_cluster(&self) -> String {
        let cluster = self.settings.cluster.as_ref();
        cluster.map_or_else(String::new, |c| format!(" ON CLUSTER {}", quoted(c)))
    }
}

/// Whether a table of this engine, written in full, remembers the tokens of blocks.
fn remembers(engine: &str, full: &str) -> bool {
    let set = |name: &str| {
        let at = full.split(name).nth(1)?.trim_start().strip_prefix('=')?.trim_start();
        at.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    };
    match engine.starts_with("Replicated") || engine.starts_with("Shared") {
        true => set(" replicated_deduplication_window") != Some(0),
        false => set("non_replicated_deduplication_window").is_some_and(|window| window > 0),
    }
}

/// A name in a statement.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A text in a statement.
fn text(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_again() {
        for kind in [Kind::Bool, Kind::Int, Kind::Double, Kind::Time, Kind::Texts, Kind::Text] {
            for (few, key) in [(false, false), (true, false), (true, true)] {
                let column = kind.column(few, key);
                let bare = column.split(" CODEC").next().unwrap_or_default();
                assert_eq!(Kind::of_column(bare), Some(kind), "{column}");
            }
            assert_eq!(Kind::of(&kind.data_type()), kind);
        }
        assert_eq!(Kind::of_column("Nullable(UInt8)"), None);
    }

    #[test]
    fn memory_is_read_from_the_engine() {
        let own = "MergeTree ORDER BY t SETTINGS non_replicated_deduplication_window = 1000, index_granularity = 8192";
        assert!(remembers("MergeTree", own));
        assert!(!remembers("MergeTree", "MergeTree ORDER BY t SETTINGS index_granularity = 8192"));
        assert!(!remembers(
            "MergeTree",
            "MergeTree SETTINGS non_replicated_deduplication_window = 0"
        ));
        assert!(remembers("ReplicatedMergeTree", "ReplicatedMergeTree('/a', 'b') ORDER BY t"));
        assert!(!remembers(
            "ReplicatedMergeTree",
            "x SETTINGS replicated_deduplication_window = 0"
        ));
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(quoted("a`b\\c"), "`a\\`b\\\\c`");
        assert_eq!(text("it's"), "'it\\'s'");
    }
}
