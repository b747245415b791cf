//! Requests that are no requests.

use std::io::{Read, Write};
use std::net::TcpStream;

use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message;

use super::Bench;
use crate::durability::remote_write;
use crate::harness::request;

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

/// One log record.
fn protobuf(body: &str) -> Vec<u8> {
    let body = AnyValue { value: Some(any_value::Value::StringValue(body.to_owned())) };
    let record = LogRecord { body: Some(body), ..LogRecord::default() };
    let scope = ScopeLogs { log_records: vec![record], ..ScopeLogs::default() };
    let resource = ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![resource] }.encode_to_vec()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn refused_with_a_reason() {
    let mut bench = Bench::start();
    let whole = protobuf("never kept");
    let truncated = &whole[..whole.len() - 3];
    // Not UTF-8 within a string field.
    let mut latin1 = whole.clone();
    let at = latin1.windows(5).position(|w| w == b"never").unwrap();
    latin1[at] = 0xe9;
    let nested = format!(
        r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{}{{"stringValue":"never kept"}}{}}}]}}]}}]}}"#,
        r#"{"arrayValue":{"values":["#.repeat(5_000),
        "]}}".repeat(5_000)
    );
    let not_gzip = b"this is not gzip".to_vec();
    let cut_gzip = gzip(&whole)[..20].to_vec();
    #[rustfmt::skip]
    let cases: [(&str, &str, &str, &str, &[u8], u16, &str); 14] = [
        // What, path, content type, encoding, body, status, part of the answer.
        ("truncated", "/v1/logs", PROTOBUF, "", truncated, 400, "protobuf"),
        ("no protobuf", "/v1/logs", PROTOBUF, "", b"\xff\xff\xff\xff", 400, "protobuf"),
        ("not UTF-8", "/v1/logs", PROTOBUF, "", &latin1, 400, "UTF-8"),
        ("JSON as protobuf", "/v1/logs", PROTOBUF, "", b"{\"resourceLogs\":[]}", 400, "protobuf"),
        ("protobuf as JSON", "/v1/logs", JSON, "", &whole, 400, "JSON"),
        ("broken JSON", "/v1/logs", JSON, "", b"{\"resourceLogs\":[{]}", 400, "JSON"),
        ("no object", "/v1/metrics", JSON, "", b"[1, 2]", 400, ""),
        ("too deep", "/v1/logs", JSON, "", nested.as_bytes(), 400, ""),
        ("content type", "/v1/logs", "text/csv", "", &whole, 415, "text/csv"),
        ("no content type", "/v1/logs", "", "", &whole, 415, "content type"),
        ("encoding", "/v1/logs", PROTOBUF, "br", &whole, 415, "br"),
        ("not gzip", "/v1/logs", PROTOBUF, "gzip", &not_gzip, 400, "gzip"),
        ("cut gzip", "/v1/logs", PROTOBUF, "gzip", &cut_gzip, 400, "gzip"),
        ("path", "/v1/nothing", PROTOBUF, "", &whole, 404, "/v1/logs"),
    ];
    for (what, path, content_type, encoding, body, status, part) in cases {
        let headers = [("content-type", content_type), ("content-encoding", encoding)];
        let headers: Vec<_> = headers.into_iter().filter(|(_, v)| !v.is_empty()).collect();
        let reply = request("POST", &format!("{}{path}", bench.otlp), &headers, body.into());
        assert_eq!(reply.status, status, "{what}: {}", reply.text());
        assert!(reply.text().contains(part), "{what}: {}", reply.text());
        bench.good();
    }
    let reply = request("DELETE", &format!("{}/v1/logs", bench.otlp), &[], Vec::new());
    assert_eq!(reply.status, 405, "{}", reply.text());
    assert_eq!(reply.headers["allow"], "POST");
    // Nothing of what was refused is kept.
    assert_eq!(bench.server.sql("SELECT * FROM logs WHERE body <> 'good'").len(), 0);
    bench.finish();
}

#[test]
fn remote_write_is_refused_with_a_reason() {
    let bench = Bench::start();
    let whole = remote_write::body("jobs", "queue", &[("a", 1.0)]);
    // Snappy says at the start how long it is: 4 GiB here.
    let boast = b"\xff\xff\xff\xff\x0f\x00abc".to_vec();
    let snappy = |bytes: &[u8]| snap::raw::Encoder::new().compress_vec(bytes).unwrap();
    let (garbage, empty_name) =
        (snappy(b"\xff\xff\xff"), remote_write::body("", "a", &[("b", 1.0)]));
    #[rustfmt::skip]
    let cases: [(&str, &[u8], u16, &str); 5] = [
        ("cut", &whole[..whole.len() - 4], 400, "snappy"),
        ("not snappy", b"\x05hello", 400, "snappy"),
        ("4 GiB", &boast, 413, ""),
        ("no protobuf", &garbage, 400, "protobuf"),
        ("no name", &empty_name, 400, "name"),
    ];
    for (what, body, status, part) in cases {
        let reply = request("POST", &bench.write, &remote_write::HEADERS, body.into());
        assert_eq!(reply.status, status, "{what}: {}", reply.text());
        assert!(reply.text().contains(part), "{what}: {}", reply.text());
    }
    let reply = request("POST", &bench.write, &remote_write::HEADERS, whole);
    assert_eq!(reply.status, 204, "{}", reply.text());
    bench.server.wait_sql("SELECT * FROM metrics", |r| r.len() == 1 && r[0]["queue"] == "a");
    bench.finish();
}

/// What bodies above the limits may take in memory: far below the gigabyte that they are.
const MEMORY: u64 = 400 << 20;

#[test]
fn gzip_bomb() {
    let mut bench = Bench::start();
    let before = bench.memory();
    // Sixteen members that are each above the limit of 64 MiB: a gigabyte in all.
    let bomb = gzip(&vec![0; 65 << 20]).repeat(16);
    let headers = [("content-type", PROTOBUF), ("content-encoding", "gzip")];
    let reply = request("POST", &format!("{}/v1/logs", bench.otlp), &headers, bomb);
    assert_eq!(reply.status, 413, "{}", reply.text());
    bench.good();
    let grown = bench.memory() - before;
    assert!(grown < MEMORY, "grew by {grown} bytes");
    bench.finish();
}

#[test]
fn body_of_a_gigabyte() {
    let mut bench = Bench::start();
    let before = bench.memory();
    let head = format!("POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\n");
    // Announced: refused before it is sent.
    let mut stream = connect(&bench);
    write!(stream, "{head}content-length: 1073741824\r\n\r\n").unwrap();
    assert!(first_line(&mut stream).contains("413"));
    // Not announced: cut off where it passes the limit of 16 MiB.
    let mut stream = connect(&bench);
    write!(stream, "{head}transfer-encoding: chunked\r\n\r\n").unwrap();
    let chunk = [b"100000\r\n".as_slice(), &[0; 1 << 20], b"\r\n"].concat();
    let sent = (0..1024).take_while(|_| stream.write_all(&chunk).is_ok()).count();
    assert!(sent < 64, "took {sent} MiB");
    bench.good();
    // Broken off: nothing is kept of it.
    let mut stream = connect(&bench);
    write!(stream, "{head}content-length: 1000\r\n\r\nabc").unwrap();
    drop(stream);
    bench.good();
    let grown = bench.memory() - before;
    assert!(grown < MEMORY, "grew by {grown} bytes");
    bench.finish();
}

fn connect(bench: &Bench) -> TcpStream {
    let stream = TcpStream::connect(bench.server.address("otlp")).unwrap();
    stream.set_read_timeout(Some(crate::harness::DEADLINE)).unwrap();
    stream.set_write_timeout(Some(crate::harness::DEADLINE)).unwrap();
    stream
}

fn first_line(stream: &mut TcpStream) -> String {
    let mut answer = [0; 64];
    let read = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}
