//! The command line, as one table.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// One binary that takes in logs, metrics and traces, runs them through pipelines, keeps them,
/// answers SQL and wakes the right person.
#[derive(Debug, Parser)]
#[command(name = "weir", version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server
    Run(Local),
    /// Say all that is wrong with the pipeline files and weir.toml; needs no server
    Check(Check),
    /// Run the [[tests]] of the pipeline files; needs no server
    Test(Local),
    /// Print the resolved server settings with their origin, secrets masked
    Config(Local),
    /// Walk each path and mark the first place where flow stops
    Status(Remote),
    /// Say what a reload would do now, node by node; changes nothing
    Plan(Remote),
    /// Run retained journal through an edited file; show what differs from what runs
    Replay(Replay),
    /// Make the server read its files now, and print the outcome
    Reload(Remote),
    /// Ask the server a question in SQL
    Sql(Sql),
    /// Watch rows pass an edge of a running pipeline
    Tap(Tap),
    /// Send a test page to a receiver
    Notify(Notify),
    /// List every source, operator and sink
    List,
    /// Print the reference of a component type
    Describe(Describe),
    /// Write a table to plain wide Parquet
    Export(Export),
    /// Merge the files of all tables as far as they go
    Merge(Merge),
    /// Send made-up data and count what is acknowledged
    Load(Load),
}

/// Where the files of a server are.
#[derive(Clone, Debug, Args)]
pub(crate) struct Local {
    /// Folder of pipeline files (default: `pipelines.d`, or what WEIR_PIPELINES says)
    #[arg(long, value_name = "DIR")]
    pub(crate) pipelines: Option<PathBuf>,
    /// Data folder (default: `data`, or what weir.toml says)
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Address of the HTTP API (default: 127.0.0.1:9347, or what weir.toml says)
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Server file (default: weir.toml beside the folder of pipeline files, if it is there)
    #[arg(long, env = "WEIR_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) local: Local,
    /// Warnings are errors
    #[arg(long)]
    pub(crate) strict: bool,
}

/// Where a running server is.
#[derive(Clone, Debug, Args)]
pub(crate) struct Remote {
    /// The server
    #[arg(long, env = "WEIR_URL", default_value = "http://127.0.0.1:9347")]
    pub(crate) url: String,
    /// Bearer token, as `env:NAME` or `file:PATH`
    #[arg(long, env = "WEIR_TOKEN")]
    pub(crate) token: Option<String>,
    /// Certificates (PEM) to trust for https in place of those of the system
    #[arg(long, env = "WEIR_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Print the server's JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Describe {
    /// Type, as in `type = "window"`; `alert` for alerts
    #[arg(required_unless_present = "all")]
    pub(crate) name: Option<String>,
    /// Write the pages of all types into this folder
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) all: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Sql {
    #[command(flatten)]
    pub(crate) remote: Remote,
    /// One statement that reads
    pub(crate) sql: String,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Table,
    Ndjson,
    Csv,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    pub(crate) remote: Remote,
    /// Begin here: a time (`2026-01-31T12:00:00Z`, `-15m`), an entry as `weir status` numbers
    /// them, or `oldest`
    #[arg(long, value_name = "TIME|POSITION", allow_hyphen_values = true)]
    pub(crate) from: String,
    /// End before this time, or with this entry (default: the newest entry)
    #[arg(long, value_name = "TIME|POSITION", allow_hyphen_values = true)]
    pub(crate) to: Option<String>,
    /// The edited pipeline file (default: the files of the server as they stand now)
    #[arg(long, value_name = "FILE")]
    pub(crate) pipeline: Option<PathBuf>,
    /// The pipeline: the one that FILE stands for, if it is called otherwise, or the only one
    /// that shall be replayed
    #[arg(long, value_name = "PIPELINE")]
    pub(crate) name: Option<String>,
    /// Begin so long before `--from`, so that windows and alerts fill (default: as long as the
    /// pipelines reach back, from 5m to 1h)
    #[arg(long, value_name = "DURATION")]
    pub(crate) warm_up: Option<String>,
    /// Show so many rows and alerts of each kind
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) samples: usize,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t = ReplayFormat::Text)]
    pub(crate) format: ReplayFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ReplayFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Tap {
    #[command(flatten)]
    pub(crate) remote: Remote,
    /// Pipeline
    pub(crate) pipeline: String,
    /// Node or source, `id` or `id.output`
    pub(crate) node: String,
    /// Stop after so many rows
    #[arg(long)]
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Notify {
    #[command(flatten)]
    pub(crate) remote: Remote,
    /// Receiver
    pub(crate) receiver: String,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Of a server that is stopped
    #[command(flatten)]
    pub(crate) local: Local,
    /// Table
    pub(crate) table: String,
    /// File to write
    pub(crate) output: PathBuf,
    /// From this time on (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// Of a server that is stopped
    #[command(flatten)]
    pub(crate) local: Local,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    #[command(subcommand)]
    pub(crate) what: LoadWhat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LoadWhat {
    /// Samples, by Prometheus remote write
    RemoteWrite(RemoteWriteLoad),
    /// Log records, by OTLP
    Logs(OtlpLoad),
    /// Spans, by OTLP
    Spans(OtlpLoad),
    /// Metric points, by OTLP
    Points(OtlpLoad),
    /// Lines, by syslog over TCP, which acknowledges nothing: what was sent counts
    Syslog(SyslogLoad),
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(n) => Ok(n),
        Err(e) => Err(format!("{e}")),
    }
}

impl LoadWhat {
    /// How much and how fast.
    pub(crate) fn pace(&self) -> &Pace {
        match self {
            Self::RemoteWrite(args) => &args.pace,
            Self::Logs(args) | Self::Spans(args) | Self::Points(args) => &args.pace,
            Self::Syslog(args) => &args.pace,
        }
    }
}

/// How much is sent, and how fast.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Pace {
    /// Stop after this time, such as `1m` (default: 10s, if there is no `--count`)
    #[arg(long = "for", value_name = "DURATION")]
    pub(crate) time: Option<String>,
    /// Stop after so many rows; requests are whole, and each connection sends at least one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Rows a second (default: as fast as they are taken)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Spread the rows over the past, up to now, such as `24h`: fills a store with history
    #[arg(long, value_name = "DURATION", requires = "count")]
    pub(crate) over: Option<String>,
    /// Connections; each waits for an answer before it sends again
    #[arg(long, value_name = "N", default_value = "4", value_parser = at_least_one)]
    pub(crate) connections: usize,
    /// Count the rows that are there behind it, by SQL of the server at this URL
    #[arg(long, value_name = "URL")]
    pub(crate) check: Option<String>,
    /// Table to count in (default: that of the signal)
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Option<String>,
    /// Print figures as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RemoteWriteLoad {
    #[command(flatten)]
    pub(crate) pace: Pace,
    /// Where to
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090/api/v1/write")]
    pub(crate) to: String,
    /// Series
    #[arg(long, value_name = "N", default_value = "100000", value_parser = at_least_one)]
    pub(crate) series: usize,
    /// Labels of each, the name of the metric with them
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) labels: usize,
    /// Samples of one request
    #[arg(long = "per-request", value_name = "N", default_value = "2000", value_parser = at_least_one)]
    pub(crate) rows: usize,
    /// Series a minute that end, another beginning in their place
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) churn: u64,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct OtlpLoad {
    #[command(flatten)]
    pub(crate) pace: Pace,
    /// Where to; `grpc://127.0.0.1:4317` for gRPC
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:4318")]
    pub(crate) to: String,
    /// Rows of one request
    #[arg(long = "per-request", value_name = "N", default_value = "1000", value_parser = at_least_one)]
    pub(crate) rows: usize,
    /// Letters of the body of a log record
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub(crate) bytes: usize,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SyslogLoad {
    #[command(flatten)]
    pub(crate) pace: Pace,
    /// Where to
    #[arg(long, value_name = "URL", default_value = "tcp://127.0.0.1:5514")]
    pub(crate) to: String,
    /// Lines that are written at once
    #[arg(long = "per-write", value_name = "N", default_value = "500", value_parser = at_least_one)]
    pub(crate) rows: usize,
    /// How lines look
    #[arg(long, value_enum, default_value_t = SyslogFormat::Rfc5424)]
    pub(crate) format: SyslogFormat,
    /// Letters of the message of a line
    #[arg(long, value_name = "N", default_value_t = 120)]
    pub(crate) bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SyslogFormat {
    Rfc5424,
    Rfc3164,
}

impl Cli {
    /// Does what was asked. Exit codes: 0 fine, 1 degraded or mistakes found, 2 unreachable.
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Run(args) => crate::run::run(&args),
            Command::Check(args) => crate::check::run(&args),
            Command::Test(args) => crate::test::run(&args),
            Command::Config(args) => crate::config::run(&args),
            Command::Status(args) => crate::status::run(&args),
            Command::Plan(args) => crate::plan::run(&args),
            Command::Replay(args) => crate::replay::run(&args),
            Command::Reload(args) => crate::reload::run(&args),
            Command::Sql(args) => crate::sql::run(&args),
            Command::Tap(args) => crate::tap::run(&args),
            Command::Notify(args) => crate::notify::run(&args),
            Command::List => Ok(crate::describe::list()),
            Command::Describe(args) => crate::describe::run(&args),
            Command::Export(args) => crate::export::run(&args),
            Command::Merge(args) => crate::merge::run(&args),
            Command::Load(args) => crate::load::run(&args),
        }
    }
}
