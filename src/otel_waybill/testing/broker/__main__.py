"""Run a command with ``AMQP_URL`` set: ``python -m otel_waybill.testing.broker -- CMD ARGS``."""

import os
import shutil
import signal
import subprocess
import sys
from types import FrameType

from otel_waybill.errors import BrokerUnavailable
from otel_waybill.testing.broker import broker

_USAGE = "usage: python -m otel_waybill.testing.broker [--] CMD [ARGS ...]"
# What shells answer for these.
_BAD_USAGE, _NOT_FOUND, _INTERRUPTED, _SIGNALLED = 2, 127, 130, 128


def main(arguments: list[str]) -> int:
    """Run the command in *arguments* beside a broker and return its exit code.

    As in a shell, the code is 128 and the signal's number for a command that a signal ended. SIGTERM and
    SIGHUP are passed on to the command; SIGINT is left to it, because a terminal sends that to both.

    Args:
        arguments: the command with its arguments, optionally after ``--``.
    """
    command = arguments[1:] if arguments[:1] == ["--"] else arguments
    if not command or (command is arguments and command[0].startswith("-")):
        return _fail(_USAGE, _BAD_USAGE)
    if shutil.which(command[0]) is None:
        return _fail(f"{command[0]}: command not found", _NOT_FOUND)
    try:
        with broker() as rabbit:
            return _run(command, {**os.environ, "AMQP_URL": rabbit.url})
    except BrokerUnavailable as error:
        return _fail(str(error), os.EX_UNAVAILABLE)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(command: list[str], environ: dict[str, str]) -> int:
    started: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        # A signal may come while the command is being started.
        for process in started:
            process.send_signal(number)
        if not started:
            early.append(number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGHUP, forward)
    signal.signal(signal.SIGINT, lambda *_: None)
    process = subprocess.Popen(command, env=environ)  # noqa: S603 - running what the user says is what this is for
    started.append(process)
    for number in early:
        process.send_signal(number)
    code = process.wait()
    return code if code >= 0 else _SIGNALLED - code


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"{message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
