//! Real clients send; every value comes back from SQL as sent, under its own name.

use crate::harness::Server;

#[test]
fn starts_and_stops() {
    let mut server = Server::start(
        &[(
            "logs",
            r#"
            [sources.otlp]
            type = "otlp"
            http = "127.0.0.1:0"
            [sinks.logs]
            type = "store"
            inputs = ["otlp.logs"]
            table = "logs"
            "#,
        )],
        None,
    );
    assert!(server.address("otlp").starts_with("127.0.0.1:"));
    assert_eq!(server.sql("SELECT 1 AS one")[0]["one"], 1);
    server.stop();
    server.restart();
    server.kill9();
    server.restart();
    server.stop();
}
