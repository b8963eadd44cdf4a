// What is known of a VM beyond its amounts: what keeps its memory.

import { h, replace } from "./dom.js";

export function details() {
  const findings = h("div");
  const element = h("section", { class: "card" }, h("h2", {}, "What keeps memory"), findings);
  return {
    element,
    load() {},
    destroy() {},
    told(row) {
      replace(findings, row.doctor.length
        ? h("ul", { class: "findings" }, row.doctor.map((one) => h("li", {}, one)))
        : h("p", { class: "quiet" }, "Nothing that the daemon noticed. ", h("code", {}, `giveback doctor --pid ${row.pid}`), " looks closer."));
    },
  };
}
