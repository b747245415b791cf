//! Writing what waits, partition by partition, and waiting until all replicas have it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use rskafka::client::Client;
use rskafka::client::error::ProtocolError;
use rskafka::client::partition::{PartitionClient, UnknownTopicHandling};
use rskafka::record::Record;
use tokio::time::Instant;
use weir_pipeline::component::{SinkContext, SinkError};
use weir_pipeline::intake::now;
use weir_pipeline::kafka_client::{
    TOGETHER, create, describe, protocol_error, topic, topics, within,
};

use super::Settings;
use super::batches::{Batches, Place, batches};
use crate::messages::{Message, rehome};

/// Topics are looked at for new partitions this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Batches under way at a time, one per partition at most.
const UNDER_WAY: usize = 16;

pub(super) struct Sender {
    pub(super) settings: Arc<Settings>,
    context: SinkContext,
    /// Made when something is to be sent; made anew after an error.
    connection: Option<Connection>,
    /// Rows since the last tick.
    pub(super) waiting: Vec<Message>,
    /// What of them, and of ticks before, is not written yet.
    batches: Batches,
    /// Rows were refused, and that was said.
    refused: bool,
}

struct Connection {
    client: Client,
    topics: BTreeMap<String, Vec<i32>>,
    /// When these were asked for.
    looked: Instant,
    partitions: BTreeMap<Place, Arc<PartitionClient>>,
}

/// What came of a batch.
enum Answer {
    Taken,
    /// Something in it is refused for good, or it is too large as a whole.
    Split,
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
            connection: None,
            waiting: Vec::new(),
            batches: Batches::new(),
            refused: false,
        }
    }

    /// Writes what is there under the tick at `offset`. Goes on where a try before failed.
    pub(super) async fn send(&mut self, offset: u64) -> Result<(), SinkError> {
        let sent = self.try_send(offset).await;
        sent.map_err(|why| {
            self.connection = None;
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
        self.connect().await?;
        loop {
            let Some(connection) = &self.connection else { return Ok(Batches::new()) };
            let missing = match batches(&named, &connection.topics, offset, now()) {
                Ok(batches) => {
                    if named.len() < rows.len() {
                        let without = (rows.len() - named.len()) as u64;
                        self.dropped(without, "no_topic", "`topic_by` gives no topic for a row");
                    }
                    return Ok(batches);
                }
                Err(missing) => missing,
            };
            self.create(&missing).await?;
        }
    }

    async fn connect(&mut self) -> Result<(), String> {
        match &mut self.connection {
            None => {
                let client = self.settings.connection.connect().await?;
                let (topics, looked) = (topics(&client).await?, Instant::now());
                let partitions = BTreeMap::new();
                self.connection = Some(Connection { client, topics, looked, partitions });
            }
            Some(connection) if connection.looked.elapsed() >= LOOK_EVERY => {
                connection.topics = topics(&connection.client).await?;
                connection.looked = Instant::now();
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Writes all batches: of each partition one after the other, of several at the same time.
    async fn write(&mut self) -> Result<(), String> {
        self.find_partitions().await?;
        while !self.batches.is_empty() {
            let places: Vec<Place> = self.batches.keys().take(UNDER_WAY).cloned().collect();
            let mut under_way = Vec::new();
            for place in places {
                let client = self.partition(&place).await?;
                let front = self.batches.get(&place).and_then(|b| b.front()).cloned();
                under_way.push(self.produce(client, place, front.unwrap_or_default()));
            }
            let answers = join_all(under_way).await;
            let mut later = None;
            for (place, answer) in answers {
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
        if !waiting.is_empty() {
            self.connect().await?;
        }
        for topic in waiting {
            if !self.connection.as_ref().is_some_and(|c| c.topics.contains_key(&topic)) {
                self.create(&topic).await?;
            }
            let Some(connection) = &self.connection else { break };
            rehome(&mut self.batches, &topic, &connection.topics[&topic]);
        }
        Ok(())
    }

    async fn create(&mut self, missing: &str) -> Result<(), String> {
        let Some(how) = &self.settings.create else {
            return Err(format!(
                "there is no topic `{missing}`; create it, or let Weir do so by `create = {{}}`"
            ));
        };
        let Some(connection) = &mut self.connection else { return Ok(()) };
        create(&connection.client, missing, how).await?;
        connection.topics = topics(&connection.client).await?;
        let there = connection.topics.get(missing).is_some_and(|numbers| !numbers.is_empty());
        there
            .then_some(())
            .ok_or_else(|| format!("topic `{missing}` was created and is not there yet"))
    }

    /// The client of a partition.
    async fn partition(&mut self, place: &Place) -> Result<Arc<PartitionClient>, String> {
        self.connect().await?;
        let Some(connection) = &mut self.connection else { return Err("no connection".to_owned()) };
        if let Some(client) = connection.partitions.get(place) {
            return Ok(client.clone());
        }
        let (topic, number) = place;
        let handling = UnknownTopicHandling::Error;
        let opened = connection.client.partition_client(topic, *number, handling);
        let client = Arc::new(within("partition", opened).await?);
        connection.partitions.insert(place.clone(), client.clone());
        Ok(client)
    }

    fn produce(
        &self,
        client: Arc<PartitionClient>,
        place: Place,
        records: Vec<Record>,
    ) -> impl Future<Output = (Place, Answer)> + use<> {
        let compression = self.settings.compression.of_client();
        async move {
            let several = records.len() > 1;
            let produced = client.produce(records, compression);
            let answer = match tokio::time::timeout(TOGETHER, produced).await {
                Err(_) => Answer::Later(format!("no answer within {} s", TOGETHER.as_secs())),
                Ok(Ok(_)) => Answer::Taken,
                Ok(Err(error)) => match protocol_error(&error) {
                    Some(
                        ProtocolError::MessageTooLarge
                        | ProtocolError::RecordListTooLarge
                        | ProtocolError::InvalidRecord
                        | ProtocolError::InvalidTimestamp,
                    ) => match several {
                        true => Answer::Split,
                        false => Answer::Refused(describe(&error)),
                    },
                    _ => Answer::Later(describe(&error)),
                },
            };
            (place, answer)
        }
    }

    /// Takes note of what came of the first batch of a place; why it has to be tried again, if so.
    fn answered(&mut self, place: &Place, answer: Answer) -> Option<String> {
        let batches = self.batches.get_mut(place)?;
        let (topic, number) = place;
        match answer {
            Answer::Later(why) => {
                return Some(format!("topic {topic}, partition {number}: {why}"));
            }
            Answer::Split => {
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
