"""Painting charts: the same lines for a terminal and for the SVG file."""

import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from stage.waterfall import Axis, Chart, Kind, Row

NARROWEST: Final = 100
WIDEST: Final = 120
USUAL: Final = 112

_SERVICE: Final = 10
_LABEL: Final = 27
_LEFT: Final = 8
_NOTE: Final = 26
_TICK: Final = 9

_SERVICES: Final = {"shop": "cyan", "orders": "blue", "payments": "magenta", "mail": "green"}
_FULL: Final = "━"
# Half columns make short spans and close starts distinguishable: (left half, right half).
_HALVES: Final = ("╸", "╺")
_LINES: Final = {Kind.BACKOFF: "·", Kind.HELD: "╍"}
_RARE: Final = (Kind.FAILED, Kind.WORK, Kind.HALF_OPEN, Kind.CLOSED)
_STATES: Final = {"closed": "green", "open": "bold red", "half-open": "bold yellow"}
_OUTCOMES: Final = {"handled": ("✓", "green"), "retried": ("↻", "yellow"), "parked": ("■", "bold red")}

_THEME: Final = TerminalTheme(
    (13, 17, 23),
    (201, 209, 217),
    [
        (72, 79, 88),
        (255, 123, 114),
        (86, 211, 100),
        (227, 179, 65),
        (108, 182, 255),
        (210, 168, 255),
        (86, 212, 221),
        (177, 186, 196),
    ],
    [
        (110, 118, 129),
        (255, 161, 152),
        (126, 231, 135),
        (242, 204, 96),
        (150, 208, 255),
        (226, 197, 255),
        (118, 227, 234),
        (240, 246, 252),
    ],
)
# rich's own frame loads a font from the network; pictures in a README may not, and need not.
_FRAME: Final = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: "Fira Code", "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-ligatures: none; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: Helvetica, Arial, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">\
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix" xml:space="preserve">
{matrix}
</g>
</g>
</svg>
"""


def show(console: Console, charts: Sequence[Chart], width: int) -> None:
    """Print *charts*, *width* columns wide, and what their lines mean."""
    for chart in charts:
        for line in paint(chart, width):
            console.print(line, no_wrap=True, overflow="crop", crop=True)
        console.print()
    console.print(_legend())


def save(path: Path, title: str, charts: Sequence[Chart], width: int = USUAL) -> None:
    """Write *charts* as an SVG picture."""
    console = Console(
        record=True, width=width + 1, file=StringIO(), force_terminal=True, color_system="truecolor"
    )
    show(console, charts, width)
    picture = console.export_svg(title=title, theme=_THEME, code_format=_FRAME, unique_id="waybill")
    path.write_text(picture, encoding="utf-8")


def paint(chart: Chart, width: int) -> list[Text]:
    """Return the lines of one chart, each *width* columns wide."""
    axis = Axis(chart.start, chart.end, width - _SERVICE - _LABEL - _LEFT - _NOTE - 3)
    return [_title(chart, width), _header(axis), *(_line(row, axis) for row in chart.rows)]


def _title(chart: Chart, width: int) -> Text:
    facts = f"{chart.end - chart.start:.2f} s"
    if chart.trace is not None:
        facts = f"trace {chart.trace[:16]}…  {facts}"
    title = _fit(chart.title, "bold", width=width - len(facts))
    return title.append(facts, style="dim")


def _header(axis: Axis) -> Text:
    ruler = [" "] * axis.columns
    for column, seconds in axis.ticks(_TICK):
        tick = f"╷{seconds:.3g} s" if seconds else "╷0"
        if column + len(tick) <= axis.columns:
            ruler[column : column + len(tick)] = tick
    line = "service".ljust(_SERVICE) + "step".ljust(_LABEL - 1) + "time left".rjust(_LEFT + 1)
    return Text(f"{line} {''.join(ruler)} {'outcome'.ljust(_NOTE + 1)}", style="dim")


def _line(row: Row, axis: Axis) -> Text:
    colour = _SERVICES.get(row.service, "default")
    branch = " " * (row.depth - 1) + "└ " if row.depth else ""
    line = Text().append_text(_fit(row.service, f"bold {colour}", width=_SERVICE))
    line.append(branch, style="dim")
    line.append_text(_fit(row.label, "red" if row.failed else "", width=_LABEL - len(branch)))
    line.append_text(_left(row.left)).append(" ")
    line.append_text(_bar(row, axis, colour)).append(" ")
    return line.append_text(_fit(*_note(row), width=_NOTE + 1))


def _fit(text: str, style: str, *, width: int) -> Text:
    fitted = Text(text)
    fitted.truncate(width - 1, overflow="ellipsis")
    fitted.stylize(style)
    return fitted.append(" " * (width - len(fitted)))


def _left(milliseconds: float | None) -> Text:
    if milliseconds is None:
        return Text(" " * _LEFT)
    seconds = milliseconds / 1000
    forms = (f"{seconds:.2f} s", f"{seconds:.1f} s", f"{seconds / 3600:.1f} h")
    text = next((form for form in forms if len(form) < _LEFT), "")
    return Text(text.rjust(_LEFT), style="bold red" if seconds < 0 else "cyan")


def _bar(row: Row, axis: Axis, colour: str) -> Text:
    halves: list[Kind | None] = [None] * (axis.columns * 2)
    # The longest first: what is short must not disappear under it.
    for stretch in sorted(row.stretches, key=lambda stretch: stretch.start - stretch.end):
        first, last = axis.span(stretch.start, stretch.end)
        halves[first:last] = [stretch.kind] * (last - first)
    bar = Text()
    for left, right in zip(halves[::2], halves[1::2], strict=True):
        bar.append(*_cell(left, right, colour))
    for change in row.changes:
        # The diamond stands where the state changed, in the colour of the new state.
        column = axis.column(change.at)
        bar = Text.assemble(bar[:column], ("◆", _STATES[change.after]), bar[column + 1 :])
    return bar


def _cell(left: Kind | None, right: Kind | None, colour: str) -> tuple[str, str]:
    kinds = [kind for kind in (left, right) if kind is not None]
    if not kinds:
        return " ", ""
    # Of two kinds in one column, the one that is easily overlooked is shown.
    kind = next((kind for kind in _RARE if kind in kinds), kinds[0])
    if kind in _LINES:
        return _LINES[kind], _style(kind, colour)
    glyph = _HALVES[right is not None] if len(kinds) == 1 else _FULL
    return glyph, _style(kind, colour)


def _style(kind: Kind, colour: str) -> str:
    return {
        Kind.WORK: colour,
        Kind.FAILED: "bold red",
        Kind.BACKOFF: "yellow",
        Kind.HELD: "yellow",
    }.get(kind) or _STATES[kind.value]


def _note(row: Row) -> tuple[str, str]:
    outcome = re.match(r"[\w-]*", row.note)
    sign, style = _OUTCOMES.get(outcome[0] if outcome else "", ("", "dim"))
    return f"{sign} {row.note}".strip(), style


def _legend() -> Text:
    return Text.assemble(
        ("━", "magenta"), " work  ", ("━", "bold red"), " failed  ",
        ("····", "yellow"), " backoff in the broker  ", ("╍╍╍", "yellow"), " held back  ",
        ("◆", _STATES["open"]), ("◆", _STATES["half-open"]), ("◆", _STATES["closed"]),
        " breaker opens, probes, closes",
        style="dim",
    )  # fmt: skip
