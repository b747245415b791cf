#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::planned;

#[test]
fn mistakes_in_settings() {
    let check = |text: &str, expect: &str| assert_eq!(planned(&KIND, text), expect, "{text}");
    let good = "endpoints = [\"127.0.0.1:9092\", \"[::1]:9092\"]\ntopics = [\"orders\"]\n";
    check(good, "");
    check("endpoints = []\ntopics = [\"t\"]", "W015: `endpoints` is empty");
    check(
        "endpoints = [\"h:9092\", \"ann:hunter2@h:9092\"]\ntopics = [\"a b\"]",
        "W015: `topics`: `a b` is no name of a topic\n\
         W015: `endpoints`: number 2 is no host and port",
    );
    check("endpoints = [\"h:9092\"]\ntopics = []", "W015: `topics` is empty");
    let auth = "auth = { basic = { username = \"u\", password = \"env:P\" } }\n";
    check(
        &format!("{good}{auth}"),
        "W061: the password goes over the network as it is, without `tls`",
    );
    check(&format!("{good}{auth}tls = {{}}"), "");
}
