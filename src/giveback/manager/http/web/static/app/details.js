// A closer look at one VM: what keeps its memory and what would bring it back, its services and containers.
// That is asked of the VM when its page is opened, and again at a press; the daemon's own findings are always there.

import { get } from "./api.js";
import { h, replace, setText } from "./dom.js";
import { buttons } from "./export.js";
import { size } from "./format.js";

const COLUMNS = [["anon_bytes", "anonymous"], ["cache_bytes", "cache"], ["cold_bytes", "cold"], ["shared_bytes", "shared"], ["kernel_bytes", "kernel"]];

export function details(key) {
  const findings = h("div"), remedies = h("div"), groups = h("div");
  const state = h("span", { class: "quiet" });
  const again = h("button", { class: "small", id: "look", onclick: () => load() }, "Look again");
  const groupsCard = h("section", { class: "card scrolls", hidden: true },
    h("div", { class: "bar-row" }, h("h2", {}, "Services and containers in the guest"), buttons("containers", { rows: () => cgroups })), groups);
  const element = h("div", { class: "stack" },
    h("section", { class: "card" }, h("div", { class: "bar-row" }, h("h2", {}, "What keeps memory"), again, state), findings, remedies),
    groupsCard);
  let cgroups = [], told = null, abort = null;

  const own = (row) => (row.doctor.length
    ? h("ul", { class: "findings" }, row.doctor.map((one) => h("li", {}, one)))
    : h("p", { class: "quiet" }, "Nothing that the daemon noticed."));

  async function load() {
    abort?.abort();
    abort = new AbortController();
    again.disabled = true;
    setText(state, "looking…");
    try {
      const found = await get(`/web/details/${encodeURIComponent(key)}`, abort.signal);
      told = found;
      setText(state, "");
      fill(found);
    } catch (error) {
      if (error.name === "AbortError") return;
      setText(state, error.status === 404 ? "" : `A closer look failed: ${error.message}`);
    } finally {
      again.disabled = false;
    }
  }

  function fill({ explain, doctor }) {
    const listed = doctor.flatMap((one) => one.findings ?? []);
    replace(findings, listed.length ? h("ul", { class: "findings" }, listed.map(finding)) : h("p", { class: "quiet" }, "Nothing was found that keeps memory."));
    const wanted = explain.remedies ?? [];
    const shown = new Set(listed.map((one) => (one.commands ?? []).join("\n")));
    replace(remedies, wanted.length > 0 && [h("h3", {}, "What would bring it back"), h("ul", { class: "findings good" }, wanted.map((one) => remedy(one, shown)))]);
    cgroups = explain.guest?.cgroups ?? [];
    groupsCard.hidden = !cgroups.length;
    replace(groups, h("table", { class: "plain" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "name"), COLUMNS.map(([, label]) => h("th", { scope: "col", class: "number" }, label)))),
      h("tbody", {}, cgroups.slice(0, 200).map((one) => h("tr", {}, h("td", { title: one.cgroup }, one.label ?? one.cgroup), COLUMNS.map(([name]) => h("td", { class: "number" }, one[name] ? size(one[name]) : "–")))))));
  }

  return {
    element,
    load,
    destroy() { abort?.abort(); },
    told(row) { if (!told) replace(findings, own(row)); },
  };
}

function finding(one) {
  return h("li", {},
    h("p", {}, h("strong", {}, one.severity), ": ", one.what),
    one.evidence && h("p", { class: "quiet" }, one.evidence),
    one.remedy && h("p", {}, "→ ", one.remedy),
    (one.commands ?? []).length > 0 && h("pre", {}, one.commands.join("\n")));
}

// Lines to paste stand once, at the finding that they mend.
function remedy(one, shown) {
  const amount = one.expected_bytes === null ? "not known how much" : `${one.at_most ? "up to " : ""}${size(one.expected_bytes)}`;
  return h("li", {},
    h("p", {}, h("strong", {}, amount), ": ", one.what),
    (one.parts ?? []).length > 0 && h("p", { class: "quiet" }, one.parts.map((part) => `${part.what} ${size(part.bytes)}`).join(", ")),
    (one.commands ?? []).length > 0 && !shown.has(one.commands.join("\n")) && h("pre", {}, one.commands.join("\n")));
}
