"""The RabbitMQ installed on this system: where it is, how to get it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

OLDEST = (3, 10)
"""The first RabbitMQ that has what the policies build on."""

PLACES = (
    "usr/lib/rabbitmq/lib/rabbitmq_server-*",  # Debian, Fedora, Arch, Alpine
    "opt/rabbitmq_server-*",  # the generic archive, where its guide unpacks it
    "opt/rabbitmq",  # container images
    "opt/homebrew/opt/rabbitmq",
    "usr/local/opt/rabbitmq",
    "home/linuxbrew/.linuxbrew/opt/rabbitmq",
)
"""Where below the root to look beside ``PATH``, which lacks ``sbin`` for ordinary users."""

_INSTALL = {
    "apt-get": "apt-get install --no-install-recommends rabbitmq-server",
    "dnf": "dnf install rabbitmq-server",
    "pacman": "pacman -S rabbitmq",
    "apk": "apk add rabbitmq-server",
    "brew": "brew install rabbitmq",
}
_CONTAINER = (
    "docker run --rm -d -p 127.0.0.1:5672:5672 rabbitmq:4, "
    "then set AMQP_URL=amqp://guest:guest@127.0.0.1:5672/"
)
_POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True, slots=True)
class Installation:
    """An installed RabbitMQ.

    Attributes:
        home: the folder with ``sbin`` and ``plugins``.
        version: as in ``3.10.8``.
        epmd: the program that tells Erlang nodes of each other's ports.
    """

    home: Path
    version: str
    epmd: Path


def find(path: str) -> Installation:
    """Return the first usable RabbitMQ on *path*, else in the usual places, there the newest first.

    Raises:
        LookupError: there is none; the message says what is missing.
    """
    epmd = shutil.which("epmd", path=path) or _beside(shutil.which("erl", path=path), "epmd")
    reason = "no rabbitmq-server on PATH or in the usual places"
    for home in _homes(path):
        # The scripts under /usr/sbin are the distribution's wrappers, which insist on the system's own user
        # and folders; what RabbitMQ itself ships has this file beside it.
        if not (home / "sbin/rabbitmq-env").is_file():
            continue
        version = next((plugin.name.split("-")[1] for plugin in home.glob("plugins/rabbit-[0-9]*")), "0")
        version = version.removesuffix(".ez")
        if _numbers(version) < OLDEST:
            reason = f"RabbitMQ {version} in {home} is older than {'.'.join(map(str, OLDEST))}"
        elif epmd is None:
            reason = f"RabbitMQ {version} is in {home}, but Erlang (erl, epmd) is not on PATH"
        else:
            return Installation(home, version, Path(epmd))
    raise LookupError(reason)


def can_install(path: str) -> bool:
    """Return whether `install` may be tried: by root, on Debian and its kin."""
    return os.geteuid() == 0 and shutil.which("apt-get", path=path) is not None


def install(path: str) -> None:
    """Install the distribution's package, without starting the service that comes with it.

    Raises:
        OSError: it failed; the message has the end of the installer's output.
    """
    apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120"]
    environ = {**os.environ, "PATH": path, "DEBIAN_FRONTEND": "noninteractive"}
    with _services_held():
        for command in (["update"], ["install", "--no-install-recommends", "rabbitmq-server"]):
            done = subprocess.run(  # noqa: S603 - nothing in it comes from outside
                [*apt, *command],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            )
    # An update that failed is of no interest where the install went well from older lists.
    if done.returncode:
        raise OSError("\n".join(done.stdout.splitlines()[-10:]))


def remedies(path: str) -> tuple[str, ...]:
    """Return the ways to a broker on this system, each a command to type."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    for tool, command in _INSTALL.items():
        if shutil.which(tool, path=path):
            return (command if tool == "brew" else sudo + command, _CONTAINER)
    return (_CONTAINER,)


def _homes(path: str) -> Iterator[Path]:
    if script := shutil.which("rabbitmq-server", path=path):
        yield Path(script).resolve().parent.parent
    for place in PLACES:
        yield from sorted(Path("/").glob(place), key=lambda home: _numbers(home.name), reverse=True)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.rpartition("-")[2].split(".") if part.isdigit())


def _beside(program: str | None, name: str) -> str | None:
    return shutil.which(name, path=str(Path(program).resolve().parent)) if program else None


@contextmanager
def _services_held() -> Iterator[None]:
    """Keep package scripts from starting services, where the administrator has not decided already."""
    try:
        with _POLICY.open("x") as policy:
            policy.write("#!/bin/sh\nexit 101\n")
    except FileExistsError:
        yield
        return
    try:
        _POLICY.chmod(0o755)
        yield
    finally:
        with suppress(FileNotFoundError):
            _POLICY.unlink()
