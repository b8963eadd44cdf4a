// How far back a chart goes.

import { h } from "./dom.js";

const RANGES = [["15m", 900], ["2h", 7200], ["12h", 43200], ["7d", 604800], ["90d", 7776000]];

export function rangePicker(wanted, changed) {
  const picker = { value: RANGES.some(([name]) => name === wanted) ? wanted : "2h" };
  const buttons = RANGES.map(([name]) => h("button", { class: "small", "data-range": name, onclick: () => choose(name) }, name));
  picker.element = h("div", { class: "segments", role: "group", "aria-label": "Time shown" }, buttons);
  const mark = () => buttons.forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.range === picker.value)));
  const choose = (name) => { picker.value = name; mark(); changed(name); };
  Object.defineProperty(picker, "seconds", { get: () => RANGES.find(([name]) => name === picker.value)[1] });
  mark();
  return picker;
}
