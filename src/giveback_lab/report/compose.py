"""From a run to the scene of its chart: where each line, label and mark goes. Pure.

The caller says how wide a text is, so nothing overlaps whatever the font. From the top: title,
legend, names of the work's phases, the plot, a row for each kind of the agent's actions, the axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from giveback_lab.report.layout import (
    byte_ticks,
    pack,
    phases,
    run_actions,
    span,
    spread,
    time_ticks,
    work_end_s,
)
from giveback_lab.report.run import MARK_KINDS, MIB
from giveback_lab.report.scene import Box, Dot, Line, Rect, Scene, Text
from giveback_lab.report.words import KIND_WORDS, clean_text, headline, mib_text, setting_text

if TYPE_CHECKING:
    from giveback_lab.report.layout import Action
    from giveback_lab.report.run import DemoRun, MarkKind, Sample, VmRun
    from giveback_lab.report.scene import Anchor, Role

Measure = Callable[[str, float, bool], float]
"""How wide a text is, in points, at a size in points, bold or not."""

TITLE_SIZE = 17.0
TEXT_SIZE = 11.5
LINE = 16.0
PAD = 12.0
SWATCH = 30.0
NARROW = 620.0
SHORTEST_BOOT_S = 3.0
SAME_NEED = 0.03


def compose(
    run: DemoRun, width: float, plot_height: float, measure: Measure, *, titled: bool
) -> Scene:
    """The scene of a run's chart, `width` wide and as high as it needs to be."""
    return _Composer(run, width, plot_height, measure, titled).compose()


class _Composer:
    def __init__(
        self, run: DemoRun, width: float, plot_height: float, measure: Measure, titled: bool
    ) -> None:
        self._run = run
        self._measure = measure
        self._narrow = width < NARROW
        self._gap_s = 0.0
        whole = span(run, most_byte_ticks=8)
        self._scene = Scene(width, 0.0, Box(0, 0, 0, plot_height), whole)
        self._gap_s = (whole.end_s - whole.start_s) / 40
        self._actions = run_actions(run, self._gap_s)
        self._kinds = [k for k in MARK_KINDS if any(a.kind == k for a in self._actions)]
        self._titled = titled
        self._pad = PAD if titled else 1.0
        self._top = self._pad

    def compose(self) -> Scene:
        """Fill the scene from the top downwards."""
        scene = self._scene
        if self._titled:
            self._title()
        self._legend()
        left = self._pad + max(self._width(t) for t in self._left_texts()) + 8
        right = (
            max([self._width(t, bold=True) for t, _, _ in self._ends()], default=0) + 8 + self._pad
        )
        plot_width = max(40.0, scene.width - left - right)
        self._phase_names(left, plot_width)
        scene.plot = Box(left, self._top, plot_width, scene.plot.height)
        strip_bottom = (
            self._top + scene.plot.height + (8 + LINE * len(self._kinds) if self._kinds else 0)
        )
        self._bands()
        self._grid(strip_bottom)
        self._curves()
        self._end_labels()
        self._peaks()
        self._action_rows()
        self._time_axis(strip_bottom)
        scene.height = strip_bottom + 2.6 * LINE + self._pad
        return scene

    # What is above the plot

    def _title(self) -> None:
        room = self._scene.width - 2 * self._pad
        for line in self._wrapped(headline(self._run), TITLE_SIZE, room, bold=True):
            self._top += TITLE_SIZE
            self._text(self._pad, self._top, line, size=TITLE_SIZE, bold=True)
            self._top += 0.3 * TITLE_SIZE
        subtitle = f"Guest memory resident on the host. {setting_text(self._run)}"
        for line in self._wrapped(subtitle, TEXT_SIZE, room):
            self._top += LINE
            self._text(self._pad, self._top, line, role="muted")
        self._top += 0.6 * LINE

    def _legend(self) -> None:
        x, self._top = self._pad, self._top + LINE
        for role, text in self._legend_entries():
            width = SWATCH + 6 + self._width(text)
            if x > self._pad and x + width > self._scene.width - self._pad:
                x, self._top = self._pad, self._top + LINE
            middle = self._top - 0.35 * TEXT_SIZE
            self._line([(x, middle), (x + SWATCH, middle)], role)
            if role == "giveback":
                self._area([(x, middle), (x + SWATCH, middle)], role, middle + 6)
            self._text(x + SWATCH + 6, self._top, text)
            x += width + 18
        self._top += 0.5 * LINE

    def _legend_entries(self) -> list[tuple[Role, str]]:
        entries: list[tuple[Role, str]] = []
        for vm in self._run.vms:
            about = clean_text(vm.description, 60)
            entries.append(
                (vm.name, f"{vm.name}: {about}" if about and not self._narrow else vm.name)
            )
        if self._needs():
            entries.append(("needed", "needed" if self._narrow else "what the work still needs"))
        return entries

    def _phase_names(self, left: float, width: float) -> None:
        whole = self._scene.span
        named = self._named_moments()
        wanted = [(whole.x(t_s) * width, self._width(name)) for t_s, name, _ in named]
        spots = pack(wanted, width, most_lanes=2 if self._narrow else 3, gap=7)
        lanes = max((spot[0] + 1 for spot in spots if spot), default=0)
        bottom = self._top + LINE * max(1, lanes)
        placed = [
            (
                left + wanted[i][0],
                spot[0],
                Text(left + spot[1], bottom - LINE * spot[0], name, TEXT_SIZE, wanted[i][1], role),
            )
            for i, ((_, name, role), spot) in enumerate(zip(named, spots, strict=True))
            if spot
        ]
        self._scene.texts += [text for _, _, text in placed]
        self._top = bottom + 0.45 * LINE
        for x, lane, text in placed:
            foot = text.y + 0.25 * LINE
            if lane and self._scene.is_clear(Box(x - 2, foot, 4, self._top - foot)):
                self._line([(x, foot), (x, self._top)], "grid")

    def _named_moments(self) -> list[tuple[float, str, Role]]:
        """What is named above the plot, and where: the important and the long first."""
        whole, end_s = self._scene.span, work_end_s(self._run)
        named: list[tuple[float, str, Role]] = []
        if end_s is not None:
            named.append((end_s, "work ends", "text"))
        if whole.start_s < -SHORTEST_BOOT_S:
            named.append((whole.start_s / 2, "boot", "muted"))
        parts = [(p.start_s, p.end_s or p.start_s, p.name) for p in phases(self._run, whole.end_s)]
        for start_s, last_s, name in sorted(parts, key=lambda part: part[0] - part[1]):
            named.append(((start_s + last_s) / 2, clean_text(name, 24), "muted"))
        return named

    # The plot

    def _bands(self) -> None:
        scene = self._scene
        for index, phase in enumerate(phases(self._run, scene.span.end_s)):
            if index % 2 == 0:
                start, end = scene.x(phase.start_s), scene.x(phase.end_s or phase.start_s)
                box = Box(start, scene.plot.y, end - start, scene.plot.height)
                scene.rects.append(Rect(box, "band"))

    def _grid(self, strip_bottom: float) -> None:
        scene, plot = self._scene, self._scene.plot
        right, bottom = plot.x + plot.width, plot.y + plot.height
        for size_bytes in byte_ticks(scene.span):
            y = scene.y(size_bytes)
            self._line([(plot.x, y), (right, y)], "grid" if size_bytes else "axis")
            label = self._tick_text(size_bytes)
            self._text(plot.x - 8, y + 0.35 * TEXT_SIZE, label, role="muted", anchor="end")
        end_s = work_end_s(self._run)
        if end_s is not None:
            x = scene.x(end_s)
            self._line([(x, plot.y), (x, max(strip_bottom, bottom))], "work-end")

    def _curves(self) -> None:
        scene = self._scene
        right = scene.plot.x + scene.plot.width
        for start_s, need_bytes in self._needs():
            y = scene.y(need_bytes)
            self._line([(scene.x(start_s), y), (right, y)], "needed")
        # The plain VM's dashes go on top: while both grow alike, both can be seen.
        for vm in sorted(self._run.vms, key=lambda vm: vm.name):
            points = [(scene.x(s.t_s), scene.y(s.resident_bytes)) for s in vm.samples]
            if not points:
                continue
            if vm.name == "giveback":
                self._area(points, vm.name, scene.plot.y + scene.plot.height)
            self._line(points, vm.name)
            if points[-1][0] < right - 2:
                self._line([points[-1], (right, points[-1][1])], "grid")
        if not any(vm.samples for vm in self._run.vms):
            middle = scene.plot.x + scene.plot.width / 2
            y = scene.plot.y + scene.plot.height / 2
            self._text(middle, y, "no samples", role="muted", anchor="middle")

    def _needs(self) -> list[tuple[float, int]]:
        """From when each VM needs how much; one for both where they need about the same."""
        known = [
            (vm.work_end_s, vm.needed_bytes)
            for vm in self._run.vms
            if vm.work_end_s is not None and vm.needed_bytes is not None
        ]
        sizes = [size for _, size in known]
        if len(known) > 1 and max(sizes) - min(sizes) <= SAME_NEED * self._scene.span.top_bytes:
            return [(min(t_s for t_s, _ in known), max(sizes))]
        return known

    def _ends(self) -> list[tuple[str, float, Role]]:
        ends: list[tuple[str, float, Role]] = []
        for vm in self._run.vms:
            if vm.samples:
                size = vm.samples[-1].resident_bytes
                ends.append((self._end_text(vm.name, size), size, vm.name))
        ends += [(self._end_text("needed", size), size, "needed") for _, size in self._needs()]
        return ends

    def _end_text(self, name: str, size_bytes: int) -> str:
        return mib_text(size_bytes) if self._narrow else f"{name} {mib_text(size_bytes)}"

    def _end_labels(self) -> None:
        scene, plot, ends = self._scene, self._scene.plot, self._ends()
        wanted = [scene.y(size) for _, size, _ in ends]
        placed = spread(wanted, LINE, plot.y, plot.y + plot.height)
        for (text, _, role), y in zip(ends, placed, strict=True):
            x = plot.x + plot.width + 8
            self._text(x, y + 0.35 * TEXT_SIZE, text, role=role, bold=role != "needed")

    def _peaks(self) -> None:
        for vm in self._run.vms:
            peak = _peak(vm)
            if peak is None:
                continue
            x, y = self._scene.x(peak.t_s), self._scene.y(peak.resident_bytes)
            self._scene.dots.append(Dot(x, y, vm.name))
            most = max(s.resident_bytes for s in vm.samples)
            self._beside(x, y, f"peak {mib_text(most)}", vm.name)

    def _beside(self, x: float, y: float, text: str, role: Role) -> None:
        """Write near a point, where nothing is covered; nowhere, if there is no such place."""
        plot, width = self._scene.plot, self._width(text, bold=True)
        before, centred, after = x - 8 - width, x - width / 2, x + 8
        spots = [(before, 0.0), (before, -1.0), (after, -1.0), (centred, -1.2), (after, 0.0)]
        spots += [(before - 20, 0.0), (before - 40, 0.0), (after, 1.2), (before, 1.2)]
        spots += [(centred, 1.4), (before, -2.0), (after, -2.0)]
        for left, lines_down in spots:
            baseline = y + 0.35 * TEXT_SIZE + lines_down * LINE
            spot = Text(left, baseline, text, TEXT_SIZE, width, role, bold=True)
            box = spot.box
            inside = plot.x + 2 <= left and left + width <= plot.x + plot.width - 2
            inside = inside and plot.y <= box.y and box.y + box.height <= plot.y + plot.height
            if inside and self._scene.is_clear(box):
                self._scene.texts.append(spot)
                return

    # What is below the plot

    def _action_rows(self) -> None:
        plot = self._scene.plot
        for row, kind in enumerate(self._kinds):
            y = plot.y + plot.height + 8 + (row + 0.5) * LINE
            name = self._kind_name(kind)
            baseline = y + 0.35 * TEXT_SIZE
            self._text(plot.x - 8, baseline, name, role="giveback", anchor="end")
            self._action_row([a for a in self._actions if a.kind == kind], y)

    def _action_row(self, row: list[Action], y: float) -> None:
        scene = self._scene
        for index, action in enumerate(row):
            start, end = scene.x(action.start_s), scene.x(action.end_s)
            self._line([(start, y), (end, y)], "giveback")
            for x in {start, end}:
                scene.dots.append(Dot(x, y, "giveback", action.kind))
            before = scene.x(row[index - 1].end_s) if index else scene.plot.x
            after = (
                scene.x(row[index + 1].start_s) if index + 1 < len(row) else scene.width - self._pad
            )
            self._action_label(action, y, (before + 8, start - 9), (end + 9, after - 8))

    def _action_label(
        self, action: Action, y: float, left: tuple[float, float], right: tuple[float, float]
    ) -> None:
        """Say what the action did, right of its mark, else left of it, where there is room."""
        text = action.label
        if action.count > 1:
            text = f"{action.count} \u00d7 {text}" if text else f"{action.count} times"
        width, baseline = self._width(text), y + 0.35 * TEXT_SIZE
        room = (
            (right[0], right[0] + width <= right[1]),
            (left[1] - width, left[0] <= left[1] - width),
        )
        for x, fits in room:
            spot = Text(x, baseline, text, TEXT_SIZE, width, "muted")
            if text and fits and self._scene.is_clear(spot.box):
                self._scene.texts.append(spot)
                return

    def _time_axis(self, y: float) -> None:
        scene, plot = self._scene, self._scene.plot
        self._line([(plot.x, y), (plot.x + plot.width, y)], "axis")
        ends = (str(round(scene.span.start_s)), str(round(scene.span.end_s)))
        most = int(plot.width / (max(self._width(end) for end in ends) + 26))
        for t_s in time_ticks(scene.span.start_s, scene.span.end_s, most):
            x = scene.x(t_s)
            self._line([(x, y), (x, y + 4)], "axis")
            self._text(x, y + LINE, str(t_s), role="muted", anchor="middle")
        name = "seconds since the work began"
        middle = plot.x + plot.width / 2
        self._text(middle, y + 2.15 * LINE, name, role="muted", anchor="middle")

    # Small parts

    def _left_texts(self) -> list[str]:
        ticks = [self._tick_text(size) for size in byte_ticks(self._scene.span)]
        return [*ticks, *(self._kind_name(kind) for kind in self._kinds)]

    def _tick_text(self, size_bytes: int) -> str:
        top = size_bytes == self._scene.span.top_bytes
        return mib_text(size_bytes) if top else str(size_bytes // MIB)

    def _kind_name(self, kind: MarkKind) -> str:
        return kind if self._narrow else KIND_WORDS[kind]

    def _width(self, text: str, size: float = TEXT_SIZE, *, bold: bool = False) -> float:
        return self._measure(text, size, bold)

    def _text(
        self,
        x: float,
        y: float,
        text: str,
        role: Role = "text",
        anchor: Anchor = "start",
        *,
        size: float = TEXT_SIZE,
        bold: bool = False,
    ) -> None:
        width = self._width(text, size, bold=bold)
        self._scene.texts.append(Text(x, y, text, size, width, role, anchor, bold))

    def _line(self, points: list[tuple[float, float]], role: Role) -> None:
        self._scene.lines.append(Line(tuple(points), role))

    def _area(self, points: list[tuple[float, float]], role: Role, floor_y: float) -> None:
        self._scene.lines.append(Line(tuple(points), role, floor_y))

    def _wrapped(self, text: str, size: float, room: float, *, bold: bool = False) -> list[str]:
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self._width(longer, size, bold=bold) > room:
                lines.append(word)
            else:
                lines[-1] = longer
        return lines


def _peak(vm: VmRun) -> Sample | None:
    """Where the peak was first reached, give or take what noise adds to it later."""
    most = max((s.resident_bytes for s in vm.samples), default=0)
    return next((s for s in vm.samples if s.resident_bytes >= 0.99 * most), None)
