// The table of VMs: only the rows in sight are elements, and of these only what has changed is touched.

import { h, setText } from "./dom.js";
import { PARTS, brief, partsOf, size, verdict } from "./format.js";

const ROW_PX = 36, BEYOND = 8;

const amount = (name, label, title) => ({ name, label, title, kind: "number", of: (row) => row[name], text: (row) => size(row[name]) });
export const COLUMNS = [
  { name: "name", label: "name", kind: "text", of: (row) => row.name, text: (row) => row.name },
  { name: "parts", label: "RAM in its parts", title: "needed, cache, trapped, returned", kind: "number", of: (row) => row.ram_bytes, bar: true },
  { name: "condition", label: "condition", kind: "text", of: (row) => row.condition, text: (row) => row.condition, wide: true },
  amount("resident_bytes", "resident", "guest RAM that occupies host memory"),
  amount("in_use_bytes", "needed", PARTS[0][2]),
  amount("cache_bytes", "cache", PARTS[1][2]),
  amount("residue_bytes", "trapped", PARTS[2][2]),
  amount("returned_bytes", "returned", PARTS[3][2]),
  amount("returnable_bytes", "returnable", "what could come back without slowing the workload"),
  amount("ram_bytes", "RAM"),
  { name: "owner", label: "owner", kind: "text", of: (row) => row.owner, text: (row) => row.owner, wide: true },
  { name: "cpu_percent", label: "CPU", title: "per cent of one CPU", kind: "number", of: (row) => row.cpu_percent, text: (row) => (row.cpu_percent === null ? "?" : `${Math.round(row.cpu_percent)} %`), wide: true },
  { name: "urgency", label: "urgency", kind: "number", of: (row) => row.urgency, text: (row) => (row.urgency === null ? "" : String(row.urgency)), wide: true },
  { name: "last", label: "last: got of asked", title: "of the last action, by the host's own count", kind: "number", of: (row, last) => last?.measured_bytes ?? null, text: (row, last) => brief(last), full: (row, last) => verdict(last), wide: true },
];

export class VmTable {
  constructor({ sort, filter, open, changed }) {
    Object.assign(this, { open, changed });
    this.filterText = filter;
    this.setSort(sort);
    this.shown = [];
    this.slots = new Map();
    this.selected = null;
    this.head = h("div", { class: "tr head", role: "row" }, COLUMNS.map((column) => {
      const button = h("button", { class: "sort", "data-sort": column.name, title: column.title ?? "", onclick: () => this.toggle(column) }, column.label);
      return h("div", { class: `td ${column.kind}`, role: "columnheader", "data-column": column.name }, button);
    }));
    this.space = h("div", { class: "rows", role: "rowgroup", tabindex: "0", "aria-label": "VMs: arrow keys select, Enter opens" });
    this.empty = h("p", { class: "quiet pad" });
    this.element = h("div", { class: "table", role: "table", "aria-label": "VMs" }, this.head, this.space, this.empty);
    this.space.addEventListener("keydown", (event) => this.key(event));
    this.onScroll = () => this.draw();
    addEventListener("scroll", this.onScroll, { passive: true });
    addEventListener("resize", this.onScroll, { passive: true });
  }

  destroy() {
    removeEventListener("scroll", this.onScroll);
    removeEventListener("resize", this.onScroll);
  }

  setSort(sort) {
    this.descending = sort.startsWith("-");
    const name = sort.replace(/^-/, "");
    this.column = COLUMNS.find((one) => one.name === name) ?? COLUMNS[0];
  }

  get sort() { return `${this.descending ? "-" : ""}${this.column.name}`; }

  toggle(column) {
    if (column === this.column) this.descending = !this.descending;
    else { this.column = column; this.descending = column.kind === "number"; }
    this.set(this.rows, this.last);
    this.changed();
  }

  set filter(text) {
    this.filterText = text;
    this.set(this.rows, this.last);
    this.changed();
  }

  set(rows, last) {
    this.rows = rows;
    this.last = last;
    const words = this.filterText.toLowerCase().split(/\s+/).filter(Boolean);
    const column = this.column, sign = this.descending ? -1 : 1;
    const found = [];
    for (const row of rows.values()) {
      const text = words.length ? `${row.name} ${row.owner} ${row.condition} ${row.backend} ${row.pid}`.toLowerCase() : "";
      if (words.every((word) => text.includes(word))) found.push([column.of(row, last.get(row.key)), row]);
    }
    // Unknown values stand last, whichever way it is sorted.
    found.sort(([a, one], [b, other]) => {
      const missing = (a === null || a === undefined || a === "") - (b === null || b === undefined || b === "");
      if (missing) return missing;
      const order = column.kind === "number" ? (a ?? 0) - (b ?? 0) : String(a).localeCompare(String(b), undefined, { numeric: true });
      return order * sign || (one.key < other.key ? -1 : 1);
    });
    this.shown = found.map(([, row]) => row);
    for (const cell of this.head.children) {
      const mine = cell.dataset.column === column.name;
      if (mine) cell.setAttribute("aria-sort", this.descending ? "descending" : "ascending"); else cell.removeAttribute("aria-sort");
    }
    this.space.style.height = `${this.shown.length * ROW_PX}px`;
    this.space.setAttribute("aria-rowcount", String(this.shown.length));
    this.empty.hidden = this.shown.length > 0;
    setText(this.empty, this.shown.length ? "" : words.length ? "No VM matches the filter." : "No VM runs on this host.");
    this.draw();
  }

  draw() {
    if (!this.space.isConnected) return;
    const top = this.space.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(-top / ROW_PX) - BEYOND);
    const end = Math.min(this.shown.length, Math.ceil((innerHeight - top) / ROW_PX) + BEYOND);
    const free = [];
    const wanted = new Set();
    for (let index = first; index < end; index += 1) wanted.add(this.shown[index].key);
    for (const [key, slot] of this.slots) if (!wanted.has(key)) { this.slots.delete(key); free.push(slot); }
    for (let index = first; index < end; index += 1) {
      const row = this.shown[index];
      let slot = this.slots.get(row.key);
      if (!slot) {
        slot = free.pop() ?? this.make();
        this.slots.set(row.key, slot);
      }
      this.fill(slot, row, index);
    }
    for (const slot of free) slot.element.remove();
  }

  make() {
    const cells = COLUMNS.map((column) => {
      const cell = h("div", { class: `td ${column.kind}`, role: "cell", "data-column": column.name });
      if (column.bar) cell.append(this.bar());
      else if (column.name === "name") cell.append(h("a", { tabindex: "-1" }));
      return cell;
    });
    const slot = { element: h("div", { class: "tr", role: "row" }, cells), cells, place: -1 };
    slot.element.addEventListener("click", (event) => {
      if (event.target.closest("a")) return;
      this.open(slot.key);
    });
    this.space.append(slot.element);
    return slot;
  }

  bar() {
    return h("div", { class: "bar", role: "img" }, ["needed", "cache", "trapped", "returned", "unknown"].map((name) => h("span", { class: `part ${name}` })));
  }

  fill(slot, row, index) {
    slot.key = row.key;
    if (slot.place !== index) {
      slot.place = index;
      slot.element.style.transform = `translateY(${index * ROW_PX}px)`;
      slot.element.setAttribute("aria-rowindex", String(index + 1));
    }
    slot.element.classList.toggle("selected", row.key === this.selected);
    const last = this.last.get(row.key);
    if (slot.row === row && slot.action === last) return;
    slot.row = row;
    slot.action = last;
    COLUMNS.forEach((column, at) => {
      const cell = slot.cells[at];
      if (column.bar) this.fillBar(cell.firstChild, row);
      else if (column.name === "name") {
        const link = cell.firstChild;
        setText(link, row.name);
        link.title = row.key;
        link.href = `#/vm/${encodeURIComponent(row.key)}`;
      } else {
        const text = column.text(row, last);
        setText(cell, text);
        if (column.wide) cell.title = column.name === "condition" ? row.condition_text : column.full?.(row, last) ?? text;
        if (column.name === "last") cell.dataset.state = last?.verdict ? "bad" : "plain";
        if (column.name === "condition") cell.dataset.state = row.condition === "ok" ? "good" : row.condition === "ignored" || row.condition === "no agent" ? "plain" : "bad";
      }
    });
  }

  fillBar(bar, row) {
    const parts = partsOf(row);
    const words = [];
    for (const span of bar.children) {
      const name = span.classList[1];
      const value = parts[name] ?? 0;
      const width = `${((value / parts.total) * 100).toFixed(1)}%`;
      if (span.style.width !== width) span.style.width = width;
      if (value) words.push(`${name} ${size(value)}`);
    }
    const text = `${words.join(", ")} of ${size(row.ram_bytes)}${row.unknown ? `; ${row.unknown}` : ""}`;
    if (bar.title !== text) { bar.title = text; bar.setAttribute("aria-label", text); }
  }

  key(event) {
    const at = this.shown.findIndex((row) => row.key === this.selected);
    const page = Math.max(1, Math.floor(innerHeight / ROW_PX) - 4);
    const steps = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: page, PageUp: -page, Home: -1e9, End: 1e9 };
    if (event.key in steps && this.shown.length) {
      const next = Math.min(this.shown.length - 1, Math.max(0, at + steps[event.key]));
      this.selected = this.shown[next].key;
      const top = this.space.getBoundingClientRect().top + next * ROW_PX;
      if (top < 60) scrollBy(0, top - 60);
      else if (top + ROW_PX > innerHeight) scrollBy(0, top + ROW_PX - innerHeight + 8);
      this.draw();
      event.preventDefault();
    } else if (event.key === "Enter" && at >= 0) {
      this.open(this.selected);
    }
  }
}
