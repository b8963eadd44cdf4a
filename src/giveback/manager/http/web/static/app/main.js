// The page's frame: who is logged in, where one is (each view has an address), and what all views share.

import { forget, get, isKey, key, logIn } from "./api.js";
import { h, replace, setText } from "./dom.js";
import { clock } from "./format.js";
import { HostView } from "./host.js";
import { Live } from "./live.js";
import { SessionsView } from "./sessions.js";
import { VmView } from "./vm.js";
import { WhatIfView } from "./whatif.js";

const main = document.getElementById("main"), banner = document.getElementById("banner");
const live = new Live();
let me = null, view = null, shownPlace = "";

const THEMES = ["auto", "light", "dark"];
const theme = () => localStorage.getItem("giveback-theme") ?? "auto";

function applyTheme() {
  const wanted = theme();
  if (wanted === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = wanted;
  view?.repaint();
}

function header() {
  const themeButton = h("button", { class: "small", id: "theme", onclick: () => {
    localStorage.setItem("giveback-theme", THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
    setText(themeButton, `theme: ${theme()}`);
    applyTheme();
  } }, `theme: ${theme()}`);
  const dot = h("span", { class: "dot", id: "dot", "aria-hidden": "true" });
  const state = h("span", { id: "state", class: "quiet" });
  replace(document.getElementById("top"),
    h("a", { class: "brand", href: "#/" }, h("span", { class: "logo", "aria-hidden": "true" }, h("i"), h("i"), h("i")), "giveback"),
    h("nav", { "aria-label": "Views" }, h("a", { href: "#/" }, "Host"), h("a", { href: "#/what-if" }, "What if"), h("a", { href: "#/sessions" }, "Sessions")),
    h("span", { class: "grow" }), dot, state, themeButton);
}

// The part of the address after #: a path, and what of it belongs to the view.
function place() {
  const text = location.hash.replace(/^#/, "") || "/";
  const at = text.indexOf("?");
  return { path: at < 0 ? text : text.slice(0, at), query: new URLSearchParams(at < 0 ? "" : text.slice(at + 1)) };
}

function setQuery(values) {
  const { path, query } = place();
  for (const [name, value] of Object.entries(values)) if (value) query.set(name, value); else query.delete(name);
  const text = query.toString();
  history.replaceState(null, "", `#${path}${text ? `?${text}` : ""}`);
}

function viewOf(path, query) {
  const common = { live, me, query, setQuery };
  if (path === "/" || path === "") return new HostView(common);
  if (path === "/what-if") return new WhatIfView(common);
  if (path === "/sessions") return new SessionsView(common);
  if (path.startsWith("/vm/")) {
    try { return new VmView({ ...common, key: decodeURIComponent(path.slice(4)) }); } catch { return null; }
  }
  return null;
}

function route() {
  if (!me) return;
  const { path, query } = place();
  if (path.startsWith("login=")) return;
  view?.destroy();
  view = viewOf(path, query);
  document.title = "giveback";
  for (const link of document.querySelectorAll("#top nav a")) {
    if (link.getAttribute("href") === `#${path || "/"}`) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  if (!view) { replace(main, h("p", { class: "pad" }, "No such view. ", h("a", { href: "#/" }, "All VMs"))); return; }
  replace(main, view.element);
  view.show();
  if (shownPlace && shownPlace !== path) { scrollTo(0, 0); main.focus({ preventScroll: true }); }
  shownPlace = path;
}

function loggedOut(words) {
  me = null;
  view?.destroy();
  view = null;
  replace(main, h("div", { class: "view" }, h("section", { class: "card login" },
    h("h1", {}, "Log in"),
    h("p", {}, words || "This browser has no session."),
    h("p", {}, "Run this on the host, and open the address that it prints:"),
    h("pre", {}, "giveback web"),
    h("p", { class: "quiet" }, "Over SSH: "), h("pre", {}, "ssh -t -L 9836:127.0.0.1:9836 HOST giveback web --no-open"))));
}

function showState() {
  const words = {
    connecting: "connecting…", live: "live", out: "logged out", lost: "not connected",
  }[live.state];
  const dot = document.getElementById("dot"), state = document.getElementById("state");
  if (dot) { dot.dataset.state = live.state; setText(state, words); state.title = live.leads ? "this tab reads the stream for all tabs" : "another tab reads the stream"; }
  const lost = live.state === "lost";
  banner.hidden = !lost;
  const since = live.host ? ` What you see is of ${clock(live.host.wall_s)}.` : "";
  setText(banner, lost ? `No connection: ${live.detail}. Trying again…${since}` : "");
}

async function enter() {
  const match = /^#login=([\w-]{1,200})$/.exec(location.hash);
  if (match) {
    history.replaceState(null, "", "#/");
    try {
      await logIn(match[1]);
      live.again();
    } catch (error) {
      if (!key()) { loggedOut(error.message); return; }
    }
  }
  if (!key()) { loggedOut(""); return; }
  try {
    me = await get("/web/me");
  } catch (error) {
    if (error.status === 401) { forget(); loggedOut(error.message); } else { setTimeout(enter, 2000); }
    return;
  }
  route();
}

live.addEventListener("turn", () => view?.turn());
live.addEventListener("state", (event) => {
  showState();
  if (live.state === "out" && me) { forget(); loggedOut(live.detail); }
  if (event.detail.back) get("/web/me").then((found) => { me = found; view?.caughtUp(); }).catch(() => {});
});
addEventListener("hashchange", () => { if (location.hash.startsWith("#login=")) enter(); else route(); });
addEventListener("storage", (event) => { if (isKey(event.key) && key()) { live.again(); enter(); } else if (event.key === "giveback-theme") applyTheme(); });
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "/") { document.getElementById("filter")?.focus(); event.preventDefault(); }
  else if (event.key === "g") location.hash = "#/";
  else if (event.key === "w") location.hash = "#/what-if";
  else if (event.key === "Escape" && location.hash.startsWith("#/vm/")) history.back();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
document.addEventListener("visibilitychange", () => { if (!document.hidden) view?.turn(); });

applyTheme();
header();
live.start();
showState();
enter();
