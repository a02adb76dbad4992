"""Draws the states of a circuit breaker from the table that it follows.

``python docs/state_diagram.py`` prints the diagram of ``docs/breakers.md``; a test compares the two.
"""

from collections.abc import Iterator

from otel_waybill.core.breaker import TRANSITIONS, State


def mermaid() -> str:
    """Return the table as a Mermaid state diagram; what leads away from every state is drawn once."""
    return "\n".join(("stateDiagram-v2", *(f"    {line}" for line in _lines())))


def _lines() -> Iterator[str]:
    everywhere = set.intersection(*({*row.items()} for row in TRANSITIONS.values()))
    for state in State:
        yield f'state "{state}" as {state.name}'
    yield 'state "any state" as ANY'
    yield f"[*] --> {State.CLOSED.name}"
    for before, row in TRANSITIONS.items():
        for trigger, after in row.items():
            if (trigger, after) not in everywhere:
                yield f"{before.name} --> {after.name}: {trigger}"
    for trigger, after in sorted(everywhere):
        yield f"ANY --> {after.name}: {trigger}"


if __name__ == "__main__":
    print(mermaid())
