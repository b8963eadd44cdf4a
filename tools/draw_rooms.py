"""Draw the rooms of this repository and who imports whom, as measured from the sources.

    .venv/bin/python tools/draw_rooms.py            write docs/images/rooms.svg, and ARCHITECTURE.md's table
    .venv/bin/python tools/draw_rooms.py --check    exit 1 if either is stale

A room stands above all rooms that it imports. An arrow that a longer path implies is not drawn.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from import_graph import TOP, ImportGraph, circles, floors, read_graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "ARCHITECTURE.md"
PICTURE = ROOT / "docs/images/rooms.svg"
BEGIN, END = "<!-- rooms: begin -->", "<!-- rooms: end -->"
DISTRIBUTIONS = {
    "giveback-agent": ("giveback_kernel", "giveback_agent"),
    "giveback": ("giveback",),
    "giveback-lab": ("giveback_lab_guest", "giveback_lab"),
}
COLOURS = {
    "giveback_kernel": "#8DA9C4",
    "giveback_agent": "#A8D5BA",
    "giveback": "#F3D9A4",
    "giveback_lab_guest": "#D9C2E0",
    "giveback_lab": "#E8C4C4",
}
_BOX = (1.0, 0.52)


def table(graph: ImportGraph) -> str:
    """Return the rooms of each distribution from the ground up, with their purpose and imports."""
    height = floors(graph.room_imports)
    lines = []
    for distribution, packages in DISTRIBUTIONS.items():
        lines += [f"**{distribution}**", "", "| floor | room | lines | what it is | imports |"]
        lines += ["|---|---|---|---|---|"]
        own = [room for room in graph.room_imports if room.split(".")[0] in packages]
        for room in sorted(own, key=lambda r: (height[r], r)):
            used = (
                ", ".join(f"`{short(one)}`" for one in sorted(graph.room_imports[room])) or "none"
            )
            what = about(graph, room)
            lines.append(f"| {height[room]} | `{room}` | {size(graph, room)} | {what} | {used} |")
        lines.append("")
    arrows = sum(len(used) for used in graph.room_imports.values())
    lines.append(
        f"{len(height)} rooms on {max(height.values())} floors, {arrows} imports between rooms, "
        f"{len(circles(graph.room_imports))} circles of rooms, {len(circles(graph.imports))} of modules."
    )
    return "\n".join(lines)


def short(room: str) -> str:
    """Return a room's name without the prefix that all rooms share."""
    return room.replace("giveback_", "").replace("giveback.", "")


def size(graph: ImportGraph, room: str) -> int:
    """Return the number of lines of a room's modules."""
    modules = (m for m, where in graph.rooms.items() if where == room)
    return sum(graph.files[m].read_text().count("\n") for m in modules)


def about(graph: ImportGraph, room: str) -> str:
    """Return the first sentence of the room's docstring."""
    text = ast.get_docstring(ast.parse(graph.files[room].read_bytes())) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.]) ", first)[0].rstrip(".").replace("|", "\\|")


def reduced(graph: dict[str, frozenset[str]]) -> list[tuple[str, str]]:
    """Return the arrows that no longer path implies, of a graph without circles."""
    below: dict[str, set[str]] = {}

    def reach(node: str) -> set[str]:
        if node not in below:
            below[node] = set(graph[node]).union(*(reach(other) for other in graph[node]), set())
        return below[node]

    return [
        (room, used)
        for room in sorted(graph)
        for used in sorted(graph[room])
        if not any(used in reach(other) for other in graph[room] if other != used)
    ]


def places(graph: dict[str, frozenset[str]]) -> dict[str, tuple[float, float]]:
    """Return each room's place: its floor, and the packages side by side in the order of `TOP`."""
    height = floors(graph)
    lanes = {"giveback_kernel": 0.0, "giveback_agent": 0.0, "giveback": 4.2}
    lanes |= {"giveback_lab_guest": 10.4, "giveback_lab": 10.4}
    found = {}
    for floor in sorted(set(height.values())):
        for lane in sorted(set(lanes.values())):
            here = sorted(
                (r for r in graph if height[r] == floor and lanes[r.split(".")[0]] == lane),
                key=lambda r: (TOP.index(r.split(".")[0]), r),
            )
            for at, room in enumerate(here):
                found[room] = (lane + at * 1.25 + (0.3 if floor % 2 else 0.0), float(floor))
    return found


def draw(graph: ImportGraph, mark: str) -> None:
    """Write the picture. `mark` is kept in it, so that a stale one is found without drawing."""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    where = places(graph.room_imports)
    wide = max(x for x, _ in where.values()) + 1.4
    tall = max(y for _, y in where.values()) + 0.7
    with mpl.rc_context({"svg.hashsalt": "giveback", "svg.fonttype": "none", "font.size": 7}):
        figure = Figure(figsize=(wide * 1.05, tall * 0.8))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(-0.3, wide)
        axes.set_ylim(0.3, tall)
        axes.axis("off")
        for room, used in reduced(graph.room_imports):
            _arrow(axes, where[room], where[used])
        for room, (x, y) in where.items():
            _box(axes, room, x, y, size(graph, room))
        about_it: dict[str, Any] = {"Date": None, "Title": "Rooms", "Description": mark}
        figure.savefig(PICTURE, format="svg", metadata=about_it)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    half, low = _BOX[0] / 2, _BOX[1] / 2
    axes.annotate(
        "", xytext=(start[0] + half, start[1] - low), xy=(end[0] + half, end[1] + low),
        arrowprops={"arrowstyle": "-|>", "lw": 0.5, "color": "#66666699", "shrinkA": 0, "shrinkB": 0},
        zorder=1,
    )  # fmt: skip


def _box(axes: Axes, room: str, x: float, y: float, lines: int) -> None:
    from matplotlib.patches import FancyBboxPatch  # noqa: PLC0415

    package = room.split(".", maxsplit=1)[0]
    axes.add_patch(
        FancyBboxPatch(
            (x, y - _BOX[1] / 2), *_BOX, boxstyle="round,pad=0.02,rounding_size=0.06",
            facecolor=COLOURS[package], edgecolor="#444444", linewidth=0.6, zorder=2,
        )
    )  # fmt: skip
    name = short(room).replace("manager.", "manager.\n").replace("bench.", "bench.\n")
    axes.text(x + _BOX[0] / 2, y + 0.04, name, ha="center", va="center", fontsize=7, zorder=3)
    axes.text(x + _BOX[0] / 2, y - 0.19, str(lines), ha="center", va="center", fontsize=5, zorder=3)


def main() -> int:
    """Write, or with --check compare; return the exit code."""
    graph = read_graph()
    made = table(graph)
    edges = {room: sorted(used) for room, used in sorted(graph.room_imports.items())}
    mark = hashlib.sha256(json.dumps(edges).encode()).hexdigest()[:16]
    page = PAGE.read_text()
    head, _, rest = page.partition(BEGIN)
    old, _, tail = rest.partition(END)
    if "--check" in sys.argv[1:]:
        stale = [
            str(path.relative_to(ROOT))
            for path, fresh in (
                (PAGE, _without_sizes(old) == _without_sizes(f"\n{made}\n")),
                (PICTURE, PICTURE.is_file() and mark in PICTURE.read_text()),
            )
            if not fresh
        ]
        if stale:
            print(f"stale: {', '.join(stale)}: run tools/draw_rooms.py", file=sys.stderr)
        return int(bool(stale))
    PAGE.write_text(f"{head}{BEGIN}\n{made}\n{END}{tail}")
    draw(graph, mark)
    return 0


def _without_sizes(text: str) -> str:
    """Return the table without lines of code, which change with every commit."""
    return re.sub(r"^(\| \d+ \| `[\w.]+` \|) \d+ \|", r"\1", text, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main())
