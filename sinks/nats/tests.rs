#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn any_text_is_a_subject() {
    for (text, expect) in [
        ("logs.web", "logs.web"),
        ("logs.my web", "logs.my_web"),
        ("a.*.>", "a._._"),
        ("a..b.", "a._.b._"),
        ("", "_"),
        ("tab\tand\nline", "tab_and_line"),
    ] {
        assert_eq!(send::subject(text), expect, "{text}");
    }
}

#[test]
fn mistakes_in_settings() {
    let check = |text: &str, expect: &str| {
        let text = format!("endpoints = [\"nats://127.0.0.1:4222\"]\n{text}");
        let section = Section::parse_for_tests("sink", &text);
        let wrong = plan(&section, &Scope::default()).map_or_else(|w| w.0, |_| Vec::new());
        let messages: Vec<_> = wrong.iter().map(|d| d.message.as_str()).collect();
        assert_eq!(messages.join("\n"), expect, "{text}");
    };
    check("subject = \"logs\"", "");
    check("subject_by = \"'logs.' || service.name\"", "");
    check("subject = \"logs.>\"", "`subject` cannot be published to: `logs.>`");
    check("", "sink `sink` needs `subject` or `subject_by`");
    check(
        "subject = \"a\"\nsubject_by = \"service.name\"",
        "`subject` and `subject_by` exclude each other",
    );
    check(
        "subject = \"a\"\ncreate = { subjects = [\"a\"] }",
        "`create` needs the name of the `stream`",
    );
}
