#![allow(clippy::unwrap_used)]

use super::*;

fn plan(receivers: &[(&str, &str)], route: &str) -> Result<RouterConfig, String> {
    let receivers: Vec<Section> =
        receivers.iter().map(|(id, text)| Section::parse_for_tests(id, text)).collect();
    let route = Section::parse_for_tests("route", route);
    RouterConfig::plan(&receivers, Some(&route)).map_err(|e| e.to_string())
}

#[test]
fn receivers_of_all_types() {
    let all = r##"
console = {}
slack = [{ channel = "#ops", token = "env:SLACK" }, { webhook_url = "env:HOOK", send_resolved = false }]
pagerduty = { routing_key = "env:PD", severity = "error", url = "http://127.0.0.1:1/v2/enqueue" }
email = { to = ["Ops <ops@example.com>", "b@example.com"], from = "weir@example.com", host = "smtp.example.com", username = "weir", password = "env:SMTP" }
webhook = { url = "https://tickets.example/hook", headers = { authorization = "env:AUTH", x-team = "ops" }, max_alerts = 5, timeout = "3s" }
"##;
    let config = plan(&[("oncall", all)], "receiver = \"oncall\"").unwrap();
    let ids: Vec<&str> = config.receivers["oncall"].iter().map(|t| t.id.as_str()).collect();
    assert_eq!(
        ids[..4],
        [
            "oncall/console:stdout",
            "oncall/email:ops@example.com,b@example.com",
            "oncall/pagerduty:env:PD",
            "oncall/slack:#ops",
        ]
    );
    assert!(!config.receivers["oncall"][4].send_resolved);
    // What the log keeps is what was planned, and names secrets without holding them.
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<RouterConfig>(&json).unwrap(), config);
}

#[test]
fn defaults() {
    let config = RouterConfig::plan(&[], None).unwrap();
    assert_eq!(config, RouterConfig::default());
    assert_eq!(config.receivers().collect::<Vec<_>>(), ["console"]);
}

fn check_error(receivers: &[(&str, &str)], route: &str, expect: &str) {
    let error = plan(receivers, route).unwrap_err();
    assert!(error.contains(expect), "expected `{expect}` in\n{error}");
}

#[test]
fn mistakes_are_named() {
    let hook = "webhook = { url = \"http://a.example/\" }";
    check_error(&[], "receiver = \"consle\"", "did you mean `console`?");
    check_error(&[("x", "")], "", "sends nowhere");
    check_error(&[("x", "slak = {}")], "", "slak");
    check_error(&[("x", "slack = { channel = \"#a\" }")], "", "exactly one of");
    check_error(&[("x", "slack = { token = \"env:T\" }")], "", "needs a `channel`");
    check_error(
        &[("x", "slack = { webhook_url = \"env:T\", channel = \"#a\" }")],
        "",
        "means nothing",
    );
    check_error(&[("x", "pagerduty = { routing_key = \"abcdef\" }")], "", "env:NAME");
    check_error(
        &[("x", "pagerduty = { routing_key = \"env:K\", severity = \"bad\" }")],
        "",
        "no severity",
    );
    check_error(&[("x", "webhook = { url = \"ftp://a\" }")], "", "not an http or https URL");
    check_error(
        &[("x", "webhook = [{ url = \"http://a\" }, { url = \"http://a\" }]")],
        "",
        "twice",
    );
    let mail = |rest: &str| format!("email = {{ from = \"a@b.example\", host = \"h\", {rest} }}");
    check_error(&[("x", &mail("to = [\"nobody\"]"))], "", "not an email address");
    check_error(&[("x", &mail("to = []"))], "", "at least one recipient");
    let plain = "to = [\"c@d.example\"], tls = \"none\", username = \"u\", password = \"env:P\"";
    check_error(&[("x", &mail(plain))], "", "protected connection");
    check_error(&[("x", &mail("to = [\"c@d.example\"], username = \"u\""))], "", "need each other");
    check_error(&[("x", hook)], "match = ['a = \"b\"']", "match");
    check_error(&[("x", hook)], "continue = true", "continue");
    check_error(&[("x", hook)], "group_by = [\"a\", \"a\"]", "twice");
    check_error(&[("x", hook)], "group_by = [\"...\", \"a\"]", "stands alone");
    check_error(&[("x", hook)], "group_interval = \"1ms\"", "below 100 ms");
    check_error(&[("x", hook)], "[[routes]]\nmatch = ['team =~ \"(\"']", "regular expression");
    check_error(
        &[("x", hook)],
        "[[routes]]\nmatch = ['team']\nreceiver = \"y\"",
        "no receiver `y`",
    );
    // A receiver with a mistake is no second mistake where it is used.
    let error = plan(&[("x", "slack = {}")], "receiver = \"x\"").unwrap_err();
    assert!(!error.contains("no receiver"), "{error}");
}
