//! An alert fires once per group, reaches a mail server, Slack, PagerDuty and a webhook, and
//! resolves; `kill -9` loses nothing and repeats nothing that was logged as delivered.

pub(crate) mod receivers;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::durability::remote_write;
use crate::harness::{Server, request, wait};
use receivers::{EMAIL, PAGERDUTY, Receivers, SLACK, WAYS, WEBHOOK};

pub(crate) const SECRETS: [(&str, &str); 2] =
    [("SLACK_TOKEN", "xoxb-end-to-end"), ("PAGERDUTY_KEY", "0123456789abcdef0123456789abcdef")];

const SOURCE: &str = r#"
[sources.prometheus]
type = "prometheus_remote_write"
listen = "127.0.0.1:0"
"#;

/// A level above 0 fires, one of 0 resolves: what happens is up to the test alone.
pub(crate) const ALERTS: &str = r#"
[alerts.level_high]
inputs = ["prometheus.metrics"]
when = "metric.name = 'level' AND value > 0"
for = "300ms"
by = ["service"]
resolve_after = "1h"
labels = { severity = "page" }
summary = "{{ service }}: level {{ value }}"
annotations = { runbook_url = "https://wiki.example/level" }

# No route takes this one: it goes to the console.
[alerts.level_seen]
inputs = ["prometheus.metrics"]
when = "metric.name = 'level' AND value >= 0"
by = ["service"]
summary = "{{ service }} was seen"
"#;

fn start(receivers: &Receivers) -> Server {
    Server::start_with(
        &[("levels", &format!("{SOURCE}{ALERTS}"))],
        Some(&receivers.weir_toml()),
        &SECRETS,
    )
}

/// Says what the level of services is now.
pub(crate) fn levels(server: &Server, levels: &[(&str, f64)]) {
    let url = format!("http://{}/api/v1/write", server.address("prometheus"));
    let body = remote_write::body("level", "service", levels);
    let reply = request("POST", &url, &remote_write::HEADERS, body);
    assert_eq!(reply.status, 204, "{}", reply.text());
}

/// The alert `level_high` of a service as the API shows it.
fn alert(server: &Server, service: &str) -> Option<Value> {
    let reply = server.get("/api/v1/alerts").json();
    let alerts = reply["alerts"].as_array().unwrap_or_else(|| panic!("{reply}"));
    let of = |a: &&Value| a["alert"] == "level_high" && a["labels"]["service"] == service;
    alerts.iter().find(of).cloned()
}

/// Targets that are logged as told that this alert is in `state`.
fn told(alert: Option<&Value>, state: &str) -> BTreeSet<String> {
    let told = alert.into_iter().flat_map(|a| a["told"].as_array().unwrap());
    let told = told.filter(|t| t["state"] == state);
    told.map(|t| t["target"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn wait_fired(server: &Server, service: &str) {
    wait(&format!("{service} is told everywhere"), || {
        (told(alert(server, service).as_ref(), "firing").len() == WAYS.len()).then_some(())
    });
}

pub(crate) fn wait_resolved(server: &Server, service: &str) {
    wait(&format!("the end of {service} is told everywhere"), || {
        alert(server, service).is_none().then_some(())
    });
}

/// What one way was told of a service: `firing` or `resolved`, in order.
pub(crate) fn story(receivers: &Receivers, way: &str, service: &str) -> Vec<&'static str> {
    let notices = receivers.about(way, service);
    let state = notices.iter().map(|n| match way {
        EMAIL => n.text.contains("Subject: [RESOLVED") || n.text.contains("Subject: [OK"),
        SLACK => n.text.to_lowercase().contains("[resolved"),
        PAGERDUTY => n.json()["event_action"] == "resolve",
        _ => n.json()["status"] == "resolved",
    });
    state.map(|resolved| if resolved { "resolved" } else { "firing" }).collect()
}

#[test]
fn an_alert_reaches_four_receivers_once_and_resolves() {
    let receivers = Receivers::start();
    let server = start(&receivers);
    levels(&server, &[("cart-a1", 7.0), ("shop-b2", 8.0), ("calm-c3", 0.0)]);
    wait_fired(&server, "cart-a1");
    wait_fired(&server, "shop-b2");
    // More of the same is nothing new.
    levels(&server, &[("cart-a1", 9.0), ("shop-b2", 0.0)]);
    wait_resolved(&server, "shop-b2");

    for way in WAYS {
        assert_eq!(story(&receivers, way, "cart-a1"), ["firing"], "{way}");
        assert_eq!(story(&receivers, way, "shop-b2"), ["firing", "resolved"], "{way}");
        assert!(receivers.about(way, "calm-c3").is_empty(), "{way}");
        assert!(receivers.about(way, "level_seen").is_empty(), "{way}: it is not routed there");
    }
    let [mail, slack, page, hook] = WAYS.map(|w| receivers.about(w, "cart-a1").remove(0));
    assert!(mail.head.contains("RCPT TO:<ops@example.com>"), "{}", mail.head);
    assert!(mail.text.contains("cart-a1: level 7"), "{}", mail.text);
    assert!(slack.head.contains("Bearer xoxb-end-to-end"), "{}", slack.head);
    assert_eq!(slack.json()["channel"], "#ops");
    assert!(slack.text.contains("cart-a1: level 7"), "{}", slack.text);
    let page = page.json();
    assert_eq!(page["routing_key"], SECRETS[1].1);
    assert_eq!(page["event_action"], "trigger");
    assert!(page["payload"]["summary"].as_str().unwrap().contains("cart-a1"), "{page}");
    let hook = hook.json();
    assert_eq!(hook["version"], "4");
    assert_eq!(hook["groupLabels"]["service"], "cart-a1");
    assert_eq!(hook["alerts"][0]["annotations"]["summary"], "cart-a1: level 7");
    // A group keeps its key to the end, and no other group has it.
    let keys = |service: &str| {
        let pages = receivers.about(PAGERDUTY, service);
        pages.iter().map(|p| p.json()["dedup_key"].to_string()).collect::<Vec<_>>()
    };
    let shop = keys("shop-b2");
    assert_eq!(shop[0], shop[1]);
    assert_ne!(keys("cart-a1")[0], shop[0]);
    // What no route takes is on the console.
    wait("the console", || server.stdout().contains("level_seen").then_some(()));
    assert!(!server.stdout().contains("level_high"), "{}", server.stdout());

    levels(&server, &[("cart-a1", 0.0)]);
    wait_resolved(&server, "cart-a1");
    for way in WAYS {
        assert_eq!(story(&receivers, way, "cart-a1"), ["firing", "resolved"], "{way}");
    }
    for (_, secret) in SECRETS {
        for text in [server.stderr(), server.stdout(), server.status().to_string()] {
            assert!(!text.contains(secret), "a secret is shown");
        }
    }
}

/// Kills at many stages of a notice's way; what the log held before must not come again, and
/// everything must come.
#[test]
fn deaths_lose_and_repeat_no_notice() {
    let receivers = Receivers::start();
    let mut server = start(&receivers);
    let stages = [0, 150, 300, 450, 550, 650, 800, 1200];
    for (round, stage) in stages.into_iter().enumerate() {
        let service = format!("svc-{round}-x");
        for (level, state) in [(1.0, "firing"), (0.0, "resolved")] {
            levels(&server, &[(&service, level)]);
            std::thread::sleep(Duration::from_millis(stage));
            let before = alert(&server, &service);
            server.kill9();
            let logged = told(before.as_ref(), state);
            server.restart();
            match state {
                "firing" => wait_fired(&server, &service),
                _ => wait_resolved(&server, &service),
            }
            for way in WAYS {
                let story = story(&receivers, way, &service);
                let times = story.iter().filter(|s| **s == state).count();
                let was_logged = logged.iter().any(|t| t.contains(kind(way)));
                let most = if was_logged { 1 } else { 2 };
                assert!(
                    (1..=most).contains(&times),
                    "{way} was told {story:?} of {service}; logged before the death: {logged:?}"
                );
            }
        }
    }
    // Nothing is left that would be sent by another start.
    let before = receivers.count();
    server.kill9();
    server.restart();
    levels(&server, &[("last-x", 1.0)]);
    wait_fired(&server, "last-x");
    assert_eq!(receivers.count(), before + WAYS.len());
}

/// A receiver that is down while Weir dies is told afterwards, once; the others not again.
#[test]
fn a_notice_that_was_refused_survives_a_death() {
    let receivers = Receivers::start();
    let mut server = start(&receivers);
    receivers.refuse(Some(PAGERDUTY));
    levels(&server, &[("down-d4", 1.0)]);
    wait("all but one are told", || {
        (told(alert(&server, "down-d4").as_ref(), "firing").len() == WAYS.len() - 1).then_some(())
    });
    server.kill9();
    receivers.refuse(None);
    server.restart();
    wait_fired(&server, "down-d4");
    for way in WAYS {
        assert_eq!(story(&receivers, way, "down-d4"), ["firing"], "{way}");
    }
    levels(&server, &[("down-d4", 0.0)]);
    wait_resolved(&server, "down-d4");
    for way in WAYS {
        assert_eq!(story(&receivers, way, "down-d4"), ["firing", "resolved"], "{way}");
    }
}

/// How a way is called in the name of a target.
fn kind(way: &str) -> &'static str {
    match way {
        EMAIL => "/email",
        SLACK => "/slack",
        PAGERDUTY => "/pagerduty",
        WEBHOOK => "/webhook",
        _ => unreachable!("{way}"),
    }
}
