//! What clients ask of the SPU.

use std::collections::BTreeMap;
use std::sync::Arc;

use fluvio::dataplane::link::ErrorCode;
use fluvio::dataplane::link::versions::ApiVersionKey;
use fluvio_spu_schema::fetch::FetchablePartitionResponse;
use fluvio_spu_schema::produce::{
    DefaultProduceRequest, PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use fluvio_spu_schema::server::fetch_offset::{
    FetchOffsetPartitionResponse, FetchOffsetTopicResponse, FetchOffsetsRequest,
    FetchOffsetsResponse,
};
use fluvio_spu_schema::server::stream_fetch::{
    DefaultStreamFetchRequest, DefaultStreamFetchResponse,
};
use fluvio_spu_schema::server::update_offset::{UpdateOffsetsRequest, UpdateOffsetsResponse};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Peer;
use super::connection::{Answers, Incoming, encoded, understood};

/// Streams of a connection, by number: how far the client is, and what serves it.
#[derive(Default)]
pub(super) struct Streams(BTreeMap<u32, (watch::Sender<i64>, JoinHandle<()>)>);

impl Streams {
    pub(super) fn end(self) {
        self.0.into_values().for_each(|(_, task)| task.abort());
    }
}

pub(super) fn versions() -> Vec<ApiVersionKey> {
    vec![
        understood::<DefaultProduceRequest>(),
        understood::<FetchOffsetsRequest>(),
        understood::<DefaultStreamFetchRequest>(),
        understood::<UpdateOffsetsRequest>(),
    ]
}

pub(super) fn answer(
    peer: &Arc<Peer>,
    incoming: &Incoming<'_>,
    answers: &Answers,
    streams: &mut Streams,
) {
    if incoming.is::<DefaultProduceRequest>() {
        let response = produce(peer, incoming.read());
        incoming.answer::<DefaultProduceRequest>(answers, response);
    } else if incoming.is::<FetchOffsetsRequest>() {
        let response = offsets(peer, &incoming.read());
        incoming.answer::<FetchOffsetsRequest>(answers, response);
    } else if incoming.is::<UpdateOffsetsRequest>() {
        for update in incoming.read::<UpdateOffsetsRequest>().offsets {
            if let Some((done, _)) = streams.0.get(&update.session_id) {
                done.send_replace(update.offset);
            }
        }
        incoming.answer::<UpdateOffsetsRequest>(answers, UpdateOffsetsResponse::default());
    } else {
        assert!(incoming.is::<DefaultStreamFetchRequest>(), "{:?}", incoming.header);
        let id = u32::try_from(streams.0.len()).unwrap();
        let request: DefaultStreamFetchRequest = incoming.read();
        let (done, receiver) = watch::channel(request.fetch_offset);
        let (peer, header, answers) = (peer.clone(), incoming.header.clone(), answers.clone());
        let task = tokio::spawn(async move {
            let mut done = receiver;
            let mut changed = peer.changed.subscribe();
            loop {
                let next = *done.borrow_and_update();
                changed.borrow_and_update();
                match slice(&peer, &request, next) {
                    // Nothing there yet.
                    Ok((_, bytes)) if bytes.is_empty() => {
                        let _ = changed.changed().await;
                    }
                    slice => {
                        let failed = slice.is_err();
                        if answers.send(response(&header, &request, id, slice)).is_err() || failed {
                            return;
                        }
                        // The next when the client is done with this.
                        if done.changed().await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        streams.0.insert(id, (done, task));
    }
}

fn produce(peer: &Peer, request: DefaultProduceRequest) -> ProduceResponse {
    let mut response = ProduceResponse::default();
    let mut disk = peer.disk.lock();
    for topic in request.topics {
        let mut partitions = Vec::new();
        for partition in topic.partitions {
            let mut answer = PartitionProduceResponse {
                partition_index: partition.partition_index,
                ..PartitionProduceResponse::default()
            };
            match disk.log(&topic.name, partition.partition_index) {
                None => answer.error_code = ErrorCode::NotLeaderForPartition,
                Some(log) => {
                    answer.base_offset = log.end;
                    partition.records.batches.into_iter().for_each(|batch| log.append(batch));
                }
            }
            partitions.push(answer);
        }
        response.responses.push(TopicProduceResponse { name: topic.name, partitions });
    }
    peer.changed.send_replace(());
    response
}

fn offsets(peer: &Peer, request: &FetchOffsetsRequest) -> FetchOffsetsResponse {
    let mut response = FetchOffsetsResponse::default();
    let mut disk = peer.disk.lock();
    for topic in &request.topics {
        let mut partitions = Vec::new();
        for partition in &topic.partitions {
            let number = partition.partition_index;
            let mut answer = FetchOffsetPartitionResponse {
                partition_index: number,
                ..FetchOffsetPartitionResponse::default()
            };
            match disk.log(&topic.name, number) {
                None => answer.error_code = ErrorCode::PartitionNotLeader,
                Some(log) => {
                    (answer.start_offset, answer.last_stable_offset) = (log.first(), log.end);
                }
            }
            partitions.push(answer);
        }
        response.topics.push(FetchOffsetTopicResponse { name: topic.name.clone(), partitions });
    }
    response
}

/// The end of the partition, and what a stream gets next.
fn slice(
    peer: &Peer,
    request: &DefaultStreamFetchRequest,
    next: i64,
) -> Result<(i64, Vec<u8>), ErrorCode> {
    let mut disk = peer.disk.lock();
    let log = disk.log(&request.topic, request.partition);
    let log = log.ok_or(ErrorCode::NotLeaderForPartition)?;
    if next < log.first() {
        return Err(ErrorCode::OffsetEvicted { offset: next, next_available: log.first() });
    }
    if next > log.end {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    Ok((log.end, log.read(next, usize::try_from(request.max_bytes).unwrap())))
}

fn response(
    header: &fluvio::dataplane::api::RequestHeader,
    request: &DefaultStreamFetchRequest,
    stream_id: u32,
    slice: Result<(i64, Vec<u8>), ErrorCode>,
) -> Vec<u8> {
    let (error_code, (end, bytes)) = match slice {
        Ok(slice) => (ErrorCode::None, slice),
        Err(code) => (code, (0, Vec::new())),
    };
    let partition = FetchablePartitionResponse {
        partition_index: request.partition,
        error_code,
        high_watermark: end,
        ..FetchablePartitionResponse::default()
    };
    let topic = request.topic.clone();
    let response = DefaultStreamFetchResponse { topic, stream_id, partition };
    // Batches stand last, with their length in front: no batch, so far.
    let mut encoded = encoded(header, response);
    let length = i32::try_from(bytes.len()).unwrap().to_be_bytes();
    encoded.truncate(encoded.len() - length.len());
    [encoded, length.to_vec(), bytes].concat()
}
