"""The four services as processes: started by the launcher, ended by SIGTERM, never left behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import TracebackType
from typing import Final, Self

SERVICES: Final = {"shop": "aio-pika", "orders": "pika", "payments": "aio-pika", "mail": "pika"}
PATIENCE: Final = 15.0
FOLDER: Final = Path(__file__).parents[1]


class DemoError(Exception):
    """The demo cannot go on, or did not show what it is meant to show."""


def environment(service: str, endpoint: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of *service*: the user's, but its telemetry comes to the demo."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    no_proxy = ",".join(filter(None, (inherited.get("NO_PROXY"), "127.0.0.1")))
    return {
        **inherited,
        **extra,
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "OTEL_SERVICE_NAME": service,
        "OTEL_RESOURCE_ATTRIBUTES": "service.namespace=waybill-demo",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "200",  # milliseconds; the story is told while it happens
    }


def launcher() -> str:
    """Return the path of opentelemetry-instrument, from the environment of this Python if it is there."""
    name = "opentelemetry-instrument"
    found = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    if found is None:
        msg = f"{name} is not installed beside {sys.executable}; run the demo with: nox -s demo"
        raise DemoError(msg)
    if not entry_points(group="opentelemetry_configurator"):
        msg = "opentelemetry-distro is not installed, without which the launcher sets up no SDK"
        raise DemoError(msg)
    return found


class Services:
    """The running services; leaving the block ends whatever still runs."""

    def __init__(self, logs: Path, endpoint: str, extra: Mapping[str, str]) -> None:
        self._logs = logs
        self._endpoint = endpoint
        self._extra = extra
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        command = launcher()
        try:
            for name in SERVICES:
                self._running[name] = self._start(name, command)
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()

    def order(self, line: bytes) -> None:
        """Hand one order to the shop."""
        till = self._running["shop"].stdin
        if till is None:
            msg = "the shop was started without a pipe"
            raise DemoError(msg)
        till.write(line + b"\n")
        till.flush()

    def check(self) -> None:
        """Raise DemoError with the end of its log if a service is not running any more."""
        for name, process in self._running.items():
            if process.poll() is not None:
                msg = f"{name} ended by itself, exit code {process.returncode}:\n{self._tail(name)}"
                raise DemoError(msg)

    def stop(self) -> None:
        """End the services by SIGTERM, in the order in which orders pass them.

        Raises:
            DemoError: one had died before, had to be killed, or ended with an error.
        """
        self.check()
        for name, process in self._running.items():
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                msg = f"{name} did not end within {PATIENCE:.0f} s of SIGTERM:\n{self._tail(name)}"
                raise DemoError(msg) from None
            if code != 0:
                msg = f"{name} ended with exit code {code} after SIGTERM:\n{self._tail(name)}"
                raise DemoError(msg)

    def _start(self, name: str, command: str) -> subprocess.Popen[bytes]:
        with (self._logs / f"{name}.log").open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - our own script
                [command, sys.executable, str(FOLDER / f"{name}.py")],
                env=environment(name, self._endpoint, self._extra),
                stdin=subprocess.PIPE if name == "shop" else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C goes to a whole terminal session; who ends when is decided here.
                start_new_session=True,
            )

    def _kill(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdin is not None:
                # Closing flushes, and nobody reads any more.
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()

    def _tail(self, name: str) -> str:
        return "\n".join((self._logs / f"{name}.log").read_text(errors="replace").splitlines()[-15:])
