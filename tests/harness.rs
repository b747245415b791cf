//! A running Weir in a folder of its own, and what tests ask of it.

mod http;
mod programs;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) use http::{Grpc, Reply, request, serve};
pub(crate) use programs::{Program, free_port, program, python, script_of, tool};

/// How long a condition may take to come true: far longer than it does on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
/// The signal that ends a process at a fail point.
const SIGABRT: i32 = 6;
/// A stop takes at most this long (design, section 6).
const STOP: Duration = Duration::from_secs(10);
/// Pause between two looks at a condition.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// A Weir process. Dropping it kills it, and after a failed test prints what it logged.
///
/// Addresses in pipelines have port 0; [`Server::listens`] says what was bound. Sockets are kept
/// by the address as asked for, so two sources need two addresses: `127.0.0.1:0`, `127.0.0.2:0`.
pub(crate) struct Server {
    dir: TempDir,
    child: Option<Child>,
    environment: Vec<(String, String)>,
    /// Of the API, such as `http://127.0.0.1:41234`; another one after a restart.
    pub(crate) url: String,
}

impl Server {
    /// Starts with pipeline files (name without `.toml`, text) and waits until it is ready.
    pub(crate) fn start(pipelines: &[(&str, &str)], weir_toml: Option<&str>) -> Self {
        Self::start_with(pipelines, weir_toml, &[])
    }

    /// As [`Server::start`], with environment variables.
    pub(crate) fn start_with(
        pipelines: &[(&str, &str)],
        weir_toml: Option<&str>,
        environment: &[(&str, &str)],
    ) -> Self {
        let mut server = Self::prepare(pipelines, weir_toml, environment);
        server.restart();
        server
    }

    /// As [`Server::start_with`], but not started.
    pub(crate) fn prepare(
        pipelines: &[(&str, &str)],
        weir_toml: Option<&str>,
        environment: &[(&str, &str)],
    ) -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("pipelines.d")).unwrap();
        let environment = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        let server =
            Self { dir, child: None, environment: environment.collect(), url: String::new() };
        for (name, text) in pipelines {
            server.write(name, text);
        }
        if let Some(text) = weir_toml {
            fs::write(server.path().join("weir.toml"), text).unwrap();
        }
        server
    }

    /// Sets an environment variable for the starts from now on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Its folder: `pipelines.d/`, `weir.toml`, `data/`, `stdout`, `stderr`.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a pipeline file, as an editor does: a new file takes the place of the old one.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let folder = self.path().join("pipelines.d");
        let new = folder.join(format!(".{name}.new"));
        fs::write(&new, text).unwrap();
        fs::rename(&new, folder.join(format!("{name}.toml"))).unwrap();
    }

    /// Starts the process again over the same folder; one that runs is stopped first.
    pub(crate) fn restart(&mut self) {
        if self.child.is_some() {
            self.stop();
        }
        let logged = self.spawn(None);
        self.url = wait("Weir is up", || {
            self.assert_runs();
            self.says_up(logged)
        });
        wait("/readyz", || (self.get("/readyz").status == 200).then_some(()));
    }

    /// Starts the process, which may end instead; whether it is up.
    pub(crate) fn try_restart(&mut self) -> bool {
        let logged = self.spawn(None);
        wait("Weir is up or gone", || {
            let child = self.child.as_mut()?;
            if child.try_wait().unwrap().is_some() {
                self.child = None;
                return Some(false);
            }
            self.url = self.says_up(logged)?;
            (self.get("/readyz").status == 200).then_some(true)
        })
    }

    /// Whether there is a process.
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts the process so that it dies at a fail point (`name:count`). Whether it is up before
    /// that; then the rest is up to what it is sent.
    pub(crate) fn start_to_die(&mut self, failpoint: &str) -> bool {
        let logged = self.spawn(Some(failpoint));
        wait("Weir is up or gone", || {
            let up = self.says_up(logged);
            self.url = up.clone().unwrap_or_default();
            (self.died() || up.is_some() && self.get("/readyz").status == 200).then_some(())
        });
        !self.died()
    }

    /// Whether it has ended at a fail point; fails if it ended in any other way.
    pub(crate) fn died(&mut self) -> bool {
        let Some(child) = &mut self.child else { return true };
        let Some(status) = child.try_wait().unwrap() else { return false };
        self.child = None;
        assert_eq!(status.signal(), Some(SIGABRT), "Weir ended: {status}");
        true
    }

    /// Starts the process; gives how much was logged before.
    fn spawn(&mut self, failpoint: Option<&str>) -> usize {
        let log = |name: &str| {
            let file = self.path().join(name);
            OpenOptions::new().create(true).append(true).open(file).unwrap()
        };
        let (stdout, stderr) = (log("stdout"), log("stderr"));
        let logged = usize::try_from(stderr.metadata().unwrap().len()).unwrap();
        let mut command = Command::new(binary());
        command
            .arg("run")
            .args(["--listen", "127.0.0.1:0", "--pipelines"])
            .arg(self.path().join("pipelines.d"))
            .arg("--data")
            .arg(self.path().join("data"))
            .envs(self.environment.iter().map(|(n, v)| (n, v)))
            .envs(failpoint.map(|f| ("WEIR_FAILPOINT", f)))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        self.child = Some(command.spawn().unwrap());
        logged
    }

    /// Where it says that it listens, in what it logged behind `logged`.
    fn says_up(&self, logged: usize) -> Option<String> {
        let log = self.stderr();
        let (_, rest) = log.get(logged..)?.split_once("Weir is up: ")?;
        // The line may not be whole yet.
        rest.contains('\n').then(|| rest.split_whitespace().next().unwrap().to_owned())
    }

    /// All that it logged, over all starts.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path().join("stderr")).unwrap()).into_owned()
    }

    /// All that it printed (alerts on the console), over all starts.
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path().join("stdout")).unwrap()).into_owned()
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("Weir does not run").id()
    }

    /// Its resident memory, bytes: `VmHWM` at most so far, with its code; `RssAnon` now, without.
    pub(crate) fn resident(&self, kind: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(kind)?.strip_prefix(':')).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    }

    /// Fails if the process has ended.
    pub(crate) fn assert_runs(&mut self) {
        let child = self.child.as_mut().expect("Weir was not started");
        if let Some(status) = child.try_wait().unwrap() {
            panic!("Weir ended: {status}");
        }
    }

    /// `kill -9`.
    pub(crate) fn kill9(&mut self) {
        let mut child = self.child.take().expect("Weir does not run");
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "it had ended before");
    }

    /// SIGTERM; fails unless it ends well within ten seconds.
    pub(crate) fn stop(&mut self) {
        let mut child = self.child.take().expect("Weir does not run");
        let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(killed.unwrap().success());
        match end(&mut child, STOP) {
            Some(status) => assert!(status.success(), "stopped badly: {status}"),
            None => {
                // So that it is not left behind; `Drop` prints the log.
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("still there {STOP:?} after SIGTERM");
            }
        }
    }

    /// `GET` of a path of the API.
    pub(crate) fn get(&self, path: &str) -> Reply {
        request("GET", &format!("{}{path}", self.url), &[], Vec::new())
    }

    /// `POST` to a path of the API.
    pub(crate) fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> Reply {
        request("POST", &format!("{}{path}", self.url), &[], body.into())
    }

    /// `/api/v1/status`.
    pub(crate) fn status(&self) -> Value {
        let reply = self.get("/api/v1/status");
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// `POST /api/v1/reload`: what came of it.
    pub(crate) fn reload(&self) -> Value {
        let reply = self.post("/api/v1/reload", "");
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// What a question answers, as HTTP gives it.
    pub(crate) fn query(&self, sql: &str) -> Reply {
        let headers = [("accept", "application/x-ndjson"), ("content-type", "text/plain")];
        request("POST", &format!("{}/api/v1/sql", self.url), &headers, sql.into())
    }

    /// The rows of an answer.
    pub(crate) fn sql(&self, sql: &str) -> Vec<Value> {
        self.try_sql(sql).unwrap_or_else(|e| panic!("{sql}\n{e}"))
    }

    fn try_sql(&self, sql: &str) -> Result<Vec<Value>, String> {
        let reply = self.query(sql);
        if reply.status != 200 {
            return Err(format!("{}: {}", reply.status, reply.text()));
        }
        let rows = reply.text().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let rows: Vec<Value> = rows;
        // An answer that broke off; `weir_errors` has a text column of that name.
        match rows.last().and_then(|last| last.get("weir.error")) {
            Some(error) if error.is_object() => Err(error.to_string()),
            _ => Ok(rows),
        }
    }

    /// Asks until `enough` of the rows; a table that does not exist yet has none. Fails after
    /// [`DEADLINE`] with the last answer.
    pub(crate) fn wait_sql(&self, sql: &str, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let start = Instant::now();
        loop {
            let answer = self.try_sql(sql);
            if let Ok(rows) = &answer
                && enough(rows)
            {
                return answer.unwrap();
            }
            assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {sql}\n{answer:#?}");
            std::thread::sleep(PAUSE);
        }
    }

    /// Where a source listens: `127.0.0.1:41234/tcp`.
    pub(crate) fn listens(&self, source: &str) -> Vec<String> {
        let status = self.status();
        let sources = status["sources"].as_array().unwrap();
        let source = sources.iter().find(|s| s["id"] == source).expect("no such source");
        let listens = source["listens"].as_array().unwrap();
        listens.iter().map(|l| l.as_str().unwrap().to_owned()).collect()
    }

    /// The first address of a source, without the protocol: `127.0.0.1:41234`.
    pub(crate) fn address(&self, source: &str) -> String {
        let first = self.listens(source).swap_remove(0);
        assert!(!first.contains("cannot be opened"), "{source}: {first}");
        first.split('/').next().unwrap().to_owned()
    }

    /// Runs another command of the binary; gives its exit code and all it printed.
    pub(crate) fn weir(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let command = Command::new(binary())
            .args(arguments)
            .env("WEIR_URL", &self.url)
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().map(|(n, v)| (n, v)))
            .current_dir(self.path())
            .output()
            .unwrap();
        let text = [command.stdout, command.stderr].concat();
        (command.status.code(), String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- stderr of Weir ---\n{}", self.stderr());
        }
    }
}

/// What is tested: the binary of this build, unless `WEIR_TEST_BINARY` names another for figures.
pub(crate) fn binary() -> OsString {
    std::env::var_os("WEIR_TEST_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_weir").into())
}

/// Looks until there is something; fails after [`DEADLINE`].
pub(crate) fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits for the end of a process.
fn end(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(PAUSE);
    }
    None
}

/// A file that a child writes to.
fn log_file(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}
