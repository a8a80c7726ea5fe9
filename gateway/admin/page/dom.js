// Making elements, and words for numbers. Texts from the network only ever become text nodes, never markup.

export const byId = (id) => document.getElementById(id);

export function element(name, className, text, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined && text !== null) made.textContent = text;
  made.append(...children);
  return made;
}

// A text of somebody else's with its controls made visible: they could reverse what is read, or hide it.
export const visible = (text) => text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (character) => `\\u{${character.codePointAt(0).toString(16)}}`);

// Writes only what differs, so that a selection survives the next second.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Makes the children of `parent` those of `items`, in order; elements are kept from one time to the next.
export function keyed(parent, items, keyOf, make, update) {
  const had = parent.keyedElements ?? new Map();
  const now = new Map();
  const wanted = new Set(items.map(keyOf));
  for (const [key, child] of had) if (!wanted.has(key)) child.remove();
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const child = had.get(key) ?? make(item);
    now.set(key, child);
    update(child, item);
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
  }
  parent.keyedElements = now;
}

export const count = (number) => number.toLocaleString("en");

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

export function duration(seconds) {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([size]) => seconds >= size);
  const [size, unit] = parts[first];
  const [nextSize, nextUnit] = parts[first + 1];
  const rest = Math.floor((seconds % size) / nextSize);
  return `${Math.floor(seconds / size)} ${unit}` + (rest ? ` ${rest} ${nextUnit}` : "");
}

// How long something is to take: rounded, and 5 s rather than 5.0 s.
export const interval = (seconds) => duration(seconds < 9.95 ? seconds : Math.round(seconds)).replace(".0", "");

export function roundTrip(seconds) {
  if (seconds === null) return "–";
  const milliseconds = seconds * 1000;
  if (milliseconds >= 999.5) return duration(seconds);
  return `${milliseconds < 9.95 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;
}

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit && number < 100 ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}
