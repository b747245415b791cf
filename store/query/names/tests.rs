#![allow(clippy::unwrap_used)]

use super::*;
use crate::query::guard;

struct Fixture;

fn shape(columns: &[(&str, DataType)], keys: &[&str]) -> Arc<Shape> {
    Arc::new(Shape {
        unlisted: 0,
        open: false,
        closed: false,
        columns: columns.iter().map(|(n, t)| ((*n).to_owned(), Some(t.clone()))).collect(),
        keys: keys.iter().map(|k| (*k).to_owned()).collect(),
    })
}

impl Catalog for Fixture {
    fn tables(&self) -> Vec<String> {
        ["logs", "metrics", "spans", "s"].map(String::from).to_vec()
    }

    fn table(&self, name: &str) -> Option<Arc<Shape>> {
        let (text, int) = (DataType::Utf8, DataType::Int64);
        let time = weir_pipeline::signal::timestamp();
        let histogram = weir_pipeline::signal::histogram();
        Some(match name {
            "logs" => shape(
                &[
                    ("timestamp", time),
                    ("body", text.clone()),
                    ("http.route", text.clone()),
                    ("user.id", text),
                ],
                &["rare.key"],
            ),
            "spans" => shape(
                &[
                    ("timestamp", time),
                    ("name", text.clone()),
                    ("duration_ns", int),
                    ("http.route", text.clone()),
                    ("http.route.params", text.clone()),
                    ("service.name", text),
                ],
                &[],
            ),
            "metrics" => shape(
                &[
                    ("timestamp", time),
                    ("value", DataType::Float64),
                    ("histogram", histogram),
                    ("metric.name", text.clone()),
                    ("job", text.clone()),
                    ("http.route", text),
                ],
                &[],
            ),
            // A table whose name is also the first part of column names.
            "s" => shape(&[("x", int.clone()), ("s.x", int)], &[]),
            "information_schema.tables" => shape(&[("table_name", text)], &[]),
            _ => return None,
        })
    }

    fn metric(&self, name: &str) -> Option<Arc<Shape>> {
        (name == "http.server.duration").then(|| {
            let time = weir_pipeline::signal::timestamp();
            let histogram = weir_pipeline::signal::histogram();
            shape(
                &[("timestamp", time), ("histogram", histogram), ("http.route", DataType::Utf8)],
                &[],
            )
        })
    }

    fn nearest_metric(&self, name: &str) -> Option<String> {
        nearest(name, ["http.server.duration"].into_iter()).map(str::to_owned)
    }
}

/// What comes of one statement, as lines: the statement, the NULL columns, the warnings; or the
/// error with its place.
fn outcome(sql: &str) -> String {
    let resolved = guard::parse(sql).and_then(|s| resolve(s, &Fixture));
    match resolved {
        Err(e) => match e.position() {
            Some(p) => format!("! {}:{}: {e}", p.line, p.column),
            None => format!("! {e}"),
        },
        Ok(r) => {
            let mut out = format!("> {}", r.statement);
            for (key, table) in &r.tables {
                if !table.missing.is_empty() {
                    let names: Vec<&str> = table.missing.iter().map(String::as_str).collect();
                    out.push_str(&format!("\n? {key}: {}", names.join(", ")));
                }
            }
            for warning in &r.warnings {
                out.push_str(&format!("\n~ {warning}"));
            }
            out
        }
    }
}

/// The cases stand in `cases.txt`: blocks parted by empty lines; first the statement, then what
/// comes of it. `WEIR_BLESS=1` writes what comes of them now.
#[test]
fn goldens() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/query/names/cases.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let mut blessed = Vec::new();
    let mut wrong = Vec::new();
    for block in text.split("\n\n").map(str::trim).filter(|b| !b.is_empty()) {
        let lines: Vec<&str> = block.lines().collect();
        let is_outcome = |l: &&str| l.starts_with(['>', '!', '?', '~']);
        let sql: Vec<&str> = lines.iter().copied().filter(|l| !is_outcome(l)).collect();
        let expect: Vec<&str> = lines.iter().copied().filter(is_outcome).collect();
        let code: Vec<&str> = sql.iter().copied().filter(|l| !l.starts_with('#')).collect();
        let got = if code.is_empty() { String::new() } else { outcome(&code.join("\n")) };
        if got != expect.join("\n") {
            wrong.push(format!(
                "{}\n  expected {}\n  got      {got}",
                code.join("\n"),
                expect.join("\n")
            ));
        }
        blessed.push(format!("{}\n{got}", sql.join("\n")).trim().to_owned());
    }
    if std::env::var_os("WEIR_BLESS").is_some() {
        std::fs::write(path, blessed.join("\n\n") + "\n").unwrap();
        return;
    }
    assert!(blessed.len() > 60, "only {} cases", blessed.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

proptest::proptest! {
    /// Whatever the parts, a name has one meaning, an error, or a warning: never a panic.
    #[test]
    fn any_name_is_answered(parts in proptest::collection::vec("[a-z\"]{1,6}|http|route|s|logs|x", 1..6)) {
        let name: Vec<String> = parts
            .iter()
            .map(|p| if p.contains('"') { quoted(&p.replace('"', "q")).to_string() } else { p.clone() })
            .collect();
        let _ = outcome(&format!("SELECT {} FROM logs AS l, s", name.join(".")));
    }
}
