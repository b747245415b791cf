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
        }
    }
}
