"""The broker for tests: private nodes that leave nothing behind, and the one that the user names."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pika
import pytest

from otel_waybill.errors import BrokerUnavailable
from otel_waybill.testing.broker import address, broker, installation, node

_PRIVATE = {"PATH": os.environ["PATH"]}
_HOMELESS = {name: value for name, value in os.environ.items() if name != "HOME"}
_LAUNCHER = (
    "import sys; from otel_waybill.testing.broker.__main__ import main; {}sys.exit(main(sys.argv[1:]))"
)
# Becomes an ordinary user after the imports: the interpreter's own folder need not be readable for everybody.
_DROP_ROOT = (
    "import os; 'x'.encode('idna'); os.chdir('/'); os.setgroups([]); os.setgid(65534); os.setuid(65534); "
)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, empty and writable for everybody."""
    with tempfile.TemporaryDirectory(prefix="room-") as name:
        Path(name).chmod(0o777)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


def _left(room: Path, patience: float = 2.0) -> list[str]:
    """What is still there, after *patience* seconds at most, of nodes that write to *room*."""
    until = time.monotonic() + patience
    while (found := _files_and_processes(room)) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def _files_and_processes(room: Path) -> list[str]:
    found = [file.name for file in room.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if process.name != str(os.getpid()) and str(room).encode() in (process / "environ").read_bytes():
                found.append((process / "comm").read_text().strip())
    return found


def _port(url: str) -> int:
    return urlsplit(url).port or 0


def _is_served(url: str) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", _port(url))) == 0


def _round_trip(url: str, queue: str) -> bytes | None:
    with closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, exclusive=True)
        channel.basic_publish("", queue, b"hello")
        _, _, body = channel.basic_get(queue, auto_ack=True)
        return body


@contextmanager
def _around(
    script: str, room: Path, before: str = "", amqp_url: str = ""
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a shell *script* as `python -m` would; lend the process and the AMQP_URL that the script has."""
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", _LAUNCHER.format(before), "--", "sh", "-c", f"echo $AMQP_URL; {script}"],
        env={**_HOMELESS, "TMPDIR": str(room), "AMQP_URL": amqp_url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_two_private_nodes_work_side_by_side_and_leave_nothing(
    room: Path, unique: Callable[[str], str]
) -> None:
    """Each is a broker of its own, and after its block no process, port or file of it is there."""
    with broker(_PRIVATE) as one, broker(_PRIVATE) as other:
        assert {"beam.smp", "epmd"} < set(_files_and_processes(room))
        assert one.ours
        assert other.ours
        assert one.url != other.url
        assert b"hello" == _round_trip(one.url, unique("hello"))
        assert b"hello" == _round_trip(other.url, unique("hello"))

    assert [] == _left(room)
    assert not _is_served(one.url)
    assert not _is_served(other.url)


def test_an_exception_passes_and_leaves_nothing(room: Path) -> None:
    """What goes wrong inside the block comes out of it, the node being gone."""
    with pytest.raises(KeyboardInterrupt), broker(_PRIVATE):
        raise KeyboardInterrupt

    assert [] == _left(room)


def test_a_node_goes_when_its_owner_is_killed(room: Path) -> None:
    """Not even SIGKILL of the process that started a node leaves something behind."""
    with _around("cat", room) as (process, url):
        assert _is_served(url)
        process.kill()
        # The command is not the node's business: it ends because its input does.
        process.communicate()

    assert [] == _left(room, patience=10)
    assert not _is_served(url)


def test_a_port_that_somebody_takes_meanwhile_costs_a_second_start(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Free when chosen and taken at the start is no reason to fail."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        taken = other.getsockname()[1]
        found = node._free_ports(4)
        choices = iter([[found[0], found[1], taken], [found[0], taken, found[1]], found[1:]])
        monkeypatch.setattr(node, "_free_ports", lambda _: next(choices))

        with broker(_PRIVATE) as rabbit:
            assert found[1] == _port(rabbit.url)

    assert [] == _left(room)


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_without_a_home_gets_a_private_node(room: Path) -> None:
    """Neither root nor the user that the package made is needed."""
    with _around("id -u; exit 7", room, before=_DROP_ROOT) as (process, url):
        output, _ = process.communicate()

    assert url.startswith("amqp://guest:guest@127.0.0.1:")
    assert "65534\n" == output
    assert 7 == process.returncode
    assert [] == _left(room)


def test_sigterm_goes_to_the_command_whose_code_is_handed_on(room: Path, amqp_url: str) -> None:
    """A supervisor that stops the outer process stops the command, and sees how it ended."""
    wait = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    with _around(wait, room, amqp_url=amqp_url) as (process, url):
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        process.send_signal(signal.SIGTERM)

        assert 7 == process.wait()
        assert amqp_url == url


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["--", "sh", "-c", "exit 5"], 5),
        (["sh", "-c", "kill -9 $$"], 128 + 9),
        (["--", "no-such-command"], 127),
        (["--"], 2),
        (["--help"], 2),
    ],
)
def test_exit_codes_are_those_of_a_shell(command: list[str], code: int, amqp_url: str) -> None:
    """The command's own, or the one that a shell has for it."""
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "otel_waybill.testing.broker", *command],
        env={**os.environ, "AMQP_URL": amqp_url},
        check=False,
    )

    assert code == done.returncode


def test_the_broker_that_the_user_names_is_taken(
    amqp_url: str, room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is started, and one line says which it is and what stays on it, without the password."""
    with broker({"AMQP_URL": amqp_url}) as rabbit:
        assert amqp_url == rabbit.url
        assert not rabbit.ours
        assert [] == _left(room)

    said = capsys.readouterr().err
    assert re.fullmatch(
        r"broker: using the one at AMQP_URL, amqp://guest:\*\*\*@\S+; .*queues named waybill\.\* stay.*\n",
        said,
    )


@pytest.mark.parametrize(
    "url", ["amqp://me:s3cret@127.0.0.1:1/", "amqp://me:12s3cret/@h/", "ftp://me:s3cret@h/"]
)
def test_a_named_broker_that_does_not_answer_is_an_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other one is taken instead, and the password is in neither message nor cause."""
    monkeypatch.setattr(address, "PATIENCE", 0.0)

    with (
        pytest.raises(BrokerUnavailable, match=r"AMQP_URL=\w+://me:\*\*\*@") as raised,
        broker({"AMQP_URL": url}),
    ):
        pass

    assert "s3cret" not in f"{raised.value} {raised.value.__cause__}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://me:secret@host:5672/v", "amqp://me:***@host:5672/v"),
        ("amqp://me:se:cr@et/?@host/v", "amqp://me:***@host/v"),
        ("amqps://:secret@[::1]/?keyfile=k", "amqps://:***@[::1]/"),
        ("amqp://me@host/v", "amqp://me@host/v"),
        ("amqp://host:5672", "amqp://host:5672"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    """The rest of an address stays readable."""
    assert shown == address.masked(url)


def test_without_any_broker_the_error_has_the_commands_that_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of this system's package manager and that of a container, with the address it then has."""
    monkeypatch.setattr(installation, "PLACES", ())
    tools = {"dnf": "/usr/bin/dnf"}
    monkeypatch.setattr(shutil, "which", lambda name, path=None: path and tools.get(name))

    with pytest.raises(BrokerUnavailable) as raised, broker(_PRIVATE):
        pass

    assert "dnf install rabbitmq-server" in str(raised.value)
    assert "docker run" in str(raised.value)
    assert "AMQP_URL=amqp://guest:guest@127.0.0.1:5672/" in str(raised.value)


def test_a_failed_installation_shows_its_output_and_starts_no_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Package scripts are told to start nothing while it lasts, and nothing of that stays."""
    policy = tmp_path / "policy-rc.d"
    installer = tmp_path / "bin/apt-get"
    installer.parent.mkdir()
    installer.write_text(f"#!/bin/sh\n{policy} && echo started\necho E: no space left\nexit 100\n")
    installer.chmod(0o755)
    monkeypatch.setattr(installation, "PLACES", ())
    monkeypatch.setattr(installation, "_POLICY", policy)
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    with (
        pytest.raises(BrokerUnavailable, match="E: no space left") as raised,
        broker({"PATH": str(installer.parent)}),
    ):
        pass

    assert "started" not in str(raised.value)
    assert "not found" not in str(raised.value)
    assert not policy.exists()


def test_a_node_that_cannot_start_shows_the_end_of_its_log(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the error need not look for a file, which is gone by then."""
    monkeypatch.setattr(node, "_CONFIG", "no_such_setting = 1\n")

    with pytest.raises(BrokerUnavailable, match="no_such_setting"), broker(_PRIVATE):
        pass

    assert [] == _left(room)


def test_an_installation_too_old_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A RabbitMQ without what the policies build on would fail in ways that nobody understands."""
    (tmp_path / "sbin").mkdir()
    (tmp_path / "sbin/rabbitmq-env").touch()
    (tmp_path / "plugins/rabbit-3.9.13").mkdir(parents=True)
    monkeypatch.setattr(installation, "PLACES", (str(tmp_path)[1:],))

    with pytest.raises(LookupError, match=r"3\.9\.13 .* is older than 3\.10"):
        installation.find(os.defpath if shutil.which("rabbitmq-env", path=os.defpath) else "/nowhere")
