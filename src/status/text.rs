//! The status for people.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

use super::{degraded, list};

/// All of it.
pub(super) fn render(status: &Value) -> String {
    let report = Report { status, now: status["time"].as_i64().unwrap_or_default() };
    let mut out = String::new();
    report.head(&mut out);
    for source in list(&status["sources"]) {
        report.source(&mut out, source);
    }
    for pipeline in list(&status["pipelines"]) {
        report.pipeline(&mut out, pipeline);
    }
    for lookup in list(&status["lookups"]) {
        report.lookup(&mut out, lookup);
    }
    report.alerts(&mut out);
    let problems = list(&status["problems"]);
    if !problems.is_empty() {
        line(&mut out, 0, "\nneeds attention");
        for problem in problems {
            line(&mut out, 2, text(problem));
        }
    }
    line(&mut out, 0, if degraded(status) { "\nweir is degraded" } else { "\nweir is fine" });
    out
}

struct Report<'a> {
    status: &'a Value,
    now: i64,
}

impl Report<'_> {
    fn head(&self, out: &mut String) {
        let s = self.status;
        let ready = if s["ready"] == true { "ready" } else { "starting" };
        let up = duration(self.now - number(&s["started"]));
        line(out, 0, &format!("weir {}, up {up}, {ready}", text(&s["version"])));
        let journal = &s["journal"];
        let size = bytes(number(&journal["bytes"]));
        line(out, 0, &format!("journal: entry {}, {size}", number(&journal["head"])));
        let reload = &s["reload"];
        let files = list(&reload["files"]);
        let live = files.iter().filter(|f| f["state"] == "live").count();
        let when = self.ago(number(&reload["time"]));
        line(out, 0, &format!("files: {live} of {} live, read {when}", files.len()));
        for diagnostic in list(&reload["diagnostics"]) {
            line(out, 2, text(diagnostic).trim_end());
        }
    }

    fn source(&self, out: &mut String, source: &Value) {
        let id = text(&source["id"]);
        let kind = text(&source["kind"]);
        line(out, 0, &format!("\nsource {id} ({kind}, {})", text(&source["place"])));
        let listens: Vec<&str> = list(&source["listens"]).iter().map(text).collect();
        if !listens.is_empty() {
            line(out, 2, &format!("listens on {}", listens.join(", ")));
        }
        let reading = self.reading("", id);
        let last = number(&reading["last_activity"]);
        let rows = number(&reading["rows_out"]);
        let came = match last {
            0 => "no entry yet".to_owned(),
            last => format!("last entry {}, {rows} rows accepted", self.ago(last)),
        };
        line(out, 2, &came);
        for (name, way) in reading["ways"].as_object().into_iter().flatten() {
            self.way(out, name, way);
        }
        self.rejected(out, 2, reading);
        if source["running"] != true {
            line(out, 2, "<-- stops here: the source does not run");
        } else if let Some(closed) = listens.iter().find(|l| l.contains("cannot be opened")) {
            line(out, 2, &format!("<-- stops here: {closed}"));
        } else if reading["last_error"]["reason"] == "journal_full"
            && number(&reading["last_error"]["time"]) >= last
        {
            line(out, 2, "<-- stops here: the journal is full");
        } else if last == 0 {
            let hint = match listens.first() {
                Some(address) => format!("nothing was sent to {address}"),
                None => "nothing came".to_owned(),
            };
            line(out, 2, &format!("<-- stops here: {hint}"));
        }
    }

    /// A lookup table: how many rows, since when, and why not newer ones.
    fn lookup(&self, out: &mut String, lookup: &Value) {
        let (id, kind) = (text(&lookup["id"]), text(&lookup["kind"]));
        line(out, 0, &format!("\nlookup {id} ({kind}, {})", text(&lookup["file"])));
        if text(&lookup["version"]).is_empty() {
            line(out, 2, "not read yet");
        } else {
            let rows = number(&lookup["rows"]);
            let (since, tried) = (number(&lookup["since"]), number(&lookup["tried"]));
            let rows = if rows > 0 { format!("{rows} rows, ") } else { String::new() };
            let (since, tried) = (self.ago(since), self.ago(tried));
            line(out, 2, &format!("{rows}in use since {since}, looked at {tried}"));
        }
        if lookup["error"].is_string() {
            line(out, 2, &format!("<-- cannot be read: {}", text(&lookup["error"])));
        }
    }

    /// What came by one endpoint, or from one target.
    fn way(&self, out: &mut String, name: &str, way: &Value) {
        let last = self.ago(number(&way["last_entry"]));
        let rows = number(&way["rows"]);
        let name = if name.is_empty() { "all" } else { name };
        let behind = match number(&way["behind"]) {
            0 => String::new(),
            behind => format!(", {behind} records behind"),
        };
        line(out, 4, &format!("{name}: last entry {last}, {rows} rows accepted{behind}"));
        for (reason, r) in way["rejected"].as_object().into_iter().flatten() {
            let (entries, rows) = (number(&r["entries"]), number(&r["rows"]));
            let sample = text(&r["sample"]);
            line(out, 6, &format!("rejected: {reason}: {entries} entries, {rows} rows: {sample}"));
        }
        if way["error"].is_object() {
            line(out, 6, &format!("fails: {}", text(&way["error"]["message"])));
        }
    }

    /// Counts by reason, with the newest as a sample.
    fn rejected(&self, out: &mut String, indent: usize, reading: &Value) {
        let reasons = reading["rejected"].as_object();
        let reasons: Vec<String> = reasons
            .into_iter()
            .flatten()
            .map(|(reason, rows)| format!("{} {reason}", number(rows)))
            .collect();
        if !reasons.is_empty() {
            line(out, indent, &format!("rejected: {}", reasons.join(", ")));
        }
        let last = &reading["last_error"];
        if last.is_object() {
            let when = self.ago(number(&last["time"]));
            let (reason, message) = (text(&last["reason"]), text(&last["message"]));
            line(out, indent, &format!("last error {when}: {reason}: {message}"));
        }
    }

    fn pipeline(&self, out: &mut String, pipeline: &Value) {
        let name = text(&pipeline["name"]);
        let state = text(&pipeline["state"]);
        let lag = duration(number(&pipeline["lag_ns"]));
        line(out, 0, &format!("\npipeline {name} ({}): {state}", text(&pipeline["file"])));
        line(
            out,
            2,
            &format!(
                "at entry {}, committed up to {}, {lag} behind, generation {}",
                number(&pipeline["position"]),
                number(&pipeline["committed"]),
                number(&pipeline["generation"])
            ),
        );
        for error in list(&pipeline["errors"]) {
            line(out, 2, &format!("error: {}", text(error)));
        }
        self.skipped(out, 2, pipeline);
        for sink in list(&pipeline["detached"]) {
            let lag = duration(number(&sink["lag_ns"]));
            let position = number(&sink["position"]);
            let id = text(&sink["sink"]);
            line(out, 2, &format!("sink {id} is detached: at entry {position}, {lag} behind"));
            self.skipped(out, 4, sink);
            for error in list(&sink["errors"]) {
                line(out, 4, &format!("error: {}", text(error)));
            }
        }
        let failed = state == "down";
        if failed {
            line(out, 2, "<-- stops here: the pipeline does not run");
        }
        // Below a place where flow stops there is nothing to see: only the first is marked.
        let mut dry = BTreeSet::new();
        for node in list(&pipeline["nodes"]) {
            self.node(out, name, node, failed, &mut dry);
        }
    }

    fn skipped(&self, out: &mut String, indent: usize, who: &Value) {
        for gap in list(&who["skipped"]) {
            let (after, to) = (number(&gap[0]), number(&gap[1]));
            line(out, indent, &format!("skipped, past its backlog: entries {} to {to}", after + 1));
        }
    }

    fn node<'n>(
        &self,
        out: &mut String,
        pipeline: &str,
        node: &'n Value,
        failed: bool,
        dry: &mut BTreeSet<&'n str>,
    ) {
        let id = text(&node["id"]);
        let class = text(&node["class"]);
        let reading = self.reading(pipeline, id);
        let inputs: Vec<&str> = list(&node["inputs"]).iter().map(text).collect();
        let (rows_in, rows_out) = (number(&reading["rows_in"]), number(&reading["rows_out"]));
        let kind = text(&node["kind"]);
        let what = if kind == class { class.to_owned() } else { format!("{kind} {class}") };
        let mut counts = format!("in {rows_in}, out {rows_out}");
        for key in ["dropped", "late", "errors", "queue"] {
            let n = number(&reading[key]);
            if n > 0 {
                let _ = write!(counts, ", {} {n}", if key == "queue" { "waiting" } else { key });
            }
        }
        line(out, 2, &format!("{} -> {id} ({what}): {counts}", inputs.join(", ")));
        if class == "sink" {
            let last = number(&reading["last_activity"]);
            let last = if last == 0 { "nothing yet".to_owned() } else { self.ago(last) };
            let committed = &reading["committed"];
            let commit = match committed.is_null() {
                true => "none yet".to_owned(),
                false => {
                    let position = number(&committed["position"]);
                    format!("{} (up to entry {position})", self.ago(number(&committed["time"])))
                }
            };
            line(out, 6, &format!("last rows: {last}; last commit: {commit}"));
        }
        for column in list(&reading["unseen"]) {
            let nearest = column["nearest"].as_str();
            let nearest = nearest.map_or(String::new(), |n| format!(", did you mean `{n}`?"));
            let name = text(&column["name"]);
            line(out, 6, &format!("column `{name}` was in no row so far{nearest}"));
        }
        self.rejected(out, 6, reading);
        let fed = |input: &&str| {
            let upstream = input.split('.').next().unwrap_or_default();
            // What goes wrong and what comes late is rare: that there is none is well.
            let usual = !input.ends_with(".errors") && !input.ends_with(".late");
            usual && !dry.contains(upstream) && self.gives(pipeline, upstream)
        };
        let fed = inputs.iter().any(fed);
        let stop = if failed || !fed {
            None
        } else if rows_in == 0 {
            let mut upstream = inputs.iter().map(|i| i.split('.').next().unwrap_or_default());
            // A source counts all its outputs together.
            let of_sources = upstream.all(|id| self.reading(pipeline, id).is_null());
            Some(match of_sources {
                true => "the source has given nothing at this output",
                false => "rows are given to it, none was taken",
            })
        } else if class == "operator" && rows_out == 0 {
            Some(match kind {
                "window" => "no window has closed yet",
                _ => "all rows were dropped or failed",
            })
        } else if class == "sink" && rows_out == 0 && number(&reading["errors"]) > 0 {
            Some("nothing could be written")
        } else {
            None
        };
        if let Some(why) = stop {
            line(out, 6, &format!("<-- stops here: {why}"));
        }
        if !fed || stop.is_some() {
            dry.insert(id);
        }
    }

    /// Whether a source or node has given anything.
    fn gives(&self, pipeline: &str, id: &str) -> bool {
        let own = self.reading(pipeline, id);
        let reading = if own.is_null() { self.reading("", id) } else { own };
        number(&reading["rows_out"]) > 0
    }

    fn alerts(&self, out: &mut String) {
        let alerts = list(&self.status["alerts"]["alerts"]);
        line(out, 0, &format!("\nalerts: {} firing or ending", alerts.len()));
        for alert in alerts {
            let labels = alert["labels"].as_object();
            let labels: Vec<String> = labels
                .into_iter()
                .flatten()
                .filter(|(name, _)| *name != "alertname")
                .map(|(name, value)| format!("{name}={}", text(value)))
                .collect();
            let (id, state) = (text(&alert["alert"]), text(&alert["state"]));
            let since = text(&alert["starts_at"]);
            line(out, 2, &format!("{id} {{{}}}: {state} since {since}", labels.join(", ")));
            for told in list(&alert["told"]) {
                let mut what = format!("{}: {}", text(&told["target"]), text(&told["state"]));
                for (key, word) in [("at", "last told"), ("error", "failed with")] {
                    if let Some(value) = told[key].as_str() {
                        let _ = write!(what, ", {word} {value}");
                    }
                }
                line(out, 4, &what);
            }
        }
        for target in list(&self.status["alerts"]["notifications"]) {
            let delivered = target["delivered_at"].as_str().unwrap_or("never");
            let mut what = format!("{}: last delivery {delivered}", text(&target["target"]));
            let waiting = number(&target["waiting"]);
            if waiting > 0 {
                let _ = write!(what, ", {waiting} on their way");
            }
            if let Some(error) = target["error"].as_str() {
                let _ = write!(what, ", failed {}: {error}", text(&target["failed_at"]));
            }
            line(out, 2, &what);
        }
    }

    fn reading(&self, pipeline: &str, id: &str) -> &Value {
        let components = list(&self.status["components"]);
        let found = components.iter().find(|c| c["pipeline"] == pipeline && c["component"] == id);
        found.map_or(&Value::Null, |c| &c["reading"])
    }

    fn ago(&self, time: i64) -> String {
        if time == 0 { "never".to_owned() } else { format!("{} ago", duration(self.now - time)) }
    }
}

/// A line; what comes from outside cannot speak to the terminal.
pub(crate) fn line(out: &mut String, indent: usize, text: &str) {
    for part in text.split('\n') {
        if !part.is_empty() {
            out.extend(std::iter::repeat_n(' ', indent));
        }
        for c in part.chars() {
            if c.is_control() && c != '\t' { out.extend(c.escape_default()) } else { out.push(c) }
        }
        out.push('\n');
    }
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

/// Nanoseconds in the one unit that people would use.
fn duration(ns: i64) -> String {
    let seconds = ns.max(0) as f64 / 1e9;
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

fn bytes(n: i64) -> String {
    let n = n.max(0) as f64;
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = n;
    let mut unit = 0;
    while scaled >= 1024.0 && unit < units.len() - 1 {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n:.0} bytes") } else { format!("{scaled:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests;
