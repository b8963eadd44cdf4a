// The host: its memory over time, urgency as bands, and the table of its VMs.

import { get } from "./api.js";
import { Chart } from "./charts.js";
import { h, replace, setText } from "./dom.js";
import { buttons } from "./export.js";
import { PARTS as OF_VM, URGENCY, ago, clock, size, verdict } from "./format.js";
import { rangePicker } from "./ranges.js";
import { VmTable } from "./table.js";

const PARTS = [
  { name: "vms", label: "VMs", color: "--part-needed", title: "guest RAM that occupies host memory" },
  { name: "other", label: "other use", color: "--part-other", title: "the host's own programs and kernel" },
  { name: "available", label: "available", color: "--part-available", title: "what can be had without swapping" },
];

const pointOf = (t, total, available, resident, urgency) => {
  const known = total !== null && total !== undefined && available !== null && available !== undefined;
  const used = known ? total - available : null;
  const vms = known ? Math.min(used, resident ?? 0) : null;
  return { t, vms, other: known ? used - vms : null, available: known ? available : null, total, urgency: urgency ?? 0 };
};

export class HostView {
  constructor({ live, me, query, setQuery }) {
    Object.assign(this, { live, me, setQuery });
    this.range = rangePicker(query.get("since"), (since) => { this.query(); this.load(since); });
    this.chart = new Chart({ title: "This host's memory", parts: PARTS, spanS: () => this.range.seconds, bandsOf: (point) => point.urgency });
    this.facts = h("div", { class: "facts" });
    this.problems = h("ul", { class: "problems" });
    this.table = new VmTable({
      sort: query.get("sort") ?? "-residue_bytes",
      filter: query.get("filter") ?? "",
      open: (key) => { location.hash = `#/vm/${encodeURIComponent(key)}`; },
      changed: () => this.query(),
    });
    this.filter = h("input", {
      type: "search", id: "filter", placeholder: "Filter by name, owner, condition  ( / )", "aria-label": "Filter VMs",
      value: this.table.filterText, oninput: (event) => { this.table.filter = event.target.value; },
    });
    this.count = h("span", { class: "quiet" });
    this.recent = h("ol", { class: "events" });
    this.element = h("div", { class: "view" },
      this.facts, this.problems,
      h("section", { class: "card" },
        h("div", { class: "bar-row" }, this.range.element,
          h("span", { class: "legend" }, "urgency: ", [1, 2, 3].map((one) => h("span", { class: "item", title: URGENCY[one] }, h("span", { class: `swatch u${one}` }), String(one)))),
          buttons("host", { rows: () => this.rowsOfChart(), document: () => ({ host: this.live.host, points: this.rowsOfChart() }), canvas: () => this.chart.png() })),
        this.chart.element),
      h("section", { class: "card" },
        h("div", { class: "bar-row" }, h("h2", {}, "VMs"), this.count, this.filter,
          h("span", { class: "legend" }, OF_VM.map(([name, label, title]) => h("span", { class: "item", title }, h("span", { class: `swatch part ${name}` }), label))),
          buttons("vms", { rows: () => this.table.shown.map(flat), document: () => this.table.shown })),
        this.table.element),
      h("section", { class: "card" }, h("h2", {}, "Latest actions"), this.recent));
  }

  show() {
    this.turn();
    this.load(this.range.value);
  }

  query() {
    this.setQuery({ sort: this.table.sort === "-residue_bytes" ? "" : this.table.sort, filter: this.table.filterText, since: this.range.value === "2h" ? "" : this.range.value });
  }

  async load(since) {
    if (this.me.has_history) {
      try {
        const found = await get(`/v1/history?since=${since}`);
        if (since !== this.range.value) return;
        this.chart.set(found.host.map((row) => pointOf(row.at_s, row.total_bytes, row.available_bytes, row.resident_bytes, row.urgency)));
      } catch (error) {
        setText(this.chart.tip, `The past is not there: ${error.message}`);
      }
    }
    this.turn();
  }

  caughtUp() { this.load(this.range.value); }

  turn() {
    const { host, rows } = this.live;
    if (!host) return;
    const now = host.host;
    this.chart.most = () => now?.total_bytes ?? 0;
    if (now) this.chart.add(pointOf(host.wall_s, now.total_bytes, now.available_bytes, host.resident_bytes, host.urgency), this.range.seconds);
    this.table.set(rows, this.live.last);
    setText(this.count, `${this.table.shown.length === rows.size ? "" : `${this.table.shown.length} of `}${rows.size}`);
    this.fillFacts(host, now);
    const problems = [...host.problems, ...host.vm_problems].slice(0, 30);
    if (this.shownProblems !== problems.join("\n")) {
      this.shownProblems = problems.join("\n");
      replace(this.problems, problems.map((one) => h("li", {}, one)));
    }
    const actions = [...this.live.actions.values()].slice(-12).reverse();
    const mark = JSON.stringify(actions);
    if (mark !== this.shownActions) {
      this.shownActions = mark;
      replace(this.recent, actions.length ? actions.map((one) => eventLine(one, true)) : h("li", { class: "quiet" }, "Nothing was done since the daemon began."));
    }
  }

  fillFacts(host, now) {
    const sum = (name) => [...this.live.rows.values()].reduce((total, row) => total + (row[name] ?? 0), 0);
    const facts = [
      ["available", now ? size(now.available_bytes) : "?", now ? `of ${size(now.total_bytes)}` : ""],
      ["in VMs", size(host.resident_bytes), `${host.vms} VM${host.vms === 1 ? "" : "s"}`],
      ["trapped", size(sum("residue_bytes")), "free in guests, still held"],
      ["returned", size(sum("returned_bytes")), "free in guests, given back"],
      ["urgency", host.urgency === null ? "?" : URGENCY[host.urgency], host.trouble_in_s === null ? host.reason : `short in ${ago(host.trouble_in_s)}`],
      ["pressure", now?.psi_memory_some_avg10 === null || now?.psi_memory_some_avg10 === undefined ? "?" : `${now.psi_memory_some_avg10.toFixed(1)} %`, "stalled on memory, last 10 s"],
    ];
    if (!this.facts.childElementCount) {
      replace(this.facts, facts.map(([label]) => h("div", { class: "fact" }, h("span", { class: "label" }, label), h("strong"), h("span", { class: "quiet" }))));
    }
    facts.forEach(([, value, more], index) => {
      const [, strong, quiet] = this.facts.children[index].children;
      setText(strong, value);
      setText(quiet, more);
    });
  }

  rowsOfChart() {
    return this.chart.points.map(({ t, total, available, vms, other, urgency }) => ({ at_s: t, total_bytes: total, available_bytes: available, vms_bytes: vms, other_bytes: other, urgency }));
  }

  repaint() { this.chart.repaint(); }

  destroy() { this.chart.destroy(); this.table.destroy(); }
}

const flat = ({ rows, ram_rows, doctor, errors, ...row }) => row;

export function eventLine(action, withVm) {
  const state = action.measured_bytes === null ? "open" : action.verdict ? "short" : "good";
  const vm = action.vm ? h("a", { href: `#/vm/${encodeURIComponent(action.vm)}` }, action.vm) : "host";
  return h("li", { class: `event ${state}` },
    h("time", {}, clock(action.wall_s, Date.now() / 1000 - action.wall_s > 43200)), " ",
    h("span", { class: "kind" }, action.kind), " ",
    withVm && [vm, " "],
    h("span", {}, `at urgency ${action.urgency}: ${verdict(action)}`), " ",
    h("span", { class: "quiet" }, action.reason));
}
