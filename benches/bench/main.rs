//! Weir beside peers under the same load and the same questions, on the same cores.
//!
//! `make bench` runs all; `cargo bench --bench bench -- limits`, `ingest`, `queries` or `rest` one
//! part, and `rest-cost` what of `rest` needs no peers, which is printed alone. Nothing is
//! asserted about time; that what was acknowledged is there is.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used)]

mod ingest;
mod limits;
mod queries;
mod rest;
mod servers;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

fn main() {
    // As the binary's own `main` does: reqwest asks for it.
    rustls::crypto::ring::default_provider().install_default().expect("the first to ask");
    let asked: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |part: &str| asked.is_empty() || asked.iter().any(|a| a == part);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    if wanted("limits") {
        limits::run();
    }
    if wanted("ingest") {
        runtime.block_on(ingest::run());
    }
    if wanted("queries") {
        runtime.block_on(queries::run());
    }
    if wanted("rest") {
        runtime.block_on(rest::run());
    } else if wanted("rest-cost") {
        runtime.block_on(rest::cost());
    }
}

/// Prints a page and keeps it under `docs/`.
fn write_page(name: &str, page: &str) {
    print!("{page}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    std::fs::write(&path, page).unwrap();
    println!("\nwritten: {}", path.display());
}

/// What all figures of a page stand beside.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let of = |text: String, key: &str| {
        let line = text.lines().find(|l| l.starts_with(key)).unwrap_or_default().to_owned();
        line.split_once(':').map(|(_, v)| v.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let dir = tempfile::tempdir().unwrap();
    format!(
        "{cores} cores of {}, {} of memory, a disk that takes {:.0} MB/s in writes of 1 MiB with an \
         fsync each",
        of(read("/proc/cpuinfo"), "model name"),
        of(read("/proc/meminfo"), "MemTotal"),
        disk_bytes_per_second(dir.path()) / 1e6,
    )
}

/// What the disk takes when each MiB is fsynced.
fn disk_bytes_per_second(dir: &Path) -> f64 {
    const BLOCK: usize = 1 << 20;
    const BLOCKS: usize = 256;
    let path: PathBuf = dir.join("limit");
    let mut file = File::create(path).unwrap();
    // Not zeros: some disks are quicker at those.
    let block: Vec<u8> = (0..BLOCK).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let start = Instant::now();
    for _ in 0..BLOCKS {
        file.write_all(&block).unwrap();
        file.sync_data().unwrap();
    }
    (BLOCK * BLOCKS) as f64 / start.elapsed().as_secs_f64()
}
