"""Reading what the services have noted."""

import json
from pathlib import Path
from typing import Any


class Journals:
    """The journals of one run, each a file of JSON lines that only its service writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def facts(self, service: str, fact: str, order: str | None = None) -> list[dict[str, Any]]:
        """Return every entry of *service* that says *fact*, about *order* if one is given."""
        path = self._folder / f"{service}.jsonl"
        if not path.exists():
            return []
        # The last line may still be in the writing.
        lines = path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [entry for entry in entries if entry["fact"] == fact and order in (None, entry.get("order"))]

    def orders(self, service: str, fact: str) -> list[str]:
        """Return the order of every such entry, repetitions included."""
        return [entry["order"] for entry in self.facts(service, fact)]
