"""Sends logs, metrics and nested traces with the OpenTelemetry SDK.

usage: otel.py grpc|http ADDRESS

Prints, as one JSON object, what only the sender knows: the ids of the spans.
"""

import json
import sys

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

protocol, address = sys.argv[1:]
if protocol == "grpc":
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    to = {name: {"endpoint": address, "insecure": True} for name in ["logs", "metrics", "traces"]}
else:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    to = {
        name: {"endpoint": f"http://{address}/v1/{name}"} for name in ["logs", "metrics", "traces"]
    }

resource = Resource(
    {"service.name": f"shop-{protocol}", "service.version": "1.2.3", "deployment.ring": 7}
)

# Logs.
logs = LoggerProvider(resource=resource)
logs.add_log_record_processor(SimpleLogRecordProcessor(OTLPLogExporter(**to["logs"])))
logger = logs.get_logger("shop.cart", "4.5.6")
logger.emit(
    LogRecord(
        timestamp=1_700_000_000_123_456_789,
        severity_number=SeverityNumber.WARN2,
        severity_text="warning",
        body="cart is slow ✓",
        attributes={
            "http.route": "/cart",
            "http.response.status_code": 503,
            "app.ratio": 0.1,
            "app.big": 9007199254740993,
            "app.cached": False,
            "app.tags": ["a", "b"],
        },
    )
)
logger.emit(
    LogRecord(
        timestamp=1_700_000_001_000_000_000,
        severity_number=SeverityNumber.ERROR,
        body={"error": {"code": 7}},
        attributes={"http.route": "/pay"},
    )
)
logs.shutdown()

# Metrics.
exporter = OTLPMetricExporter(
    **to["metrics"], preferred_temporality={Counter: AggregationTemporality.CUMULATIVE}
)
metrics = MeterProvider(
    resource=resource,
    metric_readers=[PeriodicExportingMetricReader(exporter, export_interval_millis=1e9)],
    views=[
        View(
            instrument_type=Histogram,
            instrument_name="shop.request.size",
            aggregation=ExponentialBucketHistogramAggregation(),
        )
    ],
)
meter = metrics.get_meter("shop.meter")
counter = meter.create_counter("shop.orders", unit="{order}")
counter.add(40, {"shop.region": "eu"})
counter.add(2, {"shop.region": "eu"})
counter.add(5, {"shop.region": "us"})
depth = meter.create_up_down_counter("shop.queue.depth")
depth.add(3)
depth.add(-5)
histogram = meter.create_histogram(
    "shop.request.duration", unit="s", explicit_bucket_boundaries_advisory=[0.1, 1.0]
)
for seconds in [0.05, 0.5, 0.25, 8.0]:
    histogram.record(seconds, {"http.route": "/cart"})
size = meter.create_histogram("shop.request.size", unit="By")
for value in [1.0, 2.0, 4.0, 0.0]:
    size.record(value)
# Exports once.
metrics.shutdown()

# Traces.
traces = TracerProvider(resource=resource)
traces.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(**to["traces"])))
tracer = traces.get_tracer("shop.tracer")
start = 1_700_000_002_000_000_000
root = tracer.start_span("GET /cart", kind=SpanKind.SERVER, start_time=start)
root.set_attribute("user.id", "u-1")
child = tracer.start_span(
    "SELECT cart", trace.set_span_in_context(root), SpanKind.CLIENT, start_time=start + 1_000_000
)
child.set_attribute("db.system.name", "postgresql")
child.add_event("retry", {"attempt": 2}, timestamp=start + 2_000_000)
child.set_status(Status(StatusCode.ERROR, "deadlock"))
grandchild = tracer.start_span(
    "lock", trace.set_span_in_context(child), start_time=start + 1_500_000
)
grandchild.end(start + 1_600_000)
child.end(start + 5_000_001)
root.end(start + 9_000_000)
traces.shutdown()


def ids(span):
    context = span.get_span_context()
    return {
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
    }


print(json.dumps({"root": ids(root), "child": ids(child), "grandchild": ids(grandchild)}))
