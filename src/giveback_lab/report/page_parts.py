"""The page's style sheet and script: constants, so that the page's policy can name the script."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #16191d; --muted: #5a6068; --rule: #d9dce0; --soft: #f4f5f7;
  --band: #f1f2f4; --plain: #d55e00; --plain-ink: #a84900;
  --giveback: #0072b2; --giveback-ink: #005a8e; --fill: rgb(0 114 178 / 14%);
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --ink: #e9ebee; --muted: #a6adb6; --rule: #353b43; --soft: #1c2026;
    --band: #1d2127; --plain: #e8722a; --plain-ink: #f59355;
    --giveback: #4aa9e0; --giveback-ink: #7cc4ee; --fill: rgb(74 169 224 / 20%);
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem;
  background: var(--page); color: var(--ink); line-height: 1.55;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans",
    "Liberation Sans", Arial, sans-serif;
}
h1 { font-size: clamp(1.5rem, 1.1rem + 2vw, 2.15rem); line-height: 1.2; margin: 0 0 .6rem;
  text-wrap: balance; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .6rem; }
p { margin: .4rem 0; max-width: 46rem; }
.kicker, small, .note { color: var(--muted); }
.kicker { font-size: .9rem; margin: 0 0 .3rem; }
small { display: block; font-size: .8rem; font-weight: normal; line-height: 1.35; }
figure { margin: 1.6rem 0 0; }
figcaption { margin-bottom: .5rem; font-size: .92rem; }
svg { display: none; width: 100%; height: auto; touch-action: pan-y; }
svg:focus-visible { outline: 2px solid var(--giveback); outline-offset: 4px; }
@media (max-width: 539px) { svg.small { display: block; } }
@media (min-width: 540px) and (max-width: 859px) { svg.medium { display: block; } }
@media (min-width: 860px) { svg.large { display: block; } }
svg text { font-family: inherit; fill: var(--ink); paint-order: stroke; stroke: var(--page);
  stroke-width: 2.5px; stroke-linejoin: round; }
svg text.muted, svg text.needed { fill: var(--muted); }
svg text.plain { fill: var(--plain-ink); }
svg text.giveback { fill: var(--giveback-ink); }
svg text.bold { font-weight: 700; }
svg rect.band { fill: var(--band); }
polyline { fill: none; stroke-linejoin: round; }
polyline.grid { stroke: var(--rule); stroke-width: .8; }
polyline.axis { stroke: var(--muted); stroke-width: 1; }
polyline.work-end { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 4 3; }
polyline.needed { stroke: var(--ink); stroke-width: 1.6; stroke-dasharray: 1.6 3; }
polyline.plain { stroke: var(--plain); stroke-width: 2.4; stroke-dasharray: 9 4; }
polyline.giveback { stroke: var(--giveback); stroke-width: 2.8; }
polygon.giveback { fill: var(--fill); }
path.plain { fill: var(--plain); } path.giveback { fill: var(--giveback); }
path { stroke: var(--page); stroke-width: 1; }
.cursor { stroke: var(--ink); stroke-width: 1; opacity: .55; }
.readout { min-height: 1.5em; margin: .2rem 0; color: var(--muted); max-width: none;
  font-size: .92rem; font-variant-numeric: tabular-nums; }
.readout b { margin-left: .9em; font-weight: 600; white-space: nowrap; }
.readout .plain { color: var(--plain-ink); } .readout .giveback { color: var(--giveback-ink); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; max-width: 46rem; }
th, td { padding: .42rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { text-align: left; font-weight: 500; }
td, thead th + th { text-align: right; white-space: nowrap; padding-left: 1.4rem;
  font-variant-numeric: tabular-nums; }
thead th { font-weight: 700; }
th.plain { color: var(--plain-ink); } th.giveback { color: var(--giveback-ink); }
tr.key td { font-weight: 700; }
pre { margin: .6rem 0; padding: .8rem 1rem; overflow-x: auto; border-radius: 6px;
  background: var(--soft); font: .84rem/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono",
  Consolas, monospace; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: .6rem 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 539px) {
  body { padding: 1.2rem .9rem 3rem; }
  td, thead th + th { padding-left: .7rem; }
  table { font-size: .9rem; }
}
@media print { body { max-width: none; } pre { white-space: pre-wrap; } }
"""

SCRIPT = """
(() => {
  const run = JSON.parse(document.getElementById("samples").textContent);
  const readout = document.querySelector(".readout");
  const charts = [...document.querySelectorAll("svg[data-plot]")];
  if (!readout || !run.some((vm) => vm.t_s.length)) return;
  const hint = "Point at the chart, or use the arrow keys on it, to read the values.";
  readout.textContent = hint;
  const nearest = (times, t) => {
    let low = 0, high = times.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (times[middle] < t) low = middle + 1; else high = middle;
    }
    return low > 0 && t - times[low - 1] < times[low] - t ? low - 1 : low;
  };
  const tell = (t) => {
    readout.textContent = `${Math.round(t)} s`;
    for (const vm of run) {
      if (!vm.t_s.length) continue;
      const i = nearest(vm.t_s, t), value = document.createElement("b");
      value.className = vm.name;
      const idle = vm.residue_mib[i];
      value.textContent = `${vm.name} ${vm.resident_mib[i]} MiB` +
        (idle === null ? "" : `, ${Math.max(0, idle)} of it for nothing`);
      readout.append(value);
    }
  };
  for (const chart of charts) {
    const [x, y, width, height] = chart.dataset.plot.split(" ").map(Number);
    const [start, end] = chart.dataset.span.split(" ").map(Number);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "cursor");
    line.setAttribute("visibility", "hidden");
    line.setAttribute("y1", y);
    line.setAttribute("y2", y + height);
    chart.append(line);
    chart.setAttribute("tabindex", "0");
    let now = end;
    const show = (t) => {
      now = Math.min(end, Math.max(start, t));
      const at = x + width * (now - start) / (end - start);
      line.setAttribute("x1", at);
      line.setAttribute("x2", at);
      line.setAttribute("visibility", "visible");
      tell(now);
    };
    const hide = () => {
      line.setAttribute("visibility", "hidden");
      readout.textContent = hint;
    };
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const at = (event.clientX - box.left) * chart.viewBox.baseVal.width / box.width;
      show(start + (end - start) * (at - x) / width);
    });
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("blur", hide);
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      show(now + step * (event.shiftKey ? 10 : 1));
    });
  }
})();
"""
