//! A source over a log in memory, whose reader fails in all ways that a client can.

use std::any::Any;
use std::collections::HashMap;
use std::sync::LazyLock;

use parking_lot::Mutex;
use weir_pipeline::component::{DecodeError, Decoded, Decoder, EntryHead, Listen, SourceKind};
use weir_pipeline::config::Scope;
use weir_pipeline::entity::EntitySpace;

use super::*;
use crate::testing::Running;

/// A log of one partition.
#[derive(Debug, Default)]
struct Log {
    records: Mutex<Vec<String>>,
    /// How often it was read.
    reads: Mutex<u64>,
}

/// The logs of all tests, by name.
static LOGS: LazyLock<Mutex<HashMap<String, Arc<Log>>>> = LazyLock::new(Mutex::default);

fn log(name: &str) -> Arc<Log> {
    LOGS.lock().entry(name.to_owned()).or_default().clone()
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    log: String,
    /// So that settings differ.
    #[serde(default)]
    turn: u64,
}

static KIND: SourceKind = SourceKind {
    name: "fake",
    about: "",
    source: "",
    schema: || schemars::schema_for!(Config),
    plan,
};

#[derive(Debug)]
struct FakePlan {
    log: Arc<Log>,
    turn: u64,
}

fn plan(section: &Section, _: &Scope) -> Result<Box<dyn SourcePlan>, Diagnostics> {
    let config: Config = section.read()?;
    Ok(Box::new(FakePlan { log: log(&config.log), turn: config.turn }))
}

impl SourcePlan for FakePlan {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn outputs(&self) -> Vec<OutputPlan> {
        Format::Text.outputs()
    }
    fn listens(&self) -> Vec<Listen> {
        Vec::new()
    }
    fn decoder(&self) -> Arc<dyn Decoder> {
        Arc::new(Picky(RecordDecoder::new(&SYSTEM, Format::Text)))
    }
    fn run(&self, context: SourceContext) -> BoxFuture<'static, ()> {
        Box::pin(run::<Self>(context))
    }
}

/// Refuses an entry that has a record `poison`.
struct Picky(RecordDecoder);

impl Decoder for Picky {
    fn decode(
        &self,
        head: &EntryHead<'_>,
        payload: &Bytes,
        entities: &EntitySpace,
    ) -> Result<Decoded, DecodeError> {
        let frames = frames::read(payload).unwrap();
        if frames.iter().any(|f| f.value == Some(b"poison")) {
            return Err(DecodeError::new("malformed", "poison"));
        }
        self.0.decode(head, payload, entities)
    }
}

impl Reader for FakePlan {
    fn system(&self) -> &'static System {
        &SYSTEM
    }
    fn way(&self) -> String {
        "fake".to_owned()
    }
    fn record_bytes_max(&self) -> usize {
        1 << 10
    }
    fn read<'a>(
        &'a self,
        inlet: &'a mut Inlet,
        end: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let partition = Partition { topic: "log".into(), number: 0 };
            if inlet.position(&partition).is_none() {
                let first = Position { next: 0, incarnation: 1 };
                inlet.begin(vec![(partition.clone(), first)]).await?;
            }
            while !end.is_cancelled() {
                let turn = {
                    let mut reads = self.log.reads.lock();
                    *reads += 1;
                    *reads + self.turn
                };
                let next = inlet.position(&partition).unwrap().next;
                // Every third time it repeats what it gave before, every fifth time it fails.
                let from = if turn.is_multiple_of(3) { next.saturating_sub(2) } else { next };
                let records: Vec<Record> = {
                    let all = self.log.records.lock();
                    let of = |(offset, value): (usize, &String)| Record {
                        offset: offset as u64,
                        value: Some(value.clone().into()),
                        ..Record::default()
                    };
                    all.iter().enumerate().skip(from as usize).take(7).map(of).collect()
                };
                let next = records.last().map_or(next, |r| r.offset + 1);
                inlet.take(vec![Fetched { partition: partition.clone(), records, next }]).await?;
                if turn.is_multiple_of(5) {
                    return Err("it failed".to_owned());
                }
                inlet.until_end(tokio::time::sleep(Duration::from_millis(1))).await;
            }
            Ok(())
        })
    }
}

fn bodies(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|r| r["body"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn each_record_is_there_once_whatever_fails() {
    let log = log("once");
    let running = Running::start(&KIND, "log = \"once\"");
    let mut expect = Vec::new();
    for turn in 0..6 {
        let new: Vec<String> = (0..20).map(|n| format!("{turn}/{n}")).collect();
        log.records.lock().extend(new.clone());
        expect.extend(new);
        // Other settings take over where these stop.
        running.swap(&format!("log = \"once\"\nturn = {turn}"));
    }
    running.rows(expect.len()).await;
    assert_eq!(bodies(&running.stop().await), expect);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_no_decoder_takes_costs_no_other() {
    let log = log("poison");
    let values = ["a", "b", "poison", "c", "poison", "d"];
    log.records.lock().extend(values.map(str::to_owned));
    let running = Running::start(&KIND, "log = \"poison\"");
    let rows = running.rows(4).await;
    assert_eq!(bodies(&rows), ["a", "b", "c", "d"]);
    // What is refused counts each time that it is tried, together with others or alone.
    assert!(running.rejected("malformed").await >= 2);
    let entries = running.entries(1).await;
    let last = entries.last().unwrap();
    let cursor = Cursor::decode(&last.head.cursor, "fake").unwrap().unwrap();
    assert_eq!(cursor.0.values().next().unwrap().next, 6);
}
