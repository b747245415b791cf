//! Types of the attributes that the OpenTelemetry semantic conventions define.
//!
//! Source: the attribute registry of semantic conventions 1.37 and names of 1.20 that clients still
//! send. Only scalar attributes; an attribute that is not listed takes the type of its data.

use weir_pipeline::entity::{Value, double_text, int_fits_double};

use super::{Cell, build};

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `Boolean`.
    Bool,
    /// `Int64`.
    Int,
    /// `Float64`.
    Double,
    /// `Utf8`.
    Text,
}

/// The type that the conventions give to `name`.
pub(super) fn kind(name: &str) -> Option<Kind> {
    TABLE.binary_search_by(|(n, _)| (*n).cmp(name)).ok().map(|i| TABLE[i].1)
}

/// Whether `value` is the same as a value of type `kind`.
pub(super) fn fits(value: Cell<'_>, kind: Kind) -> bool {
    match kind {
        Kind::Bool => as_bool(value).is_some(),
        Kind::Int => as_int(value).is_some(),
        Kind::Double => as_double(value).is_some(),
        Kind::Text => true,
    }
}

/// `value` as the type of the conventions, if that loses nothing, else as it is.
pub(super) fn cast(name: &str, value: Value) -> Value {
    let cell = Cell::from(&value);
    match kind(name) {
        None => None,
        Some(Kind::Bool) => as_bool(cell).map(Value::Bool),
        Some(Kind::Int) => as_int(cell).map(Value::Int),
        Some(Kind::Double) => as_double(cell).map(Value::Double),
        Some(Kind::Text) => match cell {
            Cell::Text(_) | Cell::Json(_) => None,
            _ => Some(Value::Text(build::text(cell).into())),
        },
    }
    .unwrap_or(value)
}

/// `value` as a boolean, if that loses nothing.
pub(super) fn as_bool(value: Cell<'_>) -> Option<bool> {
    match value {
        Cell::Bool(v) => Some(v),
        Cell::Text("true") => Some(true),
        Cell::Text("false") => Some(false),
        _ => None,
    }
}

/// `value` as an integer, if that loses nothing.
pub(super) fn as_int(value: Cell<'_>) -> Option<i64> {
    match value {
        Cell::Int(v) => Some(v),
        Cell::Double(v) => {
            let int = v as i64;
            (int_fits_double(int) && (int as f64).to_bits() == v.to_bits()).then_some(int)
        }
        Cell::Text(t) => t.parse::<i64>().ok().filter(|v| v.to_string() == t),
        _ => None,
    }
}

/// `value` as a double, if that loses nothing.
pub(super) fn as_double(value: Cell<'_>) -> Option<f64> {
    match value {
        Cell::Double(v) => Some(v),
        Cell::Int(v) => int_fits_double(v).then_some(v as f64),
        Cell::Text(t) => t.parse::<f64>().ok().filter(|v| double_text(*v) == t),
        _ => None,
    }
}

/// By name, sorted.
#[rustfmt::skip]
pub(super) const TABLE: &[(&str, Kind)] = &[
    ("client.address", Kind::Text),
    ("client.port", Kind::Int),
    ("cloud.account.id", Kind::Text),
    ("cloud.availability_zone", Kind::Text),
    ("cloud.platform", Kind::Text),
    ("cloud.provider", Kind::Text),
    ("cloud.region", Kind::Text),
    ("cloud.resource_id", Kind::Text),
    ("code.column.number", Kind::Int),
    ("code.file.path", Kind::Text),
    ("code.filepath", Kind::Text),
    ("code.function", Kind::Text),
    ("code.function.name", Kind::Text),
    ("code.line.number", Kind::Int),
    ("code.lineno", Kind::Int),
    ("code.namespace", Kind::Text),
    ("code.stacktrace", Kind::Text),
    ("container.id", Kind::Text),
    ("container.image.id", Kind::Text),
    ("container.image.name", Kind::Text),
    ("container.name", Kind::Text),
    ("container.runtime", Kind::Text),
    ("cpu.logical_number", Kind::Int),
    ("db.cassandra.idempotence", Kind::Bool),
    ("db.cassandra.page_size", Kind::Int),
    ("db.cassandra.speculative_execution_count", Kind::Int),
    ("db.collection.name", Kind::Text),
    ("db.name", Kind::Text),
    ("db.namespace", Kind::Text),
    ("db.operation", Kind::Text),
    ("db.operation.batch.size", Kind::Int),
    ("db.operation.name", Kind::Text),
    ("db.query.summary", Kind::Text),
    ("db.query.text", Kind::Text),
    ("db.redis.database_index", Kind::Int),
    ("db.response.returned_rows", Kind::Int),
    ("db.response.status_code", Kind::Text),
    ("db.statement", Kind::Text),
    ("db.system", Kind::Text),
    ("db.system.name", Kind::Text),
    ("db.user", Kind::Text),
    ("deployment.environment", Kind::Text),
    ("deployment.environment.name", Kind::Text),
    ("destination.address", Kind::Text),
    ("destination.port", Kind::Int),
    ("dns.question.name", Kind::Text),
    ("enduser.id", Kind::Text),
    ("enduser.role", Kind::Text),
    ("error.message", Kind::Text),
    ("error.type", Kind::Text),
    ("event.name", Kind::Text),
    ("exception.escaped", Kind::Bool),
    ("exception.message", Kind::Text),
    ("exception.stacktrace", Kind::Text),
    ("exception.type", Kind::Text),
    ("faas.coldstart", Kind::Bool),
    ("faas.instance", Kind::Text),
    ("faas.invocation_id", Kind::Text),
    ("faas.max_memory", Kind::Int),
    ("faas.name", Kind::Text),
    ("faas.trigger", Kind::Text),
    ("faas.version", Kind::Text),
    ("feature_flag.key", Kind::Text),
    ("feature_flag.provider.name", Kind::Text),
    ("feature_flag.result.variant", Kind::Text),
    ("file.size", Kind::Int),
    ("gen_ai.operation.name", Kind::Text),
    ("gen_ai.request.frequency_penalty", Kind::Double),
    ("gen_ai.request.max_tokens", Kind::Int),
    ("gen_ai.request.model", Kind::Text),
    ("gen_ai.request.presence_penalty", Kind::Double),
    ("gen_ai.request.seed", Kind::Int),
    ("gen_ai.request.temperature", Kind::Double),
    ("gen_ai.request.top_k", Kind::Double),
    ("gen_ai.request.top_p", Kind::Double),
    ("gen_ai.response.id", Kind::Text),
    ("gen_ai.response.model", Kind::Text),
    ("gen_ai.system", Kind::Text),
    ("gen_ai.usage.input_tokens", Kind::Int),
    ("gen_ai.usage.output_tokens", Kind::Int),
    ("graphql.document", Kind::Text),
    ("graphql.operation.name", Kind::Text),
    ("graphql.operation.type", Kind::Text),
    ("host.arch", Kind::Text),
    ("host.id", Kind::Text),
    ("host.image.id", Kind::Text),
    ("host.image.name", Kind::Text),
    ("host.image.version", Kind::Text),
    ("host.name", Kind::Text),
    ("host.type", Kind::Text),
    ("http.flavor", Kind::Text),
    ("http.host", Kind::Text),
    ("http.method", Kind::Text),
    ("http.request.body.size", Kind::Int),
    ("http.request.method", Kind::Text),
    ("http.request.method_original", Kind::Text),
    ("http.request.resend_count", Kind::Int),
    ("http.request.size", Kind::Int),
    ("http.request_content_length", Kind::Int),
    ("http.response.body.size", Kind::Int),
    ("http.response.size", Kind::Int),
    ("http.response.status_code", Kind::Int),
    ("http.response_content_length", Kind::Int),
    ("http.route", Kind::Text),
    ("http.scheme", Kind::Text),
    ("http.status_code", Kind::Int),
    ("http.target", Kind::Text),
    ("http.url", Kind::Text),
    ("http.user_agent", Kind::Text),
    ("k8s.cluster.name", Kind::Text),
    ("k8s.cluster.uid", Kind::Text),
    ("k8s.container.name", Kind::Text),
    ("k8s.container.restart_count", Kind::Int),
    ("k8s.cronjob.name", Kind::Text),
    ("k8s.daemonset.name", Kind::Text),
    ("k8s.deployment.name", Kind::Text),
    ("k8s.deployment.uid", Kind::Text),
    ("k8s.job.name", Kind::Text),
    ("k8s.namespace.name", Kind::Text),
    ("k8s.node.name", Kind::Text),
    ("k8s.node.uid", Kind::Text),
    ("k8s.pod.name", Kind::Text),
    ("k8s.pod.uid", Kind::Text),
    ("k8s.replicaset.name", Kind::Text),
    ("k8s.statefulset.name", Kind::Text),
    ("log.file.name", Kind::Text),
    ("log.file.path", Kind::Text),
    ("log.iostream", Kind::Text),
    ("log.record.uid", Kind::Text),
    ("messaging.batch.message_count", Kind::Int),
    ("messaging.client.id", Kind::Text),
    ("messaging.consumer.group.name", Kind::Text),
    ("messaging.destination.anonymous", Kind::Bool),
    ("messaging.destination.name", Kind::Text),
    ("messaging.destination.temporary", Kind::Bool),
    ("messaging.kafka.destination.partition", Kind::Int),
    ("messaging.kafka.message.key", Kind::Text),
    ("messaging.kafka.message.offset", Kind::Int),
    ("messaging.kafka.offset", Kind::Int),
    ("messaging.message.body.size", Kind::Int),
    ("messaging.message.conversation_id", Kind::Text),
    ("messaging.message.envelope.size", Kind::Int),
    ("messaging.message.id", Kind::Text),
    ("messaging.operation", Kind::Text),
    ("messaging.operation.name", Kind::Text),
    ("messaging.operation.type", Kind::Text),
    ("messaging.rocketmq.message.delay_time_level", Kind::Int),
    ("messaging.rocketmq.message.delivery_timestamp", Kind::Int),
    ("messaging.system", Kind::Text),
    ("net.host.name", Kind::Text),
    ("net.host.port", Kind::Int),
    ("net.peer.name", Kind::Text),
    ("net.peer.port", Kind::Int),
    ("net.sock.host.port", Kind::Int),
    ("net.sock.peer.port", Kind::Int),
    ("network.local.address", Kind::Text),
    ("network.local.port", Kind::Int),
    ("network.peer.address", Kind::Text),
    ("network.peer.port", Kind::Int),
    ("network.protocol.name", Kind::Text),
    ("network.protocol.version", Kind::Text),
    ("network.transport", Kind::Text),
    ("network.type", Kind::Text),
    ("os.description", Kind::Text),
    ("os.name", Kind::Text),
    ("os.type", Kind::Text),
    ("os.version", Kind::Text),
    ("peer.service", Kind::Text),
    ("process.command", Kind::Text),
    ("process.command_line", Kind::Text),
    ("process.executable.name", Kind::Text),
    ("process.executable.path", Kind::Text),
    ("process.exit.code", Kind::Int),
    ("process.group_leader.pid", Kind::Int),
    ("process.interactive", Kind::Bool),
    ("process.owner", Kind::Text),
    ("process.parent_pid", Kind::Int),
    ("process.pid", Kind::Int),
    ("process.real_user.id", Kind::Int),
    ("process.runtime.description", Kind::Text),
    ("process.runtime.name", Kind::Text),
    ("process.runtime.version", Kind::Text),
    ("process.saved_user.id", Kind::Int),
    ("process.session_leader.pid", Kind::Int),
    ("process.user.id", Kind::Int),
    ("process.vpid", Kind::Int),
    ("rpc.connect_rpc.status", Kind::Int),
    ("rpc.grpc.status_code", Kind::Int),
    ("rpc.jsonrpc.error_code", Kind::Int),
    ("rpc.message.compressed_size", Kind::Int),
    ("rpc.message.id", Kind::Int),
    ("rpc.message.uncompressed_size", Kind::Int),
    ("rpc.method", Kind::Text),
    ("rpc.service", Kind::Text),
    ("rpc.system", Kind::Text),
    ("server.address", Kind::Text),
    ("server.port", Kind::Int),
    ("service.instance.id", Kind::Text),
    ("service.name", Kind::Text),
    ("service.namespace", Kind::Text),
    ("service.version", Kind::Text),
    ("session.id", Kind::Text),
    ("session.previous_id", Kind::Text),
    ("source.address", Kind::Text),
    ("source.port", Kind::Int),
    ("system.cpu.logical_number", Kind::Int),
    ("telemetry.distro.name", Kind::Text),
    ("telemetry.distro.version", Kind::Text),
    ("telemetry.sdk.language", Kind::Text),
    ("telemetry.sdk.name", Kind::Text),
    ("telemetry.sdk.version", Kind::Text),
    ("thread.id", Kind::Int),
    ("thread.name", Kind::Text),
    ("tls.established", Kind::Bool),
    ("tls.resumed", Kind::Bool),
    ("url.domain", Kind::Text),
    ("url.fragment", Kind::Text),
    ("url.full", Kind::Text),
    ("url.path", Kind::Text),
    ("url.query", Kind::Text),
    ("url.scheme", Kind::Text),
    ("user.email", Kind::Text),
    ("user.full_name", Kind::Text),
    ("user.hash", Kind::Text),
    ("user.id", Kind::Text),
    ("user.name", Kind::Text),
    ("user_agent.name", Kind::Text),
    ("user_agent.original", Kind::Text),
    ("user_agent.version", Kind::Text),
    ("webengine.name", Kind::Text),
    ("webengine.version", Kind::Text),
];
