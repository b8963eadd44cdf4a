// Who is logged in, and out with them.

import { get, post } from "./api.js";
import { h, replace } from "./dom.js";
import { clock } from "./format.js";

export class SessionsView {
  constructor({ me }) {
    this.me = me;
    this.list = h("div");
    this.element = h("div", { class: "view" },
      h("h1", { tabindex: "-1" }, "Sessions"),
      h("p", { class: "quiet" }, `You are ${me.user}${me.may_write ? "" : ", and may only read"}. giveback ${me.version}.`),
      h("section", { class: "card scrolls" }, this.list));
  }

  async show() {
    try {
      const { sessions } = await get("/web/sessions");
      replace(this.list, h("table", { class: "plain" },
        h("thead", {}, h("tr", {}, ["since", "browser", "rights of", "connects as", ""].map((one) => h("th", { scope: "col", class: one === "connects as" ? "optional" : null }, one)))),
        h("tbody", {}, sessions.map((one) => h("tr", {},
          h("td", {}, clock(one.made_wall_s, true)), h("td", {}, browserOf(one.agent)),
          h("td", {}, `uid ${one.uid}${one.read_only ? ", read only" : ""}`), h("td", { class: "optional" }, `uid ${one.browser_uid}`),
          h("td", {}, h("button", { class: "small", "data-revoke": one.id, onclick: () => this.revoke(one.id) }, "Log out")))))));
    } catch (error) {
      replace(this.list, h("p", { class: "warn" }, error.message));
    }
  }

  async revoke(id) {
    try { await post("/web/revoke", { id }); } catch { /* It is gone already. */ }
    await this.show();
  }

  turn() {}
  caughtUp() { this.show(); }
  repaint() {}
  destroy() {}
}

// "Firefox/145.0 on X11; Linux x86_64"; what is none of the usual kind stays as it is.
function browserOf(agent) {
  const name = /(?:Firefox|Edg|HeadlessChrome|Chrome|Safari)\/[\d.]+/.exec(agent)?.[0];
  const system = /\(([^)]*)\)/.exec(agent)?.[1];
  return name ? `${name}${system ? ` on ${system}` : ""}` : agent;
}
