#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};
use weir_pipeline::config::TlsClient;

use super::KIND;
use crate::testing::{Running, planned, until};

fn bodies(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|r| r["body"].as_str().unwrap_or("-")).collect()
}

#[test]
fn planning() {
    let check = |toml: &str, expect: &str| assert_eq!(planned(&KIND, toml), expect, "{toml}");
    check("", "");
    check("listen = \"127.0.0.1:0\"\nprotocol = \"tcp\"\ntimezone = \"Europe/Berlin\"", "");
    check("listen = \"5514\"", "W015: `listen` is not an address: `5514`");
    check("timezone = \"Mars\"", "W015: `timezone` is not a time zone: `Mars`");
    check(
        "max_message_bytes = 10\nmax_connections = 0",
        "W015: `max_message_bytes` is 10, expected 480 to 16777216\n\
         W015: `max_connections` is 0, expected 1 to 65536",
    );
    check("protocol = \"tls\"", "W015: `protocol = \"tls\"` needs `tls` with `cert` and `key`");
    check(
        "tls = { cert = \"a\", key = \"b\" }",
        "W015: `tls` is used only with `protocol = \"tls\"`",
    );
    let outside = "`listen` can be reached from outside, without `tls`";
    check("listen = \"0.0.0.0:514\"", &format!("W060: {outside}"));
    check("listen = \"0.0.0.0:514\"\ninsecure = true", &format!("W061: {outside}"));
    check("listen = \"0.0.0.0:514\"\nprotocol = \"tls\"\ntls = { cert = \"a\", key = \"b\" }", "");
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams() {
    let source = Running::start(&KIND, "listen = \"127.0.0.1:0\"\nmax_message_bytes = 480");
    let address = source.address().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for i in 0..200 {
        socket.send_to(format!("<13>p[1]: {i}").as_bytes(), address).await.unwrap();
    }
    socket.send_to(&[b'x'; 500], address).await.unwrap();
    let rows = source.rows(201).await;
    let expect: Vec<String> = (0..200).map(|i| i.to_string()).collect();
    assert_eq!(bodies(&rows)[..200], expect);
    assert_eq!(rows[200]["body"], "x".repeat(480));
    assert_eq!(rows[200]["syslog.truncated"], true);
    assert_eq!(rows[0]["network.peer.address"], "127.0.0.1");
    assert_eq!(source.stop().await.len(), 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_both_framings() {
    let toml = "listen = \"127.0.0.1:0\"\nprotocol = \"tcp\"";
    let source = Running::start(&KIND, toml);
    let address = source.address().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"<13>one\n7 <13>two8 <13").await.unwrap();
    assert_eq!(bodies(&source.rows(2).await), ["one", "two"]);
    stream.write_all(b">four<13>five").await.unwrap();
    assert_eq!(bodies(&source.rows(3).await), ["one", "two", "four"]);
    // Other settings, the same connection and the message that had begun.
    source.swap(&format!("{toml}\nmax_message_bytes = 480"));
    stream.write_all(b"\n<13>").await.unwrap();
    stream.write_all(&[b'x'; 600]).await.unwrap();
    stream.write_all(b"\n<13>last").await.unwrap();
    stream.shutdown().await.unwrap();
    let rows = source.rows(6).await;
    assert_eq!(bodies(&rows)[3], "five");
    assert_eq!(bodies(&rows)[4], "x".repeat(476));
    assert_eq!(bodies(&rows)[5], "last");
    assert_eq!(rows[4]["syslog.truncated"], true);
    assert_eq!(source.entries(1).await[0].head.generation, 1);
    assert_eq!(source.entries(4).await.last().unwrap().head.generation, 2);
    assert_eq!(source.stop().await.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_messages_keep_their_order() {
    let source = Running::start(&KIND, "listen = \"127.0.0.1:0\"\nprotocol = \"tcp\"");
    let address = source.address().await;
    let send = async |name: &'static str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for i in 0..2_000 {
            let message = format!("<13>{name}[1]: {i:05} {}", "x".repeat(200));
            stream.write_all(format!("{} {message}", message.len()).as_bytes()).await.unwrap();
        }
        stream.shutdown().await.unwrap();
    };
    tokio::join!(send("a"), send("b"));
    let rows = source.rows(4_000).await;
    for name in ["a", "b"] {
        let of = rows.iter().filter(|r| r["service.name"] == name);
        let numbers: Vec<u32> =
            of.map(|r| r["body"].as_str().unwrap()[..5].parse().unwrap()).collect();
        assert_eq!(numbers, (0..2_000).collect::<Vec<u32>>(), "{name}");
    }
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_is_kept_at_a_stop() {
    let source = Running::start(&KIND, "listen = \"127.0.0.1:0\"\nprotocol = \"tcp\"");
    let mut stream = TcpStream::connect(source.address().await).await.unwrap();
    stream.write_all(b"<13>one\n<13>two").await.unwrap();
    source.rows(1).await;
    assert_eq!(bodies(&source.stop().await), ["one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_takes_over() {
    let source = Running::start(&KIND, "listen = \"127.0.0.1:0\"\nprotocol = \"tcp\"");
    let mut stream = TcpStream::connect(source.address().await).await.unwrap();
    stream.write_all(b"<13>one\n").await.unwrap();
    source.rows(1).await;
    source.swap("listen = \"127.0.0.1:0\"\nprotocol = \"udp\"");
    let address = source.address().await;
    // The old connection is closed.
    let mut byte = [0];
    let closed = tokio::io::AsyncReadExt::read(&mut stream, &mut byte).await;
    assert!(matches!(closed, Ok(0) | Err(_)));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(b"<13>two", address).await.unwrap();
    assert_eq!(bodies(&source.rows(2).await), ["one", "two"]);
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["weir.test".to_owned()]).unwrap();
    let path = |name: &str, pem: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let cert = path("cert.pem", made.cert.pem());
    let key = path("key.pem", made.signing_key.serialize_pem());
    let toml = format!(
        "listen = \"127.0.0.1:0\"\nprotocol = \"tls\"\ntls = {{ cert = \"{}\", key = \"{}\" }}",
        cert.display(),
        key.display()
    );
    let source = Running::start(&KIND, &toml);
    let address = source.address().await;
    let options = TlsClient { ca: Some(cert), ..TlsClient::default() };
    let config = weir_pipeline::tls::client_config(&options).unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = TcpStream::connect(address).await.unwrap();
    let name = "weir.test".try_into().unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    stream.write_all(b"7 <13>one<13>two\n").await.unwrap();
    stream.flush().await.unwrap();
    let rows = source.rows(2).await;
    assert_eq!(bodies(&rows), ["one", "two"]);
    assert_eq!(rows[0]["network.peer.address"], "127.0.0.1");
    // What is not TLS is counted, and harms nobody else.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"<13>plain\n").await.unwrap();
    assert_eq!(source.rejected("tls").await, 1);
    stream.write_all(b"<13>three\n").await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(bodies(&source.rows(3).await)[2], "three");
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_journal_makes_senders_wait() {
    let toml = "listen = \"127.0.0.1:0\"\nprotocol = \"tcp\"";
    let source = Running::start_with(&KIND, toml, 1);
    let mut stream = TcpStream::connect(source.address().await).await.unwrap();
    stream.write_all(b"<13>one\n").await.unwrap();
    until(|| (source.metrics.read().errors > 0).then_some(())).await;
    assert_eq!(source.journal.head(), 0);
    stream.write_all(b"<13>two\n").await.unwrap();
    let mut options = source.journal.options();
    options.max_bytes = 1 << 30;
    source.journal.set_options(options);
    assert_eq!(bodies(&source.rows(2).await), ["one", "two"]);
    assert!(source.metrics.read().rejected.is_empty());
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_that_do_not_fit_are_counted() {
    let source = Running::start_with(&KIND, "listen = \"127.0.0.1:0\"", 1);
    let address = source.address().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (message, mut sent) = (vec![b'x'; 50_000], 0);
    while source.metrics.read().rejected.is_empty() {
        socket.send_to(&message, address).await.unwrap();
        sent += 1;
        tokio::task::yield_now().await;
        assert!(sent < 100_000, "nothing was dropped");
    }
    assert!(source.rejected("overflow").await > 0);
    let mut options = source.journal.options();
    options.max_bytes = 1 << 30;
    source.journal.set_options(options);
    // What waited is kept: 4 MiB of it.
    assert!(source.rows(80).await.len() >= 80);
    source.stop().await;
}
