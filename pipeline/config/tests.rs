#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fake;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::*;
use crate::lookup::Tables;
use crate::plan::{InputPlan, TestStep};
use fake::COMPONENTS;

/// The source that every case can read.
const OTLP: &str = "[sources.otlp]\ntype = \"fake\"\nlisten = \"127.0.0.1:4317\"\n";

/// A folder of pipeline files, and what the last load left.
struct Folder {
    dir: tempfile::TempDir,
    environment: BTreeMap<String, String>,
    good: LastGood,
}

impl Folder {
    fn new() -> Self {
        let environment = [("TABLE", "logs")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        Self { dir: tempfile::tempdir().unwrap(), environment, good: LastGood::new() }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.dir.path().join(name)).unwrap();
    }

    fn load(&mut self) -> Loaded {
        let environment = Environment::Fixed(self.environment.clone());
        let outside = (&environment, &Tables::default());
        let loaded = load(self.dir.path(), &COMPONENTS, outside, &self.good, &BTreeMap::new());
        self.good.clone_from(&loaded.good);
        loaded
    }

    /// Loads, and gives what people see: diagnostics, files, and what runs.
    fn show(&mut self) -> String {
        let loaded = self.load();
        let mut text = loaded.diagnostics.to_string();
        text.push_str("---\n");
        for file in &loaded.files {
            let _ = writeln!(text, "{} {:?}", file.path.display(), file.state);
        }
        for pipeline in loaded.plan.pipelines.values() {
            let nodes = pipeline.nodes.iter().map(|n| {
                let inputs: Vec<String> = n.inputs.iter().map(|i| input(i, pipeline)).collect();
                format!("{} <- {}", n.id, inputs.join(" + "))
            });
            let nodes: Vec<String> = nodes.collect();
            let _ = writeln!(text, "pipeline {}: {}", pipeline.name, nodes.join(", "));
        }
        let sources: Vec<&str> = loaded.plan.sources.keys().map(|k| &**k).collect();
        let _ = writeln!(text, "sources: {}", sources.join(", "));
        text.replace(&self.dir.path().display().to_string(), "pipelines.d")
    }

    /// The last lines of [`Folder::show`], and the codes of all diagnostics.
    fn outcome(&mut self) -> String {
        let shown = self.show();
        let (said, outcome) = shown.split_once("---\n").unwrap();
        let codes: Vec<&str> = said
            .lines()
            .filter_map(|l| l.strip_prefix("error[").or(l.strip_prefix("warning["))?.get(..4))
            .collect();
        format!("{}\n{outcome}", codes.join(" "))
    }
}

fn input(input: &InputPlan, pipeline: &crate::plan::PipelinePlan) -> String {
    let (id, output) = match input {
        InputPlan::Source { source, output } => (source.clone(), output),
        InputPlan::Node { node, output } => (pipeline.nodes[*node].id.clone(), output),
    };
    if output.is_empty() { id.to_string() } else { format!("{id}.{output}") }
}

/// A case: the text of `shop.toml`, then files behind lines `#- name.toml`.
fn write_case(folder: &Folder, text: &str) {
    folder.write("otlp.toml", OTLP);
    folder.write(
        "base.toml",
        "[sinks.all]\ntype='store'\ntable='t'\ninputs=['otlp.logs', 'otlp.metrics']",
    );
    let mut parts = text.split("#- ");
    folder.write("shop.toml", parts.next().unwrap());
    for part in parts {
        let (name, text) = part.split_once('\n').unwrap();
        folder.write(name, text);
    }
}

#[test]
fn broken_files() {
    let broken = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/broken");
    let mut cases: Vec<_> = std::fs::read_dir(broken).unwrap().map(|e| e.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 25);
    for case in cases {
        let name = case.file_stem().unwrap().to_string_lossy().into_owned();
        let mut folder = Folder::new();
        write_case(&folder, &std::fs::read_to_string(&case).unwrap());
        let shown = folder.show();
        assert!(!shown.contains("SENTINEL"), "{name} shows a secret:\n{shown}");
        assert!(shown.starts_with("error[W") || shown.starts_with("warning[W"), "{name}: {shown}");
        insta::assert_snapshot!(name, shown);
    }
}

const SHOP: &str = r#"
name = "the_shop"
from = "oldest"

[alerts.burst]
inputs = ["errors"]
when = "errors > ${1}"

[sinks.logs]
type = "store"
inputs = ["clean"]
table = "${TABLE}"

[operators.errors]
type = "window"
inputs = ["clean"]
every = "10s"
aggregate = { errors = "count(*)" }

[operators.clean]
type = "keep"
inputs = ["otlp.logs", "otlp.metrics"]
file = "clean.sql"

[[tests]]
name = "counts"
[[tests.input]]
stream = "otlp.logs"
at = "1s"
rows = [{ body = "a", "service.name" = "${TABLE}", n = 1 }]
tick = "2026-01-01T00:00:30Z"
[[tests.expect]]
output = "errors"
rows = [{ errors = 1 }]
"#;

fn shop() -> Folder {
    let folder = Folder::new();
    folder.write("otlp.toml", OTLP);
    folder.write("shop.toml", SHOP);
    folder.write("clean.sql", "true");
    for leftover in [".x.toml", "#x.toml#", ".#x.toml", "x.toml~", "x.toml.swp", "4913", ".toml"] {
        folder.write(leftover, "broken [");
    }
    folder
}

#[test]
fn a_pipeline_as_planned() {
    let mut folder = shop();
    insta::assert_snapshot!(folder.show(), @r"
    ---
    pipelines.d/otlp.toml Live
    pipelines.d/shop.toml Live
    pipeline the_shop: clean <- otlp.logs + otlp.metrics, logs <- clean, errors <- clean, burst <- errors, router <- burst, weir_errors <- otlp.errors + clean.errors + errors.errors + burst.errors
    sources: otlp
    ");
    let loaded = folder.load();
    let plan = &loaded.plan.pipelines["the_shop"];
    assert_eq!(plan.from, crate::plan::From::Oldest);
    let logs = plan.nodes.iter().find(|n| &*n.id == "logs").unwrap();
    assert_eq!(
        logs.resolved,
        r#"{"config":{"table":"logs"},"files":{},"inputs":["clean"],"on_error":"reject","type":"store"}"#
    );
    let test = &plan.tests[0];
    let TestStep::Rows { output, at, rows } = &test.steps[0] else { panic!("{test:?}") };
    assert_eq!((output.as_str(), *at - TEST_EPOCH), ("otlp.logs", 1_000_000_000));
    assert_eq!(rows[0]["service.name"], "logs");
    let TestStep::Tick(at) = test.steps[1] else { panic!("{test:?}") };
    assert_eq!(at - TEST_EPOCH, 30_000_000_000);
    assert_eq!(test.expect[0].0, "errors");
}

#[test]
fn a_plan_comes_back_from_its_bundle() {
    let mut folder = shop();
    let loaded = folder.load();
    let plan = &loaded.plan.pipelines["the_shop"];
    let source = &loaded.plan.sources["otlp"];
    // Nothing on disk is needed any more.
    folder.dir.close().unwrap();
    let text = serde_json::to_string(&plan.bundle).unwrap();
    let bundle = serde_json::from_str(&text).unwrap();
    let (again, sources) =
        plan_from_bundle(&bundle, "the_shop", &COMPONENTS, &Tables::nothing()).unwrap();
    assert_eq!(again.hash, plan.hash);
    assert_eq!(sources.len(), 1);
    let again = source_from_bundle(&source.bundle, "otlp", &COMPONENTS).unwrap();
    assert_eq!(again.resolved, source.resolved);
    let wrong = plan_from_bundle(&bundle, "other", &COMPONENTS, &Tables::nothing()).unwrap_err();
    assert_eq!(wrong.0[0].code, "W044");
}

#[test]
fn the_hash_follows_what_decides() {
    let hash = |edit: &dyn Fn(&mut Folder)| {
        let mut folder = shop();
        edit(&mut folder);
        let loaded = folder.load();
        assert!(!loaded.diagnostics.has_errors(), "{}", loaded.diagnostics);
        // Paths of named files are part of what is resolved; here they are random.
        let plan = loaded.plan.pipelines.values().next().unwrap().clone();
        let dir = folder.dir.path().display().to_string();
        let nodes = plan.nodes.iter().map(|n| n.resolved.replace(&dir, ""));
        let sources = loaded.plan.sources.values().map(|s| s.resolved.clone());
        nodes.chain(sources).collect::<Vec<_>>()
    };
    let before = hash(&|_| {});
    let same = |edit: &dyn Fn(&mut Folder)| hash(edit) == before;
    assert!(same(&|f| f.write("shop.toml", &format!("# a comment\n{SHOP}"))));
    assert!(same(&|f| f.write("shop.toml", &SHOP.replace("\"10s\"", "'10s'"))));
    assert!(!same(&|f| f.write("shop.toml", &SHOP.replace("\"10s\"", "'20s'"))));
    assert!(!same(&|f| f.write("clean.sql", "false")));
    assert!(!same(&|f| f.write("otlp.toml", &OTLP.replace("4317", "4318"))));
    assert!(!same(&|f| drop(f.environment.insert("TABLE".into(), "other".into()))));
}

#[test]
fn a_broken_file_keeps_its_last_good_version() {
    let mut folder = shop();
    folder.load();
    folder.write("shop.toml", &SHOP.replace("every", "evry"));
    folder.write("second.toml", "[sinks.s]\ntype='store'\ninputs=['otlp.logs']\ntable='x'\n");
    // Also what the good version named is the version of then.
    folder.write("clean.sql", "???");
    insta::assert_snapshot!(folder.outcome(), @r"
    W150 W014
    pipelines.d/otlp.toml Live
    pipelines.d/second.toml Live
    pipelines.d/shop.toml Kept
    pipeline second: s <- otlp.logs, weir_errors <- otlp.errors
    pipeline the_shop: clean <- otlp.logs + otlp.metrics, logs <- clean, errors <- clean, burst <- errors, router <- burst, weir_errors <- otlp.errors + clean.errors + errors.errors + burst.errors
    sources: otlp
    ");
}

/// Who saves a file in place empties it first.
#[test]
fn an_empty_file_keeps_its_last_good_version() {
    let mut folder = shop();
    folder.load();
    for file in ["shop.toml", "clean.sql"] {
        let folder = &mut folder;
        let before = std::fs::read_to_string(folder.dir.path().join(file)).unwrap();
        folder.write(file, "\n");
        let outcome = folder.outcome();
        assert!(outcome.starts_with("W004\n"), "{file}: {outcome}");
        assert!(outcome.contains("pipelines.d/shop.toml Kept"), "{file}: {outcome}");
        assert!(outcome.contains("pipeline the_shop: clean"), "{file}: {outcome}");
        folder.write(file, &before);
    }
    folder.write("shop.toml", "# nothing");
    let outcome = folder.outcome();
    assert!(outcome.contains("pipelines.d/shop.toml Live"), "{outcome}");
    assert!(!outcome.contains("pipeline the_shop"), "{outcome}");
}

#[test]
fn a_broken_file_without_a_good_version_is_left_out() {
    let mut folder = shop();
    folder.write("shop.toml", "[[[");
    insta::assert_snapshot!(folder.outcome(), @r"
    W001 W003
    pipelines.d/otlp.toml Live
    pipelines.d/shop.toml LeftOut
    sources: otlp
    ");
}

#[test]
fn what_needs_the_broken_file_waits_with_it() {
    let mut folder = shop();
    folder.load();
    folder.write("otlp.toml", &format!("{OTLP}x = 1\n[sources.new]\ntype='fake'\nlisten=':1'\n"));
    folder.write("shop.toml", &SHOP.replace("otlp.metrics", "new.metrics"));
    insta::assert_snapshot!(folder.outcome(), @r"
    W014 W015 W041
    pipelines.d/otlp.toml Kept
    pipelines.d/shop.toml Kept
    pipeline the_shop: clean <- otlp.logs + otlp.metrics, logs <- clean, errors <- clean, burst <- errors, router <- burst, weir_errors <- otlp.errors + clean.errors + errors.errors + burst.errors
    sources: otlp
    ");
}

#[test]
fn a_source_that_is_read_cannot_be_removed() {
    let mut folder = shop();
    folder.load();
    folder.write("otlp.toml", "# nothing");
    insta::assert_snapshot!(folder.show(), @r#"
    error[W042]: source `otlp` is removed, but `pipelines.d/shop.toml` reads it
      --> pipelines.d/shop.toml:22:11
       |
    22 | inputs = ["otlp.logs", "otlp.metrics"]
       |           ^^^^^^^^^^^ still read here
       |
    hint: `pipelines.d/otlp.toml` keeps its last good version, which defines it
    
    error[W042]: source `otlp` is removed, but `pipelines.d/shop.toml` reads it
      --> pipelines.d/shop.toml:22:24
       |
    22 | inputs = ["otlp.logs", "otlp.metrics"]
       |                        ^^^^^^^^^^^^^^ still read here
       |
    hint: `pipelines.d/otlp.toml` keeps its last good version, which defines it
    ---
    pipelines.d/otlp.toml Kept
    pipelines.d/shop.toml Live
    pipeline the_shop: clean <- otlp.logs + otlp.metrics, logs <- clean, errors <- clean, burst <- errors, router <- burst, weir_errors <- otlp.errors + clean.errors + errors.errors + burst.errors
    sources: otlp
    "#);
    folder.remove("otlp.toml");
    insta::assert_snapshot!(folder.outcome(), @r"
    W042 W042
    pipelines.d/otlp.toml Kept
    pipelines.d/shop.toml Live
    pipeline the_shop: clean <- otlp.logs + otlp.metrics, logs <- clean, errors <- clean, burst <- errors, router <- burst, weir_errors <- otlp.errors + clean.errors + errors.errors + burst.errors
    sources: otlp
    ");
    // It may move to another file, and go with its last reader.
    folder.write("shop.toml", &format!("{SHOP}\n{OTLP}"));
    insta::assert_snapshot!(folder.outcome(), @r"
    
    pipelines.d/shop.toml Live
    pipeline the_shop: clean <- otlp.logs + otlp.metrics, logs <- clean, errors <- clean, burst <- errors, router <- burst, weir_errors <- otlp.errors + clean.errors + errors.errors + burst.errors
    sources: otlp
    ");
    folder.remove("shop.toml");
    insta::assert_snapshot!(folder.outcome(), @"sources: ");
}

#[test]
fn of_two_definitions_the_older_goes_on() {
    let mut folder = shop();
    folder.load();
    folder.write("first.toml", OTLP);
    insta::assert_snapshot!(folder.outcome(), @r"
    W021
    pipelines.d/first.toml LeftOut
    pipelines.d/otlp.toml Live
    pipelines.d/shop.toml Live
    pipeline the_shop: clean <- otlp.logs + otlp.metrics, logs <- clean, errors <- clean, burst <- errors, router <- burst, weir_errors <- otlp.errors + clean.errors + errors.errors + burst.errors
    sources: otlp
    ");
}

#[test]
fn files_whose_tests_fail_are_refused() {
    let mut folder = shop();
    folder.load();
    folder.write("shop.toml", &SHOP.replace("10s", "20s"));
    let failure = crate::diagnostic::Diagnostic::error("W071", "test `counts` fails");
    let refused = [(folder.dir.path().join("shop.toml"), failure.into())].into();
    let environment = Environment::Fixed(folder.environment.clone());
    let outside = (&environment, &Tables::default());
    let loaded = load(folder.dir.path(), &COMPONENTS, outside, &folder.good, &refused);
    assert_eq!(loaded.files[1].state, FileState::Kept);
    assert!(loaded.plan.pipelines["the_shop"].nodes.iter().any(|n| n.resolved.contains("10s")));
}

#[test]
fn a_missing_folder_keeps_everything() {
    let mut folder = shop();
    folder.load();
    let gone = folder.dir.path().join("gone");
    let environment = Environment::Fixed(folder.environment.clone());
    let outside = (&environment, &Tables::default());
    let loaded = load(&gone, &COMPONENTS, outside, &folder.good, &BTreeMap::new());
    assert_eq!(loaded.plan.pipelines.len(), 1);
    assert_eq!(loaded.diagnostics.0[0].code, "W002");
    assert_eq!(loaded.good, folder.good);
}

#[test]
fn reference_pages() {
    insta::assert_snapshot!("reference", reference(&fake::SOURCES[0]));
    let schema = pipeline_schema(&COMPONENTS);
    let window = &schema["properties"]["operators"]["additionalProperties"]["oneOf"][1];
    assert_eq!(window["properties"]["type"]["const"], "window");
    assert_eq!(window["required"], serde_json::json!(["type", "inputs", "every", "aggregate"]));
}
