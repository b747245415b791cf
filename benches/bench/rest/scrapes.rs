//! Real samples: node_exporter, scraped every two seconds and kept as it answered, so that every
//! store gets the same bytes at the same times.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use prost::Message;

use crate::servers::{Process, free_port, wait_for};

/// Between two scrapes of a target.
const EVERY: Duration = Duration::from_secs(2);
/// What goes before each answer in a recording.
const HEAD: &str = "# scrape ";
/// Collectors of the second target; the first has all that are on by default.
const COLLECTORS: [&str; 12] = [
    "cpu",
    "loadavg",
    "meminfo",
    "diskstats",
    "netdev",
    "filesystem",
    "stat",
    "vmstat",
    "netstat",
    "sockstat",
    "schedstat",
    "processes",
];

/// One label of remote write.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Label {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Sample {
    #[prost(double, tag = "1")]
    pub(super) value: f64,
    /// UTC milliseconds.
    #[prost(int64, tag = "2")]
    pub(super) timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Series {
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    pub(super) samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) timeseries: Vec<Series>,
}

/// Which samples of a recording, and when.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick {
    /// All, at the times at which they were taken.
    Everything,
    /// Gauges, at exact intervals.
    ExactGauges,
}

/// The recording that `WEIR_BENCH_SCRAPES` names, or one that is made now, which takes
/// `WEIR_BENCH_MINUTES` (default 20).
pub(super) async fn recording(folder: &Path) -> Option<String> {
    if let Some(path) = std::env::var_os("WEIR_BENCH_SCRAPES").map(PathBuf::from) {
        return Some(std::fs::read_to_string(&path).expect("WEIR_BENCH_SCRAPES can be read"));
    }
    let minutes: u64 = std::env::var("WEIR_BENCH_MINUTES")
        .map_or(20, |n| n.parse().expect("WEIR_BENCH_MINUTES is a number"));
    let selected = COLLECTORS.map(|c| format!("--collector.{c}"));
    let only: Vec<&str> = std::iter::once("--collector.disable-defaults")
        .chain(selected.iter().map(String::as_str))
        .collect();
    let client = reqwest::Client::new();
    let targets = [exporter(&client, &[]).await?, exporter(&client, &only).await?];
    let began = Instant::now();
    let mut tick = tokio::time::interval(EVERY);
    let mut out = String::new();
    while began.elapsed() < Duration::from_secs(minutes * 60) {
        tick.tick().await;
        for (_process, url) in &targets {
            let now = jiff::Timestamp::now().as_millisecond();
            let answer = client.get(url).send().await.unwrap().text().await.unwrap();
            let _ = write!(out, "{HEAD}{} {now}\n{answer}", url.split('/').nth(2).unwrap());
        }
        let left = (minutes * 60).saturating_sub(began.elapsed().as_secs());
        eprint!("\rscraping: {} MB, {left} s left  ", out.len() / 1_000_000);
    }
    eprintln!();
    let kept = folder.join("scrapes.txt");
    std::fs::write(&kept, &out).unwrap();
    eprintln!("kept for WEIR_BENCH_SCRAPES: {}", kept.display());
    Some(out)
}

/// `None` if it is not installed.
async fn exporter(client: &reqwest::Client, arguments: &[&str]) -> Option<(Process, String)> {
    let port = free_port();
    let child = Command::new("prometheus-node-exporter")
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .args(arguments)
        .stderr(Stdio::null())
        .spawn();
    let process = Process(child.ok()?);
    let url = format!("http://127.0.0.1:{port}/metrics");
    wait_for(client, &url).await;
    Some((process, url))
}

/// A remote-write request for each scrape of `recording`, in order.
pub(super) fn requests(recording: &str, pick: Pick) -> Vec<WriteRequest> {
    let mut out = Vec::new();
    let mut rounds: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for scrape in recording.split(HEAD).filter(|s| !s.is_empty()) {
        let Some((head, body)) = scrape.split_once('\n') else { continue };
        let (instance, time) = head.split_once(' ').expect("instance and time");
        let time: i64 = time.parse().expect("milliseconds");
        let (first, round) = rounds.entry(instance).or_insert((time, -1));
        *round += 1;
        let exact = *first + *round * EVERY.as_millis() as i64;
        let timestamp = if pick == Pick::ExactGauges { exact } else { time };
        let mut timeseries = Vec::new();
        let mut gauge = false;
        for line in body.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                gauge = kind.ends_with(" gauge");
            } else if !line.starts_with('#') && (gauge || pick == Pick::Everything) {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let value = value.parse().expect("a number");
                let labels = labels(series, instance);
                let samples = vec![Sample { value, timestamp }];
                timeseries.push(Series { labels, samples });
            }
        }
        out.push(WriteRequest { timeseries });
    }
    out
}

/// `name{label="value",...}` as sorted labels.
fn labels(series: &str, instance: &str) -> Vec<Label> {
    let (name, mut rest) = series.split_once('{').unwrap_or((series, ""));
    let mut all = BTreeMap::from([
        ("__name__".to_owned(), name.to_owned()),
        ("instance".to_owned(), instance.to_owned()),
        ("job".to_owned(), "node".to_owned()),
    ]);
    while let Some((label, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut letters = after.char_indices();
        let mut end = after.len();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => match letters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    other => value.extend(other.map(|(_, c)| c)),
                },
                letter => value.push(letter),
            }
        }
        all.insert(label.trim_start_matches(',').to_owned(), value);
        rest = &after[end..];
    }
    all.into_iter().map(|(name, value)| Label { name, value }).collect()
}
