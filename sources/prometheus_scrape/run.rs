//! The running source: one task per target, each with its own place within the interval.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weir_pipeline::component::{SourceContext, SourceSettings};
use weir_pipeline::intake::now;
use weir_pipeline::journal::Envelope;

use super::ScrapePlan;
use super::client::{self, Page};
use super::decode::Outcome;
use super::target::{TARGETS_MAX, Target};

/// Scrapes of one source at a time: what they hold in memory is bounded by it.
const SCRAPES_MAX: usize = 64;
/// Target files are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Longest target file.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// At a stop, scrapes under way may take this long.
const FINISH: Duration = Duration::from_secs(5);

/// Scrapes until `context.stop` is cancelled.
pub(super) async fn run(context: SourceContext) {
    let tasks = TaskTracker::new();
    let room = Arc::new(Semaphore::new(SCRAPES_MAX));
    let mut changes = context.settings.clone();
    while !context.stop.is_cancelled() {
        let settings = changes.borrow_and_update().clone();
        // Ends the tasks of these settings; a scrape under way is finished.
        let end = context.stop.child_token();
        tokio::select! {
            () = context.stop.cancelled() => {}
            changed = changes.changed() => {
                if changed.is_err() {
                    // Nobody can change the settings any more; only the stop is left.
                    context.stop.cancelled().await;
                }
            }
            () = watch(&context, &settings, &room, &tasks, &end) => {}
        }
        end.cancel();
    }
    tasks.close();
    if tokio::time::timeout(FINISH, tasks.wait()).await.is_err() {
        tracing::warn!(source = %context.id, "scrapes did not finish in time and are cut off");
    }
}

/// Keeps one task per target, as long as it is not dropped.
async fn watch(
    context: &SourceContext,
    settings: &Arc<SourceSettings>,
    room: &Arc<Semaphore>,
    tasks: &TaskTracker,
    end: &CancellationToken,
) {
    let Some(plan) = settings.plan.as_any().downcast_ref::<ScrapePlan>() else {
        tracing::error!(source = %context.id, "these are not the settings of prometheus_scrape");
        return std::future::pending().await;
    };
    let mut files = Files::new(context.clone(), &plan.target_files);
    let mut running: BTreeMap<Target, CancellationToken> = BTreeMap::new();
    let mut client = None;
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if client.is_none() {
            client = match weir_pipeline::http_client::client(plan.tls.as_ref()) {
                Ok(client) => Some(client),
                Err(error) => {
                    tracing::error!(source = %context.id, error, "cannot scrape, trying again");
                    context.intake.metrics().error(1, "tls", &error, now());
                    continue;
                }
            };
        }
        let Some(client) = &client else { continue };
        let wanted = files.targets(plan).await;
        running.retain(|target, end| {
            let keep = wanted.contains(target);
            if !keep {
                end.cancel();
            }
            keep
        });
        for target in wanted {
            if running.contains_key(&target) {
                continue;
            }
            let own_end = end.child_token();
            let task = Task {
                context: context.clone(),
                settings: settings.clone(),
                client: client.clone(),
                room: room.clone(),
                target: target.clone(),
            };
            tasks.spawn(task.run(own_end.clone()));
            running.insert(target, own_end);
        }
    }
}

/// Target files and what they said last.
struct Files {
    context: SourceContext,
    last: Vec<(PathBuf, Vec<Target>, Option<String>)>,
}

impl Files {
    fn new(context: SourceContext, paths: &[PathBuf]) -> Self {
        let last = paths.iter().map(|path| (path.clone(), Vec::new(), None)).collect();
        Self { context, last }
    }

    /// All targets at this moment, sorted, none twice.
    async fn targets(&mut self, plan: &ScrapePlan) -> std::collections::BTreeSet<Target> {
        for (path, targets, failed) in &mut self.last {
            let text = read(path).await;
            match text.and_then(|text| plan.defaults.file(&text)) {
                Ok(new) => (*targets, *failed) = (new, None),
                Err(why) => {
                    let message = format!("target file `{}`: {why}", path.display());
                    let metrics = self.context.intake.metrics();
                    if failed.as_ref() != Some(&message) {
                        tracing::error!(source = %self.context.id, "{message}");
                        metrics.error(1, "target_file", &message, now());
                    }
                    *failed = Some(message);
                }
            }
        }
        let of_files = self.last.iter().flat_map(|(_, targets, _)| targets);
        plan.targets.iter().chain(of_files).take(TARGETS_MAX).cloned().collect()
    }
}

async fn read(path: &PathBuf) -> Result<Vec<u8>, String> {
    let file = tokio::fs::File::open(path).await.map_err(|e| e.to_string())?;
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).await.map_err(|e| e.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err("it is larger than 16 MiB".to_owned());
    }
    Ok(text)
}

/// The scrapes of one target.
struct Task {
    context: SourceContext,
    settings: Arc<SourceSettings>,
    client: reqwest::Client,
    room: Arc<Semaphore>,
    target: Target,
}

impl Task {
    async fn run(self, end: CancellationToken) {
        let Some(plan) = self.settings.plan.as_any().downcast_ref::<ScrapePlan>() else { return };
        let first = Instant::now() + delay(&self.target, plan.interval, now());
        let mut times = tokio::time::interval_at(first, plan.interval);
        // Never two at a time: a scrape that is late leaves the next one out.
        times.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let permit = tokio::select! {
                () = end.cancelled() => {
                    self.context.intake.metrics().way_gone(&self.target.url);
                    return;
                }
                permit = async {
                    times.tick().await;
                    self.room.acquire().await
                } => permit,
            };
            if permit.is_err() {
                return;
            }
            self.scrape(plan).await;
        }
    }

    async fn scrape(&self, plan: &ScrapePlan) {
        let (start, began) = (now(), Instant::now());
        let mut page = Page::default();
        let limits = (plan.timeout, plan.body_bytes_max);
        let got = client::get(&self.client, &self.target.url, &plan.auth, limits, &mut page).await;
        let metrics = self.context.intake.metrics();
        metrics.way_answers(&self.target.url, got.as_ref().err().map(String::as_str), now());
        if let Err(error) = &got {
            let message = format!("target {}: {error}", self.target.url);
            metrics.error(1, "scrape", &message, now());
            page.body = Bytes::new();
        }
        let outcome = Outcome {
            start,
            duration_ns: i64::try_from(began.elapsed().as_nanos()).unwrap_or(i64::MAX),
            status: page.status,
            error: got.err(),
            labels: self.target.labels.clone(),
        };
        let outcome = match serde_json::to_string(&outcome) {
            Ok(outcome) => outcome,
            Err(e) => return metrics.error(1, "outcome", &e.to_string(), now()),
        };
        let envelope = Envelope {
            content_type: page.content_type,
            encoding: page.encoding,
            target: self.target.url.clone(),
            outcome,
            ..Envelope::default()
        };
        let generation = self.settings.generation;
        let intake = &self.context.intake;
        let taken = intake.accept(generation, &*plan.decoder, envelope, page.body, Bytes::new());
        if let Err(error) = taken.await {
            // Counted by the intake; the next scrape says more than this one would.
            tracing::warn!(source = %self.context.id, target = %self.target.url, %error, "scrape is left out");
        }
    }
}

/// Time to the first scrape: each target has a place of its own within the interval, the same one
/// after a restart.
fn delay(target: &Target, interval: Duration, now: i64) -> Duration {
    // FNV-1a, 64 bits.
    let parts = target.labels.iter().flat_map(|(n, v)| [n, v]).chain([&target.url]);
    let bytes = parts.flat_map(|part| part.bytes().chain([0]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1);
    let phase = hash % interval;
    let into = now.unsigned_abs() % interval;
    Duration::from_nanos((phase + interval - into) % interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_within_the_interval() {
        let interval = Duration::from_secs(10);
        let target = |url: &str| Target { url: url.to_owned(), labels: BTreeMap::new() };
        let mut places = std::collections::BTreeSet::new();
        for i in 0..100 {
            let target = target(&format!("http://h{i}/metrics"));
            let at = |now: i64| now + delay(&target, interval, now).as_nanos() as i64;
            let first = at(1_700_000_000_000_000_000);
            // The same place whenever it starts.
            assert_eq!(at(first - 1) % 10_000_000_000, first % 10_000_000_000);
            assert_eq!(at(first), first);
            assert_eq!(at(first + 1), first + 10_000_000_000);
            places.insert(first % 10_000_000_000 / 1_000_000_000);
        }
        assert_eq!(places.len(), 10);
    }
}
