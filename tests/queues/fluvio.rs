//! Fluvio: a peer that speaks its protocol, in a process of its own, and the client of Fluvio itself as
//! the one that writes and reads beside Weir.

mod peer;

use std::sync::LazyLock;
use std::time::Duration;

use fluvio::consumer::{ConsumerConfigExt, ConsumerConfigExtBuilder};
use fluvio::metadata::topic::TopicSpec;
use fluvio::{
    Compression, Fluvio, FluvioClusterConfig, Offset, RecordKey, TopicProducerConfig,
    TopicProducerConfigBuilder,
};
use futures::StreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{assert_each_once, assert_numbers, send, tls, wait_source};
use crate::durability::load::SOURCES;
use crate::harness::{Server, wait};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// Records of one burst.
const BURST: i64 = 600;
/// Partitions of a topic.
const PARTITIONS: u32 = 3;
/// Records that are sent in one go.
const REQUEST: i64 = 50;
const WAYS: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Lz4,
    Compression::Snappy,
    Compression::Zstd,
];

struct Cluster {
    folder: TempDir,
    peer: peer::Running,
}

impl Cluster {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let peer = peer::Running::start(folder.path(), false);
        Self { folder, peer }
    }

    fn client(&self) -> Fluvio {
        let config = FluvioClusterConfig::new(self.peer.address());
        RUNTIME.block_on(Fluvio::connect_with_config(&config)).unwrap()
    }

    fn create(&self, topic: &str) {
        let client = self.client();
        let spec = TopicSpec::new_computed(PARTITIONS, 1, None);
        RUNTIME.block_on(async {
            client.admin().await.create(topic.to_owned(), false, spec).await.unwrap();
        });
    }

    /// Writes `{"n": ...}` for each number, in turn to the partitions, each time compressed in another
    /// way.
    fn produce(&self, topic: &str, numbers: std::ops::Range<i64>) {
        let numbers: Vec<i64> = numbers.collect();
        let client = self.client();
        for (turn, some) in numbers.chunks(REQUEST as usize).enumerate() {
            let records = some.iter().map(|n| {
                let body = json!({"n": n, "service": {"name": "web"}});
                (Some(format!("key {n}")), body.to_string().into_bytes())
            });
            let partition = turn as u32 % PARTITIONS;
            let mut config = to(partition);
            config.compression(WAYS[turn % WAYS.len()]);
            put(&client, topic, config.build().unwrap(), records);
        }
    }

    fn put(&self, topic: &str, config: TopicProducerConfig, values: &[&[u8]]) {
        let values = values.iter().map(|v| (None, v.to_vec()));
        put(&self.client(), topic, config, values);
    }

    /// All records of a partition: keys and values.
    fn read(&self, topic: &str, partition: u32) -> Vec<(String, Value)> {
        let client = self.client();
        let config: ConsumerConfigExt = ConsumerConfigExtBuilder::default()
            .topic(topic)
            .partition(partition)
            .offset_start(Offset::beginning())
            .disable_continuous(true)
            .build()
            .unwrap();
        RUNTIME.block_on(async {
            let mut stream = client.consumer_with_config(config).await.unwrap();
            let mut all = Vec::new();
            while let Some(record) = stream.next().await {
                let record = record.unwrap();
                let key = record.key().map(|k| String::from_utf8_lossy(k).into_owned());
                let value = serde_json::from_slice(record.value()).unwrap();
                all.push((key.unwrap_or_default(), value));
            }
            all
        })
    }
}

fn put(
    client: &Fluvio,
    topic: &str,
    config: TopicProducerConfig,
    records: impl Iterator<Item = (Option<String>, Vec<u8>)>,
) {
    RUNTIME.block_on(async {
        let producer = client.topic_producer_with_config(topic, config).await.unwrap();
        for (key, value) in records {
            let key = key.map_or(RecordKey::NULL, RecordKey::from);
            producer.send(key, value).await.unwrap();
        }
        producer.flush().await.unwrap();
    });
}

/// For a partition; a batch is sent when it is full, or at the end.
fn to(partition: u32) -> TopicProducerConfigBuilder {
    let mut config = TopicProducerConfigBuilder::default();
    config.set_specific_partitioner(partition).linger(Duration::from_secs(60));
    config
}

/// A pipeline that keeps what a source reads.
fn reads(cluster: &Cluster, topics: &str, further: &str) -> String {
    format!(
        "[sources.orders]\ntype = \"fluvio\"\nendpoints = [\"{}\"]\ntopics = {topics}\n{further}\n\n\
         [sinks.rows]\ntype = \"store\"\ninputs = [\"orders.logs\"]\ntable = \"rows\"\n",
        cluster.peer.address()
    )
}

/// Fails if the peer is one only in our own eyes.
#[test]
fn the_peer_speaks_to_the_client_of_fluvio() {
    peer::serve_if_asked();
    let mut cluster = Cluster::start();
    cluster.create("orders");
    cluster.produce("orders", 0..BURST);
    cluster.peer.kill();
    cluster.peer.restart();
    let numbers = (0..PARTITIONS).flat_map(|n| cluster.read("orders", n));
    let numbers: Vec<i64> = numbers.map(|(_, value)| value["n"].as_i64().unwrap()).collect();
    assert_numbers("the topic", numbers, BURST);
}

#[test]
fn each_record_is_there_once_whoever_dies() {
    let mut cluster = Cluster::start();
    cluster.create("orders");
    let text = reads(&cluster, "[\"orders\"]", "");
    let mut server = Server::start(&[("work", &text)], None);
    for turn in 0..3 {
        cluster.produce("orders", turn * BURST..(turn + 1) * BURST);
        let some = format!("SELECT n FROM rows WHERE n >= {} LIMIT 1", turn * BURST);
        server.wait_sql(&some, |rows| !rows.is_empty());
        server.kill9();
        server.restart();
    }
    assert_each_once(&server, "rows", 3 * BURST);

    cluster.peer.kill();
    wait_source(&server, "orders", |s| s["ways"].to_string().contains("\"no_answer\""));
    cluster.peer.restart();
    cluster.produce("orders", 3 * BURST..4 * BURST);
    assert_each_once(&server, "rows", 4 * BURST);
    let read = wait_source(&server, "orders", |s| s["ways"].to_string().contains("\"behind\":0"));
    assert_eq!(read["rejected"], json!({}), "{read}");

    let sql = "SELECT *, service.name AS service FROM rows WHERE n = 0";
    let row = server.sql(sql).swap_remove(0);
    for (name, value) in [
        ("service", json!("web")),
        ("messaging.system", json!("fluvio")),
        ("messaging.destination.name", json!("orders")),
        ("messaging.destination.partition.id", json!("0")),
        ("messaging.fluvio.offset", json!(0)),
        ("messaging.fluvio.message.key", json!("key 0")),
    ] {
        assert_eq!(row[name], value, "{name} of {row}");
    }
}

#[test]
fn bad_records_hold_up_nothing_and_topics_may_come_later() {
    let cluster = Cluster::start();
    cluster.create("orders");
    let text = reads(&cluster, "[\"orders\", \"late\"]", "max_record_bytes = \"1KiB\"");
    let server = Server::start(&[("work", &text)], None);
    let read = wait_source(&server, "orders", |s| s["ways"].to_string().contains("no_answer"));
    assert!(read["ways"].to_string().contains("there is no topic `late`"), "{read}");
    let bodies: [&[u8]; 6] =
        [b"{\"n\":0}", b"{\"n\":", b"\xff\x00\xfe", b"", &[b'x'; 2_000], b"{\"n\":1}"];
    cluster.put("orders", to(0).build().unwrap(), &bodies);
    let rows = server.wait_sql("SELECT * FROM rows ORDER BY messaging.fluvio.offset", |rows| {
        rows.len() == bodies.len()
    });
    let errors = rows.iter().map(|r| r["messaging.message.error"].is_string());
    assert_eq!(errors.collect::<Vec<_>>(), [false, true, true, true, true, false]);
    let read = wait_source(&server, "orders", |s| !s["rejected"]["too_large"].is_null());
    assert_eq!(read["rejected"], json!({"malformed": 3, "too_large": 1}), "{read}");

    cluster.create("late");
    cluster.produce("late", 2..10);
    server.wait_sql("SELECT n FROM rows WHERE n IS NOT NULL", |rows| rows.len() == 10);
}

/// An answer ends at a number of bytes, not of batches, and a batch may be larger than that.
#[test]
fn batches_that_an_answer_cuts_off_are_read_whole() {
    const VALUE_BYTES: usize = 400_000;
    let cluster = Cluster::start();
    cluster.create("orders");
    let values: Vec<String> =
        (0..20).map(|n| json!({"n": n, "pad": "x".repeat(VALUE_BYTES)}).to_string()).collect();
    let values: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
    let (small, large) = values.split_at(10);
    for (values, batch_bytes) in [(small, VALUE_BYTES), (large, 8 * VALUE_BYTES)] {
        let mut config = to(0);
        config.batch_size(batch_bytes).max_request_size(32 << 20);
        cluster.put("orders", config.build().unwrap(), values);
    }
    let server = Server::start(&[("work", &reads(&cluster, "[\"orders\"]", ""))], None);
    assert_each_once(&server, "rows", 20);
}

#[test]
fn what_is_gone_is_told() {
    let mut cluster = Cluster::start();
    cluster.create("orders");
    cluster.produce("orders", 0..300);
    let text = reads(&cluster, "[\"orders\"]", "");
    let mut server = Server::start(&[("work", &text)], None);
    assert_each_once(&server, "rows", 300);
    server.stop();
    // 50 to each partition, with numbers that are missing then; and 30 behind them.
    cluster.produce("orders", 1_000..1_150);
    for (partition, numbers) in [(0, 300..310), (1, 310..320), (2, 320..330)] {
        let values: Vec<String> = numbers.map(|n| json!({"n": n}).to_string()).collect();
        let values: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
        cluster.put("orders", to(partition).build().unwrap(), &values);
    }
    cluster.peer.kill();
    (0..PARTITIONS).for_each(|number| cluster.forget_all_but_the_last(number));
    cluster.peer.restart();
    server.restart();
    assert_each_once(&server, "rows", 330);
    let read = wait_source(&server, "orders", |s| !s["rejected"]["gap"].is_null());
    assert_eq!(read["rejected"], json!({"gap": 150}), "{read}");
}

#[test]
fn a_topic_made_anew_is_told() {
    let cluster = Cluster::start();
    cluster.create("orders");
    cluster.produce("orders", 0..300);
    let text = reads(&cluster, "[\"orders\"]", "");
    let mut server = Server::start(&[("work", &text)], None);
    assert_each_once(&server, "rows", 300);
    // While it is read, and while nobody reads it.
    cluster.delete("orders");
    cluster.create("orders");
    cluster.produce("orders", 300..450);
    assert_each_once(&server, "rows", 450);
    server.stop();
    cluster.delete("orders");
    cluster.create("orders");
    cluster.produce("orders", 450..460);
    server.restart();
    assert_each_once(&server, "rows", 460);
    assert!(server.stderr().contains("made anew"), "it is told");
}

impl Cluster {
    fn delete(&self, topic: &str) {
        let client = self.client();
        RUNTIME.block_on(async {
            client.admin().await.delete::<TopicSpec>(topic.to_owned()).await.unwrap();
        });
        wait("the topic is gone", || {
            let client = self.client();
            let topics = RUNTIME.block_on(async { client.admin().await.all::<TopicSpec>().await });
            topics.unwrap().iter().all(|t| t.name != topic).then_some(())
        });
    }

    /// As [`what_is_gone_is_told`] writes it.
    fn forget_all_but_the_last(&self, number: u32) {
        let batches = self.peer.batches("orders", number);
        assert!(batches > 1, "there is nothing to forget");
        self.peer.forget("orders", number, batches - 1);
    }
}

#[test]
fn only_what_comes_from_now_on_also_if_weir_was_away() {
    let cluster = Cluster::start();
    cluster.create("orders");
    cluster.produce("orders", 1000..1200);
    let text = reads(&cluster, "[\"orders\"]", "start = \"newest\"");
    let mut server = Server::start(&[("work", &text)], None);
    wait_source(&server, "orders", |s| s["ways"].to_string().contains("behind"));
    server.kill9();
    cluster.produce("orders", 0..100);
    server.restart();
    assert_each_once(&server, "rows", 100);
}

/// A pipeline that writes logs.
fn writes(cluster: &Cluster, further: &str) -> String {
    format!(
        "[sinks.topic]\ntype = \"fluvio\"\ninputs = [\"otlp.logs\"]\nendpoints = [\"{}\"]\n\
         topic = \"logs\"\ncreate = {{ partitions = {PARTITIONS} }}\n{further}\n",
        cluster.peer.address()
    )
}

#[test]
fn a_topic_has_each_row_whoever_dies() {
    let mut cluster = Cluster::start();
    let text = writes(&cluster, "key = \"n % 7\"");
    let mut server = Server::start(&[("sources", SOURCES), ("work", &text)], None);
    let bursts = |server: &Server, bursts: std::ops::Range<i64>| {
        bursts.for_each(|b| send(server, b * 50..(b + 1) * 50));
    };
    bursts(&server, 0..10);
    let there = |cluster: &Cluster, count: i64| {
        wait("the topic has everything", || {
            let numbered = |(key, value): (String, Value)| (key, value["n"].as_i64().unwrap());
            let all: Vec<Vec<(String, i64)>> = (0..PARTITIONS)
                .map(|n| cluster.read("logs", n).into_iter().map(numbered).collect())
                .collect();
            let mut numbers: Vec<i64> = all.iter().flatten().map(|(_, n)| *n).collect();
            numbers.sort_unstable();
            numbers.dedup();
            (numbers == (0..count).collect::<Vec<_>>()).then_some(all)
        })
    };
    wait("the topic is there", || {
        let client = cluster.client();
        let topics = RUNTIME.block_on(async { client.admin().await.all::<TopicSpec>().await });
        topics.unwrap().iter().any(|t| t.name == "logs").then_some(())
    });
    there(&cluster, 500);
    server.kill9();
    server.restart();
    bursts(&server, 10..15);
    there(&cluster, 750);
    cluster.peer.kill();
    bursts(&server, 15..20);
    cluster.peer.restart();
    let all = there(&cluster, 1_000);
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
    assert_keys_go_where_fluvio_sends_them(&cluster, &all);
}

/// Lets the client of Fluvio itself write the same keys.
fn assert_keys_go_where_fluvio_sends_them(cluster: &Cluster, ours: &[Vec<(String, i64)>]) {
    cluster.create("theirs");
    let records = (0..7).map(|key| (Some(key.to_string()), b"{}".to_vec()));
    put(&cluster.client(), "theirs", TopicProducerConfig::default(), records);
    for (number, ours) in (0..PARTITIONS).zip(ours) {
        let mut ours: Vec<&String> = ours.iter().map(|(key, _)| key).collect();
        ours.sort();
        ours.dedup();
        let theirs = cluster.read("theirs", number);
        let mut theirs: Vec<&String> = theirs.iter().map(|(key, _)| key).collect();
        theirs.sort();
        assert_eq!(ours, theirs, "partition {number}");
    }
}

#[test]
fn what_the_sink_writes_the_source_reads() {
    let cluster = Cluster::start();
    let text = format!(
        "{}\n[sinks.direct]\ntype = \"store\"\ninputs = [\"otlp.logs\"]\ntable = \"direct\"\n\n{}",
        writes(&cluster, ""),
        reads(&cluster, "[\"logs\"]", "create = { partitions = 3 }")
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
    let folder = TempDir::new().unwrap();
    tls::certificates(folder.path());
    let peer = peer::Running::start(folder.path(), true);
    let cluster = Cluster { folder, peer };
    let ca = cluster.folder.path().join("ca.pem");
    let with = |tls: &str| {
        let further = format!("create = {{ partitions = 3 }}\n{tls}");
        let read = reads(&cluster, "[\"logs\"]", &further);
        format!("{}\n{read}", writes(&cluster, tls))
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
