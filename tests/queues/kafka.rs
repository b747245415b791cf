//! A real broker of the Kafka protocol: Tansu, which keeps its topics in SQLite.

use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use rskafka::chrono::{DateTime, Utc};
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::{Record, RecordAndOffset};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{assert_each_once, send, tls, wait_source};
use crate::durability::load::SOURCES;
use crate::harness::{Program, Server, free_port, tool, wait};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// Records of one burst.
const BURST: i64 = 600;
/// Partitions of a topic.
const PARTITIONS: i32 = 3;
/// Records of one request.
const REQUEST: i64 = 50;
/// What a server of tests takes for requests of its administration, ms.
const TIMEOUT_MS: i32 = 10_000;

/// A request that has no answer within this time is made anew.
const ANSWER: Duration = Duration::from_secs(10);

/// When records of tests are from, ms.
const RECORD_MS: i64 = 1_700_000_000_123;

struct Kafka {
    folder: TempDir,
    port: u16,
    /// Where clients are told to go.
    advertised: u16,
    options: Vec<String>,
    program: Option<Program>,
}

impl Kafka {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let port = free_port();
        let (advertised, options) = (port, Vec::new());
        let mut kafka = Self { folder, port, advertised, options, program: None };
        kafka.restart();
        kafka
    }

    fn restart(&mut self) {
        let url = |port: u16| format!("tcp://127.0.0.1:{port}");
        let mut command = Command::new(tool("tansu"));
        command
            .args(["broker", "--storage-engine", "sqlite://tansu.db"])
            .args(["--listener-url", &url(self.port)])
            .args(["--advertised-listener-url", &url(self.advertised)])
            .args(&self.options)
            .current_dir(self.folder.path());
        let log = self.folder.path().join("log");
        self.program = Some(Program::start("tansu", &mut command, &log));
        wait("tansu listens", || std::net::TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    /// `kill -9`.
    fn kill(&mut self) {
        drop(self.program.take());
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn client(&self) -> Client {
        wait("a client", || within(ClientBuilder::new(vec![self.address()]).build())?.ok())
    }

    fn create(&self, topic: &str) {
        wait("the topic is created", || {
            let controller = self.client().controller_client().ok()?;
            match within(controller.create_topic(topic, PARTITIONS, 1, TIMEOUT_MS))? {
                Err(Error::ServerError { protocol_error, .. }) => {
                    (protocol_error == ProtocolError::TopicAlreadyExists).then_some(())
                }
                other => other.ok(),
            }
        });
    }

    fn delete(&self, topic: &str) {
        wait("the topic is deleted", || {
            let controller = self.client().controller_client().ok()?;
            let deleted = within(controller.delete_topic(topic, TIMEOUT_MS));
            let topics = within(self.client().list_topics())?.ok()?;
            let gone = topics.iter().all(|t| t.name != topic);
            (gone && deleted.is_some()).then_some(())
        });
    }

    fn partition(&self, topic: &str, number: i32) -> PartitionClient {
        wait("a partition", || {
            let client = self.client();
            within(client.partition_client(topic, number, UnknownTopicHandling::Error))?.ok()
        })
    }

    /// Sends records once: Tansu closes connections, or does not answer, while it makes a topic anew.
    fn send(&self, topic: &str, number: i32, records: &[Record], compression: Compression) {
        let newest =
            |partition: &PartitionClient| within(partition.get_offset(OffsetAt::Latest))?.ok();
        let before = wait("the end of a partition", || newest(&self.partition(topic, number)));
        wait("records are taken", || {
            let partition = self.partition(topic, number);
            if newest(&partition)? > before {
                return Some(());
            }
            within(partition.produce(records.to_vec(), compression))?.ok().map(|_| ())
        });
    }

    /// Writes `{"n": ...}` for each number, in turn to the partitions, each request compressed in
    /// another way.
    fn produce(&self, topic: &str, numbers: std::ops::Range<i64>) {
        self.produce_at(topic, numbers, |_| RECORD_MS);
    }

    /// The same, each at a time of its own, in milliseconds.
    fn produce_at(&self, topic: &str, numbers: std::ops::Range<i64>, time: impl Fn(i64) -> i64) {
        // Not snappy: Tansu 0.6 takes it in a framing of Java alone.
        let ways =
            [Compression::NoCompression, Compression::Gzip, Compression::Lz4, Compression::Zstd];
        let numbers: Vec<i64> = numbers.collect();
        for (turn, some) in numbers.chunks(REQUEST as usize).enumerate() {
            let records = some.iter().map(|n| {
                let body = json!({"n": n, "service": {"name": "web"}});
                let timestamp = DateTime::<Utc>::from_timestamp_millis(time(*n)).unwrap();
                Record {
                    timestamp,
                    ..record(Some(&format!("key {n}")), body.to_string().as_bytes())
                }
            });
            let records: Vec<Record> = records.collect();
            self.send(topic, turn as i32 % PARTITIONS, &records, ways[turn % ways.len()]);
        }
    }

    /// All records of a partition.
    fn read(&self, topic: &str, number: i32) -> Vec<RecordAndOffset> {
        let partition = self.partition(topic, number);
        RUNTIME.block_on(async {
            let end = partition.get_offset(OffsetAt::Latest).await.unwrap();
            let mut next = partition.get_offset(OffsetAt::Earliest).await.unwrap();
            let mut all = Vec::new();
            while next < end {
                let (some, _) = partition.fetch_records(next, 1..1 << 20, 500).await.unwrap();
                next = some.last().map_or(next, |r| r.offset + 1);
                all.extend(some);
            }
            all
        })
    }
}

/// What comes of a request, if anything within a while: the client itself tries for ever.
fn within<T>(request: impl Future<Output = T>) -> Option<T> {
    RUNTIME.block_on(async { tokio::time::timeout(ANSWER, request).await }).ok()
}

fn record(key: Option<&str>, value: &[u8]) -> Record {
    Record {
        key: key.map(|k| k.as_bytes().to_vec()),
        value: Some(value.to_vec()),
        headers: [("h".to_owned(), b"v".to_vec())].into(),
        timestamp: DateTime::<Utc>::from_timestamp_millis(RECORD_MS).unwrap(),
    }
}

/// What lay there for long is not late by its own time, whatever the order in which partitions are
/// read, and whoever dies meanwhile.
#[test]
fn windows_go_by_the_times_of_records() {
    let kafka = Kafka::start();
    kafka.create("orders");
    let second = |n: i64| RECORD_MS / 10_000 * 10_000 + n * 1_000;
    kafka.produce_at("orders", 0..BURST, second);
    let pipeline = reads(&kafka, "[\"orders\"]", "")
        + r#"
[operators.count]
type = "window"
inputs = ["orders.logs"]
every = "10s"
aggregate = { rows = "count(*)" }

[sinks.windows]
type = "store"
inputs = ["count"]
table = "windows"

[sinks.late]
type = "store"
inputs = ["count.late"]
table = "late"
"#;
    let mut server = Server::start(&[("work", &pipeline)], None);
    server.wait_sql("SELECT 1 FROM windows", |rows| rows.len() > 5);
    server.kill9();
    server.restart();
    kafka.produce_at("orders", BURST..2 * BURST, second);
    // What ends the last of them, in each partition.
    let end = 2 * BURST..2 * BURST + REQUEST * i64::from(PARTITIONS);
    kafka.produce_at("orders", end, |_| second(10 * BURST));
    let sum = "SELECT sum(rows) AS n FROM windows";
    server.wait_sql(sum, |rows| rows[0]["n"].as_i64() == Some(2 * BURST));
    let windows = server.sql("SELECT rows FROM windows");
    assert_eq!(windows.len() as i64, 2 * BURST / 10);
    assert!(windows.iter().all(|w| w["rows"] == 10), "{windows:?}");
    assert_eq!(server.sql("SELECT count(*) AS n FROM late")[0]["n"], 0);
}

/// A pipeline that keeps what a source reads.
fn reads(kafka: &Kafka, topics: &str, further: &str) -> String {
    format!(
        "[sources.orders]\ntype = \"kafka\"\nendpoints = [\"{}\"]\ntopics = {topics}\n{further}\n\n\
         [sinks.rows]\ntype = \"store\"\ninputs = [\"orders.logs\"]\ntable = \"rows\"\n",
        kafka.address()
    )
}

#[test]
fn each_record_is_there_once_whoever_dies() {
    let mut kafka = Kafka::start();
    kafka.create("orders");
    let text = reads(&kafka, "[\"orders\"]", "");
    let mut server = Server::start(&[("work", &text)], None);
    for turn in 0..3 {
        kafka.produce("orders", turn * BURST..(turn + 1) * BURST);
        let some = format!("SELECT n FROM rows WHERE n >= {} LIMIT 1", turn * BURST);
        server.wait_sql(&some, |rows| !rows.is_empty());
        server.kill9();
        server.restart();
    }
    assert_each_once(&server, "rows", 3 * BURST);

    kafka.kill();
    wait_source(&server, "orders", |s| s["ways"].to_string().contains("\"no_answer\""));
    kafka.restart();
    kafka.produce("orders", 3 * BURST..4 * BURST);
    assert_each_once(&server, "rows", 4 * BURST);
    let read = wait_source(&server, "orders", |s| s["ways"].to_string().contains("\"behind\":0"));
    assert_eq!(read["rejected"], json!({}), "{read}");

    let sql = "SELECT *, service.name AS service FROM rows WHERE n = 0";
    let row = server.sql(sql).swap_remove(0);
    for (name, value) in [
        ("service", json!("web")),
        ("timestamp", json!("2023-11-14T22:13:20.123000000Z")),
        ("messaging.system", json!("kafka")),
        ("messaging.destination.name", json!("orders")),
        ("messaging.destination.partition.id", json!("0")),
        ("messaging.kafka.offset", json!(0)),
        ("messaging.kafka.message.key", json!("key 0")),
        ("messaging.message.header.h", json!("v")),
    ] {
        assert_eq!(row[name], value, "{name} of {row}");
    }
}

#[test]
fn bad_records_hold_up_nothing_and_topics_may_come_later() {
    let kafka = Kafka::start();
    kafka.create("orders");
    let text = reads(&kafka, "[\"orders\", \"late\"]", "max_record_bytes = \"1KiB\"");
    let server = Server::start(&[("work", &text)], None);
    let read = wait_source(&server, "orders", |s| s["ways"].to_string().contains("no_answer"));
    assert!(read["ways"].to_string().contains("there is no topic `late`"), "{read}");
    let bodies: [&[u8]; 6] =
        [b"{\"n\":0}", b"{\"n\":", b"\xff\x00\xfe", b"", &[b'x'; 2_000], b"{\"n\":1}"];
    let records: Vec<Record> = bodies.iter().map(|body| record(None, body)).collect();
    kafka.send("orders", 0, &records, Compression::Zstd);
    let rows = server.wait_sql("SELECT * FROM rows ORDER BY messaging.kafka.offset", |rows| {
        rows.len() == bodies.len()
    });
    let errors = rows.iter().map(|r| r["messaging.message.error"].is_string());
    assert_eq!(errors.collect::<Vec<_>>(), [false, true, true, true, true, false]);
    let read = wait_source(&server, "orders", |s| !s["rejected"]["too_large"].is_null());
    assert_eq!(read["rejected"], json!({"malformed": 3, "too_large": 1}), "{read}");

    kafka.create("late");
    kafka.produce("late", 2..10);
    server.wait_sql("SELECT n FROM rows WHERE n IS NOT NULL", |rows| rows.len() == 10);
}

#[test]
fn a_topic_made_anew_is_told() {
    let kafka = Kafka::start();
    kafka.create("orders");
    kafka.produce("orders", 0..300);
    let text = reads(&kafka, "[\"orders\"]", "");
    let mut server = Server::start(&[("work", &text)], None);
    assert_each_once(&server, "rows", 300);
    server.stop();
    kafka.delete("orders");
    kafka.create("orders");
    kafka.produce("orders", 300..310);
    server.restart();
    assert_each_once(&server, "rows", 310);
    assert!(server.stderr().contains("made anew"), "it is told");
    // And while it is read.
    let told = server.stderr().matches("made anew").count();
    kafka.delete("orders");
    kafka.create("orders");
    wait("it is told again", || {
        (server.stderr().matches("made anew").count() > told).then_some(())
    });
    kafka.produce("orders", 310..320);
    assert_each_once(&server, "rows", 320);
}

#[test]
fn only_what_comes_from_now_on_also_if_weir_was_away() {
    let kafka = Kafka::start();
    kafka.create("orders");
    kafka.produce("orders", 1000..1200);
    let text = reads(&kafka, "[\"orders\"]", "start = \"newest\"");
    let mut server = Server::start(&[("work", &text)], None);
    wait_source(&server, "orders", |s| s["ways"].to_string().contains("behind"));
    server.kill9();
    kafka.produce("orders", 0..100);
    server.restart();
    assert_each_once(&server, "rows", 100);
}

/// A pipeline that writes logs, by their service.
fn writes(kafka: &Kafka, further: &str) -> String {
    format!(
        "[sinks.topic]\ntype = \"kafka\"\ninputs = [\"otlp.logs\"]\nendpoints = [\"{}\"]\n\
         topic = \"logs\"\ncreate = {{ partitions = {PARTITIONS} }}\n{further}\n",
        kafka.address()
    )
}

#[test]
fn a_topic_has_each_row_whoever_dies() {
    let mut kafka = Kafka::start();
    let text = writes(&kafka, "key = \"n % 7\"");
    let mut server = Server::start(&[("sources", SOURCES), ("work", &text)], None);
    let bursts = |server: &Server, bursts: std::ops::Range<i64>| {
        bursts.for_each(|b| send(server, b * 50..(b + 1) * 50));
    };
    bursts(&server, 0..10);
    let there = |kafka: &Kafka, count: i64| {
        wait("the topic has everything", || {
            let all: Vec<Vec<(String, i64)>> = (0..PARTITIONS)
                .map(|number| kafka.read("logs", number).iter().map(keyed).collect())
                .collect();
            let mut numbers: Vec<i64> = all.iter().flatten().map(|(_, n)| *n).collect();
            numbers.sort_unstable();
            numbers.dedup();
            (numbers == (0..count).collect::<Vec<_>>()).then_some(all)
        })
    };
    wait("the topic is there", || {
        let topics = RUNTIME.block_on(kafka.client().list_topics()).unwrap();
        topics.iter().any(|t| t.name == "logs").then_some(())
    });
    there(&kafka, 500);
    server.kill9();
    server.restart();
    bursts(&server, 10..15);
    there(&kafka, 750);
    kafka.kill();
    bursts(&server, 15..20);
    kafka.restart();
    let all = there(&kafka, 1_000);
    // A key has one partition; the first time that its rows come they are in order.
    for key in 0..7 {
        let key = key.to_string();
        let of: Vec<Vec<i64>> = all
            .iter()
            .map(|p| p.iter().filter(|(k, _)| *k == key).map(|(_, n)| *n).collect())
            .collect();
        assert_eq!(of.iter().filter(|rows: &&Vec<i64>| !rows.is_empty()).count(), 1, "{key}");
        let mut seen = std::collections::BTreeSet::new();
        let new = |n: &&i64| seen.insert(**n);
        let first: Vec<i64> = of.iter().flatten().filter(new).copied().collect();
        assert!(first.is_sorted(), "{key}: {first:?}");
    }
}

fn keyed(record: &RecordAndOffset) -> (String, i64) {
    let value: Value = serde_json::from_slice(record.record.value.as_ref().unwrap()).unwrap();
    let key = record.record.key.clone().unwrap_or_default();
    (String::from_utf8(key).unwrap(), value["n"].as_i64().unwrap())
}

#[test]
fn what_the_sink_writes_the_source_reads() {
    let kafka = Kafka::start();
    let text = format!(
        "{}\n[sinks.direct]\ntype = \"store\"\ninputs = [\"otlp.logs\"]\ntable = \"direct\"\n\n{}",
        writes(&kafka, ""),
        reads(&kafka, "[\"logs\"]", "create = { partitions = 3 }")
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

#[test]
fn over_tls() {
    let mut kafka = Kafka::start();
    tls::certificates(kafka.folder.path());
    kafka.kill();
    kafka.advertised = tls::in_front(&RUNTIME, kafka.folder.path(), kafka.port);
    kafka.restart();
    let ca = kafka.folder.path().join("ca.pem");
    let with = |tls: &str| {
        let further = format!("create = {{ partitions = 3 }}\n{tls}");
        let read = reads(&kafka, "[\"logs\"]", &further);
        let text = format!("{}\n{read}", writes(&kafka, tls));
        text.replace(&kafka.address(), &format!("127.0.0.1:{}", kafka.advertised))
    };
    let text = with(&format!("tls = {{ ca = \"{}\" }}", ca.display()));
    let mut server = Server::start(&[("sources", SOURCES), ("work", &text)], None);
    send(&server, 0..100);
    assert_each_once(&server, "rows", 100);
    // A certificate of somebody else.
    server.stop();
    server.write("work", &with("tls = {}"));
    server.restart();
    wait_source(&server, "orders", |s| s["ways"].to_string().contains("certificate"));
}

#[test]
fn a_user_by_scram() {
    const PASSWORD: &str = "pa55word-of-the-test";
    let mut kafka = Kafka::start();
    kafka.create("orders");
    kafka.produce("orders", 0..100);
    let broker = format!("tcp://{}", kafka.address());
    let made = Command::new(tool("tansu"))
        .args(["user", "create", "--mechanism", "scram512", "--broker", &broker, "weir", PASSWORD])
        .status();
    assert!(made.unwrap().success());
    kafka.kill();
    kafka.options = vec!["--authentication".to_owned()];
    kafka.restart();
    let auth = "auth = { basic = { username = \"weir\", password = \"env:KAFKA_PASSWORD\" }, \
                mechanism = \"scram_sha512\" }";
    let text = reads(&kafka, "[\"orders\"]", auth);
    let wrong = [("KAFKA_PASSWORD", "wr0ng-password")];
    let mut server = Server::start_with(&[("work", &text)], None, &wrong);
    wait_source(&server, "orders", |s| s["ways"].to_string().contains("no_answer"));
    assert!(!server.stderr().contains("wr0ng-password"), "a secret is logged");
    server.set("KAFKA_PASSWORD", PASSWORD);
    server.restart();
    assert_each_once(&server, "rows", 100);
    assert!(!server.stderr().contains(PASSWORD), "a secret is logged");
}
