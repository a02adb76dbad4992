"""OTLP in its JSON form: many exports merged into one document.

The canonical JSON of protobuf is not it: OTLP writes ids in hex and enumerations as integers.
"""

import base64
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

Json = dict[str, Any]

_IDS = ("traceId", "spanId", "parentSpanId")


def merge(requests: Iterable[ExportTraceServiceRequest]) -> ExportTraceServiceRequest:
    """Return one request with every span of *requests*, each resource and each scope in it once."""
    merged = ExportTraceServiceRequest()
    resources: dict[bytes, ResourceSpans] = {}
    scopes: dict[tuple[bytes, bytes], ScopeSpans] = {}
    for request in requests:
        for sent in request.resource_spans:
            resource = _key(sent.resource, sent.schema_url)
            if resource not in resources:
                resources[resource] = merged.resource_spans.add(
                    resource=sent.resource, schema_url=sent.schema_url
                )
            for batch in sent.scope_spans:
                scope = (resource, _key(batch.scope, batch.schema_url))
                if scope not in scopes:
                    scopes[scope] = resources[resource].scope_spans.add(
                        scope=batch.scope, schema_url=batch.schema_url
                    )
                scopes[scope].spans.extend(batch.spans)
    return merged


def encode(request: ExportTraceServiceRequest) -> Json:
    """Return *request* as OTLP/JSON: camelCase, hex ids, integer enumerations, 64-bit numbers as text."""
    document: Json = MessageToDict(request, use_integers_for_enums=True)
    for resource in document.get("resourceSpans", ()):
        for scope in resource.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                for bearer in (span, *span.get("links", ())):
                    _hex_ids(bearer)
    document.setdefault("resourceSpans", [])
    return document


def _key(message: Any, schema_url: str) -> bytes:  # noqa: ANN401 - any protobuf message
    serialized: bytes = message.SerializeToString(deterministic=True)
    return serialized + b"\0" + schema_url.encode()


def _hex_ids(bearer: Json) -> None:
    for name in _IDS:
        if name in bearer:
            bearer[name] = base64.b64decode(bearer[name]).hex()
