// Amounts and times in words. Pure.

export const MIB = 2 ** 20, GIB = 2 ** 30;

export function size(bytes) {
  if (bytes === null || bytes === undefined || !Number.isFinite(bytes)) return "?";
  const sign = bytes < 0 ? "−" : "";
  let value = Math.abs(bytes);
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  const digits = unit < 2 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${sign}${value.toFixed(digits)} ${units[unit]}`;
}

export function clock(wallS, long = false) {
  const date = new Date(wallS * 1000);
  const time = date.toLocaleTimeString([], { hour12: false });
  return long ? `${date.toLocaleDateString()} ${time}` : time;
}

export function ago(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

// "asked 512 MiB, got 498 MiB"; why it came short stands behind it.
export function verdict(action) {
  if (!action) return "";
  const asked = action.kind === "deflate" ? `gave back ${size(action.expected_bytes)}` : `asked ${size(action.expected_bytes)}`;
  if (action.measured_bytes === null) return `${asked}, not verified yet`;
  return `${asked}, got ${size(action.measured_bytes)}${action.verdict ? `: ${action.verdict}` : ""}`;
}

export function brief(action) {
  if (!action) return "";
  return action.measured_bytes === null ? `? of ${size(action.expected_bytes)}` : `${size(action.measured_bytes)} of ${size(action.expected_bytes)}`;
}

export const URGENCY = ["0: keep caches", "1: cold cache", "2: warm cache too", "3: all that can go"];

// The four parts of a VM's RAM, and what is left of it; null where the guest's side is not known.
export function partsOf(row) {
  const known = row.in_use_bytes !== null && row.residue_bytes !== null;
  if (!known) {
    return { known, unknown: row.resident_bytes ?? 0, total: Math.max(row.ram_bytes, row.resident_bytes ?? 0, 1) };
  }
  const parts = {
    known, needed: row.in_use_bytes ?? 0, cache: row.cache_bytes ?? 0,
    trapped: row.residue_bytes ?? 0, returned: row.returned_bytes ?? 0,
  };
  const sum = parts.needed + parts.cache + parts.trapped + parts.returned;
  return { ...parts, total: Math.max(row.ram_bytes, sum, 1) };
}

export const PARTS = [
  ["needed", "needed", "in use by the guest, without clean page cache"],
  ["cache", "cache", "clean page cache: the part that is cold can be returned"],
  ["trapped", "trapped", "free in the guest, still held by the host"],
  ["returned", "returned", "free in the guest, given back to the host"],
];
