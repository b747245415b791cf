//! Signals, their canonical columns and the types those columns have everywhere.
//!
//! Shapes follow `docs/` "Columns": a field has the same name on the wire, in TOML, in VRL, in
//! SQL and in the stored file, and that name is the OpenTelemetry one.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

/// What kind of telemetry a stream carries.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// Log records.
    Logs,
    /// Metric samples.
    Metrics,
    /// Trace spans.
    Spans,
    /// Profile samples.
    Profiles,
    /// Anything else, by name: what `window` emits, errors, alert transitions.
    Named(Arc<str>),
}

impl Signal {
    /// The signal of a stream that is none of the four OpenTelemetry ones.
    pub fn named(name: &str) -> Self {
        Self::Named(name.into())
    }

    /// The name as it stands in paths, labels and files.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Logs => "logs",
            Self::Metrics => "metrics",
            Self::Spans => "spans",
            Self::Profiles => "profiles",
            Self::Named(name) => name,
        }
    }

    /// The signal whose name is `name`; the inverse of [`Signal::as_str`].
    pub fn from_name(name: &str) -> Self {
        match name {
            "logs" => Self::Logs,
            "metrics" => Self::Metrics,
            "spans" => Self::Spans,
            "profiles" => Self::Profiles,
            other => Self::named(other),
        }
    }

    /// Canonical row columns: name and type. A batch may leave out those it has no value for,
    /// except `timestamp`.
    pub fn row_columns(&self) -> &'static [(&'static str, DataType)] {
        static LOGS: LazyLock<Vec<(&str, DataType)>> = LazyLock::new(|| {
            vec![
                ("timestamp", timestamp()),
                ("observed_timestamp", timestamp()),
                ("severity", DataType::Utf8),
                ("severity_number", DataType::Int64),
                ("body", DataType::Utf8),
                ("trace_id", DataType::Utf8),
                ("span_id", DataType::Utf8),
            ]
        });
        static METRICS: LazyLock<Vec<(&str, DataType)>> = LazyLock::new(|| {
            vec![
                ("timestamp", timestamp()),
                ("start_timestamp", timestamp()),
                ("value", DataType::Float64),
                ("value_int", DataType::Int64),
                ("stale", DataType::Boolean),
                ("histogram", histogram()),
                ("exemplars", DataType::Utf8),
            ]
        });
        static SPANS: LazyLock<Vec<(&str, DataType)>> = LazyLock::new(|| {
            vec![
                ("timestamp", timestamp()),
                ("duration_ns", DataType::Int64),
                ("trace_id", DataType::Utf8),
                ("span_id", DataType::Utf8),
                ("parent_span_id", DataType::Utf8),
                ("name", DataType::Utf8),
                ("kind", DataType::Utf8),
                ("status", DataType::Utf8),
                ("status_message", DataType::Utf8),
                ("events", DataType::Utf8),
                ("links", DataType::Utf8),
            ]
        });
        static PROFILES: LazyLock<Vec<(&str, DataType)>> = LazyLock::new(|| {
            vec![
                ("timestamp", timestamp()),
                ("duration_ns", DataType::Int64),
                ("stack", DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)))),
                ("value", DataType::Float64),
            ]
        });
        static NAMED: LazyLock<Vec<(&str, DataType)>> =
            LazyLock::new(|| vec![("timestamp", timestamp())]);
        match self {
            Self::Logs => &LOGS,
            Self::Metrics => &METRICS,
            Self::Spans => &SPANS,
            Self::Profiles => &PROFILES,
            Self::Named(_) => &NAMED,
        }
    }

    /// Canonical entity columns; all of them text.
    pub fn entity_columns(&self) -> &'static [&'static str] {
        match self {
            Self::Metrics => &[
                "metric.name",
                "metric.type",
                "metric.unit",
                "metric.temporality",
                "metric.bounds",
                "scope.name",
                "scope.version",
            ],
            Self::Logs | Self::Spans => &["scope.name", "scope.version"],
            Self::Profiles => &["profile.type", "profile.unit", "scope.name", "scope.version"],
            Self::Named(_) => &[],
        }
    }

    /// The type of a canonical column of either level, `None` for any other name.
    pub fn canonical_type(&self, name: &str) -> Option<DataType> {
        if self.entity_columns().contains(&name) {
            return Some(DataType::Utf8);
        }
        self.row_columns().iter().find(|(n, _)| *n == name).map(|(_, t)| t.clone())
    }

    /// The column that an attribute called `name` is stored under: its own name, unless a
    /// canonical column (or the reserved `attributes`) has it; then `attr.<name>`, for a metric
    /// label `label.<name>`.
    pub fn attribute_column<'a>(&self, name: &'a str) -> std::borrow::Cow<'a, str> {
        if name != ATTRIBUTES && self.canonical_type(name).is_none() {
            return name.into();
        }
        match self {
            Self::Metrics => format!("label.{name}").into(),
            _ => format!("attr.{name}").into(),
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reserved column that holds, as one JSON object, the attributes that have no column.
pub const ATTRIBUTES: &str = "attributes";

/// Most attribute columns a batch has; further names go to [`ATTRIBUTES`].
pub const COLUMNS_MAX: usize = 1_000;

/// Field metadata key: `"true"` where text holds JSON (arrays, `attributes`, events, links).
pub const META_JSON: &str = "weir.json";

/// Field metadata key: where an attribute came from: `resource`, `scope`, `record`, `label`.
pub const META_ORIGIN: &str = "weir.origin";

/// UTC nanoseconds, the type of every time column.
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))
}

/// The `histogram` struct of metrics. Explicit bounds and quantiles stand once per series in
/// `metric.bounds`; `counts` (histogram) and `values` (summary) line up with them.
pub fn histogram() -> DataType {
    DataType::Struct(histogram_fields())
}

/// The fields of [`histogram`].
pub fn histogram_fields() -> Fields {
    let list = |t| DataType::List(Arc::new(Field::new_list_field(t, true)));
    Fields::from(vec![
        Field::new("count", DataType::Int64, true),
        Field::new("sum", DataType::Float64, true),
        Field::new("min", DataType::Float64, true),
        Field::new("max", DataType::Float64, true),
        Field::new("counts", list(DataType::Int64), true),
        Field::new("values", list(DataType::Float64), true),
        Field::new("scale", DataType::Int64, true),
        Field::new("zero_count", DataType::Int64, true),
        Field::new("zero_threshold", DataType::Float64, true),
        Field::new("positive_offset", DataType::Int64, true),
        Field::new("positive_counts", list(DataType::Int64), true),
        Field::new("negative_offset", DataType::Int64, true),
        Field::new("negative_counts", list(DataType::Int64), true),
    ])
}
