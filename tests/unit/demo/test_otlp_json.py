"""OTLP in its JSON form, as a receiver of another make would read it."""

import json

from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from stage.otlp_json import encode, merge
from stage.spans import read

IDS = st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8))


def export(service: str, *ids: tuple[bytes, bytes], scope: str = "otel-waybill") -> ExportTraceServiceRequest:
    """Return one export of *service* with a span for each of *ids*, the first the parent of the others."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    batch = resource.scope_spans.add()
    batch.scope.name = scope
    for trace, span in ids:
        added = batch.spans.add(trace_id=trace, span_id=span, name="process orders", kind=5)
        added.start_time_unix_nano, added.end_time_unix_nano = (
            1_700_000_000_123_456_789,
            1_700_000_001_000_000_000,
        )
        if span != ids[0][1]:
            added.parent_span_id = ids[0][1]
        added.status.code = 2
        added.attributes.add(key="waybill.attempt").value.int_value = 2
        added.links.add(trace_id=trace, span_id=ids[0][1])
        event = added.events.add(time_unix_nano=1_700_000_000_500_000_000, name="waybill.breaker")
        event.attributes.add(key="waybill.breaker.state").value.string_value = "open"
    return request


def test_a_span_is_written_as_the_specification_says() -> None:
    """Ids in hex, enumerations as integers, 64-bit numbers as text, names in camelCase."""
    ids = (bytes(range(16)), bytes(range(8))), (bytes(range(16)), bytes(range(8, 16)))
    (resource,) = encode(export("mail", *ids))["resourceSpans"]
    span = resource["scopeSpans"][0]["spans"][1]

    assert "000102030405060708090a0b0c0d0e0f" == span["traceId"]
    assert "08090a0b0c0d0e0f" == span["spanId"]
    assert "0001020304050607" == span["parentSpanId"]
    assert [{"traceId": span["traceId"], "spanId": span["parentSpanId"]}] == span["links"]
    assert (5, 2) == (span["kind"], span["status"]["code"])
    assert "1700000000123456789" == span["startTimeUnixNano"]
    assert [{"key": "waybill.attempt", "value": {"intValue": "2"}}] == span["attributes"]


def test_no_exports_are_still_a_document() -> None:
    """A run without spans is written as an empty list, not as nothing."""
    assert {"resourceSpans": []} == encode(merge([]))


def test_exports_are_merged_by_resource_and_scope() -> None:
    """Each service appears once, each scope in it once, and no span is lost."""
    a, b, c, d = (b"a" * 16, b"a" * 8), (b"b" * 16, b"b" * 8), (b"c" * 16, b"c" * 8), (b"d" * 16, b"d" * 8)
    merged = merge(
        [export("mail", a), export("shop", b), export("mail", c), export("mail", d, scope="other")]
    )

    found = [
        (r.resource.attributes[0].value.string_value, s.scope.name, [span.span_id for span in s.spans])
        for r in merged.resource_spans
        for s in r.scope_spans
    ]
    assert [
        ("mail", "otel-waybill", [b"a" * 8, b"c" * 8]),
        ("mail", "other", [b"d" * 8]),
        ("shop", "otel-waybill", [b"b" * 8]),
    ] == found


@given(
    st.lists(st.tuples(st.sampled_from(["shop", "mail"]), st.lists(IDS, min_size=1, max_size=3)), max_size=4)
)
def test_what_is_written_is_what_was_sent(batches: list[tuple[str, list[tuple[bytes, bytes]]]]) -> None:
    """Nothing changes on the way: the document survives JSON, and all ids come back."""
    requests = [export(service, *ids) for service, ids in batches]
    document = json.loads(json.dumps(encode(merge(requests))))

    sent = sorted((trace.hex(), span.hex()) for _, ids in batches for trace, span in ids)
    assert sent == sorted((span.trace, span.id) for span in read(document))


@given(IDS)
def test_ids_are_the_only_difference_to_the_canonical_form(ids: tuple[bytes, bytes]) -> None:
    """With its ids taken out, the document is what protobuf itself reads."""
    request = export("shop", ids)
    document = encode(request)
    span = document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    for bearer in (span, *span["links"]):
        del bearer["traceId"], bearer["spanId"]
    parsed = ParseDict(document, ExportTraceServiceRequest())
    for bearer in (message := request.resource_spans[0].scope_spans[0].spans[0], *message.links):
        bearer.ClearField("trace_id")
        bearer.ClearField("span_id")

    assert request == parsed


def test_reading_gives_plain_values() -> None:
    """Numbers are numbers again, times are seconds, events keep their attributes."""
    (span,) = read(encode(export("mail", (b"a" * 16, b"a" * 8))))

    assert ("mail", None, True, 2) == (
        span.service,
        span.parent,
        span.failed,
        span.attributes["waybill.attempt"],
    )
    assert 0.8765 == round(span.end - span.start, 4)
    assert "open" == span.marks[0].attributes["waybill.breaker.state"]
