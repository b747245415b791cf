//! Log records and spans as the OpenTelemetry demo sends them: a shop of services that call each
//! other, each with an SDK that exports what it has, in batches of its own. Ids, durations, users
//! and amounts are by chance, as they are there; the same in each run. And real log lines.

use std::collections::BTreeMap;
use std::path::Path;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;

/// Rows that an SDK exports at once (the default of its batch processors).
const BATCH: usize = 512;
/// Instances of each service.
const INSTANCES: u64 = 2;
/// Users that visit at the same time.
const USERS: u64 = 2_000;
/// Between two visits, nanoseconds.
const VISIT_NS: u64 = 20_000_000;

/// Who is called by whom, what for, and what is logged: service, language, operation, callees.
const CALLS: [(&str, &str, &str, &[usize]); 14] = [
    ("frontend-proxy", "cpp", "GET /api/checkout", &[2]),
    ("frontend-proxy", "cpp", "GET /api/products/{id}", &[3]),
    ("frontend", "nodejs", "POST /api/checkout", &[4]),
    ("frontend", "nodejs", "GET /api/products/{id}", &[5, 6, 7]),
    ("checkout", "go", "oteldemo.CheckoutService/PlaceOrder", &[8, 5, 9, 10, 11, 12, 8]),
    ("product-catalog", "go", "oteldemo.ProductCatalogService/GetProduct", &[]),
    ("recommendation", "python", "oteldemo.RecommendationService/ListRecommendations", &[5]),
    ("ad", "java", "oteldemo.AdService/GetAds", &[]),
    ("cart", "dotnet", "oteldemo.CartService/GetCart", &[13]),
    ("currency", "cpp", "oteldemo.CurrencyService/Convert", &[]),
    ("payment", "nodejs", "oteldemo.PaymentService/Charge", &[]),
    ("shipping", "rust", "oteldemo.ShippingService/GetQuote", &[]),
    ("email", "ruby", "POST /send_order_confirmation", &[]),
    ("cart", "dotnet", "HGETALL", &[]),
];
const PRODUCTS: [&str; 6] =
    ["OLJCESPC7Z", "66VCHSJNUP", "1YMWWN1N4O", "L9ECAV7KIM", "2ZYFJ3GM2N", "HQTGWGPNH4"];
const AGENTS: [&str; 3] = [
    "python-requests/2.32.3",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/17.4 Safari/605",
];

/// Requests, and how many rows are in them.
pub(super) struct Sent {
    pub(super) bodies: Vec<Vec<u8>>,
    pub(super) rows: u64,
}

/// xorshift64*.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }

    fn id(&mut self, len: usize) -> Vec<u8> {
        [self.next().to_be_bytes(), self.next().to_be_bytes()].concat()[..len].to_vec()
    }

    fn uuid(&mut self) -> String {
        let (a, b) = (self.next(), self.next());
        let (x, y, z) = (a >> 32, a >> 16 & 0xffff, a & 0xffff);
        format!("{x:08x}-{y:04x}-{z:04x}-{:04x}-{:012x}", b >> 48, b & 0xffff_ffff_ffff)
    }
}

fn pair(key: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    pair(key, Value::StringValue(value.into()))
}

fn int(key: &str, value: u64) -> KeyValue {
    pair(key, Value::IntValue(value as i64))
}

fn resource(service: &str, language: &str, instance: u64) -> Option<Resource> {
    let mut chance = Chance(instance + 1 + service.len() as u64 * 7_919);
    let pod = format!("{service}-{:08x}-{:05x}", chance.below(1 << 32), chance.below(1 << 20));
    let attributes = vec![
        text("service.name", service),
        text("service.namespace", "opentelemetry-demo"),
        text("service.version", "2.0.2"),
        text("service.instance.id", chance.uuid()),
        text("telemetry.sdk.language", language),
        text("telemetry.sdk.name", "opentelemetry"),
        text("telemetry.sdk.version", "1.36.0"),
        text("host.name", pod.clone()),
        text("os.type", "linux"),
        int("process.pid", chance.below(60_000)),
        text("k8s.namespace.name", "otel-demo"),
        text("k8s.pod.name", pod),
        text("k8s.node.name", format!("ip-10-0-{}-17.ec2.internal", instance)),
        text("k8s.deployment.name", service),
    ];
    Some(Resource { attributes, ..Resource::default() })
}

struct Shop {
    chance: Chance,
    /// Who visits: a session stays for many requests.
    users: Vec<String>,
    /// By service and instance: what it exports next.
    spans: BTreeMap<(&'static str, u64), (&'static str, Vec<Span>)>,
    records: BTreeMap<(&'static str, u64), (&'static str, Vec<LogRecord>)>,
    out: (Sent, Sent),
}

/// Log records and spans of so many visits up to `end` (UTC nanoseconds).
pub(super) fn shop(visits: u64, end: u64) -> (Sent, Sent) {
    let none = || Sent { bodies: Vec::new(), rows: 0 };
    let (spans, records) = Default::default();
    let mut chance = Chance(42);
    let users = (0..USERS).map(|_| chance.uuid()).collect();
    let mut shop = Shop { chance, users, spans, records, out: (none(), none()) };
    for visit in 0..visits {
        let at = end - (visits - visit) * VISIT_NS + shop.chance.below(VISIT_NS);
        let trace = shop.chance.id(16);
        let root = usize::from(shop.chance.below(4) > 0);
        shop.call(root, at, &trace, Vec::new());
        shop.export(BATCH);
    }
    shop.export(1);
    shop.out
}

impl Shop {
    /// What the call `n` at `start` leaves behind; its duration.
    fn call(&mut self, n: usize, start: u64, trace: &[u8], parent: Vec<u8>) -> u64 {
        let (service, language, operation, callees) = CALLS[n];
        let instance = self.chance.below(INSTANCES);
        let id = self.chance.id(8);
        let mut took = 50_000 + self.chance.below(1 << (14 + self.chance.0 % 9));
        for callee in callees {
            took += self.call(*callee, start + took, trace, id.clone());
            took += self.chance.below(200_000);
        }
        let failed = self.chance.below(100) == 0;
        let status = failed.then(|| Status { code: 2, message: "deadline exceeded".to_owned() });
        let span = Span {
            trace_id: trace.to_vec(),
            span_id: id.clone(),
            parent_span_id: parent,
            name: operation.to_owned(),
            kind: if callees.is_empty() && operation == "HGETALL" { 3 } else { 2 },
            start_time_unix_nano: start,
            end_time_unix_nano: start + took,
            attributes: self.attributes(operation, failed),
            status,
            flags: 257,
            ..Span::default()
        };
        let of = self.spans.entry((service, instance)).or_insert((language, Vec::new()));
        of.1.push(span);
        let record = LogRecord {
            time_unix_nano: start + took,
            observed_time_unix_nano: start + took + self.chance.below(1_000_000),
            severity_number: if failed { 17 } else { 9 },
            severity_text: if failed { "ERROR" } else { "INFO" }.to_owned(),
            body: Some(AnyValue { value: Some(Value::StringValue(self.line(n, took))) }),
            attributes: vec![
                text("logger.name", format!("{service}.server")),
                text("thread.name", format!("worker-{}", self.chance.below(16))),
                text("code.function.name", operation),
                text("code.file.path", format!("/usr/src/app/{service}/server.{language}")),
                int("code.line.number", 100 + n as u64 * 7),
            ],
            trace_id: trace.to_vec(),
            span_id: id,
            flags: 1,
            ..LogRecord::default()
        };
        let of = self.records.entry((service, instance)).or_insert((language, Vec::new()));
        of.1.push(record);
        took
    }

    fn attributes(&mut self, operation: &str, failed: bool) -> Vec<KeyValue> {
        let mut all = Vec::new();
        if let Some((service, method)) = operation.split_once('/').filter(|(s, _)| s.contains('.'))
        {
            all.push(text("rpc.system", "grpc"));
            all.push(text("rpc.service", service));
            all.push(text("rpc.method", method));
            all.push(int("rpc.grpc.status_code", if failed { 4 } else { 0 }));
        } else if let Some((method, route)) = operation.split_once(' ') {
            let product = self.chance.of(&PRODUCTS);
            let path = route.replace("{id}", product);
            all.push(text("http.request.method", method));
            all.push(text("http.route", route));
            all.push(text("url.full", format!("http://frontend-proxy:8080{path}")));
            all.push(text("url.path", path));
            all.push(text("user_agent.original", self.chance.of(&AGENTS)));
            all.push(int("http.response.status_code", if failed { 500 } else { 200 }));
        } else {
            all.push(text("db.system", "redis"));
            all.push(text("db.statement", format!("HGETALL {}", self.user())));
        }
        all.push(text("server.address", format!("10.0.0.{}", self.chance.below(32))));
        all.push(int("network.peer.port", 32_768 + self.chance.below(28_232)));
        if operation.ends_with("Order") || operation.ends_with("Charge") {
            all.push(text("app.user.id", self.user()));
            let cents = self.chance.below(500_000);
            all.push(pair("app.order.amount", Value::DoubleValue(cents as f64 / 100.0)));
            all.push(int("app.order.items.count", 1 + self.chance.below(7)));
        }
        all
    }

    fn user(&mut self) -> String {
        self.users[self.chance.below(USERS) as usize].clone()
    }

    fn line(&mut self, n: usize, took: u64) -> String {
        let ms = took as f64 / 1e6;
        let (user, product) = (self.user(), self.chance.of(&PRODUCTS));
        match n {
            4 => {
                let order = self.chance.uuid();
                format!("order placed: order_id={order} user_id={user} took {ms:.3} ms")
            }
            10 => format!("Charge request received. userId={user} amount={}", took % 90_000),
            8 | 13 => format!("GetCartAsync called with userId={user}"),
            5 => format!("Product Found, ID: {product}, latency {ms:.3}ms"),
            12 => format!("Order confirmation email sent to: user{}@example.com", took % 5_000),
            7 => format!("Targeted ad request received for [{product}, travel]"),
            _ => format!("\"{}\" 200 - via_upstream {ms:.3} user={user}", CALLS[n].2),
        }
    }

    /// Exports of each service what has come to `least` rows.
    fn export(&mut self, least: usize) {
        for (&(service, instance), (language, spans)) in &mut self.spans {
            if spans.len() < least {
                continue;
            }
            self.out.1.rows += spans.len() as u64;
            let spans = std::mem::take(spans);
            let scope_spans =
                vec![ScopeSpans { scope: scope(service), spans, ..Default::default() }];
            let resource = resource(service, language, instance);
            let one = ResourceSpans { resource, scope_spans, ..Default::default() };
            let message = ExportTraceServiceRequest { resource_spans: vec![one] };
            self.out.1.bodies.push(message.encode_to_vec());
        }
        for (&(service, instance), (language, records)) in &mut self.records {
            if records.len() < least {
                continue;
            }
            let records = std::mem::take(records);
            self.out.0.push(resource(service, language, instance), scope(service), records);
        }
    }
}

fn scope(service: &str) -> Option<InstrumentationScope> {
    let name = format!("go.opentelemetry.io/contrib/instrumentation/{service}/otelgrpc");
    Some(InstrumentationScope { name, version: "0.61.0".to_owned(), ..Default::default() })
}

impl Sent {
    fn push(
        &mut self,
        resource: Option<Resource>,
        scope: Option<InstrumentationScope>,
        log_records: Vec<LogRecord>,
    ) {
        self.rows += log_records.len() as u64;
        let scope_logs = vec![ScopeLogs { scope, log_records, ..Default::default() }];
        let one = ResourceLogs { resource, scope_logs, ..Default::default() };
        let message = ExportLogsServiceRequest { resource_logs: vec![one] };
        self.bodies.push(message.encode_to_vec());
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bodies.iter().map(|b| b.len() as u64).sum()
    }
}

/// The lines of every `<folder>/<name>/<name>_2k.log` (Loghub), each file the log of a service, a
/// line every ten milliseconds up to `end`. `None` without such files.
pub(super) fn lines(folder: &Path, end: u64) -> Option<Sent> {
    let mut sent = Sent { bodies: Vec::new(), rows: 0 };
    let mut names: Vec<_> = std::fs::read_dir(folder).ok()?.filter_map(Result::ok).collect();
    names.sort_by_key(std::fs::DirEntry::file_name);
    for name in names {
        let name = name.file_name().to_string_lossy().into_owned();
        let Ok(log) = std::fs::read(folder.join(&name).join(format!("{name}_2k.log"))) else {
            continue;
        };
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let record = |(n, line): (usize, &&str)| {
            let time = end - (lines.len() - n) as u64 * 10_000_000;
            let error = line.contains("ERROR") || line.contains("error");
            LogRecord {
                time_unix_nano: time,
                observed_time_unix_nano: time,
                severity_number: if error { 17 } else { 9 },
                severity_text: if error { "ERROR" } else { "INFO" }.to_owned(),
                body: Some(AnyValue { value: Some(Value::StringValue((*line).to_owned())) }),
                ..LogRecord::default()
            }
        };
        let records: Vec<LogRecord> = lines.iter().enumerate().map(record).collect();
        for part in records.chunks(BATCH) {
            sent.push(resource(&name.to_lowercase(), "java", 0), None, part.to_vec());
        }
    }
    (sent.rows > 0).then_some(sent)
}
