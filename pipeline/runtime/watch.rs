//! Notices that files changed. Events of the file system only wake it, so that an edit is live at
//! once; what decides is the content, which it also compares every ten seconds, since events get
//! lost (network file systems, folders that are replaced).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::Runtime;

/// Between comparisons of the content.
const POLL: Duration = Duration::from_secs(10);
/// Editors write a file in several steps: wait until it has been quiet for this long.
const QUIET: Duration = Duration::from_millis(100);

/// Reloads whenever the content changed, until the runtime stops.
pub(super) async fn run(runtime: Arc<Runtime>) {
    let (wake, mut woken) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |_| {
        // A full channel has woken it already.
        let _ = wake.try_send(());
    })
    .ok();
    let folder = runtime.options.pipelines.clone();
    let mut watching = watch(watcher.as_mut(), &folder);
    let mut seen = runtime.content();
    let stop = runtime.stop.clone();
    loop {
        let wait = tokio::time::timeout(POLL, woken.recv());
        match stop.run_until_cancelled(wait).await {
            None => return,
            Some(Ok(_)) => {
                while tokio::time::timeout(QUIET, woken.recv()).await.is_ok() {
                    if stop.is_cancelled() {
                        return;
                    }
                }
            }
            Some(Err(_)) => {
                // The folder may have been replaced: the watch would be on the old one.
                watching = watch(watcher.as_mut(), &folder) || watching;
            }
        }
        let content = runtime.content();
        if content != seen {
            seen = content;
            runtime.reload().await;
        }
    }
}

fn watch(watcher: Option<&mut notify::RecommendedWatcher>, folder: &Path) -> bool {
    watcher.is_some_and(|w| {
        let _ = w.unwatch(folder);
        w.watch(folder, RecursiveMode::Recursive).is_ok()
    })
}

impl Runtime {
    /// A hash of all that a reload would read: the files of the folder, and those that running
    /// plans name.
    fn content(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        let mut paths = crate::config::pipeline_files(&self.options.pipelines);
        for running in self.pipelines.lock().values() {
            paths.extend(running.plan.lock().bundle.files.keys().map(Into::into));
        }
        paths.sort();
        paths.dedup();
        for path in paths {
            path.hash(&mut hash);
            std::fs::read(&path).ok().hash(&mut hash);
        }
        hash.finish()
    }
}
