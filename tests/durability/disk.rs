//! Disks that are full, read-only, or fail: what cannot be kept is refused, what can be answered is,
//! and all goes on by itself.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;

use super::load::{Addresses, Load, OnFailure, ROWS, SOURCES, assert_refused, send_logs};
use super::{check_tables, pass, pipeline};
use crate::harness::{Server, wait};

/// Size of the file system of a test.
const SIZE: &str = "size=160m";
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

/// The disk under a data folder: a small file system of its own where the test may mount one, else
/// Weir is made to believe in its errors.
struct Disk {
    data: PathBuf,
    faults: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Before the first start of `server`.
    fn under(server: &Server) -> Self {
        let data = server.path().join("data");
        fs::create_dir(&data).unwrap();
        let mounted = run("mount", &["-t", "tmpfs", "-o", SIZE, "tmpfs", data.to_str().unwrap()]);
        let disk = Self { data, faults: faults(server.path()), mounted };
        eprintln!("data folder: {}", if mounted { "a tmpfs" } else { "simulated faults" });
        disk
    }

    /// Until no byte fits.
    fn fill(&self) {
        if !self.mounted {
            return self.fail("*.write", ENOSPC);
        }
        let path = self.data.join("ballast");
        let mut ballast = fs::File::options().create(true).append(true).open(path).unwrap();
        for size in [1 << 20, 4 << 10, 1] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn free(&self) {
        if !self.mounted {
            return self.mend();
        }
        fs::remove_file(self.data.join("ballast")).unwrap();
    }

    /// A file system becomes read-only under open files when the kernel finds it broken; nobody
    /// may ask for that, so it is always simulated.
    fn read_only(&self) {
        self.fail("*", EROFS);
    }

    /// From now on what `place` names fails.
    fn fail(&self, place: &str, errno: i32) {
        fail(&self.faults, place, errno);
    }

    fn mend(&self) {
        fs::write(&self.faults, "").unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // The process, which is dropped later, keeps it until then.
            assert!(run("umount", &["-l", self.data.to_str().unwrap()]), "still mounted");
        }
    }
}

/// The file that `WEIR_FAULTS` names.
fn faults(folder: &Path) -> PathBuf {
    folder.join("faults")
}

fn fail(faults: &Path, place: &str, errno: i32) {
    let new = faults.with_extension("new");
    fs::write(&new, format!("{place} {errno}\n")).unwrap();
    fs::rename(new, faults).unwrap();
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|o| o.status.success())
}

/// The journal's limit is what is to be met here, not that of what waits for a pipeline.
fn work(edit: usize) -> String {
    pipeline(edit, "[backlog]\nlimit = \"120MiB\"\n")
}

/// A server that is not started, its disk, and the environment of the test.
fn server() -> (Server, Disk) {
    let mut server = Server::prepare(
        &[("sources", SOURCES), ("work", &work(0))],
        Some("[journal]\nmax_bytes = \"128MiB\"\n"),
        &[],
    );
    let faults = faults(server.path()).to_str().unwrap().to_owned();
    server.set("WEIR_FAULTS", &faults);
    let disk = Disk::under(&server);
    (server, disk)
}

/// Waits until some more requests are refused.
fn wait_refused(load: &Load) {
    let before = load.refused.load(Relaxed);
    wait("refusals", || (load.refused.load(Relaxed) > before + 5).then_some(()));
}

/// Sends until it is acknowledged.
fn wait_taken(server: &Server, sent: &mut super::Ledgers, next: &AtomicI64) {
    let url = format!("http://{}/v1/logs", server.address("otlp"));
    wait("data is taken again", || {
        let first = next.fetch_add(ROWS, Relaxed);
        let reply = send_logs(&url, first);
        if reply.status != 200 {
            assert_refused(&reply);
            return None;
        }
        sent.logs.acknowledge(first);
        Some(())
    });
}

/// Edits until the edit is live: what runs was saved, and all that was staged is committed.
fn edited(server: &Server, edit: usize) {
    wait("an edit is live", || {
        server.write("work", &work(edit));
        (server.reload()["ok"] == true).then_some(())
    });
}

/// What must hold on a disk that takes nothing.
fn check_refusing(server: &Server, next: &AtomicI64, why: &str) {
    let url = format!("http://{}/v1/logs", server.address("otlp"));
    let reply = send_logs(&url, next.fetch_add(ROWS, Relaxed));
    assert_refused(&reply);
    assert!(reply.text().contains(why), "{}", reply.text());
    assert!(server.sql("SELECT count(*) AS c FROM rows")[0]["c"].as_u64().unwrap() > 0);
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn a_full_disk_refuses_answers_and_goes_on_by_itself() {
    let (mut server, disk) = server();
    server.restart();
    let next = Arc::new(AtomicI64::new(0));
    let load = Load::start(&Addresses::of(&server).unwrap(), &next, OnFailure::GoOn);
    let mut sent = super::Ledgers::default();
    wait_taken(&server, &mut sent, &next);
    pass(&server);
    for edit in 0..2 {
        disk.fill();
        wait_refused(&load);
        check_refusing(&server, &next, "No space left");
        // An edit cannot be saved now; it goes live when it can.
        server.write("work", &work(edit * 2 + 1));
        assert_eq!(server.reload()["ok"], false);
        check_refusing(&server, &next, "No space left");
        disk.free();
        wait_taken(&server, &mut sent, &next);
        edited(&server, edit * 2 + 2);
    }
    // A start while it is full, with what a death left.
    disk.fill();
    wait_refused(&load);
    sent.add(load.finish());
    server.kill9();
    server.restart();
    check_tables(&server, &sent);
    // What a start tidies away leaves room for a request or two.
    let url = format!("http://{}/v1/logs", server.address("otlp"));
    wait("it is full again", || {
        disk.fill();
        let first = next.fetch_add(ROWS, Relaxed);
        let taken = send_logs(&url, first).status == 200;
        if taken {
            sent.logs.acknowledge(first);
        }
        (!taken).then_some(())
    });
    check_refusing(&server, &next, "No space left");
    disk.free();
    wait_taken(&server, &mut sent, &next);
    assert_eq!(server.reload()["ok"], true);
    check_tables(&server, &sent);
    server.restart();
    check_tables(&server, &sent);
}

#[test]
fn a_read_only_disk_refuses_answers_and_goes_on_by_itself() {
    let (mut server, disk) = server();
    server.restart();
    let next = Arc::new(AtomicI64::new(0));
    let mut sent = super::Ledgers::default();
    wait_taken(&server, &mut sent, &next);
    pass(&server);
    let load = Load::start(&Addresses::of(&server).unwrap(), &next, OnFailure::GoOn);
    wait_taken(&server, &mut sent, &next);
    disk.read_only();
    wait_refused(&load);
    check_refusing(&server, &next, "Read-only");
    disk.mend();
    wait_taken(&server, &mut sent, &next);
    sent.add(load.finish());
    check_tables(&server, &sent);
    server.kill9();
    server.restart();
    check_tables(&server, &sent);
}

#[test]
fn errors_of_the_disk_cost_nothing_that_was_acknowledged() {
    let (mut server, disk) = server();
    server.restart();
    let next = Arc::new(AtomicI64::new(0));
    let load = Load::start(&Addresses::of(&server).unwrap(), &next, OnFailure::GoOn);
    let mut sent = super::Ledgers::default();
    wait_taken(&server, &mut sent, &next);
    pass(&server);
    for place in ["journal.create", "journal.write", "journal.sync"] {
        disk.fail(place, EIO);
        wait_refused(&load);
        check_refusing(&server, &next, "Input/output error");
        disk.mend();
        wait_taken(&server, &mut sent, &next);
    }
    for (edit, place) in ["file.sync", "store.write", "manifest.sync"].into_iter().enumerate() {
        // More than a checkpoint carries by itself.
        for _ in 0..20 {
            wait_taken(&server, &mut sent, &next);
        }
        pass(&server);
        disk.fail(place, EIO);
        server.write("work", &work(edit * 2 + 1));
        std::thread::scope(|scope| {
            // A reload saves and commits what there is, and tries for some seconds.
            scope.spawn(|| server.reload());
            wait("the error is named", || {
                let problems = server.status()["problems"].to_string();
                problems.contains("Input/output error").then_some(())
            });
            assert!(!server.sql("SELECT n FROM rows LIMIT 1").is_empty());
            // What the journal takes is taken.
            wait_taken(&server, &mut sent, &next);
            disk.mend();
        });
        edited(&server, edit * 2 + 2);
        assert!(!server.status()["problems"].to_string().contains("Input/output error"));
    }
    sent.add(load.finish());
    check_tables(&server, &sent);
    server.kill9();
    server.restart();
    check_tables(&server, &sent);
}
