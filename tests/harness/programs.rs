//! Programs of others, started for a test.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{DEADLINE, end, log_file};

/// Finds an installed program.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    let mut files = folders.map(|f| Path::new(f).join(name));
    files
        .find(|f| f.is_file())
        .unwrap_or_else(|| panic!("`{name}` is not installed; `make test` installs it"))
}

/// A program that `make test` builds into `tools` at the top of the build folder.
pub(crate) fn tool(name: &str) -> PathBuf {
    let path = build_folder().join("tools/bin").join(name);
    assert!(path.is_file(), "there is no {}; `make test` builds it", path.display());
    path
}

fn build_folder() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_weir")).ancestors().nth(2).unwrap()
}

/// Runs a script of `tests/python` with the OpenTelemetry SDK; fails unless it ends well.
pub(crate) fn python(script: &str, arguments: &[&str]) -> String {
    let (python, script) = script_of(script);
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

/// The Python that `make test` sets up, and a script of `tests/python` for it.
pub(crate) fn script_of(name: &str) -> (PathBuf, PathBuf) {
    // tests/… of the build folder; `make test` makes `venv` at its top.
    let python = std::env::var_os("WEIR_PYTHON")
        .map_or_else(|| build_folder().join("venv/bin/python"), PathBuf::from);
    assert!(
        python.is_file(),
        "there is no {}; `make test` installs it with what tests need",
        python.display()
    );
    (python, Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name))
}

/// A port that is free now, for programs that cannot say which one they got. Weir itself is
/// given port 0.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A program that runs until it is dropped; what it prints goes to a file.
pub(crate) struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it; its output goes to `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let log = log.to_owned();
        let (stdout, stderr) = (log_file(&log), log_file(&log));
        let command = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
        Self { name: name.to_owned(), child, log }
    }

    /// SIGTERM, and waits until it has ended.
    pub(crate) fn stop(mut self) {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(killed.unwrap().success());
        assert!(end(&mut self.child, DEADLINE).is_some(), "{} does not end", self.name);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let text = std::fs::read(&self.log).unwrap_or_default();
            eprintln!("--- {} ---\n{}", self.name, String::from_utf8_lossy(&text));
        }
    }
}
