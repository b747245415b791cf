//! Reading all partitions of the topics, as fast as the journal takes it.
//!
//! All that may take long is a future in one set, so that nothing waits for a controller or an SPU
//! that does not answer, but what needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use weir_pipeline::fluvio_client::{FluvioConnection, FluvioCreate, Topics};

use super::FluvioPlan;
use super::partition::{Log, News};
use crate::replayable::{Fetched, Inlet, Partition, Position, Start};

/// The controller is asked for new partitions and leaders this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The same after a partition failed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Bytes that answers of all partitions may bring at a time, and bounds for one of them.
const ANSWER_BYTES: usize = 32 << 20;
const ANSWER_BYTES_EACH: (usize, usize) = (64 << 10, 2 << 20);
/// Records after which what came is handed over though more is there already.
const HAND_OVER_RECORDS: usize = 50_000;

/// Position of a partition that begins behind the last record that it has when its SPU answers.
const NEWEST: u64 = u64::MAX;

/// What came to an end.
enum Event {
    /// It is time to ask the controller.
    Due,
    Looked(Result<Found, String>),
    Opened(Partition, Result<(Log, (u64, u64)), String>),
    News(Log, Result<News, String>),
}

/// What the controller said.
struct Found {
    topics: Topics,
    /// What is to be said of topics that are not there.
    missing: Option<String>,
}

/// What is read at present.
struct Reading<'a> {
    plan: &'a FluvioPlan,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    look: Instant,
    looking: bool,
    /// Partitions that are opened or read.
    active: BTreeSet<Partition>,
    /// Records that wait, by partition.
    behind: BTreeMap<Partition, u64>,
    /// Partitions that cannot be read at present.
    failing: BTreeMap<Partition, String>,
    /// Why the controller does not help.
    missing: Option<String>,
    /// What came, and is to be handed over; its partitions wait in `idle`.
    fetched: Vec<Fetched>,
    idle: Vec<Log>,
}

/// Reads until `end`.
pub(super) async fn read(
    plan: &FluvioPlan,
    inlet: &mut Inlet,
    end: &CancellationToken,
) -> Result<(), String> {
    let mut reading = Reading {
        plan,
        events: FuturesUnordered::new(),
        look: Instant::now(),
        looking: false,
        active: BTreeSet::new(),
        behind: BTreeMap::new(),
        failing: BTreeMap::new(),
        missing: None,
        fetched: Vec::new(),
        idle: Vec::new(),
    };
    while !end.is_cancelled() {
        let Some(event) = inlet.until_end(reading.event()).await else { return Ok(()) };
        reading.handle(inlet, event).await?;
        while reading.fetched.iter().map(|f| f.records.len()).sum::<usize>() < HAND_OVER_RECORDS
            && let Some(Some(event)) = reading.events.next().now_or_never()
        {
            reading.handle(inlet, event).await?;
        }
        reading.hand_over(inlet).await?;
    }
    Ok(())
}

impl Reading<'_> {
    async fn event(&mut self) -> Event {
        tokio::select! {
            Some(event) = self.events.next(), if !self.events.is_empty() => event,
            () = sleep_until(self.look), if !self.looking => Event::Due,
            else => Event::Due,
        }
    }

    async fn handle(&mut self, inlet: &mut Inlet, event: Event) -> Result<(), String> {
        match event {
            Event::Due => {
                self.looking = true;
                let FluvioPlan { connection, topics, create, .. } = self.plan;
                let (connection, topics) = (connection.clone(), topics.clone());
                let create = create.clone();
                self.events.push(Box::pin(async move {
                    Event::Looked(look(&connection, &topics, create.as_ref()).await)
                }));
                Ok(())
            }
            Event::Looked(found) => {
                self.looking = false;
                self.look = Instant::now() + LOOK_EVERY;
                match found {
                    Ok(found) => self.looked(inlet, &found).await?,
                    Err(why) => {
                        self.look = Instant::now() + LOOK_AGAIN;
                        self.missing = Some(why);
                    }
                }
                self.missing.clone().filter(|_| self.active.is_empty()).map_or(Ok(()), Err)
            }
            Event::Opened(partition, Err(why)) => self.failed(&partition, &why),
            Event::Opened(partition, Ok((log, range))) => {
                self.failing.remove(&partition);
                place(inlet, &partition, range).await?;
                let next = inlet.position(&partition).map_or(0, |p| p.next);
                self.behind.insert(partition, range.1.saturating_sub(next));
                self.listen(inlet, log);
                Ok(())
            }
            Event::News(log, Err(why)) => self.failed(log.partition(), &why),
            Event::News(log, Ok(news)) => {
                let partition = log.partition().clone();
                let (next, end) = match news {
                    News::Quiet { end } => (inlet.position(&partition).map_or(0, |p| p.next), end),
                    News::Records { records, next, end } => {
                        let partition = partition.clone();
                        self.fetched.push(Fetched { partition, records, next });
                        (next, end)
                    }
                    News::Deleted => {
                        // One of its name is another one, however long it is when it is seen.
                        let why = "the topic was deleted";
                        let at = Position { next: 0, incarnation: 0 };
                        inlet.replaced(&partition, at, why).await?;
                        return self.failed(&partition, why);
                    }
                };
                self.behind.insert(partition, end.saturating_sub(next));
                self.idle.push(log);
                Ok(())
            }
        }
    }

    /// Opens partitions that are not read yet.
    async fn looked(&mut self, inlet: &mut Inlet, found: &Found) -> Result<(), String> {
        let Found { topics: Topics { partitions, spus }, missing } = found;
        self.missing.clone_from(missing);
        let mut all = BTreeMap::new();
        let mut newest = Vec::new();
        for topic in &self.plan.topics {
            // A partition that a topic got since is new from its first record on.
            let is_newest = self.plan.start == Start::Newest && !inlet.knows(topic);
            for (number, leader) in partitions.get(&**topic).into_iter().flatten() {
                let partition = Partition { topic: topic.clone(), number: *number };
                if is_newest {
                    newest.push((partition.clone(), Position { next: NEWEST, incarnation: 0 }));
                }
                all.insert(partition, spus.get(leader).cloned());
            }
        }
        // Of all at once, whichever SPU answers first.
        inlet.begin(newest).await?;
        self.failing.retain(|p, _| all.contains_key(p));
        self.behind.retain(|p, _| all.contains_key(p));
        if all.is_empty() && self.missing.is_none() {
            self.missing = Some("there is no partition to read yet".to_owned());
        }
        let (least, most) = ANSWER_BYTES_EACH;
        let bytes_max = (ANSWER_BYTES / all.len().max(1)).clamp(least, most);
        for (partition, address) in all {
            if self.active.insert(partition.clone()) {
                let next = inlet.position(&partition).map(|p| p.next).filter(|n| *n != NEWEST);
                self.open(partition, address, next, bytes_max);
            }
        }
        Ok(())
    }

    /// `next` is where reading goes on, if it was read before.
    fn open(
        &mut self,
        partition: Partition,
        address: Option<String>,
        next: Option<u64>,
        bytes_max: usize,
    ) {
        let connection = self.plan.connection.clone();
        self.events.push(Box::pin(async move {
            let opening = async {
                let address = address.ok_or("no SPU leads it")?;
                let log = async || {
                    let line = connection.line(&address).await?;
                    Ok::<_, String>(Log::new(partition.clone(), line, bytes_max))
                };
                let mut own = log().await?;
                let range = own.range().await?;
                // What was committed may not count as that behind a death, until more is written.
                if let Some(last) = next.filter(|n| *n > range.1).and_then(|n| n.checked_sub(1)) {
                    if own.holds(last).await? {
                        let end = range.1;
                        return Err(format!(
                            "its SPU says that it ends at {end}, and has what was read behind that: \
                             it goes on when the SPU says so"
                        ));
                    }
                    own = log().await?;
                }
                Ok((own, range))
            };
            let opened = opening.await;
            Event::Opened(partition, opened)
        }));
    }

    /// Waits for what comes next.
    fn listen(&mut self, inlet: &Inlet, mut log: Log) {
        let next = inlet.position(log.partition()).map_or(0, |p| p.next);
        self.events.push(Box::pin(async move {
            let news = log.news(next).await;
            Event::News(log, news)
        }));
    }

    /// Tries again soon, with the leader that the partition has then.
    fn failed(&mut self, partition: &Partition, why: &str) -> Result<(), String> {
        let Partition { topic, number } = partition;
        let why = format!("topic {topic}, partition {number}: {why}");
        self.active.remove(partition);
        if self.active.is_empty() {
            return Err(why);
        }
        self.failing.insert(partition.clone(), why);
        self.look = self.look.min(Instant::now() + LOOK_AGAIN);
        Ok(())
    }

    /// Appends what came, and only then says so to the SPUs.
    async fn hand_over(&mut self, inlet: &mut Inlet) -> Result<(), String> {
        let fetched = std::mem::take(&mut self.fetched);
        if !fetched.is_empty() {
            inlet.take(fetched).await?;
        }
        for log in std::mem::take(&mut self.idle) {
            self.listen(inlet, log);
        }
        match self.failing.values().next().or(self.missing.as_ref()) {
            Some(why) => inlet.fails(why),
            // Once it is known of all of them how many wait.
            None if !self.active.is_empty() && self.behind.len() >= self.active.len() => {
                inlet.answers(Some(self.behind.values().sum()));
            }
            None => {}
        }
        Ok(())
    }
}

/// Asks the controller, and creates what is missing if that was asked for.
async fn look(
    connection: &FluvioConnection,
    topics: &[Arc<str>],
    create: Option<&FluvioCreate>,
) -> Result<Found, String> {
    let mut controller = connection.controller().await?;
    let mut there = controller.topics().await?;
    let is_missing = |t: &&Arc<str>| !there.partitions.contains_key(&***t);
    let missing: Vec<_> = topics.iter().filter(is_missing).cloned().collect();
    if missing.is_empty() {
        return Ok(Found { topics: there, missing: None });
    }
    let Some(how) = create else {
        let missing = format!(
            "there is no topic `{}`; create it, or let Weir do so by `create = {{}}`",
            missing.join("`, `")
        );
        return Ok(Found { topics: there, missing: Some(missing) });
    };
    for topic in &missing {
        controller.create(topic, how).await?;
    }
    there = controller.topics().await?;
    Ok(Found { topics: there, missing: None })
}

/// Compares a partition that has offsets `first` to before `last` with where reading goes on,
/// and tells what is not as it was left.
async fn place(
    inlet: &mut Inlet,
    partition: &Partition,
    (first, last): (u64, u64),
) -> Result<(), String> {
    let position = match inlet.position(partition) {
        Some(position) if position.next != NEWEST => position,
        newest => {
            let next = if newest.is_some() { last } else { first };
            return inlet.begin(vec![(partition.clone(), Position { next, incarnation: 0 })]).await;
        }
    };
    if position.next > last {
        let why = format!(
            "it ends at {last}, before what was read: the topic was deleted and made anew, or \
             lost its end"
        );
        let at = Position { next: first, incarnation: 0 };
        return inlet.replaced(partition, at, &why).await;
    }
    if position.next < first {
        return inlet.gap(partition, first, "retention deleted them").await;
    }
    Ok(())
}
