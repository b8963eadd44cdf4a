// Charts over time: stacked areas (summed first, as uPlot draws no stacks), bands and markers; and their export.

import uPlot from "../vendor/uPlot.esm.js";
import { h, setText } from "./dom.js";
import { clock, size, verdict } from "./format.js";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const HEIGHT = 260;

// `parts`: [{name, label, color: "--part-needed"}] from the bottom; `lines` are drawn over them, not summed.
export class Chart {
  constructor({ title, parts, spanS, lines = [], bandsOf = null, markers = () => [] }) {
    Object.assign(this, { title, parts, lines, bandsOf, markers, spanS, most: null });
    this.points = [];
    this.legend = h("div", { class: "legend" });
    this.place = h("div", { class: "chart", role: "img", "aria-label": title });
    this.tip = h("div", { class: "tip quiet" });
    this.element = h("figure", { class: "figure" }, h("figcaption", {}, h("strong", {}, title), this.legend), this.place, this.tip);
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.place);
    this.makeLegend();
  }

  makeLegend() {
    this.values = new Map();
    const items = [...this.parts].reverse().concat(this.lines).map((one) => {
      const value = h("span", { class: "value" });
      value.optional = one.optional;
      this.values.set(one.name, value);
      const swatch = h("span", { class: `swatch${this.lines.includes(one) ? " line" : ""}`, "aria-hidden": "true" });
      swatch.style.background = `var(${one.color})`;
      return h("span", { class: "item", title: one.title ?? "" }, swatch, one.label, " ", value);
    });
    this.legend.replaceChildren(...items);
  }

  // Rows of {t, name: bytes or null}, by time.
  set(points) {
    this.points = points;
    this.window = null;
    const data = this.data();
    if (this.plot) this.plot.setData(data);
    else this.make(data);
    this.show(null);
  }

  add(point, keepS) {
    const last = this.points[this.points.length - 1];
    if (last && point.t <= last.t && point.t > last.t - 30) return;
    // The host's clock was set back: what stands after now has not happened yet.
    while (this.points.length && this.points[this.points.length - 1].t >= point.t) this.points.pop();
    this.points.push(point);
    const first = point.t - keepS;
    let drop = 0;
    while (drop < this.points.length && this.points[drop].t < first) drop += 1;
    if (drop) this.points.splice(0, drop);
    if (this.plot) { this.plot.setData(this.data()); this.show(this.plot.cursor.idx ?? null); } else this.set(this.points);
  }

  data() {
    const sums = this.points.map(() => 0);
    const stacked = this.parts.map((part) => this.points.map((point, index) => {
      const value = point[part.name];
      if (value === null || value === undefined) return null;
      sums[index] += value;
      return sums[index];
    }));
    const lines = this.lines.map((line) => this.points.map((point) => point[line.name] ?? null));
    return [this.points.map((point) => point.t), ...stacked.reverse(), ...lines];
  }

  make(data) {
    if (!this.place.isConnected || this.place.clientWidth < 50) return;
    const axis = { stroke: css("--quiet"), grid: { stroke: css("--grid"), width: 1 }, ticks: { stroke: css("--grid"), width: 1 }, font: "12px system-ui, sans-serif" };
    const paths = uPlot.paths.linear({ alignGaps: 1 });
    const areas = [...this.parts].reverse().map((part) => ({ fill: css(part.color), width: 0, points: { show: false }, spanGaps: false, paths }));
    const lines = this.lines.map((line) => ({ stroke: css(line.color), width: 2, dash: line.dash, points: { show: false }, spanGaps: false, paths }));
    this.plot = new uPlot({
      width: this.place.clientWidth,
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false } },
      scales: { x: { time: true, range: () => this.extent() }, y: { range: (_, __, most) => [0, Math.max(this.most?.() ?? 0, most || 0, 1) * (this.bandsOf ? 1.1 : 1.06)] } },
      axes: [
        { ...axis, size: 30, values: times },
        { ...axis, size: 72, values: (_, ticks) => ticks.map((tick) => size(tick)), incrs: incrementsOfBytes() },
      ],
      series: [{}, ...areas, ...lines],
      hooks: {
        drawClear: [(plot) => this.drawBands(plot)],
        draw: [(plot) => this.drawMarkers(plot)],
        setSelect: [(plot) => this.zoom(plot)],
        setCursor: [(plot) => this.show(plot.cursor.idx)],
      },
    }, data, this.place);
    this.plot.over.addEventListener("dblclick", () => { this.window = null; this.plot.setData(this.data()); });
  }

  zoom(plot) {
    if (plot.select.width < 6) return;
    const [from, to] = [plot.select.left, plot.select.left + plot.select.width].map((x) => plot.posToVal(x, "x"));
    this.window = [from, to];
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    plot.setData(this.data());
  }

  // The whole time that was asked for, also where less of it is known; or the part that was marked with the mouse.
  extent() {
    const end = this.points[this.points.length - 1]?.t ?? Date.now() / 1000;
    const start = end - this.spanS();
    return this.window ?? [start, end];
  }

  resize() {
    if (this.plot) this.plot.setSize({ width: Math.max(50, this.place.clientWidth), height: HEIGHT });
    else if (this.points.length) this.make(this.data());
  }

  // Colours are the theme's: the canvas is made anew with others.
  repaint() {
    this.plot?.destroy();
    this.plot = null;
    if (this.points.length) this.make(this.data());
  }

  destroy() {
    this.observer.disconnect();
    this.plot?.destroy();
    this.plot = null;
  }

  show(index) {
    const at = index === null || index === undefined ? this.points.length - 1 : index;
    const point = this.points[at];
    for (const [name, element] of this.values) {
      setText(element, point ? size(point[name]) : "");
      if (element.optional) element.parentElement.hidden = !point?.[name];
    }
    if (!point) { setText(this.tip, "No samples in this time yet."); return; }
    const isNow = at === this.points.length - 1;
    const step = this.points.length > 1 ? (this.points[this.points.length - 1].t - this.points[0].t) / 80 : 1;
    const near = isNow ? null : this.markers().filter((one) => Math.abs(one.wall_s - point.t) <= step).pop();
    setText(this.tip, `${isNow ? "latest, " : ""}${clock(point.t, true)}${near ? ` · ${verdict(near)}` : ""}`);
  }

  drawBands(plot) {
    if (!this.bandsOf) return;
    const { ctx, bbox } = plot;
    ctx.save();
    for (let i = 0; i < this.points.length; i += 1) {
      const urgency = this.bandsOf(this.points[i]);
      if (!urgency) continue;
      let end = i;
      while (end + 1 < this.points.length && this.bandsOf(this.points[end + 1]) === urgency) end += 1;
      const left = plot.valToPos(this.points[i].t, "x", true);
      const right = plot.valToPos((this.points[end + 1] ?? this.points[end]).t, "x", true);
      ctx.fillStyle = css(`--urgency-${urgency}`);
      const from = Math.max(left, bbox.left), width = Math.max(2, Math.min(right, bbox.left + bbox.width) - from);
      ctx.fillRect(from, bbox.top, width, bbox.height);
      // Where little is available the areas cover the band: its head stays in sight.
      ctx.fillStyle = css(`--urgency-${urgency}-head`);
      ctx.fillRect(from, bbox.top, width, 6 * devicePixelRatio);
      i = end;
    }
    ctx.restore();
  }

  // A filled mark: as good as all came. A hollow one: it came short, or is not verified yet.
  drawMarkers(plot) {
    const { ctx, bbox } = plot;
    const scale = devicePixelRatio;
    ctx.save();
    ctx.lineWidth = 1.5 * scale;
    ctx.setLineDash([]);
    const top = bbox.top + 2 * scale;
    for (const action of this.markers()) {
      const x = plot.valToPos(action.wall_s, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      const good = action.measured_bytes !== null && !action.verdict;
      const color = css(good ? "--good" : action.measured_bytes === null ? "--quiet" : "--bad");
      ctx.strokeStyle = ctx.fillStyle = color;
      ctx.beginPath();
      ctx.moveTo(x - 5 * scale, top);
      ctx.lineTo(x + 5 * scale, top);
      ctx.lineTo(x, top + 9 * scale);
      ctx.closePath();
      if (good) ctx.fill(); else { ctx.fillStyle = css("--surface"); ctx.fill(); ctx.stroke(); }
      ctx.globalAlpha = 0.45;
      ctx.beginPath();
      ctx.moveTo(x, top + 9 * scale);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.globalAlpha = 1;
    }
    ctx.restore();
  }

  // With its title and legend, on the page's own ground.
  png() {
    const scale = devicePixelRatio, source = this.plot?.ctx.canvas;
    if (!source) return null;
    const canvas = h("canvas", { width: source.width, height: source.height + 64 * scale });
    const ctx = canvas.getContext("2d");
    ctx.fillStyle = css("--surface");
    ctx.fillRect(0, 0, canvas.width, canvas.height);
    ctx.scale(scale, scale);
    ctx.fillStyle = css("--text");
    ctx.font = "600 14px system-ui, sans-serif";
    ctx.fillText(this.title, 12, 22);
    ctx.font = "12px system-ui, sans-serif";
    let x = 12;
    for (const one of [...this.parts].reverse().concat(this.lines)) {
      ctx.fillStyle = css(one.color);
      ctx.fillRect(x, 36, 11, 11);
      ctx.fillStyle = css("--text");
      ctx.fillText(one.label, x + 16, 46);
      x += 32 + ctx.measureText(one.label).width;
    }
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.drawImage(source, 0, 60 * scale);
    return canvas;
  }
}

// By the day's clock; with the date where ticks are half a day apart.
function times(_, ticks, __, ___, stepS) {
  return ticks.map((tick) => {
    const date = new Date(tick * 1000);
    const time = date.toLocaleTimeString([], { hour12: false, hour: "2-digit", minute: "2-digit", ...(stepS < 60 ? { second: "2-digit" } : {}) });
    const day = date.toLocaleDateString([], { month: "short", day: "numeric" });
    return stepS >= 86400 ? day : stepS >= 21600 ? `${day} ${time}` : time;
  });
}

function incrementsOfBytes() {
  const found = [];
  for (let power = 10; power < 52; power += 1) found.push(2 ** power);
  return found;
}
