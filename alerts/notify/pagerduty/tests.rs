#![allow(clippy::unwrap_used)]

use super::super::notification::samples::{notice, notification};
use super::super::testing::{Http, secret, send, target};
use super::*;

const KEY: &str = "0123456789abcdef0123456789ABCDEF";

fn firing() -> Notification {
    notification(vec![notice(
        &[("alertname", "error_burst"), ("severity", "error"), ("service.name", "cart")],
        State::Firing,
        "12 errors",
    )])
}

fn event(n: &Notification, severity: Option<&str>) -> Value {
    serde_json::from_slice(&body(n, KEY, severity).unwrap()).unwrap()
}

#[test]
fn an_incident_per_group() {
    let n = firing();
    let event_ = event(&n, None);
    assert_eq!(event_["event_action"], "trigger");
    assert_eq!(event_["routing_key"], KEY);
    assert_eq!(event_["dedup_key"], sha256_hex(&n.group_key));
    let payload = &event_["payload"];
    assert_eq!(
        payload["summary"],
        "[FIRING:1] error_burst (service.name=cart, severity=error): 12 errors"
    );
    assert_eq!(payload["severity"], "error");
    assert_eq!(payload["source"], "cart");
    assert_eq!(payload["timestamp"], "2023-11-14T22:13:20Z");
    assert_eq!(payload["custom_details"]["firing"][0]["value"]["errors"], 12);
    assert_eq!(
        event_["links"],
        json!([{ "href": "https://wiki.example/errors", "text": "Runbook" }])
    );
    assert_eq!(event(&n, Some("info"))["payload"]["severity"], "info");
    let mut over = n.clone();
    over.alerts[0].state = State::Resolved;
    over.alerts[0].annotations.insert("runbook_url".into(), String::new());
    let over = event(&over, None);
    assert_eq!(over["event_action"], "resolve");
    assert_eq!(over["dedup_key"], event_["dedup_key"]);
    assert_eq!(over["links"], json!([]), "an empty href is dropped");
    // A severity that PagerDuty does not know.
    let n = notification(vec![notice(&[("severity", "page")], State::Firing, "x")]);
    assert_eq!(event(&n, None)["payload"]["severity"], "critical");
}

#[test]
fn limits() {
    let huge = "ü".repeat(3_000);
    let alerts = (0..300).map(|i| {
        let i = i.to_string();
        notice(&[("alertname", "a"), ("i", &i)], State::Firing, &huge)
    });
    let n = notification(alerts.collect());
    let bytes = body(&n, KEY, None).unwrap();
    assert!(bytes.len() <= BODY_BYTES_MAX);
    let event: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(event["payload"]["summary"].as_str().unwrap().chars().count(), 1024);
    assert!(event["payload"]["custom_details"]["error"].is_string());
    assert_eq!(event["payload"]["class"], "a");
}

#[test]
fn links_are_few_and_go_last() {
    let link = |i: usize, length: usize| {
        let mut alert = notice(&[("alertname", "a"), ("i", &i.to_string())], State::Firing, "x");
        let url = format!("https://wiki.example/{i}/{}", "x".repeat(length));
        alert.annotations.insert("runbook_url".into(), url);
        alert
    };
    let links = |n: &Notification| {
        let event: Value = serde_json::from_slice(&body(n, KEY, None).unwrap()).unwrap();
        event["links"].as_array().unwrap().len()
    };
    assert_eq!(links(&notification((0..1000).map(|i| link(i, 10)).collect())), LINKS_MAX);
    assert_eq!(links(&notification(vec![link(0, LINK_BYTES_MAX), link(1, 10)])), 1);
}

#[tokio::test]
async fn classes() {
    let answer =
        "{\"status\":\"invalid event\",\"message\":\"bad\",\"errors\":[\"'severity' is wrong\"]}";
    for (status, retry, after) in [
        (202, None, None),
        (400, Some(false), None),
        (401, Some(false), None),
        (429, Some(true), Some(60)),
        (500, Some(true), None),
        (503, Some(true), None),
    ] {
        let http = Http::start(vec![(status, "", format!("{answer} {KEY}"))]).await;
        let dir = tempfile::tempdir().unwrap();
        let key = secret(&dir, "key", &format!("{KEY}\n"));
        let toml =
            format!("pagerduty = {{ routing_key = \"{key}\", url = \"{}/v2/enqueue\" }}", http.url);
        let result = send(&target(&toml), &firing()).await;
        let request = http.requests.lock()[0].clone();
        assert_eq!(
            (request.path.as_str(), &request.body["routing_key"]),
            ("/v2/enqueue", &KEY.into())
        );
        match (result, retry) {
            (Ok(()), None) => {}
            (Err(e), Some(retry)) => {
                assert_eq!(e.retry, retry, "{status}: {e}");
                assert_eq!(e.after, after.map(Duration::from_secs));
                assert!(e.message.contains("'severity' is wrong"), "{e}");
                assert!(!e.message.contains(KEY), "{e}");
            }
            (result, _) => panic!("{status}: {result:?}"),
        }
    }
}

#[tokio::test]
async fn the_key_is_read_at_every_send() {
    let http = Http::start(vec![(202, "", String::new()), (202, "", String::new())]).await;
    let dir = tempfile::tempdir().unwrap();
    let key = secret(&dir, "key", "one");
    let target =
        target(&format!("pagerduty = {{ routing_key = \"{key}\", url = \"{}\" }}", http.url));
    send(&target, &firing()).await.unwrap();
    secret(&dir, "key", "  two \n");
    send(&target, &firing()).await.unwrap();
    let keys: Vec<Value> =
        http.requests.lock().iter().map(|r| r.body["routing_key"].clone()).collect();
    assert_eq!(keys, ["one", "two"]);
    secret(&dir, "key", "\n");
    assert!(send(&target, &firing()).await.unwrap_err().message.contains("empty"));
}
