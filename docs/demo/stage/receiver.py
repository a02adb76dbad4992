"""A small OTLP/HTTP receiver: it keeps every export, and passes it on if somebody wants it."""

import os
import queue
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.util.re import parse_env_headers

PROTOBUF = "application/x-protobuf"
GRPC_PORT = 4317


def destination(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return where the environment wants traces sent to, or None; the signal's own variable wins."""
    if url := environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return url
    if url := environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return url.rstrip("/") + "/v1/traces"
    return None


class Relay:
    """Sends exports on to another receiver, from a thread of its own, until one is refused."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.url = url
        self.failure: str | None = None
        self.sent = 0
        self._headers = {**headers, "Content-Type": PROTOBUF}
        self._exports: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def put(self, export: bytes) -> None:
        """Queue one export."""
        self._exports.put(export)

    def close(self) -> None:
        """Send what is queued, for at most ten seconds."""
        self._exports.put(None)
        self._thread.join(10)

    def _run(self) -> None:
        while (export := self._exports.get()) is not None:
            if self.failure is None:
                self._send(export)

    def _send(self, export: bytes) -> None:
        try:
            request = urllib.request.Request(self.url, export, self._headers)  # noqa: S310 - the user's own setting
            with urllib.request.urlopen(request, timeout=5):  # noqa: S310
                self.sent += 1
        except (OSError, ValueError, urllib.error.URLError) as error:
            self.failure = f"{self.url} did not take the spans ({error})"
            if urllib.parse.urlsplit(self.url).port == GRPC_PORT:
                self.failure += "; 4317 speaks gRPC, this demo speaks HTTP: use port 4318"


class Receiver:
    """Listens on a free port of the loopback interface until it is closed."""

    def __init__(self, relay: Relay | None = None) -> None:
        self._relay = relay
        self._lock = threading.Lock()
        self._exports: list[ExportTraceServiceRequest] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True)

    @property
    def url(self) -> str:
        """Where to send traces."""
        return f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    def exports(self) -> list[ExportTraceServiceRequest]:
        """Return what has arrived so far, in order."""
        with self._lock:
            return list(self._exports)

    def take(self, body: bytes) -> None:
        """Keep one export, and pass it on."""
        export = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            self._exports.append(export)
        if self._relay is not None:
            self._relay.put(body)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if self._relay is not None:
            self._relay.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        take = self.take

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                take(self.rfile.read(int(self.headers["Content-Length"])))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", PROTOBUF)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Say nothing; the story is told elsewhere."""

        return Handler


def relay(environ: Mapping[str, str] = os.environ) -> Relay | None:
    """Return a relay to where the environment wants traces sent to, or None."""
    url = destination(environ)
    if url is None:
        return None
    headers = environ.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS") or environ.get(
        "OTEL_EXPORTER_OTLP_HEADERS", ""
    )
    return Relay(url, parse_env_headers(headers, liberal=True))
