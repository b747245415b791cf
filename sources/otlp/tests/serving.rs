//! The running source, over real sockets and a real journal.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weir_pipeline::component::{Listen, SourceContext, SourcePlan, SourceSettings};
use weir_pipeline::config::{Scope, Section};
use weir_pipeline::intake::Intake;
use weir_pipeline::journal::{Journal, JournalOptions};
use weir_pipeline::listen::Listeners;
use weir_pipeline::telemetry::ComponentMetrics;

use super::super::KIND;
use super::super::reply::Status;
use super::*;

/// A source with a journal of its own.
struct Running {
    journal: Journal,
    metrics: Arc<ComponentMetrics>,
    listeners: Arc<Listeners>,
    settings: watch::Sender<Arc<SourceSettings>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

fn plan(toml: &str) -> Arc<dyn SourcePlan> {
    let section = Section::parse_for_tests("otlp", toml);
    Arc::from((KIND.plan)(&section, &Scope::default()).unwrap())
}

impl Running {
    fn start(toml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = JournalOptions {
            max_bytes: 1 << 30,
            retain: Duration::from_secs(60),
            memory_bytes: 64 << 20,
        };
        let journal = Journal::open(dir.path(), options, |_| 0).unwrap();
        let metrics = Arc::new(ComponentMetrics::default());
        let listeners = Arc::new(Listeners::default());
        let plan = plan(toml);
        let settings = Arc::new(SourceSettings { generation: 1, plan: plan.clone() });
        let (settings, watching) = watch::channel(settings);
        let stop = CancellationToken::new();
        let context = SourceContext {
            id: "otlp".into(),
            settings: watching,
            listeners: listeners.clone(),
            intake: Intake::new(
                "otlp".into(),
                journal.clone(),
                Arc::default(),
                Arc::new(EntitySpace::default()),
                metrics.clone(),
            ),
            stop: stop.clone(),
        };
        let task = tokio::spawn(plan.run(context));
        Self { journal, metrics, listeners, settings, stop, task, _dir: dir }
    }

    fn swap(&self, generation: u32, toml: &str) {
        let settings = SourceSettings { generation, plan: plan(toml) };
        self.settings.send(Arc::new(settings)).unwrap();
    }

    /// Where `asked` is really bound, once it is.
    async fn address(&self, asked: &str) -> SocketAddr {
        let listen = Listen::Tcp(asked.parse().unwrap());
        until(|| self.listeners.bound(listen)).await
    }

    async fn entries(&self, n: usize) -> Vec<Arc<weir_pipeline::journal::Entry>> {
        let mut reader = self.journal.reader(0);
        let mut entries = Vec::new();
        while entries.len() < n {
            entries.extend(reader.next().await.unwrap());
        }
        entries
    }
}

/// Waits for what another task does.
async fn until<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(value) = ready() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it did not happen in time")
}

const ANY: &str = "127.0.0.1:0";
const HTTP: &str = "http = \"127.0.0.1:0\"";

fn request(bodies: &[&str]) -> ExportLogsServiceRequest {
    let record = |body: &&str| LogRecord {
        severity_text: (*body).to_owned(),
        trace_id: if *body == "bad" { vec![1] } else { vec![] },
        ..LogRecord::default()
    };
    let log_records = bodies.iter().map(record).collect();
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            scope_logs: vec![ScopeLogs { log_records, ..ScopeLogs::default() }],
            ..ResourceLogs::default()
        }],
    }
}

/// Status, headers in lower case and body of an answer.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

async fn read_answer(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Answer {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").expect("an HTTP answer");
    let head = String::from_utf8(all[..end].to_vec()).unwrap().to_lowercase();
    let status = head[9..12].parse().unwrap();
    Answer { status, head, body: all[end + 4..].to_vec() }
}

fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: weir\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

async fn ask(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    read_answer(&mut stream).await
}

const PROTOBUF: &str = "content-type: application/x-protobuf\r\n";
const JSON: &str = "content-type: application/json\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn http_requests() {
    let source = Running::start(HTTP);
    let at = source.address(ANY).await;
    let body = request(&["a"]).encode_to_vec();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&body).unwrap();
    let packed = gzip.finish().unwrap();

    let answer = ask(at, &post("/v1/logs", PROTOBUF, &body)).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert!(answer.head.contains("content-type: application/x-protobuf"), "{}", answer.head);
    let gzipped = format!("{PROTOBUF}content-encoding: gzip\r\n");
    assert_eq!(ask(at, &post("/v1/logs", &gzipped, &packed)).await.status, 200);
    let answer = ask(at, &post("/v1/logs", JSON, br#"{"resourceLogs":[]}"#)).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"{}"[..]));

    // The journal has what arrived, as it arrived; a request without rows leaves nothing.
    let entries = source.entries(2).await;
    assert_eq!(entries.len(), 2);
    assert_eq!(&entries[0].head.payload[..], &body[..]);
    assert_eq!(&entries[1].head.payload[..], &packed[..]);
    let envelope = &entries[1].head.envelope;
    assert_eq!((&*envelope.path, &*envelope.encoding), ("/v1/logs", "gzip"));
    assert!(envelope.peer.starts_with("127.0.0.1:"));

    // Partial success, in both formats.
    let partial = request(&["a", "bad", "b"]).encode_to_vec();
    let answer = ask(at, &post("/v1/logs", PROTOBUF, &partial)).await;
    let partial = ExportLogsServiceResponse::decode(&answer.body[..]).unwrap();
    let partial = partial.partial_success.unwrap();
    assert_eq!(partial.rejected_log_records, 1);
    assert_eq!(partial.error_message, "bad_id: trace_id has 1 bytes, expected 16");
    let text = br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"traceId":"xx"},{}]}]}]}"#;
    let answer = ask(at, &post("/v1/logs", JSON, text)).await;
    let json: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(json["partialSuccess"]["rejectedLogRecords"], "1");

    source.stop.cancel();
    source.task.await.unwrap();
    assert_eq!(source.journal.head(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_refusals() {
    let source = Running::start(&format!(
        "{HTTP}\nmax_request_bytes = \"2KiB\"\nmax_decompressed_bytes = \"4KiB\""
    ));
    let at = source.address(ANY).await;
    let check = async |request: Vec<u8>, status: u16, part: &str| {
        let answer = ask(at, &request).await;
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, status, "{body}");
        assert!(body.contains(part), "{body}");
    };
    check(post("/v1/logs", PROTOBUF, b"\x0a\x05ab"), 400, "cut short").await;
    check(post("/v1/logs", JSON, b"{"), 400, "\"code\":3").await;
    check(post("/v1/logs", JSON, &[b' '; 3000]), 413, "larger than 2048 bytes").await;
    check(post("/v1/logs", "content-type: text/plain\r\n", b"x"), 415, "text/plain").await;
    let brotli = format!("{JSON}content-encoding: br\r\n");
    check(post("/v1/logs", &brotli, b"x"), 415, "`br` is not known").await;
    check(post("/v1/nope", JSON, b"{}"), 404, "/v1/logs").await;
    check(b"GET /v1/logs HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(), 405, "POST")
        .await;
    let bomb = zstd::encode_all(&vec![b' '; 1 << 20][..], 3).unwrap();
    let zstd = format!("{JSON}content-encoding: zstd\r\n");
    check(post("/v1/logs", &zstd, &bomb), 413, "4096 bytes uncompressed").await;
    let answer = ask(at, &post("/v1/logs", PROTOBUF, b"\x0a\x05ab")).await;
    assert_eq!(Status::decode(&answer.body[..]).unwrap().code, 3);

    // A gigabyte that is announced is refused before it is sent; one that is not, on its way.
    let mut stream = TcpStream::connect(at).await.unwrap();
    let head =
        format!("POST /v1/logs HTTP/1.1\r\nhost: x\r\n{JSON}content-length: 1000000000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.status, 413);
    let mut stream = TcpStream::connect(at).await.unwrap();
    let head =
        format!("POST /v1/logs HTTP/1.1\r\nhost: x\r\n{JSON}transfer-encoding: chunked\r\n\r\n");
    let chunk = format!("bb8\r\n{}\r\n", " ".repeat(3000));
    stream.write_all(format!("{head}{chunk}").as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.status, 413);

    let reading = source.metrics.read();
    assert_eq!(reading.rejected["too_large"], 4);
    assert_eq!(source.journal.head(), 0);
    source.stop.cancel();
    source.task.await.unwrap();
}

/// Sends one gRPC request, and gives HTTP headers, data and trailers.
async fn grpc(
    at: SocketAddr,
    method: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (http::HeaderMap, Vec<u8>) {
    let client: Client<_, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let mut request = http::Request::post(format!("http://{at}{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = client.request(request.body(Full::from(body)).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut head = answer.headers().clone();
    let body = answer.into_body().collect().await.unwrap();
    head.extend(body.trailers().cloned().unwrap_or_default());
    (head, body.to_bytes().to_vec())
}

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag], &(message.len() as u32).to_be_bytes()[..], message].concat()
}

const EXPORT: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

#[tokio::test(flavor = "multi_thread")]
async fn grpc_requests() {
    let source = Running::start("grpc = \"127.0.0.1:0\"\nmax_request_bytes = \"2KiB\"");
    let at = source.address(ANY).await;
    let body = request(&["a", "bad"]).encode_to_vec();
    let (head, answer) = grpc(at, EXPORT, &[], framed(0, &body)).await;
    assert_eq!(head["grpc-status"], "0");
    assert_eq!(framed(0, &answer[5..]), answer);
    let partial = ExportLogsServiceResponse::decode(&answer[5..]).unwrap().partial_success;
    assert_eq!(partial.unwrap().rejected_log_records, 1);
    let packed = zstd::encode_all(&body[..], 3).unwrap();
    let (head, _) = grpc(at, EXPORT, &[("grpc-encoding", "zstd")], framed(1, &packed)).await;
    assert_eq!(head["grpc-status"], "0");
    // An encoding may be announced and not used.
    let (head, _) = grpc(at, EXPORT, &[("grpc-encoding", "gzip")], framed(0, &body)).await;
    assert_eq!(head["grpc-status"], "0");
    let entries = source.entries(3).await;
    assert_eq!(&entries[0].head.payload[..], &body[..]);
    assert_eq!(&entries[1].head.payload[..], &packed[..]);
    assert_eq!(entries[1].head.envelope.encoding, "zstd");
    assert_eq!(entries[2].head.envelope.encoding, "");

    let check = async |method, headers: &[(&str, &str)], body, code: &str, part: &str| {
        let (head, _) = grpc(at, method, headers, body).await;
        assert_eq!(head["grpc-status"], code, "{head:?}");
        assert!(head["grpc-message"].to_str().unwrap().contains(part), "{head:?}");
    };
    check(EXPORT, &[], vec![], "3", "shorter").await;
    check(EXPORT, &[], framed(0, b"\x0a\x05ab"), "3", "cut short").await;
    check(EXPORT, &[], framed(1, b"x"), "3", "grpc-encoding").await;
    check(EXPORT, &[], [framed(0, b""), framed(0, b"")].concat(), "3", "exactly one").await;
    check(EXPORT, &[("grpc-encoding", "snappy")], framed(1, b"x"), "12", "`snappy`").await;
    check("/a.B/C", &[], framed(0, b""), "12", "/a.B/C").await;
    check(EXPORT, &[], framed(0, &[0; 3000]), "8", "larger than").await;
    source.stop.cancel();
    source.task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_swap_behind_an_open_socket() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "s3cret").unwrap();
    let auth = format!("auth = {{ bearer = [\"file:{}\"] }}", token.display());
    let source = Running::start(HTTP);
    let at = source.address(ANY).await;
    let body = request(&["a"]).encode_to_vec();
    let with = |header: &str| post("/v1/logs", &format!("{PROTOBUF}{header}"), &body);
    assert_eq!(ask(at, &with("")).await.status, 200);

    source.swap(2, &format!("{HTTP}\n{auth}"));
    let answer = ask(at, &with("")).await;
    assert_eq!(answer.status, 401);
    assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
    assert_eq!(ask(at, &with("authorization: Bearer wrong\r\n")).await.status, 401);
    assert_eq!(ask(at, &with("authorization: Basic eDp5\r\n")).await.status, 401);
    assert_eq!(ask(at, &with("authorization: bearer s3cret\r\n")).await.status, 200);
    std::fs::remove_file(&token).unwrap();
    assert_eq!(ask(at, &with("authorization: Bearer s3cret\r\n")).await.status, 401);
    let generations: Vec<u32> = source.entries(2).await.iter().map(|e| e.head.generation).collect();
    assert_eq!(generations, [1, 2]);

    // Another address: served there, and no longer here.
    source.swap(3, "http = \"127.0.0.2:0\"");
    let there = source.address("127.0.0.2:0").await;
    assert_eq!(ask(there, &with("")).await.status, 200);
    source.listeners.retain(&[Listen::Tcp("127.0.0.2:0".parse().unwrap())]);
    until_refused(at).await;
    source.stop.cancel();
    source.task.await.unwrap();
}

async fn until_refused(at: SocketAddr) {
    let wait = async {
        while TcpStream::connect(at).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the socket stays open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_tried_again() {
    let other = std::net::TcpListener::bind(ANY).unwrap();
    let taken = other.local_addr().unwrap();
    let source = Running::start(&format!("{HTTP}\ngrpc = \"{taken}\""));
    // The other address serves meanwhile.
    let at = source.address(ANY).await;
    let body = request(&["a"]).encode_to_vec();
    assert_eq!(ask(at, &post("/v1/logs", PROTOBUF, &body)).await.status, 200);
    let error = until(|| source.metrics.read().last_error).await;
    assert_eq!(error.reason, "bind");
    assert!(error.message.starts_with(&format!("cannot listen on {taken}")), "{}", error.message);
    drop(other);
    let at = source.address(&taken.to_string()).await;
    assert_eq!(ask(at, &post("/v1/logs", PROTOBUF, &body)).await.status, 200);
    source.stop.cancel();
    source.task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_requests_finish() {
    let source = Running::start(HTTP);
    let at = source.address(ANY).await;
    let whole = post("/v1/logs", PROTOBUF, &request(&["a"]).encode_to_vec());
    let mut stream = TcpStream::connect(at).await.unwrap();
    let (first, rest) = whole.split_at(whole.len() - 3);
    stream.write_all(first).await.unwrap();
    // Another request on the same server has come through, so the first is in it too.
    assert_eq!(ask(at, &whole).await.status, 200);
    source.stop.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.write_all(rest).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.status, 200);
    source.task.await.unwrap();
    assert_eq!(source.journal.head(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["weir.test".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let source = Running::start(&format!(
        "{HTTP}\ntls = {{ cert = \"{}\", key = \"{}\" }}",
        cert.display(),
        key.display()
    ));
    let at = source.address(ANY).await;
    let options = weir_pipeline::config::TlsClient { ca: Some(cert), ..Default::default() };
    let client = weir_pipeline::tls::client_config(&options).unwrap();
    let stream = TcpStream::connect(at).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("weir.test").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let mut stream = connector.connect(name, stream).await.unwrap();
    let body = request(&["a"]).encode_to_vec();
    stream.write_all(&post("/v1/logs", PROTOBUF, &body)).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.status, 200);
    // Without TLS the connection ends without an answer.
    let mut plain = TcpStream::connect(at).await.unwrap();
    plain.write_all(&post("/v1/logs", PROTOBUF, &body)).await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    until(|| source.metrics.read().rejected.get("tls").copied()).await;
    source.stop.cancel();
    source.task.await.unwrap();
}
