#![allow(clippy::unwrap_used)]

use super::super::notification::samples::{notice, notification};
use super::super::testing::{Http, secret, send, target};
use super::*;

const TOKEN: &str = "xoxb-1234-s3cr3t";
const TAKEN: &str = r#"{"ok":true,"channel":"C1","ts":"1.2","message":{"ts":"1.2","text":"x"}}"#;
const JSON: &str = "content-type: application/json\r\n";

fn firing() -> Notification {
    notification(vec![notice(
        &[("alertname", "error_burst"), ("job", "<a>&b")],
        State::Firing,
        "12 errors",
    )])
}

async fn post(answer: (u16, &'static str, String)) -> (Result<(), SendError>, Http) {
    let http = Http::start(vec![answer]).await;
    let dir = tempfile::tempdir().unwrap();
    let token = secret(&dir, "token", TOKEN);
    let toml = format!(
        "slack = {{ channel = \"#ops\", token = \"{token}\", api_url = \"{}/api/\", timeout = \"1s\" }}",
        http.url
    );
    let result = send(&target(&toml), &firing()).await;
    (result, http)
}

#[tokio::test]
async fn posts_as_a_bot() {
    let (result, http) = post((200, JSON, TAKEN.to_owned())).await;
    result.unwrap();
    let request = http.requests.lock()[0].clone();
    assert_eq!(request.path, "/api/chat.postMessage");
    assert_eq!(request.headers["authorization"], format!("Bearer {TOKEN}"));
    let body = request.body;
    assert_eq!(body["channel"], "#ops");
    assert_eq!(body["blocks"][0]["type"], "header");
    assert_eq!(body["blocks"][0]["text"]["text"], "[FIRING:1] error_burst (job=<a>&b)");
    let section = body["blocks"][1]["text"]["text"].as_str().unwrap();
    assert_eq!(
        section,
        ":red_circle: *error_burst*\n12 errors\n`job=&lt;a&gt;&amp;b`\n<https://wiki.example/errors|Runbook>"
    );
    assert!(body["text"].as_str().unwrap().contains("12 errors"));
    assert_eq!(body["metadata"]["event_payload"]["id"], firing().id);
}

#[tokio::test]
async fn ok_false_is_an_error() {
    for (status, headers, body, retry, after) in [
        (200, JSON, r#"{"ok":false,"error":"channel_not_found"}"#, false, None),
        (200, JSON, r#"{"ok":false,"error":"invalid_auth"}"#, false, None),
        (200, JSON, r#"{"ok":false,"error":"ratelimited"}"#, true, None),
        (200, JSON, r#"{"ok":false,"error":"internal_error"}"#, true, None),
        (200, JSON, "{ not json", true, None),
        (
            429,
            "content-type: application/json\r\nretry-after: 11\r\n",
            r#"{"ok":false,"error":"ratelimited"}"#,
            true,
            Some(11),
        ),
        (429, "content-type: text/plain\r\nretry-after: 5\r\n", "slow down", true, Some(5)),
        (
            429,
            "content-type: application/json\r\nretry-after: 999999\r\n",
            r#"{"ok":false,"error":"ratelimited"}"#,
            true,
            Some(3600),
        ),
        (404, JSON, "{}", false, None),
        (500, JSON, "{}", true, None),
        (0, "", "", true, None),
        (1, "", "", true, None),
    ] {
        let (result, _http) = post((status, headers, body.replace("{}", TOKEN))).await;
        let error = result.unwrap_err();
        assert_eq!(error.retry, retry, "{status} {body}: {error}");
        assert_eq!(error.after, after.map(Duration::from_secs), "{status} {body}");
        assert!(!error.message.contains("s3cr3t"), "{error}");
    }
}

#[tokio::test]
async fn posts_to_an_incoming_webhook() {
    for (status, body, expect) in [
        (200, "ok", None),
        (200, "no_team", Some(false)),
        (200, "", Some(false)),
        (400, "invalid_payload", Some(false)),
        (403, "action_prohibited", Some(false)),
        (410, "channel_is_archived", Some(false)),
        (429, "", Some(true)),
        (500, "rollup_error", Some(true)),
    ] {
        let http = Http::start(vec![(status, "", body.to_owned())]).await;
        let dir = tempfile::tempdir().unwrap();
        let url = secret(&dir, "url", &format!("{}/services/T0/B0/s3cr3t", http.url));
        let toml = format!("slack = {{ webhook_url = \"{url}\" }}");
        let result = send(&target(&toml), &firing()).await;
        let request = http.requests.lock()[0].clone();
        assert_eq!(request.path, "/services/T0/B0/s3cr3t");
        assert!(request.body["metadata"].is_null());
        match (result, expect) {
            (Ok(()), None) => {}
            (Err(e), Some(retry)) => {
                assert_eq!(e.retry, retry, "{status} {body}: {e}");
                assert!(!e.message.contains("s3cr3t"), "{e}");
            }
            (result, _) => panic!("{status} {body}: {result:?}"),
        }
    }
}

#[test]
fn stays_within_the_limits() {
    let alerts = (0..500).map(|i| {
        let value = format!("{i}-{}", "<&>`".repeat(2_000));
        let mut alert = notice(&[("alertname", &value), ("job", &value)], State::Firing, &value);
        alert.annotations.insert("runbook_url".into(), format!("https://x/{}", "y".repeat(5_000)));
        alert
    });
    let n = notification(alerts.collect());
    let body = serde_json::to_value(content(&n, true)).unwrap();
    let blocks = body["blocks"].as_array().unwrap();
    assert!(blocks.len() <= 50);
    let texts = blocks.iter().flat_map(|b| {
        let elements = b["elements"].as_array().into_iter().flatten().map(|e| &e["text"]);
        elements.chain([&b["text"]["text"]]).filter_map(|t| t.as_str()).collect::<Vec<_>>()
    });
    let lengths: Vec<usize> = texts.map(|t| t.chars().count()).collect();
    assert!(lengths.iter().all(|l| *l <= 3_000), "{lengths:?}");
    assert!(lengths[0] <= HEADER_CHARS_MAX);
    assert!(lengths.iter().sum::<usize>() <= 13_200, "{}", lengths.iter().sum::<usize>());
    assert!(body["text"].as_str().unwrap().chars().count() <= FALLBACK_CHARS_MAX);
    assert!(body.to_string().contains("and 480 more"));
}
