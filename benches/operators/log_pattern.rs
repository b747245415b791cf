//! The `log_pattern` operator: lines a second, and how well it groups the lines of a folder of
//! loghub (`WEIR_LOGHUB=<folder> cargo bench -p weir-operators -- loghub`).

use std::collections::HashMap;
use std::fmt::Write;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use weir_pipeline::batch::{Batch, Run};
use weir_pipeline::component::Output;
use weir_pipeline::signal::Signal;

use crate::{built, short, timed};

/// About what a source hands on at once.
const ROWS: usize = 8192;

/// What the lines say; `{}` is a number, another in each line.
const LINES: [(&str, [&str; 3]); 4] = [
    (
        "short",
        ["took {} ms", "session opened for user root by (uid={})", "worker {} exited on signal 9"],
    ),
    (
        "of a web server",
        [
            "10.0.0.{} - - [27/Nov/2026:10:00:00 +0000] \"GET /cart/{}?page=2 HTTP/1.1\" 200 15 \"-\" \"curl/8.0\"",
            "10.0.0.7 - - [27/Nov/2026:10:00:01 +0000] \"POST /pay/{} HTTP/1.1\" 500 0 \"-\" \"Mozilla/5.0\"",
            "2026/11/27 10:00:00 [error] 7#7: *{} connect() failed (111: Connection refused) while connecting to upstream",
        ],
    ),
    (
        "logfmt",
        [
            "level=info ts=2026-11-27T10:00:00Z caller=main.go:55 msg=\"request done\" took={}ms status=200",
            "level=warn ts=2026-11-27T10:00:00Z caller=pool.go:7 msg=\"no connection left\" waited={}s",
            "level=info ts=2026-11-27T10:00:00Z caller=main.go:60 msg=\"checkpoint {} written\" bytes=17",
        ],
    ),
    (
        "JSON",
        [
            "{\"level\":\"info\",\"time\":\"2026-11-27T10:00:00Z\",\"msg\":\"request done\",\"took\":{},\"status\":200}",
            "{\"level\":\"warn\",\"time\":\"2026-11-27T10:00:00Z\",\"msg\":\"queue {} is full\",\"tries\":3}",
            "{\"level\":\"info\",\"time\":\"2026-11-27T10:00:00Z\",\"msg\":\"cache warm\",\"keys\":{}}",
        ],
    ),
];

/// The part of the page about it.
pub(super) fn page() -> String {
    let mut page = format!(
        "## log_pattern\n\n{ROWS} lines at a time, all different. Lines per second of a core.\n\n\
         | lines | bytes a line | with parameters | without |\n|---|---|---|---|\n"
    );
    for (name, templates) in LINES {
        let line = |i: usize| templates[i % 3].replace("{}", &(i * 7).to_string());
        let lines: Vec<String> = (0..ROWS).map(line).collect();
        let bytes: usize = lines.iter().map(String::len).sum();
        let [with, without] = ["", "parameters = false\n"].map(|options| rate(options, &lines));
        let (with, without) = (short(with), short(without));
        let _ = writeln!(page, "| {name} | {} | {with} | {without} |", bytes / ROWS);
    }
    page
}

fn rate(options: &str, lines: &[String]) -> f64 {
    let mut running = built("log_pattern", Signal::Logs, options);
    let batch = batch(lines);
    timed(lines.len(), || {
        let mut out = Output::default();
        running.process(0, batch.clone(), &mut out).unwrap();
        black_box(out);
    })
}

fn batch(lines: &[String]) -> Batch {
    let bodies: ArrayRef = Arc::new(StringArray::from_iter_values(lines));
    let schema = Schema::new(vec![Field::new("body", DataType::Utf8, true)]);
    let rows = RecordBatch::try_new(Arc::new(schema), vec![bodies]).unwrap();
    let run = Run { offset: 1, received: 0, source: "otlp".into(), rows: lines.len() };
    Batch::new(Signal::Logs, "default".into(), rows, None, [run].into()).unwrap()
}

/// A table of how the lines of each system in `folder` are grouped: by their content, and as they
/// stand in the file, header and all.
pub(super) fn loghub(folder: &Path) -> String {
    let mut table = String::from(
        "| system | true groups | groups | grouping accuracy | of groups (F1) | lines with headers |\n\
         |---|---|---|---|---|---|\n",
    );
    let mut systems: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir())
        .collect();
    systems.sort();
    let mut sums = [0.0; 3];
    for path in &systems {
        let name = path.file_name().unwrap().to_str().unwrap();
        let rows =
            csv(&std::fs::read_to_string(path.join(format!("{name}_2k.log_structured.csv")))
                .unwrap());
        let column = |name: &str| rows[0].iter().position(|c| c == name).unwrap();
        let (content, event) = (column("Content"), column("EventId"));
        let contents: Vec<String> = rows[1..].iter().map(|r| r[content].clone()).collect();
        let truth: Vec<&str> = rows[1..].iter().map(|r| r[event].as_str()).collect();
        let log = std::fs::read_to_string(path.join(format!("{name}_2k.log"))).unwrap();
        let raw: Vec<String> = log.lines().map(str::to_owned).collect();
        let (accuracy, f1, groups, of) = score(&patterns(&contents), &truth);
        // Labels are of the content: where lines do not line up there is nothing to compare.
        let (raw_accuracy, ..) = if raw.len() == truth.len() {
            score(&patterns(&raw), &truth)
        } else {
            (f64::NAN, 0.0, 0, 0)
        };
        for (sum, of) in sums.iter_mut().zip([accuracy, f1, raw_accuracy]) {
            *sum += of;
        }
        let _ = writeln!(
            table,
            "| {name} | {of} | {groups} | {accuracy:.4} | {f1:.3} | {raw_accuracy:.4} |"
        );
    }
    let [accuracy, f1, raw] = sums.map(|sum| sum / systems.len() as f64);
    let _ = writeln!(table, "| mean | | | {accuracy:.4} | {f1:.3} | {raw:.4} |");
    table
}

/// The pattern that each line was given when it came.
fn patterns(lines: &[String]) -> Vec<String> {
    let mut running = built("log_pattern", Signal::Logs, "");
    let mut out = Output::default();
    running.process(0, batch(lines), &mut out).unwrap();
    let ids = out.emitted[0].1.array("pattern.id").unwrap();
    let ids = ids.as_string::<i32>();
    (0..ids.len()).map(|i| ids.value(i).to_owned()).collect()
}

/// The share of lines whose group is exactly the true one; the F1 of groups; how many groups were
/// found, and how many there are.
fn score(found: &[String], truth: &[&str]) -> (f64, f64, usize, usize) {
    let mut groups: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut true_groups: HashMap<&str, Vec<usize>> = HashMap::new();
    for (line, (group, true_group)) in found.iter().zip(truth).enumerate() {
        groups.entry(group).or_default().push(line);
        true_groups.entry(true_group).or_default().push(line);
    }
    let right: Vec<usize> =
        groups.values().filter(|g| true_groups[truth[g[0]]] == **g).map(Vec::len).collect();
    let accuracy = right.iter().sum::<usize>() as f64 / truth.len() as f64;
    let f1 = 2.0 * right.len() as f64 / (groups.len() + true_groups.len()) as f64;
    (accuracy, f1, groups.len(), true_groups.len())
}

/// Rows of a CSV file with quotes.
fn csv(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell, mut quoted) = (vec![], vec![], String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => cell.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut cell)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            c => cell.push(c),
        }
    }
    if !cell.is_empty() || !row.is_empty() {
        row.push(cell);
        rows.push(row);
    }
    rows
}
