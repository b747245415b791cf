//! `weir load`: made-up data over a real protocol, as fast as it is taken or at a rate, with a ledger
//! of what was acknowledged.
//!
//! Bodies are made once and only patched for each request (times, values, ids), so that a sender
//! costs little beside the server that it is to load. What is refused for now is sent again after the
//! pause that the answer asks for; only an answer of success counts.

mod clock;
mod ledger;
mod otlp;
mod protobuf;
mod remote_write;
mod send;
mod syslog;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde_json::json;

use crate::cli::{Load, LoadWhat, Pace};
use crate::client::{DEGRADED, out, out_json};
use clock::Clock;
use ledger::Ledger;
use send::Way;

/// How long rows may take from their acknowledgement until a query sees them.
const SEEN: Duration = Duration::from_secs(120);

/// Makes requests, one after the other, for one connection.
trait Feed: Send {
    /// The next request and the rows in it. It is like no other.
    fn next(&mut self) -> (Bytes, u64);
}

/// What is sent where.
struct Plan {
    way: Way,
    /// One for each connection.
    feeds: Vec<Box<dyn Feed>>,
    /// Column that holds the name of this run, and the table where its rows are expected.
    column: &'static str,
    table: String,
}

/// Exit code 1 if nothing was acknowledged, or the rows that are there are not those that were.
pub(crate) fn run(args: &Load) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(load(args))
}

async fn load(args: &Load) -> Result<ExitCode> {
    let pace = args.what.pace();
    // A name of its own, so that its rows can be told from all others.
    let run = format!("load-{:x}", now_ns() / 1_000_000);
    let plan = plan(&args.what, &run, &Clock::new(pace)?)?;
    let until = pace.time()?.map(|time| Instant::now() + time);
    let (column, table) = (plan.column, plan.table.clone());
    let start = Instant::now();
    let rate = pace.rate.map(f64::from);
    let limits = send::Limits::new(until, pace.count, rate, plan.feeds.len());
    let ledger = send::all(plan.way, plan.feeds, limits).await?;
    let took = start.elapsed();
    let sql = format!("SELECT count(*) AS n FROM {table} WHERE {column} = '{run}'");
    let found = match &pace.check {
        Some(url) => Some(found(url, &sql, &ledger).await?),
        None => None,
    };
    if pace.json {
        let mut report = ledger.json(took);
        report["sql"] = json!(sql);
        report["found"] = json!(found);
        out_json(&report);
    } else {
        out(&ledger.text(took));
        match found {
            Some(n) => out(&format!("  there       {n} rows ({sql})")),
            None => out(&format!("  to count    {sql}")),
        }
    }
    let right = found.is_none_or(|n| ledger.admits(n));
    if !right {
        eprintln!("error: the rows that are there are not those that were acknowledged");
    }
    let well = right && ledger.rows > 0;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(DEGRADED) })
}

fn plan(what: &LoadWhat, run: &str, clock: &Clock) -> Result<Plan> {
    let connections = what.pace().connections;
    let each = |make: &dyn Fn(usize) -> Result<Box<dyn Feed>>| -> Result<Vec<Box<dyn Feed>>> {
        (0..connections).map(make).collect()
    };
    let table = |default: &str| what.pace().table.clone().unwrap_or_else(|| default.to_owned());
    Ok(match what {
        LoadWhat::RemoteWrite(args) => {
            let model = remote_write::Model::new(args, run, clock)?;
            Plan {
                way: Way::remote_write(&args.to)?,
                feeds: each(&|i| Ok(Box::new(model.feed(i, connections)?)))?,
                column: "cluster",
                table: table("metrics"),
            }
        }
        LoadWhat::Logs(args) => Plan {
            way: Way::otlp(&args.to, "logs", "Logs")?,
            feeds: each(&|i| Ok(Box::new(otlp::logs(args, run, i, clock)?)))?,
            column: "service.namespace",
            table: table("logs"),
        },
        LoadWhat::Spans(args) => Plan {
            way: Way::otlp(&args.to, "traces", "Trace")?,
            feeds: each(&|i| Ok(Box::new(otlp::spans(args, run, i, clock)?)))?,
            column: "service.namespace",
            table: table("spans"),
        },
        LoadWhat::Points(args) => Plan {
            way: Way::otlp(&args.to, "metrics", "Metrics")?,
            feeds: each(&|i| Ok(Box::new(otlp::points(args, run, i, clock)?)))?,
            column: "service.namespace",
            table: table("metrics"),
        },
        LoadWhat::Syslog(args) => Plan {
            way: Way::Tcp(address(&args.to, "tcp")?),
            feeds: each(&|i| Ok(Box::new(syslog::feed(args, run, i, clock))))?,
            column: "service.name",
            table: table("logs"),
        },
    })
}

impl Pace {
    fn time(&self) -> Result<Option<Duration>> {
        match &self.time {
            Some(text) => duration("--for", text).map(Some),
            // Neither a time nor a number of rows: some seconds, not for ever.
            None => Ok(self.count.is_none().then_some(Duration::from_secs(10))),
        }
    }
}

fn duration(option: &str, text: &str) -> Result<Duration> {
    let parsed: Result<weir_pipeline::config::Duration, _> = text.parse();
    parsed.map(|d| d.0).map_err(|e| anyhow::anyhow!("{option}: {e}"))
}

/// The address in `scheme://host:port`.
fn address(text: &str, scheme: &str) -> Result<SocketAddr> {
    let url: url::Url = text.parse().with_context(|| format!("`{text}` is no URL"))?;
    if url.scheme() != scheme {
        bail!("`{text}`: expected `{scheme}://HOST:PORT`");
    }
    let port = url.port_or_known_default().with_context(|| format!("`{text}` has no port"))?;
    let host = url.host_str().with_context(|| format!("`{text}` has no host"))?;
    let found = std::net::ToSocketAddrs::to_socket_addrs(&(host, port));
    found.with_context(|| format!("`{host}` is not known"))?.next().context("no address")
}

/// How many rows of the run the server has, once it has all or shows no more.
async fn found(url: &str, sql: &str, ledger: &Ledger) -> Result<u64> {
    let client = reqwest::Client::new();
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let request = client.post(format!("{}/api/v1/sql", url.trim_end_matches('/')));
        let answer = request.body(sql.to_owned()).send().await?;
        let status = answer.status();
        let answer: serde_json::Value = answer.json().await?;
        let n = answer["rows"][0]["n"].as_u64();
        let Some(n) = n else { bail!("{status}: {}", answer["error"]["message"]) };
        if n != last {
            (last, since) = (n, Instant::now());
        }
        if n >= ledger.rows || since.elapsed() > SEEN {
            return Ok(n);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A number as if by chance, always the same for the same one (the last step of SplitMix64).
fn mix(n: u64) -> u64 {
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}
