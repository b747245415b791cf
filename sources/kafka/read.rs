//! Reading all partitions of the topics, as fast as the journal takes it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, FuturesUnordered, StreamExt};
use futures::{FutureExt, TryStreamExt};
use rskafka::client::Client;
use rskafka::client::partition::UnknownTopicHandling;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use weir_pipeline::kafka_client::{create, topics, within};

use super::KafkaPlan;
use super::partition::{Fetch, Log};
use crate::replayable::{Fetched, Inlet, Partition, Position, Start};

/// Topics are looked at for new partitions this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Bytes that fetches of all partitions may bring at a time, and bounds for one of them.
const FETCH_BYTES: usize = 32 << 20;
const FETCH_BYTES_EACH: (usize, usize) = (64 << 10, 2 << 20);
/// Records after which what came is handed over though more is there already.
const HAND_OVER_RECORDS: usize = 50_000;
/// Before a partition that failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Partitions that are opened at a time.
const OPENING: usize = 16;

/// A fetch that is done.
struct Done {
    partition: Partition,
    log: Log,
    fetch: Fetch,
}

/// What is read at present.
struct Reading<'a> {
    plan: &'a KafkaPlan,
    client: Client,
    known: BTreeSet<Partition>,
    /// One per partition.
    fetches: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Records that wait, by partition.
    behind: BTreeMap<Partition, u64>,
    /// Partitions that cannot be read at present.
    failing: BTreeMap<Partition, String>,
    /// Topics that are not there.
    missing: Option<String>,
}

/// Reads until `end`.
pub(super) async fn read(
    plan: &KafkaPlan,
    inlet: &mut Inlet,
    end: &CancellationToken,
) -> Result<(), String> {
    let Some(client) = inlet.until_end(plan.connection.connect()).await else { return Ok(()) };
    let mut reading = Reading {
        plan,
        client: client?,
        known: BTreeSet::new(),
        fetches: FuturesUnordered::new(),
        behind: BTreeMap::new(),
        failing: BTreeMap::new(),
        missing: None,
    };
    let mut look = Instant::now();
    while !end.is_cancelled() {
        if Instant::now() >= look {
            reading.look(inlet).await?;
            look = Instant::now() + LOOK_EVERY;
        }
        let first = inlet.until_end(timeout_at(look, reading.fetches.next())).await;
        let first = match first {
            None => return Ok(()),
            Some(Ok(Some(first))) => first,
            Some(Ok(None)) => return Err("there is no partition to read".to_owned()),
            Some(Err(_)) => continue,
        };
        reading.take(inlet, first).await?;
    }
    Ok(())
}

impl Reading<'_> {
    /// Looks for partitions that are not read yet, and begins with them.
    async fn look(&mut self, inlet: &mut Inlet) -> Result<(), String> {
        let Some(found) = inlet.until_end(partitions(self.plan, &self.client)).await else {
            return Ok(());
        };
        let (all, missing) = found?;
        let new: Vec<Partition> =
            all.iter().filter(|p| !self.known.contains(*p)).cloned().collect();
        let (least, most) = FETCH_BYTES_EACH;
        let bytes_max = (FETCH_BYTES / all.len().max(1)).clamp(least, most);
        let client = &self.client;
        let open = |partition: Partition| async move {
            let number = i32::try_from(partition.number).unwrap_or(i32::MAX);
            let handling = UnknownTopicHandling::Error;
            let opened = client.partition_client(&*partition.topic, number, handling);
            let log = Log::new(within("partition", opened).await?, bytes_max);
            let range = log.range().await?;
            Ok::<_, String>((partition, log, range))
        };
        let opening = stream::iter(new).map(open).buffered(OPENING).try_collect::<Vec<_>>();
        let Some(opened) = inlet.until_end(opening).await else { return Ok(()) };
        let opened = opened?;
        self.begin(inlet, opened).await?;
        match missing {
            Some(missing) if self.known.is_empty() => Err(missing),
            missing => {
                self.missing = missing;
                Ok(())
            }
        }
    }

    /// Compares partitions with where reading goes on, and fetches from there.
    async fn begin(
        &mut self,
        inlet: &mut Inlet,
        opened: Vec<(Partition, Log, (u64, u64))>,
    ) -> Result<(), String> {
        let mut first_time = Vec::new();
        for (partition, _, (first, last)) in &opened {
            if inlet.position(partition).is_some() {
                place(inlet, partition, (*first, *last)).await?;
                continue;
            }
            // A partition that a topic got since is new from its first record on.
            let newest = self.plan.start == Start::Newest && !inlet.knows(&partition.topic);
            let next = if newest { *last } else { *first };
            first_time.push((partition.clone(), Position { next, incarnation: 0 }));
        }
        inlet.begin(first_time).await?;
        for (partition, log, _) in opened {
            self.known.insert(partition.clone());
            self.fetch(inlet, partition, log, Duration::ZERO);
        }
        Ok(())
    }

    fn fetch(&mut self, inlet: &Inlet, partition: Partition, mut log: Log, pause: Duration) {
        let next = inlet.position(&partition).map_or(0, |p| p.next);
        self.fetches.push(Box::pin(async move {
            tokio::time::sleep(pause).await;
            let fetch = log.fetch(next).await;
            Done { partition, log, fetch }
        }));
    }

    /// Hands over what is there, and fetches what comes next.
    async fn take(&mut self, inlet: &mut Inlet, first: Done) -> Result<(), String> {
        let mut all = vec![first];
        let records = |done: &Done| match &done.fetch {
            Fetch::Records(records, _) => records.len(),
            _ => 0,
        };
        let mut count = records(&all[0]);
        while count < HAND_OVER_RECORDS
            && let Some(Some(more)) = self.fetches.next().now_or_never()
        {
            count += records(&more);
            all.push(more);
        }
        let mut fetched = Vec::new();
        let mut again = Vec::new();
        for Done { partition, log, fetch } in all {
            let mut pause = Duration::ZERO;
            match fetch {
                Fetch::Records(records, end) => {
                    let next = inlet.position(&partition).map_or(0, |p| p.next);
                    let next = records.last().map_or(next, |r| r.offset + 1);
                    self.behind.insert(partition.clone(), end.saturating_sub(next));
                    self.failing.remove(&partition);
                    if !records.is_empty() {
                        let partition = partition.clone();
                        fetched.push(Fetched { partition, records, next });
                    }
                }
                Fetch::OutOfRange(first, last) => place(inlet, &partition, (first, last)).await?,
                Fetch::Failed(why) => {
                    let Partition { topic, number } = &partition;
                    let why = format!("topic {topic}, partition {number}: {why}");
                    self.failing.insert(partition.clone(), why);
                    pause = AGAIN;
                }
            }
            again.push((partition, log, pause));
        }
        if !fetched.is_empty() {
            inlet.take(fetched).await?;
        }
        match self.failing.values().next().or(self.missing.as_ref()) {
            None => inlet.answers(Some(self.behind.values().sum())),
            // Nothing works: a new client, which asks for the way and for secrets anew.
            Some(why) if self.failing.len() >= self.known.len() => return Err(why.clone()),
            Some(why) => inlet.fails(why),
        }
        for (partition, log, pause) in again {
            self.fetch(inlet, partition, log, pause);
        }
        Ok(())
    }
}

/// The partitions there are of our topics, and what is to be said of topics that are not there.
async fn partitions(
    plan: &KafkaPlan,
    client: &Client,
) -> Result<(Vec<Partition>, Option<String>), String> {
    let mut there = topics(client).await?;
    let is_missing = |t: &&std::sync::Arc<str>| !there.contains_key(&***t);
    let missing: Vec<_> = plan.topics.iter().filter(is_missing).cloned().collect();
    let mut said = None;
    if !missing.is_empty() {
        match &plan.create {
            Some(how) => {
                for topic in &missing {
                    create(client, topic, how).await?;
                }
                there = topics(client).await?;
            }
            None => {
                said = Some(format!(
                    "there is no topic `{}`; create it, or let Weir do so by `create = {{}}`",
                    missing.join("`, `")
                ));
            }
        }
    }
    let of = |topic: &std::sync::Arc<str>| {
        let numbers = there.get(&**topic).into_iter().flatten();
        let number = |n: &i32| u32::try_from(*n).ok();
        let topic = topic.clone();
        let all = numbers.filter_map(number);
        all.map(move |number| Partition { topic: topic.clone(), number }).collect::<Vec<_>>()
    };
    Ok((plan.topics.iter().flat_map(of).collect(), said))
}

/// Compares a partition that has offsets `first` to before `last` with where reading goes on, and
/// tells what is not as it was left.
async fn place(
    inlet: &mut Inlet,
    partition: &Partition,
    (first, last): (u64, u64),
) -> Result<(), String> {
    let Some(position) = inlet.position(partition) else { return Ok(()) };
    if position.next > last {
        let why = format!(
            "it ends at {last}, before what was read: the topic was deleted and made anew, or lost \
             its end"
        );
        let at = Position { next: first, incarnation: 0 };
        return inlet.replaced(partition, at, &why).await;
    }
    if position.next < first {
        return inlet.gap(partition, first, "retention deleted them").await;
    }
    Ok(())
}
