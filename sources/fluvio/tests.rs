#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::planned;

#[test]
fn mistakes_in_settings() {
    let check = |text: &str, expect: &str| assert_eq!(planned(&KIND, text), expect, "{text}");
    check("endpoints = [\"127.0.0.1:9003\", \"[::1]:9003\"]\ntopics = [\"orders\"]", "");
    check("endpoints = []\ntopics = [\"t\"]", "W015: `endpoints` is empty");
    check(
        "endpoints = [\"h:9003\", \"ann:hunter2@h:9003\"]\ntopics = [\"Orders\"]",
        "W015: `topics`: `Orders` is no name of a topic\n\
         W015: `endpoints`: number 2 is no host and port",
    );
    check("endpoints = [\"h:9003\"]\ntopics = []", "W015: `topics` is empty");
    check(
        "endpoints = [\"h:9003\"]\ntopics = [\"t\"]\nmax_record_bytes = \"1B\"",
        "W015: `max_record_bytes` is 1B, expected 1KiB to 64MiB",
    );
}
