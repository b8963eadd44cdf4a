// What the daemon tells as it happens, once for all tabs: the tab that holds the lock reads the stream and tells
// the others. A tab that has missed something asks for all of it, and a reader that is frozen is replaced.

import { Refusal, headers, key, problemOf } from "./api.js";

const NAME = "giveback-live";
const SILENT_MS = 12000;   // The daemon says something every two seconds.
const STEAL_MS = 20000;

export class Live extends EventTarget {
  constructor() {
    super();
    this.rows = new Map();
    this.actions = new Map();
    this.host = null;
    this.ledger = [];
    this.state = "connecting";
    this.detail = "";
    this.leads = false;
    this.heard();
    this.number = 0;
    this.turn = 0;
    this.tries = 0;
  }

  start() {
    this.channel = new BroadcastChannel(NAME);
    this.channel.onmessage = (event) => this.hear(event.data);
    this.channel.postMessage({ kind: "hello" });
    this.lead(false);
    setInterval(() => this.watch(), 1000);
    for (const name of ["visibilitychange", "pageshow", "online"]) {
      (name === "visibilitychange" ? document : window).addEventListener(name, () => this.watch());
    }
  }

  heard() { this.heardAt = [performance.now(), Date.now()]; }

  // By both clocks: one stands while a machine sleeps, the other may be set back.
  silentMs() { return Math.max(performance.now() - this.heardAt[0], Date.now() - this.heardAt[1]); }

  // With locks one tab leads; without (no browser of today) each reads for itself.
  lead(steal) {
    if (!navigator.locks) { this.read(); return; }
    navigator.locks.request(NAME, { steal }, () => this.read()).catch(() => {
      this.leads = false;
      this.abort?.abort();
      this.lead(false);
    });
  }

  async read() {
    this.leads = true;
    this.tries = 0;
    while (this.leads) {
      const used = key();
      if (!used) { await this.loggedIn(); continue; }
      try {
        await this.stream();
      } catch (error) {
        if (!this.leads) return;
        if (key() !== used) continue;
        const out = error instanceof Refusal && error.status === 401;
        const words = error instanceof Refusal ? error.message : "the daemon does not answer";
        this.say(out ? "out" : "lost", words);
        if (out) await this.loggedIn();
      }
      this.tries += 1;
      await this.wait(Math.min(8000, 500 * 2 ** this.tries) * (0.5 + Math.random() / 2));
    }
  }

  wait(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => { clearTimeout(timer); resolve(); };
    });
  }

  loggedIn() {
    return new Promise((resolve) => { this.wakeOnLogin = resolve; });
  }

  // After a login, of this tab or of another.
  again() {
    this.wakeOnLogin?.();
    this.wake?.();
    this.channel.postMessage({ kind: "again" });
  }

  async stream() {
    this.abort = new AbortController();
    this.heard();
    const response = await fetch("/web/live", { headers: headers(), cache: "no-store", signal: this.abort.signal });
    if (!response.ok) throw await problemOf(response);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let parts = [];
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Refusal(0, "the daemon has ended");
      this.heard();
      parts.push(value);
      if (!value.includes("\n\n")) continue;
      const events = parts.join("").split("\n\n");
      parts = [events.pop()];
      for (const one of events) this.take(one);
    }
  }

  take(text) {
    const kind = /^event: (\w+)$/m.exec(text)?.[1];
    const data = /^data: (.*)$/m.exec(text)?.[1];
    if (!kind || !data) return;
    this.tries = 0;
    this.number += 1;
    const frame = { kind, data: JSON.parse(data), number: this.number };
    this.say("live", "");
    this.apply(frame);
    this.channel.postMessage({ kind: "frame", frame });
  }

  apply({ kind, data }) {
    this.heard();
    if (kind === "all") {
      this.rows = new Map(data.rows.map((row) => [row.key, row]));
      this.actions = new Map(data.actions.map((one) => [one.id, one]));
      this.ledger = data.ledger;
    } else {
      for (const row of data.rows) this.rows.set(row.key, row);
      for (const gone of data.gone) this.rows.delete(gone);
      for (const one of data.actions) this.actions.set(one.id, one);
      for (const id of this.actions.keys()) { if (this.actions.size <= 400) break; this.actions.delete(id); }
    }
    this.host = data.host;
    this.last = this.lastByVm();
    this.turn += 1;
    this.dispatchEvent(new CustomEvent("turn", { detail: { kind } }));
  }

  lastByVm() {
    const last = new Map();
    for (const one of this.actions.values()) if (one.vm) last.set(one.vm, one);
    return last;
  }

  hear(message) {
    if (message.kind === "hello" && this.leads && this.host) {
      const data = {
        host: this.host, ledger: this.ledger,
        rows: [...this.rows.values()], actions: [...this.actions.values()],
      };
      this.channel.postMessage({ kind: "frame", frame: { kind: "all", data, number: this.number } });
      this.channel.postMessage({ kind: "state", state: this.state, detail: this.detail });
    } else if (message.kind === "again" && this.leads) {
      this.wakeOnLogin?.();
      this.wake?.();
    } else if (message.kind === "state" && !this.leads) {
      this.heard();
      this.set(message.state, message.detail);
    } else if (message.kind === "frame" && !this.leads) {
      const { frame } = message;
      const follows = frame.number === this.number + 1;
      if (frame.kind === "all" || (follows && this.host)) {
        this.number = frame.number;
        this.set("live", "");
        this.apply(frame);
      } else if (frame.number > this.number) {
        this.channel.postMessage({ kind: "hello" });
      }
    }
  }

  // Leaders find streams that have died in a sleep; others find leaders that have.
  watch() {
    const silentMs = this.silentMs();
    if (this.leads) {
      if (this.state === "live" && silentMs > SILENT_MS) this.abort?.abort();
      if (this.state === "lost" && !document.hidden && silentMs > SILENT_MS) { this.heard(); this.wake?.(); }
    } else if (silentMs > STEAL_MS && !document.hidden) {
      this.heard();
      this.lead(true);
    } else if (silentMs > SILENT_MS) {
      this.channel.postMessage({ kind: "hello" });
    }
  }

  say(state, detail) {
    if (state !== this.state || detail !== this.detail) this.channel.postMessage({ kind: "state", state, detail });
    else if (state !== "live") this.channel.postMessage({ kind: "state", state, detail });
    this.set(state, detail);
  }

  set(state, detail) {
    if (state === this.state && detail === this.detail) return;
    const back = state === "live" && this.state === "lost";
    this.state = state;
    this.detail = detail;
    this.dispatchEvent(new CustomEvent("state", { detail: { back } }));
  }
}
