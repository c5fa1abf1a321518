"""A pipeline's graph as text and as SVG: the same picture for the command line and for pages.

The SVG has no styles and no scripts: colours are attributes, which any content security policy lets through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 190, 46, 26, 44, 12
_COLOURS = {
    "Completed": "#2e7d32",
    "Reused": "#00695c",
    "Running": "#1565c0",
    "Failed": "#c62828",
    "Canceled": "#ef6c00",
    "Skipped": "#9e9e9e",
}
_OTHER = "#757575"
_FONT = "font-family='system-ui, sans-serif'"


@dataclass(frozen=True, slots=True)
class Drawn:
    """One step. `state`: as shown, "" before it is run; `link`: where a click leads."""

    name: str
    kind: str = "command"
    state: str = ""
    needs: tuple[str, ...] = ()
    note: str = ""
    link: str = ""


def layers(steps: Sequence[Drawn]) -> list[list[Drawn]]:
    """Each step one row below the last of what it needs; steps in a circle stay in the first."""
    known = {step.name: step for step in steps}
    depth: dict[str, int] = {}
    for _ in steps:
        changed = False
        for step in steps:
            below = [depth.get(name, 0) + 1 for name in step.needs if name in known and name != step.name]
            wanted = max(below, default=0)
            if depth.get(step.name) != wanted and wanted < len(steps):
                depth[step.name], changed = wanted, True
        if not changed:
            break
    rows: dict[int, list[Drawn]] = {}
    for step in steps:
        rows.setdefault(depth.get(step.name, 0), []).append(step)
    return [rows[row] for row in sorted(rows)]


def text(steps: Sequence[Drawn]) -> str:
    """A line for each step, in the order they can run, with what it waits for."""
    wide = max((len(step.name) for step in steps), default=0)
    kinds = max((len(step.kind) for step in steps), default=0)
    lines: list[str] = []
    for number, row in enumerate(layers(steps)):
        for step in row:
            mark = "│ " * number + "● " if number else "● "
            needs = f"  ← {', '.join(step.needs)}" if step.needs else ""
            state = f"  {step.state}{f' ({step.note})' if step.note else ''}" if step.state else ""
            lines.append(f"{mark}{step.name:<{wide}}  {step.kind:<{kinds}}{state}{needs}".rstrip())
    return "\n".join(lines)


def svg(steps: Sequence[Drawn], title: str = "Pipeline") -> str:
    rows = layers(steps)
    widest = max((len(row) for row in rows), default=1)
    width = MARGIN * 2 + widest * WIDTH + (widest - 1) * GAP_X
    height = MARGIN * 2 + len(rows) * HEIGHT + max(len(rows) - 1, 0) * GAP_Y
    places = _places(rows, width)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' "
        f"height='{height}' role='img' aria-label='{escape(title)}'>",
        f"<title>{escape(title)}</title>",
    ]
    for step in steps:
        parts += [_edge(places[name], places[step.name]) for name in step.needs if name in places]
    parts += [_box(step, *places[step.name]) for step in steps]
    return "".join([*parts, "</svg>"])


def _places(rows: Sequence[Sequence[Drawn]], width: int) -> Mapping[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for number, row in enumerate(rows):
        own = len(row) * WIDTH + (len(row) - 1) * GAP_X
        left = (width - own) // 2
        for column, step in enumerate(row):
            found[step.name] = left + column * (WIDTH + GAP_X), MARGIN + number * (HEIGHT + GAP_Y)
    return found


def _edge(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1 = start[0] + WIDTH // 2, start[1] + HEIGHT
    x2, y2 = end[0] + WIDTH // 2, end[1]
    middle = (y1 + y2) // 2
    return (
        f"<path d='M{x1},{y1} C{x1},{middle} {x2},{middle} {x2},{y2 - 4}' fill='none' stroke='#9e9e9e' "
        f"stroke-width='1.5'/><path d='M{x2 - 4},{y2 - 6} L{x2},{y2} L{x2 + 4},{y2 - 6}' fill='#9e9e9e'/>"
    )


def _box(step: Drawn, x: int, y: int) -> str:
    colour = _COLOURS.get(step.state, _OTHER)
    below = " · ".join(part for part in (step.kind, step.state, step.note) if part)
    box = (
        f"<g><title>{escape(f'{step.name}: {below}')}</title>"
        f"<rect x='{x}' y='{y}' width='{WIDTH}' height='{HEIGHT}' rx='6' fill='white' stroke='{colour}' "
        f"stroke-width='2'/><rect x='{x}' y='{y}' width='6' height='{HEIGHT}' rx='3' fill='{colour}'/>"
        f"<text x='{x + 16}' y='{y + 19}' {_FONT} font-size='13' font-weight='600' fill='#212121'>"
        f"{escape(_cut(step.name, 22))}</text>"
        f"<text x='{x + 16}' y='{y + 36}' {_FONT} font-size='11' fill='{colour}'>"
        f"{escape(_cut(below, 28))}</text></g>"
    )
    return f"<a href='{escape(step.link, quote=True)}'>{box}</a>" if step.link else box


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
