//! The `weir` command: wires the crates together, one file per subcommand.

mod check;
mod cli;
mod client;
mod components;
mod config;
mod describe;
mod engine;
mod export;
mod folder;
mod load;
mod merge;
mod notify;
mod own_queries;
mod plan;
mod reload;
mod replay;
mod run;
mod server_file;
mod sql;
mod status;
mod tap;
mod test;

use std::process::ExitCode;

use clap::Parser;

/// Returns memory of threads that are idle, which the system's allocator keeps: the budget of
/// `server.memory` is one of resident memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Before anything can open a connection: lettre, slack-morphism and reqwest would otherwise
    // each look for a provider of their own and panic.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: the TLS provider was installed twice");
        return ExitCode::FAILURE;
    }
    let cli = cli::Cli::parse();
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
