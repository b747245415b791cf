#![allow(clippy::unwrap_used, clippy::expect_used)]

use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::KIND;
use crate::testing::{Running, planned};

/// A protobuf message in the making.
#[derive(Clone)]
pub(super) struct Message(pub(super) Vec<u8>);

impl Message {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    fn raw(&mut self, mut n: u64) {
        while n > 0x7f {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    pub(super) fn varint(mut self, field: u64, value: u64) -> Self {
        self.raw(field << 3);
        self.raw(value);
        self
    }

    pub(super) fn double(mut self, field: u64, value: f64) -> Self {
        self.raw(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.raw(field << 3 | 2);
        self.raw(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    pub(super) fn message(self, field: u64, message: Self) -> Self {
        self.bytes(field, &message.0)
    }

    /// Packed.
    pub(super) fn varints(self, field: u64, values: &[u64]) -> Self {
        let mut packed = Self::new();
        values.iter().for_each(|v| packed.raw(*v));
        self.message(field, packed)
    }

    /// Packed.
    pub(super) fn doubles(self, field: u64, values: &[f64]) -> Self {
        let packed: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.bytes(field, &packed)
    }
}

pub(super) fn sample(value: f64, time: i64) -> Message {
    Message::new().double(1, value).varint(2, time as u64)
}

pub(super) fn series(labels: &[(&str, &str)], samples: &[Message]) -> Message {
    let label = |(name, value): &(&str, &str)| {
        Message::new().bytes(1, name.as_bytes()).bytes(2, value.as_bytes())
    };
    let with_labels = labels.iter().fold(Message::new(), |m, l| m.message(1, label(l)));
    samples.iter().fold(with_labels, |m, s| m.message(2, s.clone()))
}

pub(super) fn request(series: &[Message]) -> Vec<u8> {
    series.iter().fold(Message::new(), |m, s| m.message(1, s.clone())).0
}

pub(super) fn snappy(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).unwrap()
}

#[test]
fn planning() {
    let check = |toml: &str, expect: &str| assert_eq!(planned(&KIND, toml), expect, "{toml}");
    check("listen = \"127.0.0.1:0\"", "");
    check("", "W013: component `source` needs `listen`");
    check("listen = \"x\"", "W015: `listen` is not an address: `x`");
    check(
        "listen = \"0.0.0.0:9090\"",
        "W060: `listen` can be reached from outside, without `tls` and `auth`",
    );
    check(
        "listen = \"127.0.0.1:0\"\nmax_request_bytes = 1",
        "W015: `max_request_bytes` is out of range: `1B`",
    );
}

const TOML: &str = "listen = \"127.0.0.1:0\"\nmax_request_bytes = \"1KiB\"";

async fn post(
    source: &Running,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (StatusCode, HeaderMap, String) {
    let url = format!("http://{}{path}", source.address().await);
    let mut request = http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let client = Client::builder(TokioExecutor::new()).build_http();
    let body = Full::new(bytes::Bytes::from(body));
    let response = client.request(request.body(body).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
}

/// As Prometheus sends.
const HEADERS: [(&str, &str); 3] = [
    ("content-type", "application/x-protobuf"),
    ("content-encoding", "snappy"),
    ("x-prometheus-remote-write-version", "0.1.0"),
];

#[tokio::test(flavor = "multi_thread")]
async fn answers() {
    let source = Running::start(&KIND, TOML);
    let good = || snappy(&request(&[series(&[("__name__", "up")], &[sample(1.0, 1_000)])]));
    let check = async |method: &str, path: &str, headers: &[(&str, &str)], body, expect: &str| {
        let (status, _, text) = post(&source, method, path, headers, body).await;
        assert_eq!(format!("{} {}", status.as_u16(), text.trim_end()), expect);
    };
    const WRITE: &str = "/api/v1/write";
    check("POST", WRITE, &HEADERS, good(), "204 ").await;
    check("POST", WRITE, &[], good(), "204 ").await;
    let v1 = [("content-type", "application/x-protobuf;proto=prometheus.WriteRequest")];
    check("POST", WRITE, &v1, good(), "204 ").await;
    check("POST", "/", &HEADERS, good(), "404 remote write is served at /api/v1/write").await;
    check("GET", WRITE, &HEADERS, good(), "405 remote write requests are POST").await;
    let v2 = [("content-type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")];
    let expect = "415 remote write 2.0 is not taken, expected `prometheus.WriteRequest` (1.0)";
    check("POST", WRITE, &v2, good(), expect).await;
    let json = [("content-type", "application/json")];
    let expect = "415 content type `application/json` is not remote write, expected \
                  `application/x-protobuf`";
    check("POST", WRITE, &json, good(), expect).await;
    let gzip = [("content-encoding", "gzip")];
    let expect = "415 content encoding `gzip` is not taken, expected `snappy`";
    check("POST", WRITE, &gzip, good(), expect).await;
    let expect = "413 the body is larger than 1024 bytes";
    check("POST", WRITE, &HEADERS, vec![0; 1025], expect).await;
    let (status, _, text) = post(&source, "POST", WRITE, &HEADERS, b"junk".to_vec()).await;
    assert!(status == 400 && text.starts_with("the body is not snappy"), "{status} {text}");
    let half = request(&[
        series(&[("job", "x")], &[sample(1.0, 1_000), sample(1.0, 2_000)]),
        series(&[("__name__", "half")], &[sample(1.0, 1_000)]),
    ]);
    let expect = "400 2 of 3 samples were left out, the others are kept: a series has no label \
                  `__name__`";
    check("POST", WRITE, &HEADERS, snappy(&half), expect).await;
    // Nothing to keep is fine, too.
    check("POST", WRITE, &HEADERS, snappy(b""), "204 ").await;
    let rows = source.stop().await;
    let names: Vec<_> = rows.iter().map(|r| r["metric.name"].as_str().unwrap()).collect();
    assert_eq!(names, ["up", "up", "up", "half"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_write() {
    let source = Running::start(&KIND, TOML);
    let token = source.dir().join("token");
    std::fs::write(&token, "sesame").unwrap();
    source.swap(&format!("{TOML}\nauth = {{ bearer = [\"file:{}\"] }}", token.display()));
    let body = || snappy(&request(&[series(&[("__name__", "up")], &[sample(1.0, 1_000)])]));
    let (status, headers, _) = post(&source, "POST", "/api/v1/write", &HEADERS, body()).await;
    assert_eq!(
        (status.as_u16(), &headers["www-authenticate"]),
        (401, &"Bearer realm=\"weir\"".parse().unwrap())
    );
    let with = [("authorization", "Bearer sesame")];
    let (status, ..) = post(&source, "POST", "/api/v1/write", &with, body()).await;
    assert_eq!(status, 204);
    assert_eq!(source.rejected("unauthorized").await, 1);
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_journal_says_when_to_come_back() {
    let source = Running::start_with(&KIND, "listen = \"127.0.0.1:0\"", 1);
    let body = snappy(&request(&[series(&[("__name__", "up")], &[sample(1.0, 1_000)])]));
    let (status, headers, _) = post(&source, "POST", "/api/v1/write", &HEADERS, body).await;
    assert_eq!((status.as_u16(), &headers["retry-after"]), (503, &"5".parse().unwrap()));
    source.stop().await;
}
