//! The router: takes transitions of all pipelines, groups and routes them, makes the attempts,
//! and remembers all of it in its own fsynced log.
//!
//! [`core`] decides, [`log`] remembers; here stand the clock, the tasks and the disk. Every
//! transition, every turn of a group and every outcome is logged before anything follows from it,
//! so a kill at any point loses nothing that was logged and repeats nothing that was logged as
//! delivered. An attempt whose outcome was not logged is made again, under the same id.

mod attempts;
mod config;
mod core;
mod log;
mod matcher;
mod status;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weir_pipeline::journal::STEP_MIN_NS;

pub use config::{CONSOLE, RouterConfig};
pub use log::LogError;
pub use status::{AlertStatus, TargetStatus, TestOutcome, Told};

use self::attempts::{Attempts, Ended};
use self::core::{Core, Delivery, Outcome, Record};
use self::log::Log;
use crate::notify::{Notifiers, SendError, Transport};
use crate::transition::{Held, Transition};

/// How long a stop waits for attempts under way; what is cut off is made again at next start.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Longest sleep: a wall clock that jumps is noticed after it.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Where the router reads the time.
pub trait Clock: Send + Sync + 'static {
    /// UTC nanoseconds; anybody can set it.
    fn now(&self) -> i64;
    /// Nanoseconds since some point of this run; nobody can set it.
    fn running(&self) -> i64;
}

/// The clock of the machine.
pub struct WallClock(Instant);

impl Clock for WallClock {
    fn now(&self) -> i64 {
        weir_pipeline::intake::now()
    }

    fn running(&self) -> i64 {
        i64::try_from(self.0.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }
}

/// What a router is opened with besides its configuration.
pub struct RouterOptions {
    /// Folder of its log, `data/router`.
    pub dir: PathBuf,
    /// Where a person finds this Weir; stands in notices.
    pub external_url: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// When Weir ran last, UTC nanoseconds, if that is known.
    pub ran: Option<i64>,
    /// What makes the attempts; `None` for the real ones.
    pub transport: Option<Arc<dyn Transport>>,
}

impl RouterOptions {
    /// The real ones.
    pub fn new(dir: PathBuf, external_url: String) -> Self {
        let clock = Arc::new(WallClock(Instant::now()));
        Self { dir, external_url, clock, ran: None, transport: None }
    }
}

/// Why the router could not do something.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// Its log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record in its log is not what this version writes.
    #[error("router log: record {index} cannot be read: {source}")]
    Record {
        /// Counted from 0.
        index: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The disk refused; what was handed in is not taken.
    #[error("router log could not be written: {0}")]
    Write(String),
    /// No receiver of this name.
    #[error("there is no receiver `{name}`; receivers are {known}")]
    NoReceiver {
        /// As asked.
        name: String,
        /// Those there are.
        known: String,
    },
    /// The notifiers could not be made.
    #[error("notifiers: {0}")]
    Notifiers(String),
}

/// The rules that are to run, by pipeline and id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    rules: BTreeSet<(String, String)>,
    /// Pipelines of which no rule is taken for removed.
    pipelines: BTreeSet<String>,
}

impl Wanted {
    /// With a pipeline that is wanted, but whose rules are not known: its file is broken, or it
    /// could not be started. What it opened stays open.
    #[must_use]
    pub fn with_pipeline(mut self, name: String) -> Self {
        self.pipelines.insert(name);
        self
    }

    fn has(&self, pipeline: &str, alert: &str) -> bool {
        self.pipelines.contains(pipeline)
            || self.rules.contains(&(pipeline.to_owned(), alert.to_owned()))
    }
}

impl FromIterator<(String, String)> for Wanted {
    /// Of rules as (pipeline, alert).
    fn from_iter<I: IntoIterator<Item = (String, String)>>(rules: I) -> Self {
        Self { rules: rules.into_iter().collect(), pipelines: BTreeSet::new() }
    }
}

/// State and log, changed together.
pub(crate) struct Inner {
    pub(crate) core: Core,
    log: Log,
    clock: Arc<dyn Clock>,
    /// What the clock said last: now, running.
    seen: (i64, i64),
    /// How far timers were moved in all.
    pub(crate) moved: i64,
}

impl Inner {
    fn open(options: &RouterOptions, config: RouterConfig) -> Result<Self, RouterError> {
        let (log, records) = Log::open(&options.dir)?;
        let mut core = Core::new(config.clone(), options.external_url.clone());
        let fresh = records.is_empty();
        let mut last = i64::MIN;
        for (index, bytes) in records.iter().enumerate() {
            let record = serde_json::from_slice(bytes)
                .map_err(|source| RouterError::Record { index, source })?;
            core.apply(record);
            last = core.state.now;
        }
        let clock = options.clock.clone();
        let seen = (clock.now(), clock.running());
        let mut inner = Self { core, log, clock, seen, moved: 0 };
        let now = inner.follow();
        if fresh {
            inner.compact().map_err(|e| RouterError::Write(e.to_string()))?;
        } else {
            inner.force(Record::Open { now });
            // While Weir was down nobody looked whether what fired still does: no repetition is due
            // for it.
            let down = options.ran.map_or(0, |ran| now.saturating_sub(ran.max(last)));
            if down > STEP_MIN_NS {
                inner.move_timers(now, down);
            }
            if inner.core.config != config {
                inner.force(Record::Config { now, config });
            }
        }
        Ok(inner)
    }

    fn compact(&mut self) -> std::io::Result<()> {
        let snapshot = serde_json::to_vec(&self.core.snapshot())?;
        self.log.compact(&snapshot)
    }

    /// Logs, then applies. Nothing has happened if this fails.
    fn write(&mut self, record: Record) -> Result<(), RouterError> {
        let fail = |e: std::io::Error| RouterError::Write(e.to_string());
        if self.log.is_broken() {
            self.compact().map_err(fail)?;
        }
        let bytes = serde_json::to_vec(&record).map_err(|e| RouterError::Write(e.to_string()))?;
        self.log.append(&bytes).map_err(fail)?;
        self.core.apply(record);
        if self.log.wants_compaction()
            && let Err(error) = self.compact()
        {
            tracing::warn!(%error, "router log could not be compacted");
        }
        Ok(())
    }

    /// Logs if possible, applies in any case: a full disk is a reason to page, not to be silent.
    /// What could not be logged may be sent again after a restart.
    fn force(&mut self, record: Record) {
        if let Err(error) = self.write(record.clone()) {
            tracing::error!(%error, "router goes on without its log");
            self.core.apply(record);
        }
    }

    /// The time. Timers follow a clock that was set, so that none stands still or goes off early.
    pub(crate) fn follow(&mut self) -> i64 {
        let (now, running) = (self.clock.now(), self.clock.running());
        let (before, ran) = (self.seen.0, running.saturating_sub(self.seen.1));
        let back = before.max(self.core.state.now).saturating_sub(now);
        let ahead = now.saturating_sub(before).saturating_sub(ran);
        self.seen = (now, running);
        if back > 0 {
            self.move_timers(now, -back);
        } else if ahead > STEP_MIN_NS {
            self.move_timers(now, ahead);
        }
        now
    }

    fn move_timers(&mut self, now: i64, by: i64) {
        tracing::warn!(
            seconds = by / 1_000_000_000,
            "the clock was set or Weir was down, timers follow"
        );
        self.moved = self.moved.saturating_add(by);
        self.force(Record::SetBack { now, by: by.saturating_neg() });
    }

    pub(crate) fn tick(&mut self, now: i64) {
        if self.core.next_flush().is_some_and(|t| t <= now) {
            self.force(Record::Tick { now });
        }
    }

    pub(crate) fn submit(
        &mut self,
        now: i64,
        journal: u128,
        pipeline: &str,
        transitions: Vec<Transition>,
    ) -> Result<usize, RouterError> {
        let before = transitions.len();
        let new: Vec<Transition> =
            transitions.into_iter().filter(|t| self.core.is_new(journal, pipeline, t)).collect();
        let taken = new.len();
        if taken < before {
            tracing::debug!(pipeline, repeated = before - taken, "transitions known already");
        }
        if taken > 0 {
            let pipeline = pipeline.to_owned();
            self.write(Record::Submit { now, journal, pipeline, transitions: new })?;
        }
        Ok(taken)
    }

    pub(crate) fn reconcile(
        &mut self,
        now: i64,
        journal: u128,
        pipeline: &str,
        held: Held,
    ) -> Result<bool, RouterError> {
        let time = held.time;
        let differs = self.core.differs(journal, pipeline, &held);
        if differs {
            tracing::warn!(
                pipeline,
                alert = held.alert,
                "alerts are brought in line with the rule"
            );
            let pipeline = pipeline.to_owned();
            self.write(Record::Held { now, journal, pipeline, held })?;
        }
        if self.core.waits(now, pipeline) {
            self.write(Record::Came { now, pipeline: pipeline.to_owned(), time })?;
        }
        Ok(differs)
    }

    pub(crate) fn retain(&mut self, now: i64, wanted: Wanted) -> Result<usize, RouterError> {
        let strays = self.core.strays(&wanted).len();
        if !self.core.keeps_all(&wanted) {
            self.write(Record::Retain { now, wanted })?;
        }
        Ok(strays)
    }

    pub(crate) fn done(&mut self, now: i64, delivery: u64, outcome: Outcome) {
        self.force(Record::Done { now, delivery, outcome });
    }

    pub(crate) fn reconfigure(
        &mut self,
        now: i64,
        config: RouterConfig,
    ) -> Result<(), RouterError> {
        if self.core.config == config {
            return Ok(());
        }
        self.write(Record::Config { now, config })
    }
}

/// The router; one per server.
pub struct Router {
    pub(crate) inner: Arc<Mutex<Inner>>,
    clock: Arc<dyn Clock>,
    transport: Arc<dyn Transport>,
    external_url: String,
    wake: Notify,
}

impl Router {
    /// Opens or creates the log in `options.dir`, takes up what was under way, and goes on with
    /// `config`. The process-wide TLS provider must be installed.
    ///
    /// # Errors
    /// If the log cannot be used, or the notifiers cannot be made.
    pub fn open(options: RouterOptions, config: RouterConfig) -> Result<Arc<Self>, RouterError> {
        let inner = Inner::open(&options, config)?;
        let transport = match options.transport {
            Some(transport) => transport,
            None => Arc::new(Notifiers::new().map_err(|e| RouterError::Notifiers(e.message))?),
        };
        Ok(Arc::new(Self {
            inner: Arc::new(Mutex::new(inner)),
            clock: options.clock,
            transport,
            external_url: options.external_url,
            wake: Notify::new(),
        }))
    }

    /// Takes transitions of a pipeline, in order. They are on disk when this returns; those known
    /// already (by position) are left out. Gives the number of new ones.
    ///
    /// # Errors
    /// If the log cannot be written: nothing was taken, try again.
    pub async fn submit(
        &self,
        journal: u128,
        pipeline: &str,
        transitions: Vec<Transition>,
    ) -> Result<usize, RouterError> {
        let pipeline = pipeline.to_owned();
        let submit =
            move |inner: &mut Inner, now| inner.submit(now, journal, &pipeline, transitions);
        let taken = self.with(submit).await?;
        self.wake.notify_one();
        taken
    }

    /// Goes on with another configuration: groups and timers stay, nothing is sent again, what
    /// was opened is still closed.
    ///
    /// # Errors
    /// If the log cannot be written: the old configuration stays in force.
    pub async fn reconfigure(&self, config: RouterConfig) -> Result<(), RouterError> {
        let result = self.with(move |inner, now| inner.reconfigure(now, config)).await?;
        self.wake.notify_one();
        result
    }

    /// Takes what a rule of a pipeline holds open, as it says at its start and every minute.
    /// What the router has open besides is closed with reason `state_lost` (the rule started
    /// without its state); what it does not know is opened (its own log was lost). Gives whether
    /// anything changed.
    ///
    /// # Errors
    /// If the log cannot be written: nothing was taken, try again.
    pub(crate) async fn reconcile(
        &self,
        journal: u128,
        pipeline: &str,
        held: Held,
    ) -> Result<bool, RouterError> {
        let pipeline = pipeline.to_owned();
        let reconcile =
            move |inner: &mut Inner, now| inner.reconcile(now, journal, &pipeline, held);
        let changed = self.with(reconcile).await?;
        self.wake.notify_one();
        changed
    }

    /// Ends with reason `removed` what rules opened that are not wanted any more, and forgets
    /// where they stood. To be called after a reload has gone live, with the rules of all plans
    /// and the pipelines that have none now but are to run; gives the number of alerts ended.
    ///
    /// # Errors
    /// If the log cannot be written: nothing has ended.
    pub async fn retain(&self, wanted: Wanted) -> Result<usize, RouterError> {
        let ended = self.with(move |inner, now| inner.retain(now, wanted)).await?;
        self.wake.notify_one();
        ended
    }

    /// Runs `work` at the time that it is, off the asynchronous threads. It runs to its end even if
    /// the caller goes away: log and state never part.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Inner, i64) -> T + Send + 'static,
    ) -> Result<T, RouterError> {
        let inner = self.inner.clone();
        let work = move || {
            let mut inner = inner.lock();
            let now = inner.follow();
            work(&mut inner, now)
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| RouterError::Write(e.to_string()))
    }

    /// Looks at groups when their turn comes and makes the attempts, until `stop`. Attempts under
    /// way then have five seconds.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut attempts = Attempts::default();
        loop {
            let sleep = match self.step(&mut attempts).await {
                Ok(next) => Duration::from_nanos((next - self.clock.now()).max(0).cast_unsigned()),
                Err(error) => {
                    tracing::error!(%error, "router");
                    SLEEP_MAX
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(sleep.min(SLEEP_MAX)) => {}
                Some(ended) = attempts.tasks.join_next() => self.ended(&mut attempts, ended).await,
            }
        }
        let drain = async {
            while let Some(ended) = attempts.tasks.join_next().await {
                self.ended(&mut attempts, ended).await;
            }
        };
        if tokio::time::timeout(STOP_GRACE, drain).await.is_err() {
            tracing::warn!("attempts to notify were cut off; they are made again at next start");
        }
    }

    /// Gives groups their turn, begins what is due; when to look again.
    async fn step(self: &Arc<Self>, attempts: &mut Attempts) -> Result<i64, RouterError> {
        let mut load = attempts.load.clone();
        let (due, next, load) = self
            .with(move |inner, now| {
                load.follow(inner.moved);
                inner.tick(now);
                let (due, next) = load.admit(now, &inner.core.state.deliveries);
                (due, next.min(inner.core.next_flush().unwrap_or(i64::MAX)), load)
            })
            .await?;
        attempts.load = load;
        for (number, delivery) in due {
            self.begin(attempts, number, delivery);
        }
        Ok(next)
    }

    fn begin(self: &Arc<Self>, attempts: &mut Attempts, number: u64, delivery: Delivery) {
        let transport = self.transport.clone();
        attempts.tasks.spawn(async move {
            let send = transport.send(&delivery.target, &delivery.notification);
            let result = std::panic::AssertUnwindSafe(send).catch_unwind().await;
            let result =
                result.unwrap_or_else(|_| Err(SendError::permanent("the notifier failed")));
            (number, result)
        });
    }

    async fn ended(&self, attempts: &mut Attempts, ended: Ended) {
        let Ok((number, result)) = ended else { return };
        let target = attempts.load.numbers.remove(&number).unwrap_or_default();
        let mut paused = None;
        let outcome = match result {
            Ok(()) => {
                tracing::debug!(target, "notified");
                Outcome::Delivered
            }
            Err(e) if e.retry => {
                tracing::warn!(target, error = e.message, "could not notify, trying again");
                let after = e.after.map(|d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX / 2));
                paused = after.map(|after| (target, after));
                Outcome::Failed { error: e.message, after, doubt: e.doubt, left: e.left }
            }
            Err(e) => {
                tracing::error!(target, error = e.message, "cannot notify");
                Outcome::Refused { error: e.message }
            }
        };
        let done = move |inner: &mut Inner, now| {
            inner.done(now, number, outcome);
            (now, inner.moved)
        };
        match self.with(done).await {
            Ok((now, moved)) => {
                attempts.load.follow(moved);
                if let Some((target, after)) = paused {
                    attempts.load.paused.insert(target, now.saturating_add(after));
                }
            }
            Err(error) => tracing::error!(%error, "router"),
        }
    }
}

#[cfg(test)]
mod tests;
