"""Runs programs under `opentelemetry-instrument`, as users do who change nothing in them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LAUNCHER = shutil.which("opentelemetry-instrument", path=Path(sys.executable).parent)


def start(source: str, **environ: str) -> "subprocess.Popen[str]":
    """Start the program *source*, whose spans go to its output."""
    assert _LAUNCHER is not None, "opentelemetry-instrument is not installed beside this Python"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    telemetry = {
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
    }
    return subprocess.Popen(  # noqa: S603 - our own program
        [_LAUNCHER, sys.executable, "-c", source],
        env=inherited | telemetry | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]", code: int = 0) -> tuple[list[Mapping[str, Any]], str]:
    """Wait for the end of the program; return the spans that it exported, and what it said."""
    try:
        output, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert code == process.returncode, said
    return _objects(output), said


def _objects(output: str) -> list[Mapping[str, Any]]:
    """Return the JSON objects that stand in *output* one after the other."""
    objects, decoder = [], json.JSONDecoder()
    while output := output.strip():
        found, end = decoder.raw_decode(output)
        objects.append(found)
        output = output[end:]
    return objects
