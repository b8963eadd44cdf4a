// Questions to the daemon. The cookie is the browser's; the key is in this address's own storage, so that no
// other port of the host is sent both.

const KEY = "giveback-key";

export class Refusal extends Error {
  constructor(status, detail) { super(detail); this.status = status; }
}

export const key = () => localStorage.getItem(KEY) ?? "";
export const forget = () => localStorage.removeItem(KEY);
export const isKey = (name) => name === KEY;
export const headers = () => (key() ? { "x-giveback-key": key() } : {});

export async function problemOf(response) {
  let detail = `${response.status} ${response.statusText}`;
  try { detail = (await response.json()).detail ?? detail; } catch { /* Not a problem document. */ }
  return new Refusal(response.status, detail);
}

async function asked(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "the daemon does not answer");
  }
  if (!response.ok) throw await problemOf(response);
  return response.json();
}

export const get = (path, signal) => asked(path, { headers: headers(), signal });

export const post = (path, body) => asked(path, {
  method: "POST",
  headers: { ...headers(), "content-type": "application/json" },
  body: JSON.stringify(body),
});

export async function logIn(token) {
  const said = await post("/web/login", { token });
  localStorage.setItem(KEY, said.key);
}
