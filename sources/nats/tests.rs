#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::planned;

#[test]
fn mistakes_in_settings() {
    let check = |text: &str, expect: &str| assert_eq!(planned(&KIND, text), expect, "{text}");
    let good = "endpoints = [\"nats://127.0.0.1:4222\"]\nstream = \"S\"\n";
    check(good, "");
    check("endpoints = []\nstream = \"S\"", "W015: `endpoints` is empty");
    check(
        "endpoints = [\"nats://ann:hunter2@h:4222\", \"http://h\"]\nstream = \"a.b\"",
        "W015: `stream` is no name of a stream: `a.b`\n\
         W015: `endpoints`: number 1 holds credentials\n\
         W015: `endpoints`: number 2 is no address of NATS",
    );
    check(&format!("{good}subject = \"a b\""), "W015: `subject` is no subject: `a b`");
    check(
        &format!("{good}create = {{ subjects = [] }}"),
        "W015: `create` needs `subjects`, for example `subjects = [\"events.>\"]`",
    );
    check(
        &format!("{good}auth = {{ token = \"env:T\", nkey = \"env:N\" }}"),
        "W015: `auth` has more than one of `token`, `basic`, `credentials`, `nkey`",
    );
    check(
        &format!("{good}max_record_bytes = \"1GiB\""),
        "W015: `max_record_bytes` is 1GiB, expected 1KiB to 64MiB",
    );
}
