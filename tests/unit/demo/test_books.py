"""What the last line of the demo is counted from."""

import json
import os
from pathlib import Path

import pytest
from stage.books import balance
from stage.journal import Journals
from stage.processes import environment
from stage.queues import Parked


def noted(folder: Path, service: str, fact: str, *orders: str) -> None:
    """Write what *service* notes about *orders*."""
    with (folder / f"{service}.jsonl").open("a") as journal:
        journal.writelines(json.dumps({"fact": fact, "order": order}) + "\n" for order in orders)


def test_every_order_is_handled_or_parked(tmp_path: Path) -> None:
    """A receipt counts once however often it was sent, and duplicates are told."""
    noted(tmp_path, "shop", "published", "a", "b", "c")
    noted(tmp_path, "mail", "receipt", "a", "b", "a")
    noted(tmp_path, "payments", "charged", "a", "b")
    books = balance(Journals(tmp_path), [Parked("c", "payments", "deadline")])

    assert "published 3 = handled 2 + parked 1, lost 0" == str(books)
    assert (1, frozenset("ab")) == (books.duplicates, books.charged)


def test_an_order_that_is_nowhere_is_lost(tmp_path: Path) -> None:
    """A message that is parked without a reason was not parked by a policy and does not count."""
    noted(tmp_path, "shop", "published", "a", "b")
    noted(tmp_path, "mail", "receipt", "a")

    assert 1 == balance(Journals(tmp_path), [Parked("b", "payments", None)]).lost


def test_a_line_that_is_being_written_is_left_for_later(tmp_path: Path) -> None:
    """Reading while a service writes sees whole entries only."""
    noted(tmp_path, "shop", "published", "a")
    with (tmp_path / "shop.jsonl").open("a") as journal:
        journal.write('{"fact": "publ')

    assert ["a"] == Journals(tmp_path).orders("shop", "published")
    assert [] == Journals(tmp_path).orders("mail", "receipt")


def test_services_inherit_no_telemetry_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the user has set for OpenTelemetry, the spans of the demo come to the demo."""
    monkeypatch.setattr(os, "environ", {"OTEL_SDK_DISABLED": "true", "PATH": "p", "NO_PROXY": "intranet"})
    given = environment("mail", "http://127.0.0.1:1/v1/traces", {"DEMO_RUN": "r"})

    assert "OTEL_SDK_DISABLED" not in given
    assert ("p", "r", "intranet,127.0.0.1") == (given["PATH"], given["DEMO_RUN"], given["NO_PROXY"])
    assert "http://127.0.0.1:1/v1/traces" == given["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
