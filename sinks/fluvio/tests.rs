#![allow(clippy::unwrap_used)]

use weir_pipeline::fluvio_client::topic;

use super::*;

#[test]
fn any_text_is_a_topic() {
    let long = "x".repeat(300);
    for (text, expect) in [
        ("logs-web", "logs-web"),
        ("My web/ü!", "my-web"),
        ("", "topic"),
        ("---", "topic"),
        (&long, &long[..63]),
        (&format!("{}-y", &long[..62]), &long[..62]),
    ] {
        assert_eq!(topic(text), expect, "{text}");
        assert!(is_topic(&topic(text)), "{text}");
    }
}

#[test]
fn mistakes_in_settings() {
    let check = |text: &str, expect: &str| {
        let text = format!("endpoints = [\"127.0.0.1:9003\"]\n{text}");
        let section = Section::parse_for_tests("sink", &text);
        let wrong = plan(&section, &Scope::default()).map_or_else(|w| w.0, |_| Vec::new());
        let messages: Vec<_> = wrong.iter().map(|d| d.message.as_str()).collect();
        assert_eq!(messages.join("\n"), expect, "{text}");
    };
    check("topic = \"logs\"\ncompression = \"lz4\"\nkey = \"service.name\"", "");
    check("topic = \"a_b\"", "`topic` is no name of a topic: `a_b`");
    check("", "sink `sink` needs `topic` or `topic_by`");
    check("topic = \"t\"\ntopic_by = \"'t'\"", "`topic` and `topic_by` exclude each other");
}
