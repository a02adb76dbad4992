"""A private RabbitMQ node that leaves nothing behind: no process, no file, no entry anywhere.

Its processes are one group, which is killed as a whole: what it stores is thrown away, so there is nothing
to shut down in good order. A guardian does the same if we die before we can.
"""

import os
import random
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from otel_waybill.testing.broker import address
from otel_waybill.testing.broker.installation import Installation

PATIENCE = 60.0
"""Seconds that a node gets to start; 3 to 6 are usual."""

_TRIES = 3
_LOOPBACK = "127.0.0.1"
_OUTPUT = "output.log"
# Below where systems take the ports of outgoing connections from: those come and go all the time.
_PORTS = range(20_000, 32_000)

# Waits until the pipe from us closes, which happens however we end; then kills the group, removes the folder.
_GUARDIAN = 'read -r _; kill -KILL "-$0"; sleep 1; rm -rf -- "$1"'

_ERL_ARGS = "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"

_CONFIG = """\
listeners.tcp.1 = {address}:{port}
loopback_users = none
cluster_name = {name}
vm_memory_high_watermark.absolute = 1GiB
disk_free_limit.absolute = 50MB
"""


class StartFailed(Exception):  # noqa: N818 - an event that the caller turns into an error for people
    """The node did not come up; the message has the reason and the end of its log."""


class PortTaken(StartFailed):
    """Somebody else took one of the ports after we had found it free."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that accepts connections until `close`, or the end of a ``with`` block.

    Attributes:
        port: of AMQP, on the loopback interface.
        folder: everything that the node writes.
    """

    port: int
    folder: Path
    _rabbitmqctl: Path = field(repr=False)
    _environ: Mapping[str, str] = field(repr=False)
    _resources: ExitStack = field(repr=False)

    @property
    def url(self) -> str:
        """Where to connect."""
        return f"amqp://guest:guest@{_LOOPBACK}:{self.port}/"

    def ctl(self, *command: str) -> str:
        """Run ``rabbitmqctl`` with *command* on this node and return what it prints; it takes half a second.

        Raises:
            CalledProcessError: it failed; its output is in the error.
        """
        done = subprocess.run(  # noqa: S603 - the caller's own words for a node of his own
            [str(self._rabbitmqctl), "--quiet", *command],
            cwd="/",
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def close(self) -> None:
        """Kill the node and remove its folder; a second time does nothing."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start(rabbit: Installation, path: str) -> Node:
    """Start a node and return once it accepts connections.

    Args:
        rabbit: which one to start.
        path: where its scripts find ``erl`` and the shell's tools.

    Raises:
        StartFailed: it died, or was not ready within `PATIENCE`.
    """
    for _ in range(_TRIES - 1):
        with suppress(PortTaken):
            return _start(rabbit, path)
    return _start(rabbit, path)


def _start(rabbit: Installation, path: str) -> Node:
    port, dist_port, epmd_port = _free_ports(3)
    # Unguessable, and told to whoever connects: that tells our node from one that took our port.
    name = f"waybill-{secrets.token_hex(8)}"
    environ = {
        "PATH": path,
        "LANG": "C.UTF-8",
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": _LOOPBACK,
    }
    with ExitStack() as resources:
        temporary = tempfile.TemporaryDirectory(prefix="waybill-rabbitmq-", ignore_cleanup_errors=True)
        folder = Path(resources.enter_context(temporary))
        environ |= _furnished(folder, name, port, dist_port)
        # Started by us and in the foreground: the one that RabbitMQ starts on its own outlives it.
        epmd = resources.enter_context(_child([str(rabbit.epmd)], folder, environ))
        resources.callback(_kill_group, epmd.pid)
        guardian = ["/bin/sh", "-c", _GUARDIAN, str(epmd.pid), str(folder)]
        resources.enter_context(_child(guardian, folder, {"PATH": path}, stdin=subprocess.PIPE))
        server = [str(rabbit.home / "sbin/rabbitmq-server")]
        beam = resources.enter_context(_child(server, folder, environ, group=epmd.pid))
        _wait_until_ready(port, name, folder / _OUTPUT, epmd, beam)
        return Node(port, folder, rabbit.home / "sbin/rabbitmqctl", environ, resources.pop_all())


def _furnished(folder: Path, name: str, port: int, dist_port: int) -> dict[str, str]:
    """Fill *folder* with what a node needs and return the variables that point there, and nowhere else."""
    config = folder / "config"
    config.mkdir()
    (config / "rabbitmq.conf").write_text(_CONFIG.format(address=_LOOPBACK, port=port, name=name))
    (config / "enabled_plugins").write_text("[].\n")
    cookie = folder / ".erlang.cookie"
    cookie.write_text(secrets.token_hex(16))
    cookie.chmod(0o400)
    return {
        "HOME": str(folder),
        "RABBITMQ_NODENAME": f"{name}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": _LOOPBACK,
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(dist_port),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERL_ARGS,
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "node.pid"),
        "RABBITMQ_CONFIG_FILE": str(config / "rabbitmq.conf"),
        # These three have defaults under /etc, so they are named although not all of them exist.
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(config / "advanced.config"),
        "RABBITMQ_CONF_ENV_FILE": str(config / "rabbitmq-env.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(config / "enabled_plugins"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(config / "generated"),
        "ERL_CRASH_DUMP_SECONDS": "0",
        # The script becomes the node instead of waiting for it, so that our child is the node itself.
        "RUNNING_UNDER_SYSTEMD": "true",
    }


@contextmanager
def _child(
    command: list[str],
    folder: Path,
    environ: dict[str, str],
    *,
    stdin: int = subprocess.DEVNULL,
    group: int = 0,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command* in process group *group*, 0 being a new one; kill it at the end."""
    with (folder / _OUTPUT).open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - nothing in it comes from outside
            command, cwd="/", env=environ, stdin=stdin, stdout=output, stderr=output, process_group=group
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _kill_group(group: int) -> None:
    # Nobody left in it; some systems call a group of the dead a matter of permission.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _wait_until_ready(
    port: int, name: str, output: Path, epmd: subprocess.Popen[bytes], beam: subprocess.Popen[bytes]
) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if epmd.poll() is not None:
            msg = "epmd died at start, as it does without a word when its port is taken"
            raise PortTaken(msg)
        if beam.poll() is not None:
            log = output.read_text(errors="replace")
            msg = f"it died at start\n{_excerpt(log)}"
            raise PortTaken(msg) if re.search(r"eaddrinuse|port_already_used", log) else StartFailed(msg)
        with suppress(OSError):
            if name.encode() not in address.greet(_LOOPBACK, port):
                msg = f"another broker took port {port}"
                raise PortTaken(msg)
            return
        time.sleep(0.05)
    msg = f"not ready after {PATIENCE:.0f} s\n{_excerpt(output.read_text(errors='replace'))}"
    raise StartFailed(msg)


def _excerpt(log: str, length: int = 20) -> str:
    """Return *length* lines from where trouble begins, else the last; much more follows a first error."""
    lines = [line for line in log.splitlines() if line.strip()]
    trouble = next((n for n, line in enumerate(lines) if re.search(r"\berror\b|FAILED", line)), -length)
    return "\n".join(f"    {line}" for line in lines[trouble:][:length])


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    with ExitStack() as held:
        for port in random.sample(_PORTS, len(_PORTS)):
            with suppress(OSError):
                probe = held.enter_context(closing(socket.socket()))
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((_LOOPBACK, port))
                found.append(port)
            if len(found) == count:
                break
    return found
