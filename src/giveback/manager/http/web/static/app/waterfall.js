// The ledger as a waterfall: from what the host charges down to what the guest needs; rows add up exactly.

import { h } from "./dom.js";
import { size } from "./format.js";

export function waterfall(row, ledger) {
  const charged = row.charged_bytes ?? 0;
  const there = ledger.filter((one) => row.rows[one.row]);
  if (!charged || !there.length) return [h("p", { class: "quiet" }, row.unknown || "Not sampled yet.")];
  const sum = (part) => there.filter((one) => one.part === part).reduce((total, one) => total + row.rows[one.row], 0);
  const lines = [line("the host charges", charged, 0, charged, "whole", charged)];
  let top = charged;
  const down = (part) => {
    for (const one of there.filter((other) => other.part === part).sort((a, b) => row.rows[b.row] - row.rows[a.row])) {
      const bytes = row.rows[one.row];
      top -= bytes;
      lines.push(line(one.label, bytes, top, charged, part, charged));
    }
  };
  down("own");
  if (sum("own")) lines.push(line("= guest RAM, resident", top, 0, charged, "sum", charged));
  down("trapped");
  down("other");
  down("cache");
  if (sum("trapped") + sum("cache") + sum("other")) lines.push(line("= in use", top, 0, charged, "sum", charged));
  down("needed");
  const absent = ledger.filter((one) => row.ram_rows[one.row] && !row.rows[one.row]);
  return [
    row.unknown && h("p", { class: "warn" }, row.unknown),
    h("div", { class: "falls", role: "table", "aria-label": "Ledger" }, lines),
    absent.length > 0 && h("h3", {}, "Of RAM, not resident"),
    absent.length > 0 && h("dl", { class: "pairs" }, absent.map((one) => [h("dt", {}, one.label), h("dd", {}, size(row.ram_rows[one.row]))])),
  ];
}

function line(label, bytes, from, charged, part) {
  const mark = h("span", { class: `fall ${part}` });
  mark.style.marginLeft = `${(from / charged) * 100}%`;
  mark.style.width = `${Math.max(0.3, (bytes / charged) * 100)}%`;
  return h("div", { class: `falls-row ${part}`, role: "row" },
    h("span", { class: "falls-label", role: "cell", title: label }, label),
    h("span", { class: "falls-size", role: "cell" }, size(bytes)),
    h("span", { class: "falls-bar", role: "cell", "aria-hidden": "true" }, mark));
}
