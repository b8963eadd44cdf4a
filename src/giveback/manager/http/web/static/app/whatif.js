// "What if I need 8 GiB?": the arbiter's own plan, as of `giveback reclaim --dry-run`, and the button that does it.

import { get, post } from "./api.js";
import { confirmed, h, replace, setText } from "./dom.js";
import { buttons } from "./export.js";
import { GIB, MIB, size } from "./format.js";

export class WhatIfView {
  constructor({ live, me, query, setQuery }) {
    Object.assign(this, { live, me, setQuery });
    const gib = Number.parseFloat(query.get("gib") ?? "") || 1;
    this.slider = h("input", { type: "range", min: "0.25", max: "16", step: "0.25", id: "goal", "aria-label": "Memory needed, in GiB", oninput: () => this.changed(this.slider.value) });
    this.number = h("input", { type: "number", min: "0.01", step: "any", class: "number", "aria-label": "Memory needed, in GiB", oninput: () => this.changed(this.number.value) });
    this.summary = h("p", { class: "summary", role: "status", "aria-live": "polite" });
    this.result = h("div");
    this.button = me.may_write ? h("button", { class: "primary", id: "reclaim", onclick: () => this.reclaim() }, "Reclaim it now") : null;
    this.parts = [];
    this.element = h("div", { class: "view" },
      h("h1", { tabindex: "-1" }, "What if I need memory?"),
      h("p", { class: "quiet" }, "The arbiter's plan, as ", h("code", {}, "giveback reclaim --dry-run"), " prints it. Asking costs the guests nothing."),
      h("section", { class: "card" },
        h("div", { class: "goal" }, h("label", { for: "goal" }, "I need"), this.slider, this.number, "GiB", this.button),
        me.may_write ? null : h("p", { class: "quiet" }, me.acts ? "You may only read: who may write sees a button here." : "This daemon only watches: one of root's would have a button here."),
        this.summary),
      h("section", { class: "card" },
        h("div", { class: "bar-row" }, h("h2", {}, "Who would give what, at what cost"), buttons("what-if", { rows: () => this.parts, document: () => this.plan })),
        this.result));
    this.gib = gib;
  }

  show() {
    const total = this.live.host?.host?.total_bytes ?? 16 * GIB;
    this.slider.max = String(Math.max(1, Math.ceil(total / GIB)));
    this.changed(this.gib);
  }

  changed(text) {
    const gib = Number.parseFloat(text);
    if (!(gib > 0) || gib > 1e6) { setText(this.summary, "Say how much, in GiB: 8, or 0.5."); return; }
    this.gib = gib;
    this.slider.value = String(gib);
    if (document.activeElement !== this.number) this.number.value = String(gib);
    this.setQuery({ gib: String(gib) });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), 250);
  }

  get bytes() { return Math.max(MIB, Math.round(this.gib * GIB)); }

  async ask() {
    this.abort?.abort();
    this.abort = new AbortController();
    const { signal } = this.abort;
    setText(this.summary, "Asking the arbiter…");
    try {
      const plan = await get(`/web/plan?goal_bytes=${this.bytes}`, signal);
      if (signal.aborted) return;
      this.plan = plan;
      const enough = plan.most_bytes >= plan.goal_bytes;
      setText(this.summary, plan.most_bytes === 0
        ? "No VM can be asked; the table says why."
        : `${enough ? "Yes" : "Not all of it"}: ${size(plan.most_bytes)} can come from the VMs in all${enough ? "" : `, ${size(plan.goal_bytes - plan.most_bytes)} less than you need`}.`);
      this.summary.dataset.state = enough ? "good" : "bad";
      this.fill(plan, "would give");
    } catch (error) {
      if (error.name !== "AbortError") { setText(this.summary, error.message); this.summary.dataset.state = "bad"; }
    }
  }

  fill(result, heading) {
    const done = !result.dry_run;
    this.parts = result.parts;
    const parts = [...result.parts].sort((a, b) => b.expected_bytes - a.expected_bytes || (a.vm < b.vm ? -1 : 1));
    const shown = parts.slice(0, 200);
    this.result.className = "scrolls";
    replace(this.result,
      h("table", { class: "plain" },
        h("thead", {}, h("tr", {}, ["VM", heading, done ? "gave" : null, "at urgency", "cost, or why not"].filter(Boolean).map((one) => h("th", { scope: "col", class: one === "VM" || one.startsWith("cost") ? null : "number" }, one)))),
        h("tbody", {}, shown.map((part) => h("tr", {},
          h("td", {}, h("a", { href: `#/vm/${encodeURIComponent(part.vm)}` }, part.vm)),
          h("td", { class: "number" }, part.expected_bytes ? size(part.expected_bytes) : "–"),
          done && h("td", { class: "number" }, size(part.returned_bytes)),
          h("td", { class: "number" }, part.urgency ?? "–"),
          h("td", {}, part.words))))),
      parts.length > shown.length && h("p", { class: "quiet" }, `and ${parts.length - shown.length} more: see the JSON`));
  }

  async reclaim() {
    const words = `Guests are asked for ${size(this.bytes)} now, for up to 30 s. Cold cache goes first; nothing that a guest uses is taken.`;
    if (!(await confirmed(`Reclaim ${size(this.bytes)}?`, words, "Reclaim"))) return;
    this.button.disabled = true;
    setText(this.summary, "Reclaiming…");
    try {
      const result = await post("/v1/reclaim", { goal_bytes: this.bytes, within_s: 30 });
      this.plan = result;
      setText(this.summary, `${size(result.returned_bytes)} of ${size(result.goal_bytes)} came in ${result.took_s.toFixed(1)} s${result.reached ? "." : ": less than asked; the table says why."}`);
      this.summary.dataset.state = result.reached ? "good" : "bad";
      this.fill(result, "was asked for");
    } catch (error) {
      setText(this.summary, error.message);
      this.summary.dataset.state = "bad";
    } finally {
      this.button.disabled = false;
    }
  }

  turn() {}
  caughtUp() {}
  repaint() {}
  destroy() { clearTimeout(this.timer); this.abort?.abort(); }
}
