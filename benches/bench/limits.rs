//! What the machine itself can do, to set the other figures beside. Writes
//! `docs/benchmarks-limits.md`.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::{machine, write_page};

/// More than the caches of most processors hold.
const MEMORY_BYTES: usize = 64 << 20;
/// About what a page of a column is.
const PAGE_BYTES: usize = 1 << 20;
const TIME: Duration = Duration::from_secs(1);
const SYNCS: usize = 200;

pub(super) fn run() {
    let from = vec![1_u8; MEMORY_BYTES];
    let mut to = vec![0_u8; MEMORY_BYTES];
    let copy = bytes_per_second(MEMORY_BYTES, || {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    });
    let small = &from[..PAGE_BYTES];
    let checksum = bytes_per_second(PAGE_BYTES, || {
        black_box(crc32c::crc32c(black_box(small)));
    });
    let page = log_lines();
    let packed = zstd::bulk::compress(&page, 1).unwrap();
    let pack = bytes_per_second(page.len(), || drop(zstd::bulk::compress(black_box(&page), 1)));
    let unpack = bytes_per_second(page.len(), || {
        drop(black_box(zstd::bulk::decompress(black_box(&packed), page.len())));
    });
    let gigabytes = |rate: f64| format!("{:.1} GB/s", rate / 1e9);
    let rows = [
        ("copy of memory that is in no cache", gigabytes(copy)),
        ("CRC32C of what is in the cache", gigabytes(checksum)),
        ("zstd level 1 of log lines, packed", gigabytes(pack)),
        ("zstd of log lines, unpacked (bytes that come out)", gigabytes(unpack)),
        ("append of 4 KiB and fsync, median", format!("{:.2} ms", sync_ms(4 << 10))),
        ("append of 1 MiB and fsync, median", format!("{:.2} ms", sync_ms(1 << 20))),
    ];
    let mut page = format!(
        "# Benchmarks: limits\n\nWritten by `make bench`: what one core, and the disk, of the machine \
         can do at best. {}.\n\n| | |\n|---|---|\n",
        machine()
    );
    for (name, value) in rows {
        page.push_str(&format!("| {name} | {value} |\n"));
    }
    write_page("benchmarks-limits.md", &page);
}

fn bytes_per_second(bytes: usize, mut once: impl FnMut()) -> f64 {
    once();
    let (start, mut times) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        once();
        times += 1;
    }
    (bytes * times) as f64 / start.elapsed().as_secs_f64()
}

/// Text that repeats as logs do.
fn log_lines() -> Vec<u8> {
    let mut out = Vec::with_capacity(PAGE_BYTES);
    for i in 0_u64.. {
        let id = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let line = format!("GET /cart/{} took {} ms, user {id:016x}\n", id % 997, id % 89);
        if out.len() + line.len() > PAGE_BYTES {
            break;
        }
        out.extend_from_slice(line.as_bytes());
    }
    out
}

/// Median milliseconds of an append and an fsync.
fn sync_ms(bytes: usize) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let mut file = File::create(dir.path().join("appended")).unwrap();
    let block: Vec<u8> = (0..bytes).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut took: Vec<f64> = (0..SYNCS)
        .map(|_| {
            let start = Instant::now();
            file.write_all(&block).unwrap();
            file.sync_data().unwrap();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    took.sort_by(f64::total_cmp);
    took[took.len() / 2]
}
