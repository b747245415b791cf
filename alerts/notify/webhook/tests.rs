#![allow(clippy::unwrap_used)]

use super::super::notification::samples::{notice, notification};
use super::super::testing::{Http, certificate, secret, send, target};
use super::*;
use crate::transition::State;

fn sample() -> Notification {
    notification(vec![
        notice(
            &[("alertname", "error_burst"), ("job", "no"), ("n", "012")],
            State::Firing,
            "12 errors",
        ),
        notice(&[("alertname", "error_burst"), ("job", "yes")], State::Resolved, "13 errors"),
    ])
}

#[tokio::test]
async fn the_json_is_that_of_alertmanager() {
    let http = Http::start(vec![(200, "", String::new())]).await;
    let dir = tempfile::tempdir().unwrap();
    let auth = secret(&dir, "auth", "Bearer s3cr3t\n");
    let toml = format!(
        "webhook = {{ url = \"{}/hook?a=b\", headers = {{ authorization = \"{auth}\", x-team = \"ops\" }} }}",
        http.url
    );
    send(&target(&toml), &sample()).await.unwrap();
    let request = http.requests.lock()[0].clone();
    assert_eq!(request.path, "/hook?a=b");
    assert_eq!(request.headers["authorization"], "Bearer s3cr3t");
    assert_eq!(request.headers["x-team"], "ops");
    assert_eq!(request.headers["content-type"], "application/json");
    let print = |labels: &[(&str, &str)]| {
        let map = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        crate::transition::fingerprint(&map)
    };
    let first = [("alertname", "error_burst"), ("job", "no"), ("n", "012")];
    let expect = json!({
        "version": "4",
        "groupKey": "{}/{severity=\"page\"}:{alertname=\"error_burst\"}",
        "truncatedAlerts": 0,
        "receiver": "oncall",
        "status": "firing",
        "notification_reason": "first notification",
        "alerts": [
            {
                "status": "firing",
                "labels": { "alertname": "error_burst", "job": "no", "n": "012" },
                "annotations": { "summary": "12 errors", "runbook_url": "https://wiki.example/errors" },
                "startsAt": "2023-11-14T22:13:20Z",
                "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": "http://127.0.0.1:9347",
                "fingerprint": print(&first),
            },
            {
                "status": "resolved",
                "labels": { "alertname": "error_burst", "job": "yes" },
                "annotations": { "summary": "13 errors", "runbook_url": "https://wiki.example/errors" },
                "startsAt": "2023-11-14T22:13:20Z",
                "endsAt": "2023-11-14T22:14:20Z",
                "generatorURL": "http://127.0.0.1:9347",
                "fingerprint": print(&[("alertname", "error_burst"), ("job", "yes")]),
            },
        ],
        "groupLabels": { "alertname": "error_burst" },
        "commonLabels": { "alertname": "error_burst" },
        "commonAnnotations": { "runbook_url": "https://wiki.example/errors" },
        "routeLabels": {},
        "externalURL": "http://127.0.0.1:9347",
    });
    assert_eq!(request.body, expect);
}

#[test]
fn truncates_from_the_end() {
    let body = payload(&sample(), 1);
    assert_eq!(body["truncatedAlerts"], 1);
    assert_eq!(body["alerts"].as_array().unwrap().len(), 1);
    assert_eq!(body["alerts"][0]["status"], "firing");
    assert_eq!(quote_meta("a.b-c(d)"), r"a\.b-c\(d\)");
}

#[tokio::test]
async fn classes_and_redaction() {
    let token = "T0K3N-in-the-path";
    let long = "x".repeat(100_000);
    for (status, headers, retry, after, doubt) in [
        (200, "", None, None, false),
        (204, "", None, None, false),
        (400, "", Some(false), None, false),
        (404, "", Some(false), None, false),
        (301, "location: http://127.0.0.1:1/\r\n", Some(false), None, false),
        (408, "", Some(true), None, false),
        (429, "retry-after: 7\r\n", Some(true), Some(7), false),
        (500, "", Some(true), None, true),
        (503, "retry-after: 3\r\n", Some(true), Some(3), false),
        (0, "", Some(true), None, true),
        (1, "", Some(true), None, true),
    ] {
        // The other side repeats the secret in its answer.
        let http = Http::start(vec![(status, headers, format!("bad path /{token} {long}"))]).await;
        let dir = tempfile::tempdir().unwrap();
        let url = secret(&dir, "url", &format!("{}/{token}\n", http.url));
        let toml = format!("webhook = {{ url = \"{url}\", timeout = \"300ms\" }}");
        let result = send(&target(&toml), &sample()).await;
        match (result, retry) {
            (Ok(()), None) => {}
            (Err(e), Some(retry)) => {
                assert_eq!((e.retry, e.doubt), (retry, doubt), "{status}: {e}");
                assert_eq!(e.after, after.map(Duration::from_secs), "{status}");
                assert!(!e.message.contains(token), "{status}: {e}");
                assert!(e.message.chars().count() <= 400);
            }
            (result, _) => panic!("{status}: {result:?}"),
        }
    }
}

#[tokio::test]
async fn a_dead_end_is_no_doubt_and_shows_no_url() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let toml = format!("webhook = {{ url = \"http://{address}/s3cr3t-path\" }}");
    let error = send(&target(&toml), &sample()).await.unwrap_err();
    assert!(error.retry && !error.doubt, "{error:?}");
    assert!(!error.message.contains("s3cr3t"), "{error}");
    // A secret that is not there yet may come.
    let toml = "webhook = { url = \"file:/nowhere/url\" }";
    let error = send(&target(toml), &sample()).await.unwrap_err();
    assert!(error.retry && error.message.contains("/nowhere/url"), "{error}");
}

#[tokio::test]
async fn an_authority_of_its_own_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let (tls, ca) = certificate(&dir);
    let key = secret(&dir, "key", "0123456789abcdef0123456789abcdef");
    let slack = r#"{"ok":true,"channel":"C1","ts":"1.2","message":{"ts":"1.2","text":"x"}}"#;
    let json = "content-type: application/json\r\n";
    for (receiver, answer) in [
        ("webhook = { url = \"URL\" TLS }", (200, "", String::new())),
        ("pagerduty = { routing_key = \"KEY\", url = \"URL\" TLS }", (202, "", String::new())),
        (
            "slack = { channel = \"#ops\", token = \"KEY\", api_url = \"URL\" TLS }",
            (200, json, slack.to_owned()),
        ),
        ("slack = { webhook_url = \"HOOK\" TLS }", (200, "", "ok".to_owned())),
    ] {
        let http = Http::start_tls(vec![answer.clone(), answer], tls.clone()).await;
        let hook = secret(&dir, "hook", &http.url);
        let toml = |tls: &str| {
            let of = receiver.replace("URL", &http.url).replace("KEY", &key);
            target(&of.replace("HOOK", &hook).replace("TLS", tls))
        };
        let error = send(&toml(""), &sample()).await.unwrap_err();
        assert!(error.retry && http.requests.lock().is_empty(), "{receiver}: {error}");
        let own = format!(", tls = {{ ca = \"{ca}\" }}");
        send(&toml(&own), &sample()).await.unwrap_or_else(|e| panic!("{receiver}: {e}"));
        assert_eq!(http.requests.lock().len(), 1, "{receiver}");
    }
}
