// One VM: its memory over time with every action and its verdict, its ledger, what is wrong, what was done.

import { get } from "./api.js";
import { Chart } from "./charts.js";
import { h, replace, setText } from "./dom.js";
import { buttons } from "./export.js";
import { PARTS, ago, size } from "./format.js";
import { details } from "./details.js";
import { eventLine } from "./host.js";
import { rangePicker } from "./ranges.js";
import { waterfall } from "./waterfall.js";

const AREAS = [
  ...PARTS.map(([name, label, title]) => ({ name, label, title, color: `--part-${name}` })),
  { name: "unknown", label: "resident, use unknown", color: "--part-unknown", optional: true, title: "resident, and the guest does not say for what" },
];
const LINES = [{ name: "resident", label: "resident", color: "--text", dash: [5, 4], title: "guest RAM that occupies host memory" }];

// A part of 0 and an unknown one are not the same: without the guest's side there is the resident memory alone.
const pointOf = (t, row) => {
  const known = row.in_use_bytes !== null && row.in_use_bytes !== undefined && row.residue_bytes !== null;
  return {
    t, resident: row.resident_bytes,
    needed: known ? row.in_use_bytes : 0, cache: known ? row.cache_bytes ?? 0 : 0,
    trapped: known ? row.residue_bytes : 0, returned: known ? row.returned_bytes ?? 0 : 0,
    unknown: known ? 0 : row.resident_bytes,
  };
};

export class VmView {
  constructor({ live, me, key, query, setQuery }) {
    Object.assign(this, { live, me, key });
    this.past = new Map();
    this.range = rangePicker(query.get("since"), (since) => { setQuery({ since: since === "2h" ? "" : since }); this.load(since); });
    this.chart = new Chart({ title: "Memory over time", parts: AREAS, lines: LINES, spanS: () => this.range.seconds, markers: () => this.actions() });
    this.heading = h("h1", { tabindex: "-1" });
    this.condition = h("p", { class: "condition" });
    this.facts = h("dl", { class: "pairs" });
    this.ledger = h("div", { class: "waterfall" });
    this.events = h("ol", { class: "events" });
    this.details = details(key);
    const name = () => this.row()?.name ?? key;
    this.element = h("div", { class: "view" },
      h("nav", { "aria-label": "Where this is" }, h("a", { href: "#/" }, "← all VMs")),
      this.heading, this.condition,
      h("section", { class: "card" },
        h("div", { class: "bar-row" }, this.range.element,
          h("span", { class: "legend" }, h("span", { class: "item" }, "▼ asked and returned"), h("span", { class: "item" }, "▽ came short, or is not verified yet")),
          buttons("vm", { rows: () => this.chart.points.map(({ t, ...rest }) => ({ vm: name(), at_s: t, ...rest })), document: () => ({ vm: this.row(), points: this.chart.points, actions: this.actions() }), canvas: () => this.chart.png() })),
        this.chart.element),
      h("div", { class: "columns" },
        h("section", { class: "card" }, h("h2", {}, "Where every byte is"), this.ledger),
        h("section", { class: "card" }, h("h2", {}, "Facts"), this.facts)),
      this.details.element,
      h("section", { class: "card" },
        h("div", { class: "bar-row" }, h("h2", {}, "Actions and what came of them"), buttons("actions", { rows: () => this.actions() })),
        this.events));
  }

  row() { return this.live.rows.get(this.key) ?? this.lastRow; }

  // By what is known since the daemon began, and by its history; the same action once, as it was last.
  actions() {
    const found = new Map(this.past);
    for (const one of this.live.actions.values()) if (one.vm === this.key) found.set(`${one.id}/${Math.floor(one.wall_s)}`, one);
    return [...found.values()].sort((a, b) => a.wall_s - b.wall_s);
  }

  show() {
    this.turn();
    this.load(this.range.value);
    this.details.load();
  }

  async load(since) {
    if (!this.me.has_history) return;
    try {
      const found = await get(`/v1/history?since=${since}&vm=${encodeURIComponent(this.key)}`);
      if (since !== this.range.value) return;
      this.past = new Map(found.actions.map((one) => [`${one.id}/${Math.floor(one.wall_s)}`, one]));
      this.chart.set(found.samples.filter((one) => one.key === this.key).map((row) => pointOf(row.at_s, row)));
      this.shownEvents = "";
    } catch (error) {
      this.chart.set([]);
      setText(this.chart.tip, error.status === 400 ? "No samples of this VM in this time yet." : `The past is not there: ${error.message}`);
    }
    this.turn();
  }

  caughtUp() { this.load(this.range.value); }

  turn() {
    const row = this.live.rows.get(this.key);
    if (row) this.lastRow = row;
    const known = row ?? this.lastRow;
    setText(this.heading, known ? known.name : this.key);
    document.title = `${known ? known.name : this.key} – giveback`;
    if (!this.live.host) return;
    if (!row) {
      setText(this.condition, known ? "This VM has ended. Its past is still here." : "No such VM runs now. If it did, its past is here.");
      this.condition.dataset.state = "plain";
    } else {
      setText(this.condition, `${row.condition}: ${row.condition_text}`);
      this.condition.dataset.state = row.condition === "ok" ? "good" : "bad";
      this.chart.most = () => row.ram_bytes;
      this.chart.add(pointOf(this.live.host.wall_s, row), this.range.seconds);
    }
    if (known && known !== this.drawn) {
      this.drawn = known;
      replace(this.ledger, waterfall(known, this.live.ledger));
      this.fillFacts(known);
      this.details.told(known);
    }
    const events = this.actions().slice(-100).reverse();
    const mark = JSON.stringify(events);
    if (mark !== this.shownEvents) {
      this.shownEvents = mark;
      replace(this.events, events.length ? events.map((one) => eventLine(one, false)) : h("li", { class: "quiet" }, "It was not asked for anything in this time."));
    }
  }

  fillFacts(row) {
    const up = row.started_wall_s === null ? "?" : ago(Date.now() / 1000 - row.started_wall_s);
    const facts = [
      ["VMM", `${row.backend}, pid ${row.pid}`], ["owner", row.owner || "?"], ["up for", up],
      ["RAM", size(row.ram_bytes)], ["resident", size(row.resident_bytes)], ["returnable", `${size(row.returnable_bytes)} (${size(row.cold_bytes)} cold, ${size(row.warm_bytes)} warm cache)`],
      ["the host charges", size(row.charged_bytes)], ["swapped out", size(row.swap_bytes)],
      ["page reporting", row.reporting || "?"], ["guest's numbers from", row.guest_source || "nowhere"],
      ["urgency", row.urgency === null ? "none sent" : `${row.urgency}${row.urgency_by ? `, by ${row.urgency_by}` : ""}`],
      ["keeps its promises", row.reliability === null ? "not judged yet" : `${Math.round(row.reliability * 100)} %`],
      ["cache it keeps", `${size(row.cache_floor_bytes)} in any case, ${size(row.learned_floor_bytes)} learned`],
      ...(row.balloon_lease_bytes ? [["taken by a device", size(row.balloon_lease_bytes)]] : []),
    ];
    replace(this.facts, facts.map(([label, value]) => [h("dt", {}, label), h("dd", {}, value)]));
  }

  repaint() { this.chart.repaint(); }

  destroy() { this.chart.destroy(); this.details.destroy(); }
}
