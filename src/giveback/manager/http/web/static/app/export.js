// What is shown, as a file: made in the browser, so that nothing is asked twice.

import { h } from "./dom.js";

function save(name, blob) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// A name that begins as a formula does would be one in a spreadsheet.
export function cell(value) {
  if (value === null || value === undefined) return "";
  const text = typeof value === "object" ? JSON.stringify(value) : String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export function csvOf(rows) {
  if (!rows.length) return "";
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  return [names.map(cell).join(","), ...rows.map((row) => names.map((name) => cell(row[name])).join(","))].join("\r\n") + "\r\n";
}

const fileName = (title, kind) => `giveback-${title.replace(/[^\w.-]+/g, "-").slice(0, 60)}.${kind}`;

// Buttons for what `rows` and `canvas` give when they are pressed.
export function buttons(title, { rows, document: whole = null, canvas = null }) {
  const one = (kind, action) => h("button", { class: "small", "data-export": kind, onclick: action, "aria-label": `Save ${title} as ${kind.toUpperCase()}` }, kind.toUpperCase());
  return h("span", { class: "export", role: "group", "aria-label": `Save ${title}` },
    canvas && one("png", () => canvas()?.toBlob((blob) => save(fileName(title, "png"), blob))),
    one("csv", () => save(fileName(title, "csv"), new Blob([csvOf(rows())], { type: "text/csv" }))),
    one("json", () => save(fileName(title, "json"), new Blob([JSON.stringify((whole ?? rows)(), null, 1)], { type: "application/json" }))));
}
