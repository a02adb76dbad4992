"""RabbitMQ nodes that can be killed, frozen and started again, alone or as a cluster, for the time being."""

import json
import os
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from otel_waybill.testing.broker import installation, node

PATH = os.environ.get("PATH", os.defpath)
_COOKIE = ".erlang.cookie"
_PATIENCE = 60
# What a delay queue has sent on, and the target has not taken before it lost its leader, is sent again
# after this many milliseconds: 3 minutes by default, for which nobody here has time.
_ADVANCED = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}]."


class Node:
    """One node; started again, it has what it had on its disk."""

    def __init__(
        self,
        rabbit: installation.Installation,
        epmd: tuple[subprocess.Popen[bytes], int],
        folder: Path,
        ports: tuple[int, int],
        cookie: str,
    ) -> None:
        """Furnish it.

        Args:
            rabbit: which RabbitMQ to run.
            epmd: the process that tells nodes of each other, and its port.
            folder: an empty one, for everything that it writes.
            ports: for clients, and for other nodes.
            cookie: what nodes of one cluster share.
        """
        self.port, dist = ports
        self._name = f"waybill-{secrets.token_hex(8)}"
        self._folder = folder
        self._sbin = rabbit.home / "sbin"
        self._epmd, epmd_port = epmd
        self._environ = {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            **node._furnished(folder, self._name, self.port, dist),
        }
        (folder / _COOKIE).unlink()
        (folder / _COOKIE).write_text(cookie)
        (folder / _COOKIE).chmod(0o400)
        (folder / "config/advanced.config").write_text(_ADVANCED)
        self._resources = ExitStack()
        self._process: subprocess.Popen[bytes]

    @property
    def full_name(self) -> str:
        """What other nodes call it."""
        return f"{self._name}@localhost"

    def start(self) -> None:
        """Start it, and return once it accepts connections."""
        command = [str(self._sbin / "rabbitmq-server")]
        child = node._child(command, self._folder, self._environ, group=self._epmd.pid)
        self._process = self._resources.enter_context(child)
        output = self._folder / node._OUTPUT
        node._wait_until_ready(self.port, self._name, output, self._epmd, self._process)

    def kill(self) -> None:
        """Kill it, as the kernel does that runs out of memory."""
        self._resources.close()

    def freeze(self) -> None:
        """Have it stand still, its connections open, until `thaw`."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        self._process.send_signal(signal.SIGCONT)

    def control(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` with *arguments* and return what it says."""
        done = subprocess.run(  # noqa: S603 - our own node
            [str(self._sbin / "rabbitmqctl"), "-n", self.full_name, "-q", *arguments],
            cwd="/",
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def leaders(self) -> dict[str, str]:
        """Return the name of the node that leads each quorum queue."""
        listed = json.loads(self.control("list_queues", "name", "leader", "--formatter=json"))
        return {each["name"]: each["leader"] for each in listed}

    def join(self, other: "Node") -> None:
        """Become part of the cluster of *other*."""
        self.control("stop_app")
        self.control("join_cluster", other.full_name)
        self.control("start_app")


@contextmanager
def nodes(count: int) -> Iterator[list[Node]]:
    """Start so many nodes, and leave nothing of them behind; from the second on they join the first."""
    rabbit = installation.find(PATH)
    cookie = secrets.token_hex(16)
    epmd_port, *ports = node._free_ports(1 + 2 * count)
    environ = {"PATH": PATH, "ERL_EPMD_PORT": str(epmd_port), "ERL_EPMD_ADDRESS": "127.0.0.1"}
    with ExitStack() as resources:
        temporary = tempfile.TemporaryDirectory(prefix="waybill-crash-", ignore_cleanup_errors=True)
        folder = Path(resources.enter_context(temporary))
        epmd = resources.enter_context(node._child([str(rabbit.epmd)], folder, environ))
        resources.callback(node._kill_group, epmd.pid)
        guardian = ["/bin/sh", "-c", node._GUARDIAN, str(epmd.pid), str(folder)]
        resources.enter_context(node._child(guardian, folder, {"PATH": PATH}, stdin=subprocess.PIPE))
        members = []
        for number in range(count):
            place = folder / str(number)
            place.mkdir()
            pair = ports[2 * number], ports[2 * number + 1]
            members.append(Node(rabbit, (epmd, epmd_port), place, pair, cookie))
            resources.callback(members[-1].kill)
        with ThreadPoolExecutor() as pool:
            list(pool.map(Node.start, members))
        for member in members[1:]:
            member.join(members[0])
        yield members
