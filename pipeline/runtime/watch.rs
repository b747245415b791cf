//! Notices that files changed. Events of the file system only wake it, so that an edit is live at
//! once; what decides is the content, which it also compares every ten seconds, since events get
//! lost (network file systems, folders that are replaced).

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
/// ... but not for longer than this: something may write all the time.
const QUIET_MAX: Duration = Duration::from_secs(1);

/// Reloads whenever the content changed, until the runtime stops.
pub(super) async fn run(runtime: Arc<Runtime>) {
    let (wake, mut woken) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Who only reads, this program among them, would keep it waiting for quiet.
        if !event.is_ok_and(|e| e.kind.is_access()) {
            // A full channel has woken it already.
            let _ = wake.try_send(());
        }
    })
    .ok();
    let folder = runtime.options.pipelines.clone();
    let mut watching = watch(watcher.as_mut(), &folder);
    let stop = runtime.stop.clone();
    loop {
        let wait = tokio::time::timeout(POLL, woken.recv());
        match stop.run_until_cancelled(wait).await {
            None => return,
            Some(Ok(_)) => {
                let quiet =
                    async { while tokio::time::timeout(QUIET, woken.recv()).await.is_ok() {} };
                let quiet = tokio::time::timeout(QUIET_MAX, quiet);
                if stop.run_until_cancelled(quiet).await.is_none() {
                    return;
                }
            }
            Some(Err(_)) => {
                // The folder may have been replaced: the watch would be on the old one.
                watching = watch(watcher.as_mut(), &folder) || watching;
            }
        }
        runtime.reload_if_changed().await;
    }
}

fn watch(watcher: Option<&mut notify::RecommendedWatcher>, folder: &Path) -> bool {
    watcher.is_some_and(|w| {
        let _ = w.unwatch(folder);
        w.watch(folder, RecursiveMode::Recursive).is_ok()
    })
}
