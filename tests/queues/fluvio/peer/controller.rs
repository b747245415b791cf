//! What clients ask of the controller.

use std::fmt::Debug;
use std::sync::Arc;

use fluvio::dataplane::link::ErrorCode;
use fluvio::dataplane::link::versions::ApiVersionKey;
use fluvio::dataplane::{Decoder, Encoder};
use fluvio::metadata::AdminSpec;
use fluvio::metadata::objects::{
    CreateRequest, DeleteRequest, ListRequest, ListResponse, Metadata, MetadataUpdate,
    ObjectApiCreateRequest, ObjectApiDeleteRequest, ObjectApiListRequest, ObjectApiListResponse,
    ObjectApiWatchRequest, ObjectApiWatchResponse, WatchRequest, WatchResponse,
};
use fluvio::metadata::partition::{PartitionResolution, PartitionSpec, PartitionStatus};
use fluvio::metadata::spu::SpuSpec;
use fluvio::metadata::topic::TopicSpec;
use fluvio_sc_schema::{Status, TryEncodableFrom};

use super::Peer;
use super::connection::{Answers, Incoming, encoded, understood};

/// The one SPU.
const SPU: i32 = 5001;

pub(super) fn versions() -> Vec<ApiVersionKey> {
    vec![
        understood::<ObjectApiCreateRequest>(),
        understood::<ObjectApiDeleteRequest>(),
        understood::<ObjectApiListRequest>(),
        understood::<ObjectApiWatchRequest>(),
    ]
}

pub(super) fn answer(peer: &Arc<Peer>, incoming: &Incoming<'_>, answers: &Answers) {
    if incoming.is::<ObjectApiCreateRequest>() {
        let status = create(peer, &incoming.read::<ObjectApiCreateRequest>());
        incoming.answer::<ObjectApiCreateRequest>(answers, status);
    } else if incoming.is::<ObjectApiDeleteRequest>() {
        let request: ObjectApiDeleteRequest = incoming.read();
        let topic: DeleteRequest<TopicSpec> = request.downcast().unwrap().unwrap();
        let topic = topic.key();
        peer.disk.lock().delete(&topic);
        peer.changed.send_replace(());
        incoming.answer::<ObjectApiDeleteRequest>(answers, Status::new_ok(topic));
    } else if incoming.is::<ObjectApiListRequest>() {
        let request: ObjectApiListRequest = incoming.read();
        let version = incoming.header.api_version();
        let listed = list(&request, version, || topics(peer))
            .or_else(|| list(&request, version, || partitions(peer)))
            .or_else(|| list(&request, version, || spus(peer)));
        incoming.answer::<ObjectApiListRequest>(answers, listed.unwrap());
    } else {
        assert!(incoming.is::<ObjectApiWatchRequest>(), "{:?}", incoming.header);
        let request: ObjectApiWatchRequest = incoming.read();
        let known = watch(peer, incoming, answers, &request, topics)
            || watch(peer, incoming, answers, &request, partitions)
            || watch(peer, incoming, answers, &request, spus);
        assert!(known, "{request:?}");
    }
}

fn create(peer: &Peer, request: &ObjectApiCreateRequest) -> Status {
    let request: CreateRequest<TopicSpec> = request.downcast().unwrap().unwrap();
    let name = request.common.name;
    let mut disk = peer.disk.lock();
    if disk.topics.contains_key(&name) {
        return Status::new(name, ErrorCode::TopicAlreadyExists, None);
    }
    disk.create(&name, request.request.replicas().partitions());
    peer.changed.send_replace(());
    Status::new_ok(name)
}

fn list<S>(
    request: &ObjectApiListRequest,
    version: i16,
    all: impl Fn() -> Vec<Metadata<S>>,
) -> Option<ObjectApiListResponse>
where
    S: AdminSpec,
    S::Status: Encoder + Decoder + Debug,
{
    let _asked: ListRequest<S> = request.downcast().unwrap()?;
    Some(ObjectApiListResponse::try_encode_from(ListResponse::new(all()), version).unwrap())
}

/// Says all that there is, and again whenever something changed.
fn watch<S>(
    peer: &Arc<Peer>,
    incoming: &Incoming<'_>,
    answers: &Answers,
    request: &ObjectApiWatchRequest,
    all: fn(&Peer) -> Vec<Metadata<S>>,
) -> bool
where
    S: AdminSpec,
    S::Status: Encoder + Decoder + Debug,
    ObjectApiWatchRequest: TryEncodableFrom<WatchRequest<S>>,
    ObjectApiWatchResponse: TryEncodableFrom<WatchResponse<S>>,
    Metadata<S>: Send,
{
    let asked: Option<WatchRequest<S>> = request.downcast().unwrap();
    if asked.is_none() {
        return false;
    }
    let (peer, header, answers) = (peer.clone(), incoming.header.clone(), answers.clone());
    let mut changed = peer.changed.subscribe();
    tokio::spawn(async move {
        for epoch in 1.. {
            let response = WatchResponse::new(MetadataUpdate::with_all(epoch, all(&peer)));
            let version = header.api_version();
            let response = ObjectApiWatchResponse::try_encode_from(response, version).unwrap();
            if answers.send(encoded(&header, response)).is_err() || changed.changed().await.is_err()
            {
                return;
            }
        }
    });
    true
}

fn topics(peer: &Peer) -> Vec<Metadata<TopicSpec>> {
    let disk = peer.disk.lock();
    let topic = |(name, logs): (&String, &Vec<_>)| Metadata {
        name: name.clone(),
        spec: TopicSpec::new_computed(u32::try_from(logs.len()).unwrap(), 1, None),
        status: Default::default(),
    };
    disk.topics.iter().map(topic).collect()
}

fn partitions(peer: &Peer) -> Vec<Metadata<PartitionSpec>> {
    let status =
        PartitionStatus { resolution: PartitionResolution::Online, ..PartitionStatus::default() };
    let of = |(name, logs): (&String, &Vec<_>)| {
        let (name, status) = (name.clone(), status.clone());
        let partition = move |number| Metadata {
            name: format!("{name}-{number}"),
            spec: PartitionSpec::new(SPU, vec![SPU]),
            status: status.clone(),
        };
        (0..logs.len()).map(partition).collect::<Vec<_>>()
    };
    peer.disk.lock().topics.iter().flat_map(of).collect()
}

fn spus(peer: &Peer) -> Vec<Metadata<SpuSpec>> {
    vec![Metadata {
        name: format!("custom-spu-{SPU}"),
        spec: SpuSpec::new_public_addr(SPU, peer.spu_port, "127.0.0.1".to_owned()),
        status: Default::default(),
    }]
}
