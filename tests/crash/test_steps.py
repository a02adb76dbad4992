"""A consumer, or only its connection, dies at each step of a settlement."""

from collections.abc import Callable
from pathlib import Path

import pytest

from crash.bounds import Row
from crash.conftest import Note
from crash.nodes import Node
from crash.proxy import Step, Strike
from crash.scene import CLIENTS, Scene

ROWS = {
    Step.DELIVERED: Row.RUNNING,
    Step.COPY_UNSENT: Row.COPY_UNSENT,
    Step.COPY_SENT: Row.COPY_SENT,
    Step.UNCONFIRMED: Row.COPY_SENT,
    Step.UNACKED: Row.UNACKED,
    Step.ACKED: Row.ACKED,
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("killing", [False, True], ids=["cut", "killed"])
@pytest.mark.parametrize("step", Step, ids=lambda step: step.name.lower().replace("_", " "))
def test_dies_when(  # noqa: PLR0913, PLR0917 - each is a fixture or a parameter
    broker: Node,
    unique: Callable[[str], str],
    tmp_path: Path,
    note: Note,
    client: str,
    step: Step,
    *,
    killing: bool,
) -> None:
    """Nothing is lost, whichever step it had come to, and only what it had in its hands may be doubled."""
    strike = Strike(step, every=50, times=4)
    with Scene(broker, client, unique("crash"), tmp_path, strike=strike, killing=killing) as scene:
        scene.begin()
        scene.until(lambda: scene.proxy.broken == strike.times)
        note(scene.finish(ROWS[step]))


@pytest.mark.parametrize("client", CLIENTS)
def test_nothing_breaks(
    broker: Node, unique: Callable[[str], str], tmp_path: Path, note: Note, client: str
) -> None:
    """Without a crash every message ends once, and every run is begun once."""
    with Scene(broker, client, unique("crash"), tmp_path) as scene:
        scene.begin()
        figures = scene.finish(Row.NOTHING)
        assert 0 == figures.repeated
        note(figures)
