// Parts: elements made from data (never from markup), and how figures are written.

export const at = (id) => document.getElementById(id);

/** An element with attributes and children; a string child is text. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** Replace what a container shows, but only where it differs: focus, selection and scrolling stay. */
export function show(container, ...children) {
  const wanted = children.filter(Boolean);
  const same = wanted.length === container.childNodes.length && wanted.every((node, index) => node.isEqualNode(container.childNodes[index]));
  if (!same) container.replaceChildren(...wanted);
}

const PREFIXES = [[1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];

/** Three digits that mean something; "–" for a figure nobody has. */
export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 10 ** digits) return value.toFixed(0);
  return String(Number(value.toPrecision(digits)));
}

export function joules(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 J";
  const [scale, prefix] = PREFIXES.find(([least]) => Math.abs(value) >= least) ?? PREFIXES.at(-1);
  return `${number(value / scale)} ${prefix}J`;
}

export const degrees = (value) => (value === null || value === undefined ? "–" : `${value.toFixed(1)} °C`);
export const watts = (value) => (value === null || value === undefined ? "–" : `${number(value)} W`);
export const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(value * 100)} %`);

export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${number(seconds / 3600)} h`;
}

export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });

/** A table that becomes a stack of cards on a narrow screen. rows: arrays of text or nodes. */
export function table(caption, heads, rows, rowClass = () => null) {
  const head = el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col" }, text))));
  const body = el("tbody", {}, ...rows.map((cells, index) => el("tr", { class: rowClass(index) },
    ...cells.map((cell, column) => el("td", column ? { "data-label": heads[column] } : {}, cell)))));
  return el("table", { class: "stack" }, el("caption", { class: "hidden" }, caption), head, body);
}

/** Why figures of a row are unknown: [names of the figures, reason], those that share a reason together. */
export function unknown(row, names) {
  const found = new Map();
  for (const [key, name] of Object.entries(names)) {
    const why = row.unknown?.[key];
    if (why) found.set(why, [...(found.get(why) ?? []), name]);
  }
  return [...found].map(([why, shared]) => [shared.join(", "), why]);
}

/** Term and figure, with a smaller remark. */
export function figure(term, value, remark = null, kind = null) {
  return el("div", {}, el("dt", {}, term), el("dd", { class: kind }, value, remark ? el("small", {}, remark) : null));
}
