//! Replay: the plan that runs and an edited one, side by side over the same stretch of the journal,
//! and what differs.
//!
//! A pipeline is a function of the journal, so what the live plan made of a stretch is found by
//! running it again. Both sides begin without state, some way before the stretch (the warm-up), so
//! that windows and alerts fill; they take the same entries in lock-step, and what reaches sinks is
//! compared and dropped. No sink is built, nothing is saved, and nobody else notices.
//!
//! [`Twin`] is one pipeline with its two sides. `rows` compares what comes to a table or sink,
//! `pairs` tells a changed row from one that is gone and another that is new, `alerts` compares
//! when alerts fire. [`crate::runtime::Runtime::replay`] finds the plans and reads the journal.

mod alerts;
mod hash;
mod pairs;
mod rows;
mod side;
#[cfg(test)]
mod tests;
mod twin;
mod when;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use self::side::reach;
pub(crate) use self::twin::{Twin, TwinOptions};
pub use self::when::When;
pub(crate) use self::when::show;

/// Samples of each kind that are shown of one table or alert, unless asked otherwise.
pub const SAMPLES: usize = 20;
/// As many may be asked for: an answer stays below some tens of megabytes.
pub const SAMPLES_MAX: usize = 1_000;

/// What shall be replayed. Times are RFC 3339, `-15m`, `15m ago` or `now`; positions are offsets
/// of journal entries; `oldest` is the oldest entry that the journal still has.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The first entry whose consequences count.
    #[serde(deserialize_with = "when::text")]
    pub from: String,
    /// Up to this position, or before this time; the newest entry if it is not given.
    #[serde(default, deserialize_with = "when::maybe_text")]
    pub to: Option<String>,
    /// How long before `from` both sides begin, such as `10m`.
    pub warm_up: Option<String>,
    /// The pipeline; with a file the one that it stands for, if it has another name.
    pub pipeline: Option<String>,
    /// The edited file. Without one the files of the server as they stand now are compared with
    /// what runs.
    pub file: Option<EditedFile>,
    /// Samples of each kind.
    pub samples: Option<usize>,
}

/// A pipeline file that is not the server's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditedFile {
    /// Path, for messages; without a `name` in it, the pipeline is called like the file.
    pub path: String,
    /// What stands in it.
    pub text: String,
    /// The files that it names, by path as they would be read from where `path` lies.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Variables that no file of the server uses.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Progress {
    /// Offset of the last entry that was taken in; 0 before the first.
    pub position: u64,
    /// When that was received, UTC nanoseconds.
    pub time: i64,
    /// From 0 to 1.
    pub done: f64,
}

/// What differs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Whether nothing does, as far as it went.
    pub same: bool,
    /// Whether it covers all that was asked for.
    pub complete: bool,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The first entry that counted.
    pub from: Place,
    /// The last one.
    pub to: Place,
    /// Where both sides began.
    pub began: Place,
    /// Entries that counted.
    pub entries: u64,
    /// Bytes that were read for it, warm-up included.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// What people should know.
    pub notes: Vec<String>,
    /// What is wrong with files, as people read it; warnings too.
    pub diagnostics: Vec<String>,
    /// Pipeline by pipeline.
    pub pipelines: Vec<PipelineReport>,
}

/// An entry of the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Offset; 0 if there was none.
    pub position: u64,
    /// When it was received, UTC nanoseconds.
    pub time: i64,
}

/// What differs in one pipeline.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PipelineReport {
    /// Name of the live one, or of the new one.
    pub name: String,
    /// The edited file.
    pub file: String,
    /// `unchanged`, `changed`, `renamed`, `new` (none of the name runs) or `removed`.
    pub change: &'static str,
    /// What people should know.
    pub notes: Vec<String>,
    /// Rows from sources that counted.
    pub rows: u64,
    /// Rows, by where they go.
    pub outputs: Vec<OutputReport>,
    /// Alerts, by rule.
    pub alerts: Vec<AlertReport>,
    /// Counts of each operator and alert.
    pub nodes: Vec<NodeReport>,
}

impl PipelineReport {
    /// Whether nothing differs.
    pub fn is_same(&self) -> bool {
        self.outputs.iter().all(|o| o.added + o.gone + o.changed == 0)
            && self.alerts.iter().all(|a| a.fires + a.silent + a.changed == 0)
    }
}

/// The rows of a table or sink.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OutputReport {
    /// `table`, `sink`, or `late` for late rows of an operator that nobody reads.
    pub class: &'static str,
    /// Name of the table, else id of the sink or operator.
    pub name: String,
    /// Rows of the live plan.
    pub live: u64,
    /// Rows of the edited one.
    pub edited: u64,
    /// Rows that the edited plan has besides.
    pub added: u64,
    /// Rows that it has no more.
    pub gone: u64,
    /// Rows that have other values.
    pub changed: u64,
    /// How many of the changed rows differ in a column.
    pub columns: BTreeMap<String, u64>,
    /// The first of each kind.
    pub samples: RowSamples,
}

/// Rows that differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RowSamples {
    /// Added ones.
    pub added: Vec<RowSample>,
    /// Gone ones.
    pub gone: Vec<RowSample>,
    /// Changed ones.
    pub changed: Vec<ChangedSample>,
}

/// A row, with the entry or tick that it comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RowSample {
    /// Offset of the entry.
    pub position: u64,
    /// Both levels, without nulls.
    pub row: Map<String, Value>,
}

/// A row on both sides.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChangedSample {
    /// Offset of the entry.
    pub position: u64,
    /// Columns that differ.
    pub columns: Vec<String>,
    /// As the live plan makes it.
    pub live: Map<String, Value>,
    /// As the edited one does.
    pub edited: Map<String, Value>,
}

/// When a rule fires on both sides. One time of firing, from its begin to its end, is counted once.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AlertReport {
    /// Id of the rule.
    pub alert: String,
    /// Times that it fires on the live side, those under way at `from` included.
    pub live: u64,
    /// And on the edited side.
    pub edited: u64,
    /// Instances that the live side holds open at `from`.
    pub live_before: u64,
    /// Instances that the edited side does.
    pub edited_before: u64,
    /// Times that it would have fired and did not.
    pub fires: u64,
    /// Times that it fired and would not have.
    pub silent: u64,
    /// Times that it would have begun or ended at another time, or with other texts.
    pub changed: u64,
    /// The first of each kind.
    pub samples: Vec<AlertSample>,
}

/// One time of firing that differs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AlertSample {
    /// `fires`, `silent` or `changed`.
    pub kind: &'static str,
    /// What differs, of those that changed: `from`, `to`, `summary` and other annotations.
    pub differs: Vec<String>,
    /// Identity of the instance.
    pub labels: Map<String, Value>,
    /// On the live side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Firing>,
    /// On the edited side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edited: Option<Firing>,
}

/// From when to when an alert fires.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Firing {
    /// When it begins, UTC nanoseconds; before `from` this is where it was found firing.
    pub from: i64,
    /// Whether that was before `from`.
    pub before: bool,
    /// When it ends, UTC nanoseconds; `None` if it still fires at the end.
    pub to: Option<i64>,
    /// Offset of the entry at which it begins.
    pub position: u64,
    /// `summary` and the like.
    pub annotations: Map<String, Value>,
    /// Why it begins, where it is not the condition.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What a node did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeReport {
    /// Id.
    pub id: String,
    /// `operator` or `alert`.
    pub class: &'static str,
    /// On the live side, if it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Counts>,
    /// On the edited side, if it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edited: Option<Counts>,
}

/// Rows of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Taken in.
    pub rows_in: u64,
    /// Given out.
    pub rows_out: u64,
    /// Failed.
    pub errors: u64,
    /// Left out on purpose.
    pub dropped: u64,
    /// Came after their window had closed.
    pub late: u64,
}
