#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::KIND;
use crate::testing::{Running, planned};

#[test]
fn planning() {
    let check = |toml: &str, expect: &str| assert_eq!(planned(&KIND, toml), expect, "{toml}");
    check("targets = [\"127.0.0.1:9100\", \"http://h/x\"]\ntimeout = \"5s\"", "");
    check("target_files = [\"absent.json\"]", "");
    check("", "W015: source `source` needs `targets` or `target_files`");
    check(
        "targets = [\"h:1/x\", \"h:y\"]\ninterval = \"1ms\"\npath = \"x\"\nlabels = { __a = \"b\" }",
        "W015: `interval` is shorter than 100ms\n\
         W015: `path` does not start with `/`: `x`\n\
         W015: `labels` has a name that is not a label: `__a`\n\
         W015: `h:1/x` is not a target: expected `host:port` or a whole URL\n\
         W015: `h:y` is not a target: invalid port number",
    );
    check(
        "targets = [\"h\"]\ntimeout = \"20s\"",
        "W015: `timeout` has to be above 0 and at most `interval`",
    );
    check(
        "targets = [\"h\"]\nauth = { bearer = \"env:A\", basic = { username = \"a\", password = \"env:B\" } }",
        "W015: `auth` has both `bearer` and `basic`, expected one of them",
    );
    check(
        "targets = [\"http://u:sentinel@h\"]",
        "W015: a target holds a user name or password: use `auth`",
    );
}

/// A target: answers every request with what `answer` makes of its head, headers included.
async fn target(
    answer: impl Fn(String) -> Vec<u8> + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let (count, answer) = (asked.clone(), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (count, answer) = (count.clone(), answer.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                count.fetch_add(1, SeqCst);
                let answer = answer(String::from_utf8(head).unwrap().to_ascii_lowercase());
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    (address, asked)
}

fn page(headers: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    out.extend(body);
    out
}

fn find<'a>(rows: &'a [Value], name: &str) -> Vec<&'a Value> {
    rows.iter().filter(|r| r["metric.name"] == name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_scraped() {
    let (address, asked) = target(|head| {
        assert!(
            head.starts_with("get /metrics http/1.1") && head.contains("accept-encoding: gzip")
        );
        assert!(head.contains("authorization: bearer sesame"), "{head}");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"# TYPE a gauge\na{b=\"c\"} 1\n# EOF\n").unwrap();
        let of = "Content-Type: application/openmetrics-text\r\nContent-Encoding: gzip\r\n";
        page(of, &gzip.finish().unwrap())
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "sesame").unwrap();
    let toml = format!(
        "targets = [\"{address}\"]\ninterval = \"100ms\"\nlabels = {{ rack = \"r\" }}\n\
         auth = {{ bearer = \"file:{}\" }}",
        token.display()
    );
    let source = Running::start(&KIND, &toml);
    let rows = source.rows(8).await;
    let a = find(&rows, "a")[0];
    assert_eq!((&a["value"], &a["b"], &a["rack"]), (&1.0.into(), &"c".into(), &"r".into()));
    assert_eq!((&a["job"], &a["instance"]), (&"source".into(), &address.to_string().into()));
    assert_eq!(find(&rows, "up")[0]["value"], 1.0);
    let entry = &source.entries(1).await[0];
    assert_eq!(entry.head.envelope.encoding, "gzip");
    assert!(entry.head.payload.starts_with(&[0x1f, 0x8b]));
    source.stop().await;
    assert!(asked.load(SeqCst) >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_kept_too() {
    let (refusing, _) =
        target(|_| b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    let (huge, _) = target(|_| page("", &vec![b'#'; 5000])).await;
    let (silent, _) = target(|_| Vec::new()).await;
    let (elsewhere, stolen) = target(|_| page("", b"a 1\n")).await;
    let to = format!("http://{elsewhere}/metrics");
    let (moved, _) = target(move |_| {
        format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes()
    })
    .await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let all = [refusing, huge, silent, moved, closed].map(|a| format!("\"{a}\"")).join(",");
    let toml = format!("targets = [{all}]\ninterval = \"200ms\"\nmax_body_bytes = \"1KiB\"");
    let source = Running::start(&KIND, &toml);
    source.rows(3 * 10).await;
    let entries = source.entries(10).await;
    let error = |target: SocketAddr| {
        let of = entries.iter().find(|e| e.head.envelope.target.contains(&target.to_string()));
        let outcome: Value = serde_json::from_str(&of.unwrap().head.envelope.outcome).unwrap();
        outcome["error"].as_str().unwrap().to_owned()
    };
    assert_eq!(error(refusing), "answered 500 Internal Server Error");
    assert_eq!(error(huge), "the body is larger than 1024 bytes");
    assert_eq!(error(moved), "answered 302 Found");
    assert!(error(closed).contains("refused"), "{}", error(closed));
    assert!(!error(silent).is_empty());
    let rows = source.stop().await;
    assert!(find(&rows, "up").iter().all(|r| r["value"] == 0.0));
    assert_eq!(stolen.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_targets_do_not_hold_up_others() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = listener.local_addr().unwrap();
    let (quick, _) = target(|_| page("", b"a 1\n")).await;
    let toml = format!("targets = [\"{slow}\", \"{quick}\"]\ninterval = \"100ms\"");
    let source = Running::start(&KIND, &toml);
    let rows = source.rows(40).await;
    assert!(find(&rows, "a").len() >= 4);
    let of_slow = find(&rows, "up").into_iter().filter(|r| r["instance"] == slow.to_string());
    assert!(of_slow.clone().count() > 0 && of_slow.clone().all(|r| r["value"] == 0.0));
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_change_while_it_runs() {
    let (first, _) = target(|_| page("", b"a 1\n")).await;
    let (second, _) = target(|_| page("", b"b 1\n")).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("targets.json");
    let toml = |target: SocketAddr| {
        format!(
            "targets = [\"{target}\"]\ntarget_files = [\"{}\"]\ninterval = \"100ms\"",
            file.display()
        )
    };
    let source = Running::start(&KIND, &toml(first));
    assert!(!find(&source.rows(4).await, "a").is_empty());
    std::fs::write(
        &file,
        format!("[{{\"targets\": [\"{first}\"], \"labels\": {{\"x\": \"y\"}}}}]"),
    )
    .unwrap();
    source.swap(&toml(second));
    let both = async {
        loop {
            let entries = source.entries(1).await.len();
            let rows = source.rows(4 * entries).await;
            let of_file = find(&rows, "a").into_iter().any(|r| r["x"] == "y");
            if of_file && !find(&rows, "b").is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), both).await.unwrap();
    assert_eq!(source.entries(1).await.last().unwrap().head.generation, 2);
    source.stop().await;
}
