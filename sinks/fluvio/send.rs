//! Writing what waits, and waiting until it is committed: one request at a time to each SPU, with one
//! batch of each partition that it leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fluvio::dataplane::link::ErrorCode;
use fluvio::dataplane::record::RecordSet;
use fluvio_spu_schema::Isolation;
use fluvio_spu_schema::produce::{
    DefaultPartitionRequest, DefaultProduceRequest, DefaultTopicRequest,
};
use futures::future::join_all;
use weir_pipeline::component::{SinkContext, SinkError};
use weir_pipeline::fluvio_client::{Line, TIMEOUT, Topics, encode, topic};
use weir_pipeline::intake::now;

use super::Settings;
use super::batches::{Batches, Place, Records, batches};
use crate::messages::{Message, rehome};

/// Batches of one request at most.
const REQUEST_BATCHES: usize = 16;
/// An SPU that does not get a batch to the other replicas in time says so after so long, before we
/// give it up.
const COMMIT_WITHIN: Duration = Duration::from_secs(20);

pub(super) struct Sender {
    pub(super) settings: Arc<Settings>,
    context: SinkContext,
    /// What the controller said; asked for again after an error.
    topics: Option<Topics>,
    /// Connections to SPUs that work.
    lines: BTreeMap<i32, Line>,
    /// Rows since the last tick.
    pub(super) waiting: Vec<Message>,
    /// What of them, and of ticks before, is not written yet.
    batches: Batches,
    /// Rows were refused, and that was said.
    refused: bool,
}

/// What came of a batch.
enum Answer {
    Taken,
    /// It is too large as a whole.
    TooLarge,
    /// For good.
    Refused(String),
    /// A try later may help.
    Later(String),
}

impl Sender {
    pub(super) fn new(settings: Arc<Settings>, context: SinkContext) -> Self {
        Self {
            settings,
            context,
            topics: None,
            lines: BTreeMap::new(),
            waiting: Vec::new(),
            batches: Batches::new(),
            refused: false,
        }
    }

    /// Writes what is there under the tick at `offset`. Goes on where a try before failed.
    pub(super) async fn send(&mut self, offset: u64) -> Result<(), SinkError> {
        let sent = self.try_send(offset).await;
        sent.map_err(|why| {
            self.topics = None;
            self.lines.clear();
            SinkError::transient(why)
        })
    }

    async fn try_send(&mut self, offset: u64) -> Result<(), String> {
        self.write().await?;
        if self.waiting.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.waiting);
        match self.batched(&rows, offset).await {
            Ok(batches) => self.batches = batches,
            Err(why) => {
                self.waiting = rows;
                return Err(why);
            }
        }
        self.write().await
    }

    /// Rows as batches; those without a topic are dropped.
    async fn batched(&mut self, rows: &[Message], offset: u64) -> Result<Batches, String> {
        let named: Vec<(String, &Message)> =
            rows.iter().filter_map(|row| Some((topic(row.to.as_ref()?), row))).collect();
        let sorted = |topics: &Topics| batches(&named, &topics.partitions, offset, now());
        let mut created = None;
        let batches = loop {
            let missing = match sorted(self.topics().await?) {
                Ok(batches) => break batches,
                Err(missing) => missing,
            };
            if created.as_ref() == Some(&missing) {
                return Err(format!("topic `{missing}` was created and is not there yet"));
            }
            // It may be there since we asked.
            self.topics = None;
            if sorted(self.topics().await?).err().as_ref() == Some(&missing) {
                self.create(&missing).await?;
                created = Some(missing);
            }
        };
        if named.len() < rows.len() {
            let without = (rows.len() - named.len()) as u64;
            self.dropped(without, "no_topic", "`topic_by` gives no topic for a row");
        }
        Ok(batches)
    }

    async fn create(&mut self, missing: &str) -> Result<(), String> {
        let Some(how) = &self.settings.create else {
            return Err(format!(
                "there is no topic `{missing}`; create it, or let Weir do so by `create = {{}}`"
            ));
        };
        let mut controller = self.settings.connection.controller().await?;
        controller.create(missing, how).await?;
        self.topics = Some(controller.topics().await?);
        Ok(())
    }

    async fn topics(&mut self) -> Result<&Topics, String> {
        if self.topics.is_none() {
            let mut controller = self.settings.connection.controller().await?;
            self.topics = Some(controller.topics().await?);
        }
        self.topics.as_ref().ok_or_else(|| "nothing is known of topics".to_owned())
    }

    /// Writes all batches: of each partition one after the other, of several at the same time.
    async fn write(&mut self) -> Result<(), String> {
        while !self.batches.is_empty() {
            self.find_partitions().await?;
            let requests = self.requests()?;
            self.connect(requests.keys().copied()).await?;
            let compression = self.settings.compression.of_client();
            let mut under_way = Vec::new();
            for (spu, line) in &mut self.lines {
                if let Some(places) = requests.get(spu) {
                    let batches = &self.batches;
                    let front = |p: &Place| batches.get(p).and_then(|b| b.front()).cloned();
                    let fronts = places.iter().map(|p| (p.clone(), front(p).unwrap_or_default()));
                    under_way.push(produce(line, fronts.collect(), compression));
                }
            }
            let answers = join_all(under_way).await;
            let mut later = None;
            for (place, answer) in answers.into_iter().flatten() {
                later = later.or(self.answered(&place, answer));
            }
            if let Some(why) = later {
                return Err(why);
            }
        }
        Ok(())
    }

    /// Batches that wait may be for partitions, or a topic, that are gone since.
    async fn find_partitions(&mut self) -> Result<(), String> {
        let waiting: BTreeSet<String> =
            self.batches.keys().map(|(topic, _)| topic.clone()).collect();
        for topic in waiting {
            if self.topics().await?.partitions.get(&topic).is_none_or(BTreeMap::is_empty) {
                self.create(&topic).await?;
            }
            let there = self.topics().await?.partitions.get(&topic);
            let there: Vec<u32> = there.into_iter().flat_map(BTreeMap::keys).copied().collect();
            if there.is_empty() {
                return Err(format!("topic `{topic}` was created and is not there yet"));
            }
            rehome(&mut self.batches, &topic, &there);
        }
        Ok(())
    }

    /// Which places are next, by the SPU that leads them.
    fn requests(&self) -> Result<BTreeMap<i32, Vec<Place>>, String> {
        let Some(topics) = &self.topics else { return Ok(BTreeMap::new()) };
        let mut requests: BTreeMap<i32, Vec<Place>> = BTreeMap::new();
        for place in self.batches.keys() {
            let (topic, number) = place;
            let leader = topics.partitions.get(topic).and_then(|t| t.get(number));
            let leader =
                leader.ok_or_else(|| format!("topic {topic} has no partition {number}"))?;
            let places = requests.entry(*leader).or_default();
            if places.len() < REQUEST_BATCHES {
                places.push(place.clone());
            }
        }
        Ok(requests)
    }

    async fn connect(&mut self, spus: impl Iterator<Item = i32>) -> Result<(), String> {
        for spu in spus {
            if self.lines.contains_key(&spu) {
                continue;
            }
            let address = self.topics.as_ref().and_then(|t| t.spus.get(&spu));
            let address = address.ok_or_else(|| format!("the SPU {spu} is not there"))?.clone();
            let line = self.settings.connection.line(&address).await?;
            self.lines.insert(spu, line);
        }
        Ok(())
    }

    /// Takes note of what came of the first batch of a place; why it has to be tried again, if so.
    fn answered(&mut self, place: &Place, answer: Answer) -> Option<String> {
        let batches = self.batches.get_mut(place)?;
        let (topic, number) = place;
        match answer {
            Answer::Later(why) => {
                return Some(format!("topic {topic}, partition {number}: {why}"));
            }
            Answer::TooLarge => {
                if let Some(mut first) = batches.pop_front() {
                    let second = first.split_off(first.len() / 2);
                    batches.push_front(second);
                    batches.push_front(first);
                }
                return None;
            }
            Answer::Taken => {
                batches.pop_front();
                self.refused = false;
            }
            Answer::Refused(why) => {
                let rows = batches.pop_front().map_or(0, |b| b.len() as u64);
                self.dropped(rows, "refused", &format!("topic {topic}: {why}"));
            }
        }
        if self.batches.get(place).is_some_and(|b| b.is_empty()) {
            self.batches.remove(place);
        }
        None
    }

    fn dropped(&mut self, rows: u64, reason: &str, why: &str) {
        let SinkContext { pipeline, sink, metrics, .. } = &self.context;
        metrics.error(rows, reason, why, now());
        if !std::mem::replace(&mut self.refused, true) {
            tracing::error!(%pipeline, %sink, error = why, "rows cannot be written; they are dropped and counted");
        }
    }
}

/// Sends one batch to each place, and says what came of each.
async fn produce(
    line: &mut Line,
    batches: Vec<(Place, Records)>,
    compression: fluvio::Compression,
) -> Vec<(Place, Answer)> {
    let places: Vec<(Place, usize)> = batches.iter().map(|(p, b)| (p.clone(), b.len())).collect();
    let answer = match request(batches, compression) {
        Ok(request) => line.ask(request).await,
        Err(why) => Err(why),
    };
    let of = |(place, records): (Place, usize)| {
        let (topic, number) = &place;
        let answer = match &answer {
            Err(why) => Answer::Later(why.clone()),
            Ok(response) => match response.find_partition_response(topic, *number) {
                None => Answer::Later("the answer says nothing of it".to_owned()),
                Some(partition) => match &partition.error_code {
                    ErrorCode::None => Answer::Taken,
                    ErrorCode::MessageTooLarge if records > 1 => Answer::TooLarge,
                    code @ ErrorCode::MessageTooLarge => Answer::Refused(code.to_string()),
                    ErrorCode::CompressionError => Answer::Later(
                        "the topic takes no records compressed like this; see `compression`"
                            .to_owned(),
                    ),
                    code => Answer::Later(code.to_string()),
                },
            },
        };
        (place, answer)
    };
    places.into_iter().map(of).collect()
}

fn request(
    batches: Vec<(Place, Records)>,
    compression: fluvio::Compression,
) -> Result<DefaultProduceRequest, String> {
    let mut topics: BTreeMap<String, DefaultTopicRequest> = BTreeMap::new();
    for ((name, number), records) in batches {
        let records = RecordSet { batches: vec![encode(records, compression)?] };
        let partition = DefaultPartitionRequest { partition_index: number, records };
        let topic = topics.entry(name.clone()).or_default();
        topic.name = name;
        topic.partitions.push(partition);
    }
    Ok(DefaultProduceRequest {
        isolation: Isolation::ReadCommitted,
        timeout: COMMIT_WITHIN.min(TIMEOUT),
        topics: topics.into_values().collect(),
        ..DefaultProduceRequest::default()
    })
}
