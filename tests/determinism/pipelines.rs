//! A random pipeline file: every operator, over several sources, into several sinks.

use std::fmt::Write;

use super::random::Random;

pub(super) const SOURCES: &str = r#"
[sources.otlp]
type = "otlp"
http = "127.0.0.1:0"

[sources.syslog]
type = "syslog"
listen = "127.0.0.2:0"

[sources.prometheus]
type = "prometheus_remote_write"
listen = "127.0.0.3:0"

[sources.node]
type = "prometheus_scrape"
targets = ["127.0.0.1:9100"]
"#;

/// What flows on an output decides what can be done with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Logs,
    Spans,
    Metrics,
    Window,
    /// Metrics made of spans: no operator reads them here.
    Made,
}

struct Output {
    name: String,
    flow: Flow,
}

const VRL: [&str; 12] = [
    ".m = to_int!(.n)",
    ".level = upcase(string(.severity) ?? \"none\")",
    "if .n == 3 { abort }",
    ".id = uuid_v4(); .dice = random_int!(0, 100)",
    ".seen = now(); .at = %position; .by = %source; .got = %received",
    ".service.name = downcase(string(.service.name) ?? \"none\"); .team = \"x\"",
    "if is_string(.service.version) { .service.version = to_int!(.service.version) }",
    "del(.n); .kind = is_null(.x)",
    "one = .; one.copy = 1; two = .; two.copy = 2; . = [one, two]",
    "if is_integer(.n) { .n = to_string!(.n) } else if is_string(.n) { .n = to_float!(.n) }",
    ".tags = [.n, .service.name]; .box.a = .n; .box.b = 1",
    "if exists(.x) { .x = to_float!(.x) * 2.0 }",
];

const METRICS_VRL: [&str; 4] = [
    ".value = float!(.value) * 2.0",
    "if .job == \"b\" { abort }",
    ".job = upcase(string!(.job))",
    ".half = float(.value) ?? 0.0; .dice = random_float!(0.0, 1.0); .seen = now()",
];

const WHERE: [&str; 9] = [
    "n > 2",
    "10 / n > 1",
    "service.name <> 'cart'",
    "severity_number >= 9 OR n IS NULL",
    "x IS NOT NULL",
    "service.version = 2",
    "n IN (1, 2, '7')",
    "coalesce(n, 1) % 2 = 1",
    "body LIKE '%7%' OR n < 4",
];

const METRICS_WHERE: [&str; 4] =
    ["value > 3", "job = 'a'", "10 / (value - 3) > 0", "stale IS NULL OR stale"];

const GROUPS: [&str; 7] =
    ["service.name", "service.version", "n", "severity", "x", "n % 2", "upper(service.name)"];

const METRICS_GROUPS: [&str; 4] = ["job", "metric.name", "le", "instance"];

/// Of a column `{}`.
const AGGREGATES: [&str; 16] = [
    "count(*)",
    "count({})",
    "count(DISTINCT {})",
    "sum({})",
    "avg({})",
    "min({})",
    "max({})",
    "quantile({}, 0.9)",
    "sum({}) FILTER (WHERE {} > 1)",
    "sum(DISTINCT {})",
    "bool_or({} > 3)",
    "bool_and({} > 0)",
    "max(timestamp)",
    "sum({}) / count(*)",
    "sum(10 / {})",
    "bit_xor(CAST({} AS BIGINT)) FILTER (WHERE {} BETWEEN -9 AND 9)",
];

pub(super) fn generate(random: &mut Random) -> String {
    let mut text = String::new();
    let source = |name: &str, flow| Output { name: name.into(), flow };
    let mut outputs = vec![
        source("otlp.logs", Flow::Logs),
        source("syslog.logs", Flow::Logs),
        source("otlp.spans", Flow::Spans),
        source("otlp.metrics", Flow::Metrics),
        source("prometheus.metrics", Flow::Metrics),
        source("node.metrics", Flow::Metrics),
    ];
    // Where paths meet, entries are not joined: that is for half of all cases.
    let meet = random.chance(50);
    for number in 0..random.range(2, 8) {
        // What came last is read more often than not, so that chains grow long.
        let from = match random.chance(40) {
            true => outputs.len() - 1,
            false => usize::try_from(random.range(0, outputs.len() as i64)).unwrap(),
        };
        let from = (0..=from).rev().find(|&from| outputs[from].flow != Flow::Made).unwrap();
        let flow = outputs[from].flow;
        let mut inputs = vec![outputs[from].name.clone()];
        let others = outputs.iter().filter(|o| o.flow == flow && o.name != inputs[0]);
        let others: Vec<&Output> = others.collect();
        if meet && !others.is_empty() && random.chance(40) {
            inputs.push(random.pick(&others).name.clone());
        }
        let id = format!("op{number}");
        let (kind, keys) = match (flow, random.range(0, 10)) {
            (Flow::Metrics, 0..2) => ("staleness", staleness(random)),
            (Flow::Metrics, 2) => series(random),
            (Flow::Metrics, 3) => ("rollup", rollup(random)),
            (Flow::Logs, 0..3) => ("log_pattern", log_pattern(random)),
            (Flow::Spans, 0..2) => ("span_metrics", span_metrics(random)),
            (Flow::Spans, 2..3) => ("service_graph", service_graph(random)),
            (Flow::Spans, 3) => ("tail_sample", tail_sample(random)),
            (Flow::Logs, 3) => ("log_to_metric", log_to_metric(random)),
            (Flow::Window, 0) => ("outlier", outlier(random)),
            (Flow::Window, 1..3) | (_, 3..7) => ("window", window(random, flow)),
            (_, 7..9) => ("filter", format!("where = \"{}\"\n", condition(random, flow))),
            _ => ("vrl", vrl(random, flow)),
        };
        let _ = write!(text, "[operators.{id}]\ntype = \"{kind}\"\ninputs = {inputs:?}\n{keys}\n");
        let flow = match kind {
            "window" => Flow::Window,
            "span_metrics" | "service_graph" | "log_to_metric" | "rollup" => Flow::Made,
            "forecast" | "changepoint" | "cluster" | "anomaly_multivariate" => Flow::Made,
            _ => flow,
        };
        if matches!(kind, "window" | "span_metrics" | "log_to_metric" | "rollup")
            && random.chance(60)
        {
            let flow = outputs[from].flow;
            outputs.push(Output { name: format!("{id}.late"), flow });
        }
        if random.chance(25) {
            let flow = outputs[from].flow;
            outputs.push(Output { name: format!("{id}.errors"), flow });
        }
        outputs.push(Output { name: id, flow });
    }
    let made = outputs.iter().skip(6).filter(|o| o.flow != Flow::Made);
    let made: Vec<&Output> = made.collect();
    for number in 0..random.range(1, 4) {
        let from = match random.chance(80) {
            true if !made.is_empty() => *random.pick(&made),
            _ => random.pick(&outputs[..6]),
        };
        let _ = write!(text, "[alerts.alert{number}]\ninputs = [\"{}\"]\n", from.name);
        text += &alert(random, from.flow);
    }
    let mut tables = 0;
    for output in &outputs {
        if random.chance(if output.name.starts_with("op") { 85 } else { 20 }) {
            // Now and then two sinks write to one table.
            let table = if random.chance(15) { 0 } else { tables };
            let id = format!("sink{tables}");
            tables += 1;
            let inputs = format!("inputs = [\"{}\"]\ntable = \"t{table}\"", output.name);
            let _ = write!(text, "[sinks.{id}]\ntype = \"store\"\n{inputs}\n\n");
        }
    }
    text + SOURCES
}

fn staleness(random: &mut Random) -> String {
    format!("after = \"{}s\"\nmax_series = {}\n", random.range(2, 9), random.range(3, 30))
}

fn log_pattern(random: &mut Random) -> String {
    let field = *random.pick(&["", "field = \"service.name\"\n", "field = \"x\"\n"]);
    format!("{field}max_patterns = {}\n", random.range(1, 9))
}

fn span_metrics(random: &mut Random) -> String {
    let (every, lateness) = (random.range(1, 6) * 500, random.range(0, 4));
    let dimensions = *random.pick(&["", "dimensions = [\"n\", \"x\"]\n"]);
    format!("every = \"{every}ms\"\nlateness = \"{lateness}s\"\n{dimensions}")
}

fn service_graph(random: &mut Random) -> String {
    let (every, wait) = (random.range(1, 6) * 500, random.range(1, 8) * 500);
    let waiting = random.range(1, 30);
    format!(
        "every = \"{every}ms\"\nlateness = \"1s\"\nwait = \"{wait}ms\"\nmax_waiting = {waiting}\n"
    )
}

fn log_to_metric(random: &mut Random) -> String {
    let (every, lateness) = (random.range(1, 6) * 500, random.range(0, 4));
    let groups = random.some(&GROUPS, 30);
    format!(
        "every = \"{every}ms\"\nlateness = \"{lateness}s\"\ngroup_by = {groups:?}\n\
         counters = {{ a = \"count(*)\" }}\ngauges = {{ b = \"max(length(body))\" }}\n"
    )
}

fn tail_sample(random: &mut Random) -> String {
    let (wait, spans) = (random.range(1, 12) * 500, random.range(1, 60));
    let more = *random.pick(&["", "rare = 2\n", "rate = 0.5\n", "share = 0.3\nslow = \"800ms\"\n"]);
    format!("wait = \"{wait}ms\"\nmax_spans = {spans}\n{more}")
}

fn anomaly(random: &mut Random) -> String {
    let by = if random.chance(30) { "by = [\"job\"]\n" } else { "" };
    format!("max_series = {}\n{by}", random.range(1, 30))
}

/// An operator over one series after the other.
fn series(random: &mut Random) -> (&'static str, String) {
    match random.range(0, 5) {
        0 => ("anomaly", anomaly(random)),
        1 => ("changepoint", changepoint(random)),
        2 => ("cluster", cluster(random)),
        3 => ("anomaly_multivariate", multivariate(random)),
        _ => ("forecast", forecast(random)),
    }
}

fn changepoint(random: &mut Random) -> String {
    let by = if random.chance(70) { "by = [\"job\"]\n" } else { "" };
    let (series, least) = (random.range(1, 30), random.range(4, 9));
    format!("sensitivity = 1.0\nmin_points = {least}\nmax_series = {series}\n{by}")
}

fn cluster(random: &mut Random) -> String {
    let by = if random.chance(50) { "by = [\"job\", \"metric.name\"]\n" } else { "" };
    let (step, series) = (random.range(1, 4) * 250, random.range(2, 30));
    let method = *random.pick(&["shape", "dtw"]);
    format!(
        "step = \"{step}ms\"\nover = \"12s\"\nevery = \"2s\"\nsimilarity = 0.3\nmin_size = 2\n\
         method = \"{method}\"\nmax_series = {series}\n{by}"
    )
}

fn multivariate(random: &mut Random) -> String {
    let of = *random.pick(&["among = [\"job\"]\n", "by = [\"job\"]\n"]);
    let series = random.range(2, 30);
    format!("step = \"100ms\"\nhistory = \"10s\"\nmax_series = {series}\n{of}")
}

fn forecast(random: &mut Random) -> String {
    let of = *random.pick(&[
        "limit = 4\n",
        "by = [\"job\"]\n",
        "by = [\"metric.name\"]\nlimit = \"value + 1\"\n",
    ]);
    let (step, every) = (random.range(1, 4) * 250, random.range(1, 4));
    let (series, points) = (random.range(1, 30), random.range(1, 5));
    format!(
        "step = \"{step}ms\"\nevery = \"{every}s\"\nhistory = \"40s\"\nhorizon = \"10s\"\n\
         seasons = [\"3s\"]\nmax_series = {series}\npoints = {points}\n{of}"
    )
}

fn rollup(random: &mut Random) -> String {
    let (every, lateness) = (random.range(1, 6) * 500, random.range(0, 4));
    let (correct, groups) = (random.range(0, 9), random.range(1, 30));
    let more = *random.pick(&[
        "",
        "keep = [\"job\", \"le\"]\n",
        "drop = [\"instance\"]\ncounters = [\"*\"]\n",
        "keep = []\naggregate = [\"count\", \"sketch\", \"increase\"]\ncounters = [\"a*\"]\n",
    ]);
    format!(
        "every = \"{every}ms\"\nlateness = \"{lateness}s\"\ncorrect_for = \"{correct}s\"\n\
         max_groups = {groups}\nmax_series = {groups}\n{more}"
    )
}

fn outlier(random: &mut Random) -> String {
    let among = if random.chance(50) { "among = [\"a\"]\n" } else { "" };
    format!("value = \"{}\"\n{among}", *random.pick(&["b", "c"]))
}

fn vrl(random: &mut Random, flow: Flow) -> String {
    let program = match flow {
        Flow::Metrics => *random.pick(&METRICS_VRL),
        Flow::Window => ".sum = (to_float(.a) ?? 0.0) + (to_float(.b) ?? 1.0)",
        _ => *random.pick(&VRL),
    };
    let keep = if random.chance(20) { "on_error = \"keep\"\n" } else { "" };
    format!("{keep}source = '''\n{program}\n'''\n")
}

fn condition(random: &mut Random, flow: Flow) -> String {
    match flow {
        Flow::Metrics => (*random.pick(&METRICS_WHERE)).into(),
        Flow::Window => format!("b > {}", random.range(0, 4)),
        _ => (*random.pick(&WHERE)).into(),
    }
}

fn window(random: &mut Random, flow: Flow) -> String {
    let every = *random.pick(&[500, 1_000, 2_000, 5_000]);
    let mut text = format!("every = \"{every}ms\"\nlateness = \"{}s\"\n", random.range(0, 4));
    if random.chance(40) {
        let _ = writeln!(text, "over = \"{}ms\"", every * random.range(2, 5));
    }
    if random.chance(25) {
        let _ = write!(text, "emit_empty = true\nidle = \"{}s\"\n", random.range(1, 20));
    }
    if random.chance(25) {
        let _ = writeln!(text, "max_groups = {}", random.range(1, 4));
    }
    let (groups, column): (&[&str], _) = match flow {
        Flow::Metrics => (&METRICS_GROUPS, "value"),
        Flow::Window => (&["a"], "b"),
        _ => (&GROUPS, *random.pick(&["n", "x", "service.version"])),
    };
    let grouped = random.chance(75);
    if grouped {
        let _ = writeln!(text, "group_by = {:?}", random.some(groups, 30));
    }
    let mut aggregate = || random.pick(&AGGREGATES).replace("{}", column);
    // A window behind a window groups by the column of that name.
    let first = if grouped && flow == Flow::Window { "d" } else { "a" };
    let (a, c) = (aggregate(), aggregate());
    // What reads windows counts on a number.
    let _ = writeln!(text, "aggregate = {{ {first} = \"{a}\", b = \"count(*)\", c = \"{c}\" }}");
    text
}

fn alert(random: &mut Random, flow: Flow) -> String {
    let (when, by, value) = match flow {
        Flow::Metrics => ("value > 3", "job", "value"),
        Flow::Window => ("b > 1", "b", "c"),
        _ => ("n > 2", "service.name", "x"),
    };
    let mut text = format!("when = \"{when}\"\n");
    if random.chance(60) && flow != Flow::Window {
        let _ = writeln!(text, "by = [\"{by}\"]");
    }
    for (key, percent) in [("for", 50), ("keep_firing_for", 30), ("resolve_after", 60)] {
        if random.chance(percent) {
            let _ = writeln!(text, "{key} = \"{}ms\"", random.range(1, 8) * 500);
        }
    }
    if random.chance(50) {
        let _ = writeln!(text, "no_data = \"{}\"", random.pick(&["firing", "keep", "alert"]));
    }
    if random.chance(30) {
        let _ = writeln!(text, "limit = {}", random.range(1, 3));
    }
    let _ = write!(text, "summary = \"{{{{ {value} }}}}\"\nlabels = {{ team = \"a\" }}\n\n");
    text
}
