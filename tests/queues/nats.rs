//! A real `nats-server` with JetStream.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use async_nats::jetstream::consumer::AckPolicy;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::stream::Config as StreamConfig;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, HeaderMap};
use futures::StreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{assert_each_once, assert_numbers, send, tls, wait_source};
use crate::durability::load::SOURCES;
use crate::harness::{Program, Server, free_port, program, wait};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// Messages of one burst.
const BURST: i64 = 3_000;

struct Nats {
    folder: TempDir,
    port: u16,
    config: Option<PathBuf>,
    program: Option<Program>,
}

impl Nats {
    fn start() -> Self {
        Self::start_with(|_| None)
    }

    /// With what `config` gives as text of a configuration file.
    fn start_with(config: impl Fn(&Path) -> Option<String>) -> Self {
        let folder = TempDir::new().unwrap();
        let text = config(folder.path());
        let config = text.map(|text| {
            let path = folder.path().join("nats.conf");
            std::fs::write(&path, text).unwrap();
            path
        });
        let mut nats = Self { folder, port: free_port(), config, program: None };
        nats.restart();
        nats
    }

    fn restart(&mut self) {
        let mut command = Command::new(program("nats-server"));
        command.args(["-js", "-a", "127.0.0.1", "-p", &self.port.to_string(), "-sd"]);
        command.arg(self.folder.path().join("data"));
        if let Some(config) = &self.config {
            command.arg("-c").arg(config);
        }
        let log = self.folder.path().join("log");
        self.program = Some(Program::start("nats-server", &mut command, &log));
        wait("nats-server listens", || std::net::TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    /// `kill -9`.
    fn kill(&mut self) {
        drop(self.program.take());
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A client of its own.
    fn client(&self, options: ConnectOptions) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        wait("a client is connected", || RUNTIME.block_on(options.clone().connect(self.url())).ok())
    }

    fn jetstream(&self) -> Context {
        self.jetstream_with(ConnectOptions::new())
    }

    fn jetstream_with(&self, options: ConnectOptions) -> Context {
        let client = self.client(options);
        let _entered = RUNTIME.enter();
        jetstream::new(client)
    }

    fn create(&self, name: &str, subject: &str) {
        let config = StreamConfig {
            name: name.to_owned(),
            subjects: vec![subject.to_owned()],
            ..StreamConfig::default()
        };
        RUNTIME.block_on(self.jetstream().create_stream(config)).unwrap();
    }

    /// Publishes `{"n": ...}` for each number, and waits until the stream has them.
    fn publish(&self, subject: &str, numbers: std::ops::Range<i64>) {
        publish(&self.jetstream(), subject, numbers);
    }

    /// All messages of a stream: subject, headers, payload.
    fn read(&self, name: &str) -> Vec<(String, HeaderMap, Value)> {
        let context = self.jetstream();
        RUNTIME.block_on(async {
            let mut stream = context.get_stream(name).await.unwrap();
            let count = stream.info().await.unwrap().state.messages as usize;
            // Nothing is acknowledged, so nothing comes twice.
            let config = PullConfig { ack_policy: AckPolicy::None, ..PullConfig::default() };
            let consumer = stream.create_consumer(config).await.unwrap();
            let messages = consumer.messages().await.unwrap().take(count);
            let read = messages.map(|m| {
                let m = m.unwrap();
                let value = serde_json::from_slice(&m.payload).unwrap();
                (m.subject.to_string(), m.headers.clone().unwrap_or_default(), value)
            });
            read.collect().await
        })
    }
}

fn publish(context: &Context, subject: &str, numbers: std::ops::Range<i64>) {
    let bodies = numbers.map(|n| json!({"n": n, "service": {"name": "web"}}).to_string());
    publish_all(context, subject, bodies.map(String::into_bytes));
}

fn publish_all(context: &Context, subject: &str, bodies: impl Iterator<Item = Vec<u8>>) {
    RUNTIME.block_on(async {
        let mut acknowledged = Vec::new();
        for body in bodies {
            acknowledged.push(context.publish(subject.to_owned(), body.into()).await.unwrap());
        }
        for one in acknowledged {
            one.await.unwrap();
        }
    });
}

/// A pipeline that keeps what a source reads.
fn reads(nats: &Nats, further: &str) -> String {
    format!(
        "[sources.events]\ntype = \"nats\"\nendpoints = [\"{}\"]\nstream = \"EVENTS\"\n{further}\n\n\
         [sinks.rows]\ntype = \"store\"\ninputs = [\"events.logs\"]\ntable = \"rows\"\n",
        nats.url()
    )
}

#[test]
fn each_message_is_there_once_whoever_dies() {
    let mut nats = Nats::start();
    nats.create("EVENTS", "events.>");
    let mut server = Server::start(&[("work", &reads(&nats, ""))], None);
    for turn in 0..3 {
        nats.publish("events.a", turn * BURST..(turn + 1) * BURST);
        let some = format!("SELECT n FROM rows WHERE n >= {} LIMIT 1", turn * BURST);
        server.wait_sql(&some, |rows| !rows.is_empty());
        server.kill9();
        server.restart();
    }
    assert_each_once(&server, "rows", 3 * BURST);

    nats.publish("events.c", 3 * BURST..4 * BURST);
    nats.kill();
    wait_source(&server, "events", |s| s["ways"].to_string().contains("\"no_answer\""));
    nats.restart();
    nats.publish("events.c", 4 * BURST..5 * BURST);
    assert_each_once(&server, "rows", 5 * BURST);
    let read = wait_source(&server, "events", |s| s["ways"].to_string().contains("\"behind\":0"));
    assert!(!read["ways"].to_string().contains("no_answer"), "{read}");
    assert_eq!(read["rejected"], json!({}), "{read}");

    let sql = "SELECT *, service.name AS service FROM rows WHERE n = 0";
    let row = server.sql(sql).swap_remove(0);
    for (name, value) in [
        ("service", json!("web")),
        ("messaging.system", json!("nats")),
        ("messaging.nats.stream", json!("EVENTS")),
        ("messaging.destination.name", json!("events.a")),
        ("messaging.nats.sequence", json!(1)),
    ] {
        assert_eq!(row[name], value, "{name} of {row}");
    }
}

#[test]
fn what_is_gone_or_made_anew_is_told() {
    let nats = Nats::start();
    nats.create("EVENTS", "events.>");
    let mut server = Server::start(&[("work", &reads(&nats, ""))], None);
    nats.publish("events.a", 0..10);
    assert_each_once(&server, "rows", 10);
    // Purged while Weir is away.
    server.stop();
    nats.publish("events.a", 100..107);
    let context = nats.jetstream();
    RUNTIME.block_on(async { context.get_stream("EVENTS").await.unwrap().purge().await.unwrap() });
    nats.publish("events.a", 10..20);
    server.restart();
    assert_each_once(&server, "rows", 20);
    let read = wait_source(&server, "events", |s| !s["rejected"]["gap"].is_null());
    assert_eq!(read["rejected"]["gap"], 7, "{read}");
    // Deleted and made anew while Weir looks: its numbers begin again.
    RUNTIME.block_on(context.delete_stream("EVENTS")).unwrap();
    nats.create("EVENTS", "events.>");
    nats.publish("events.a", 20..30);
    assert_each_once(&server, "rows", 30);
    let read = wait_source(&server, "events", |s| s["samples"].is_object());
    assert_eq!(read["rejected"]["gap"], 7, "{read}");
    assert!(server.stderr().contains("made anew"), "it is told");
}

#[test]
fn a_stream_of_a_backup_is_not_read_twice() {
    let mut nats = Nats::start();
    nats.create("EVENTS", "events.>");
    nats.publish("events.a", 0..10);
    let server = Server::start(&[("work", &reads(&nats, ""))], None);
    assert_each_once(&server, "rows", 10);
    nats.kill();
    let (data, backup) = (nats.folder.path().join("data"), nats.folder.path().join("backup"));
    let copy = |from: &Path, to: &Path| {
        let copied = Command::new("cp").arg("-a").args([from, to]).status();
        assert!(copied.unwrap().success());
    };
    copy(&data, &backup);
    nats.restart();
    nats.publish("events.a", 10..20);
    assert_each_once(&server, "rows", 20);
    nats.kill();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    nats.restart();
    wait("it is told", || server.stderr().contains("ends at 10").then_some(()));
    nats.publish("events.a", 20..30);
    assert_each_once(&server, "rows", 30);
}

#[test]
fn bad_messages_hold_up_nothing() {
    let nats = Nats::start();
    let text = reads(&nats, "max_record_bytes = \"1KiB\"\ncreate = { subjects = [\"events.>\"] }");
    let server = Server::start(&[("work", &text)], None);
    wait_source(&server, "events", |s| s["ways"].to_string().contains("behind"));
    let bodies: [&[u8]; 6] =
        [b"{\"n\":0}", b"{\"n\":", b"\xff\x00\xfe", b"", &[b'x'; 2_000], b"{\"n\":1}"];
    publish_all(&nats.jetstream(), "events.a", bodies.iter().map(|b| b.to_vec()));
    let rows = server.wait_sql("SELECT * FROM rows ORDER BY messaging.nats.sequence", |rows| {
        rows.len() == bodies.len()
    });
    let errors = rows.iter().map(|r| r["messaging.message.error"].is_string());
    assert_eq!(errors.collect::<Vec<_>>(), [false, true, true, true, true, false]);
    assert_eq!(rows[1]["body"], "{\"n\":");
    assert_eq!(rows[2]["messaging.message.raw"], "/wD+");
    let read = wait_source(&server, "events", |s| !s["rejected"]["too_large"].is_null());
    assert_eq!(read["rejected"], json!({"malformed": 3, "too_large": 1}), "{read}");
}

#[test]
fn only_what_comes_from_now_on_also_if_weir_was_away() {
    let nats = Nats::start();
    nats.create("EVENTS", "events.>");
    nats.publish("events.a", 100..200);
    let text = reads(&nats, "start = \"newest\"\nsubject = \"events.a\"");
    let mut server = Server::start(&[("work", &text)], None);
    wait_source(&server, "events", |s| s["ways"].to_string().contains("behind"));
    server.kill9();
    nats.publish("events.b", 200..300);
    nats.publish("events.a", 0..10);
    server.restart();
    assert_each_once(&server, "rows", 10);
}

#[test]
fn a_token_over_tls() {
    const TOKEN: &str = "t0ken-of-the-test";
    let nats = Nats::start_with(|folder| {
        tls::certificates(folder);
        let path = |name: &str| folder.join(name).display().to_string();
        Some(format!(
            "authorization {{ token: \"{TOKEN}\" }}\ntls {{ cert_file: \"{}\", key_file: \"{}\" }}\n",
            path("cert.pem"),
            path("key.pem")
        ))
    });
    let ca = nats.folder.path().join("ca.pem");
    let further = format!(
        "create = {{ subjects = [\"events.>\"] }}\nauth = {{ token = \"env:NATS_TOKEN\" }}\n\
         tls = {{ ca = \"{}\" }}\n",
        ca.display()
    );
    let text = reads(&nats, &further);
    let mut server = Server::start_with(&[("work", &text)], None, &[("NATS_TOKEN", "wr0ng-t0ken")]);
    let failing = wait_source(&server, "events", |s| s["ways"].to_string().contains("no_answer"));
    assert!(failing["ways"].to_string().contains("authorization violation"), "{failing}");
    assert!(!server.stderr().contains("wr0ng-t0ken"), "a secret is logged");
    server.set("NATS_TOKEN", TOKEN);
    server.restart();
    wait_source(&server, "events", |s| s["ways"].to_string().contains("behind"));
    let options = ConnectOptions::new().token(TOKEN.to_owned()).add_root_certificates(ca);
    publish(&nats.jetstream_with(options.require_tls(true)), "events.a", 0..50);
    assert_each_once(&server, "rows", 50);
    assert!(!server.stderr().contains(TOKEN), "a secret is logged");
}

#[test]
fn a_stream_has_each_row_once_whoever_dies() {
    let mut nats = Nats::start();
    let text = format!(
        "[sinks.bus]\ntype = \"nats\"\ninputs = [\"otlp.logs\"]\nendpoints = [\"{}\"]\n\
         subject_by = \"'logs.' || service.name\"\nstream = \"LOGS\"\n\
         create = {{ subjects = [\"logs.>\"], duplicate_window = \"10m\" }}\n",
        nats.url()
    );
    let mut server = Server::start(&[("sources", SOURCES), ("work", &text)], None);
    let there = |nats: &Nats, count: i64| {
        wait("the stream has everything", || {
            let context = nats.jetstream();
            let stream = RUNTIME.block_on(context.get_stream("LOGS")).ok()?;
            (stream.cached_info().state.messages as i64 >= count).then_some(())
        });
        let messages = nats.read("LOGS");
        assert_numbers("LOGS", messages.iter().map(|(.., v)| v["n"].as_i64().unwrap()), count);
        messages
    };
    for burst in 0..20 {
        send(&server, burst * 50..(burst + 1) * 50);
    }
    there(&nats, 1_000);
    // What was sent since the last checkpoint is sent again, under the same names.
    server.kill9();
    server.restart();
    for burst in 20..30 {
        send(&server, burst * 50..(burst + 1) * 50);
    }
    there(&nats, 1_500);
    nats.kill();
    for burst in 30..40 {
        send(&server, burst * 50..(burst + 1) * 50);
    }
    server.kill9();
    server.restart();
    nats.restart();
    let messages = there(&nats, 2_000);
    let (subject, headers, value) = &messages[0];
    assert_eq!(subject, "logs.my_web");
    assert!(headers.get("Nats-Msg-Id").is_some());
    assert_eq!((&value["service.name"], &value["body"]), (&json!("my web"), &json!("x")));
}

#[test]
fn what_the_sink_writes_the_source_reads() {
    let nats = Nats::start();
    let text = format!(
        "[sinks.bus]\ntype = \"nats\"\ninputs = [\"otlp.logs\"]\nendpoints = [\"{}\"]\n\
         subject = \"events.logs\"\n\n[sinks.direct]\ntype = \"store\"\ninputs = [\"otlp.logs\"]\n\
         table = \"direct\"\n\n{}",
        nats.url(),
        reads(&nats, "create = { subjects = [\"events.>\"] }")
    );
    let server = Server::start(&[("sources", SOURCES), ("work", &text)], None);
    send(&server, 0..100);
    assert_each_once(&server, "rows", 100);
    let of = |table: &str| {
        let columns = "n, timestamp, body, service.name";
        server.wait_sql(&format!("SELECT {columns} FROM {table} ORDER BY n"), |r| r.len() == 100)
    };
    assert_eq!(of("rows"), of("direct"));
}
