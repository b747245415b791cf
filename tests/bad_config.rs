//! Bad configuration: every mistake is said, what is good runs on, and no secret is ever shown.

use std::fs;

use serde_json::json;

use crate::harness::{Server, request, wait};

/// Stands for every secret.
const SENTINEL: &str = "sentinel-5ec3e7";

const GOOD: &str = r#"
[sources.otlp]
type = "otlp"
http = "127.0.0.1:0"
auth = { bearer = ["env:INGEST_TOKEN"] }

[sinks.logs]
type = "store"
inputs = ["otlp.logs"]
table = "logs"

[alerts.seen]
inputs = ["otlp.logs"]
when = "severity_number >= 17"
summary = "{{ body }}"
"#;

/// Receivers that cannot be reached, so that each has an error to tell.
const SERVER: &str = r##"
[receivers.oncall]
slack = { channel = "#ops", token = "env:SLACK_TOKEN", api_url = "http://127.0.0.1:9/api" }
[receivers.hook]
webhook = { url = "env:HOOK_URL", headers = { authorization = "env:HOOK_TOKEN" } }
[receivers.page]
pagerduty = { routing_key = "env:PAGE_KEY", url = "http://127.0.0.1:9/v2/enqueue" }
[route]
receiver = "hook"
group_wait = "0s"
"##;

/// Seven mistakes in three files; some of them stand beside a secret.
const BROKEN: [(&str, &str); 3] = [
    (
        "first",
        "[sinks.a]\ntype = \"stor\"\ninputs = [\"otlp.logs\"]\n\n\
         [sources.b]\ntype = \"otlp\"\nhttp = \"127.0.0.4:0\"\ntoken = \"sentinel-5ec3e7\"\n",
    ),
    (
        "second",
        "[operators.f]\ntype = \"filter\"\ninputs = [\"nobody.logs\"]\nwhere = \"a = 1\"\n\n\
         [operators.g]\ntype = \"filter\"\ninputs = [\"otlp.logs\"]\nwhere = \"severity_number >\"\n",
    ),
    ("third", "[sources.c]\ntype = \"otlp\"\npassword = \"sentinel-5ec3e7\n"),
];

#[test]
fn all_mistakes_at_once_and_no_secret() {
    let environment = [
        ("INGEST_TOKEN", SENTINEL),
        ("SLACK_TOKEN", SENTINEL),
        ("HOOK_TOKEN", SENTINEL),
        ("PAGE_KEY", SENTINEL),
        ("HOOK_URL", "http://user:sentinel-5ec3e7@127.0.0.1:9/hook/sentinel-5ec3e7"),
    ];
    let mut server = Server::start_with(&[("good", GOOD)], Some(SERVER), &environment);
    let mut shown: Vec<String> = Vec::new();
    let (code, text) = server.weir(&["check"]);
    assert_eq!(code, Some(0), "{text}");
    shown.push(text);

    // Every mistake, with its place.
    for (name, text) in BROKEN {
        server.write(name, text);
    }
    let (code, text) = server.weir(&["check"]);
    assert_eq!(code, Some(1), "{text}");
    for part in [
        "first.toml:2:8",
        "did you mean `store`?",
        "first.toml:8:1",
        "second.toml:3:",
        "nobody",
        "second.toml:9:",
        "third.toml:3:",
        "third.toml:1:1",
        "7 errors",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    shown.push(text);

    // A reload says the same, and what is good runs on.
    let outcome = server.reload();
    assert_eq!(outcome["ok"], json!(false), "{outcome:#}");
    shown.push(outcome.to_string());
    let url = format!("http://{}/v1/logs", server.address("otlp"));
    let body = json!({ "resourceLogs": [{ "scopeLogs": [{ "logRecords": [
        { "severityNumber": 17, "body": { "stringValue": "an error" } },
    ] }] }] });
    let send = |token: &str| {
        let token = format!("Bearer {token}");
        let headers = [("content-type", "application/json"), ("authorization", token.as_str())];
        request("POST", &url, &headers, body.to_string().into())
    };
    let refused = send("wrong");
    assert_eq!(refused.status, 401);
    shown.push(refused.text());
    assert_eq!(send(SENTINEL).status, 200);
    server.wait_sql("SELECT body FROM logs", |r| r.len() == 1);

    // Receivers that fail say so without what they were to send with.
    for receiver in ["oncall", "hook", "page"] {
        let (code, text) = server.weir(&["notify", receiver]);
        assert_ne!(code, Some(0), "{text}");
        shown.push(text);
    }
    wait("a failed delivery", || {
        let alerts = server.get("/api/v1/alerts").text();
        alerts.contains("an error").then_some(())
    });
    for path in ["/", "/metrics", "/api/v1/status", "/api/v1/pipelines", "/api/v1/alerts"] {
        let reply = server.get(path);
        assert_eq!(reply.status, 200, "{path}");
        shown.push(reply.text());
    }
    for command in ["config", "status", "test"] {
        shown.push(server.weir(&[command]).1);
    }
    server.assert_runs();
    server.stop();
    shown.extend([server.stderr(), server.stdout()]);
    for text in shown {
        assert!(!text.contains(SENTINEL), "{text}");
    }
    // Nor is it on disk where somebody copies a data folder.
    let mut folders = vec![server.path().join("data")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                let found = bytes.windows(SENTINEL.len()).any(|w| w == SENTINEL.as_bytes());
                assert!(!found, "{} holds the secret", path.display());
            }
        }
    }
}

#[test]
fn a_broken_server_file_shows_until_it_is_mended_and_stops_no_later_start() {
    let mut server = Server::start(
        &[("good", "[sources.s]\ntype = \"syslog\"\nlisten = \"127.0.0.1:0\"\n")],
        Some(""),
    );
    let file = server.path().join("weir.toml");
    fs::write(&file, format!("[journal]\nmax_bytes = 5.5\n[server.auth]\ntokens {SENTINEL}\n"))
        .unwrap();
    let (code, text) = server.weir(&["reload"]);
    assert_eq!(code, Some(1), "{text}");
    let shows = |server: &Server| {
        let (code, text) = server.weir(&["status"]);
        assert_eq!(code, Some(1), "{text}");
        for part in ["weir.toml:4:8", "weir.toml` has a mistake", "weir is degraded"] {
            assert!(text.contains(part), "`{part}` is not in\n{text}");
        }
        for path in ["/api/v1/status", "/"] {
            let text = server.get(path).text();
            assert!(text.contains("weir.toml:4:8"), "{path}: {text}");
        }
        let metrics = server.get("/metrics").text();
        assert!(metrics.contains("\nweir_config_ok 0\n"), "{metrics}");
    };
    shows(&server);
    // A pipeline reload does not make it well.
    server.write("other", "# nothing\n");
    server.weir(&["reload"]);
    shows(&server);

    server.restart();
    shows(&server);
    assert!(!server.stderr().contains(SENTINEL));

    fs::write(&file, "").unwrap();
    let (code, text) = server.weir(&["reload"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(server.get("/metrics").text().contains("\nweir_config_ok 1\n"));
}

/// Each file of `pipelines.d/examples`, beside those that run by default.
#[test]
fn shipped_examples_are_right() {
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines.d");
    let texts = |folder: &std::path::Path| {
        let files = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
        let files = files.filter(|p| p.extension().is_some_and(|e| e == "toml"));
        let text = |p: std::path::PathBuf| {
            (p.file_stem().unwrap().to_string_lossy().into_owned(), fs::read_to_string(p).unwrap())
        };
        files.map(text).collect::<Vec<_>>()
    };
    let default = texts(&shipped);
    for (name, example) in texts(&shipped.join("examples")) {
        let all = default.iter().map(|(n, t)| (n.as_str(), t.as_str()));
        let all: Vec<_> = all.chain([(name.as_str(), example.as_str())]).collect();
        let server = Server::prepare(&all, None, &[]);
        for table in ["networks.csv", "owners.csv"] {
            let folder = server.path().join("pipelines.d");
            fs::copy(shipped.join("examples").join(table), folder.join(table)).unwrap();
        }
        for command in [&["check", "--strict"][..], &["test"]] {
            let (code, said) = server.weir(command);
            assert_eq!(code, Some(0), "{name}: {said}");
        }
    }
}
