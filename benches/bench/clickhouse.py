"""Fills a ClickHouse of the process (chdb) with OTLP requests and says what it takes at rest.

Usage: clickhouse.py logs|spans FILE, where FILE holds requests, each after its length in four bytes
(little endian). Schema: that of the OpenTelemetry Collector's ClickHouse exporter, with its ZSTD(1).
Prints one line: rows, bytes of the columns alone, bytes with indices and marks.
"""

import struct
import sys
import tempfile

from chdb import session
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
import pyarrow as pa
import pyarrow.parquet as pq

MAP = "Map(LowCardinality(String), String) CODEC(ZSTD(1))"
TEXT = "String CODEC(ZSTD(1))"
FEW = "LowCardinality(String) CODEC(ZSTD(1))"


def indices(*names):
    return "".join(
        f", INDEX idx_{n}_key mapKeys({n}) TYPE bloom_filter(0.01) GRANULARITY 1"
        f", INDEX idx_{n}_value mapValues({n}) TYPE bloom_filter(0.01) GRANULARITY 1"
        for n in names
    )


LOGS = f"""CREATE TABLE t (
  Timestamp DateTime64(9) CODEC(Delta(8), ZSTD(1)), TimestampTime DateTime DEFAULT toDateTime(Timestamp),
  TraceId {TEXT}, SpanId {TEXT}, TraceFlags UInt8, SeverityText {FEW}, SeverityNumber UInt8,
  ServiceName {FEW}, Body {TEXT}, ResourceSchemaUrl {FEW}, ResourceAttributes {MAP},
  ScopeSchemaUrl {FEW}, ScopeName {TEXT}, ScopeVersion {FEW}, ScopeAttributes {MAP},
  LogAttributes {MAP}, INDEX idx_trace_id TraceId TYPE bloom_filter(0.001) GRANULARITY 1
  {indices("ResourceAttributes", "ScopeAttributes", "LogAttributes")},
  INDEX idx_body Body TYPE tokenbf_v1(32768, 3, 0) GRANULARITY 8
) ENGINE = MergeTree PARTITION BY toDate(TimestampTime) PRIMARY KEY (ServiceName, TimestampTime)
ORDER BY (ServiceName, TimestampTime, Timestamp)"""

SPANS = f"""CREATE TABLE t (
  Timestamp DateTime64(9) CODEC(Delta(8), ZSTD(1)), TraceId {TEXT}, SpanId {TEXT},
  ParentSpanId {TEXT}, TraceState {TEXT}, SpanName {FEW}, SpanKind {FEW}, ServiceName {FEW},
  ResourceAttributes {MAP}, ScopeName {TEXT}, ScopeVersion {TEXT}, SpanAttributes {MAP},
  Duration UInt64 CODEC(ZSTD(1)), StatusCode {FEW}, StatusMessage {TEXT},
  Events Nested (Timestamp DateTime64(9), Name LowCardinality(String),
    Attributes Map(LowCardinality(String), String)) CODEC(ZSTD(1)),
  Links Nested (TraceId String, SpanId String, TraceState String,
    Attributes Map(LowCardinality(String), String)) CODEC(ZSTD(1)),
  INDEX idx_trace_id TraceId TYPE bloom_filter(0.001) GRANULARITY 1
  {indices("ResourceAttributes", "SpanAttributes")},
  INDEX idx_duration Duration TYPE minmax GRANULARITY 1
) ENGINE = MergeTree PARTITION BY toDate(Timestamp)
ORDER BY (ServiceName, SpanName, toDateTime(Timestamp))"""

KINDS = ["Unspecified", "Internal", "Server", "Client", "Producer", "Consumer"]
CODES = ["Unset", "Ok", "Error"]


def text(value):
    kind = value.WhichOneof("value")
    if kind == "bool_value":
        return "true" if value.bool_value else "false"
    return "" if kind is None else str(getattr(value, kind))


def attributes(pairs):
    return [(p.key, text(p.value)) for p in pairs]


def requests(path, message):
    with open(path, "rb") as file:
        while head := file.read(4):
            yield message.FromString(file.read(struct.unpack("<I", head)[0]))


def service(resource):
    return next((text(a.value) for a in resource.attributes if a.key == "service.name"), "")


def logs(path):
    for request in requests(path, ExportLogsServiceRequest):
        for r in request.resource_logs:
            name, of = service(r.resource), attributes(r.resource.attributes)
            for s in r.scope_logs:
                for l in s.log_records:
                    yield dict(
                        Timestamp=l.time_unix_nano, TraceId=l.trace_id.hex(), SpanId=l.span_id.hex(),
                        TraceFlags=l.flags & 255, SeverityText=l.severity_text,
                        SeverityNumber=l.severity_number, ServiceName=name, Body=text(l.body),
                        ResourceSchemaUrl=r.schema_url, ResourceAttributes=of,
                        ScopeSchemaUrl=s.schema_url, ScopeName=s.scope.name,
                        ScopeVersion=s.scope.version,
                        ScopeAttributes=attributes(s.scope.attributes),
                        LogAttributes=attributes(l.attributes),
                    )


def spans(path):
    for request in requests(path, ExportTraceServiceRequest):
        for r in request.resource_spans:
            name, of = service(r.resource), attributes(r.resource.attributes)
            for s in r.scope_spans:
                for p in s.spans:
                    row = dict(
                        Timestamp=p.start_time_unix_nano, TraceId=p.trace_id.hex(),
                        SpanId=p.span_id.hex(), ParentSpanId=p.parent_span_id.hex(),
                        TraceState=p.trace_state, SpanName=p.name, SpanKind=KINDS[p.kind],
                        ServiceName=name, ResourceAttributes=of, ScopeName=s.scope.name,
                        ScopeVersion=s.scope.version, SpanAttributes=attributes(p.attributes),
                        Duration=p.end_time_unix_nano - p.start_time_unix_nano,
                        StatusCode=CODES[p.status.code], StatusMessage=p.status.message,
                    )
                    row["Events.Timestamp"] = [e.time_unix_nano for e in p.events]
                    row["Events.Name"] = [e.name for e in p.events]
                    row["Events.Attributes"] = [attributes(e.attributes) for e in p.events]
                    yield row


def column(name, values):
    if name == "Timestamp":
        return pa.array(values, pa.timestamp("ns", tz="UTC"))
    if name == "Events.Timestamp":
        return pa.array(values, pa.list_(pa.timestamp("ns", tz="UTC")))
    if name == "Events.Attributes":
        return pa.array(values, pa.list_(pa.map_(pa.string(), pa.string())))
    if name.endswith("Attributes"):
        return pa.array(values, pa.map_(pa.string(), pa.string()))
    return pa.array(values)


def main():
    what, path = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        clickhouse = session.Session(folder + "/data")
        clickhouse.query("CREATE DATABASE otel ENGINE = Atomic")
        clickhouse.query("USE otel")
        clickhouse.query(LOGS if what == "logs" else SPANS)
        rows = list(logs(path) if what == "logs" else spans(path))
        for first in range(0, len(rows), 100_000):
            part = rows[first:first + 100_000]
            table = pa.table({n: column(n, [r[n] for r in part]) for n in part[0]})
            pq.write_table(table, folder + "/part.parquet")
            names = ", ".join(f"`{n}`" for n in part[0])
            source = f"file('{folder}/part.parquet', Parquet)"
            clickhouse.query(f"INSERT INTO t ({names}) SELECT {names} FROM {source}")
        clickhouse.query("OPTIMIZE TABLE t FINAL")
        sums = clickhouse.query(
            "SELECT sum(rows), sum(data_compressed_bytes), sum(bytes_on_disk) FROM system.parts "
            "WHERE active AND table = 't' AND database = 'otel'", "CSV")
        print(str(sums).strip().replace(",", " "))


main()
