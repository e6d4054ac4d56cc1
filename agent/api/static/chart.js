// Chart: lines over the last hour and the front of placements, as SVG that follows the page's colours.

import { clock, el, joules, number, show, svg, table } from "./parts.js";

const HEIGHT = 190, LEFT = 46, RIGHT = 10, TOP = 10, BOTTOM = 24;
const SPANS_S = [300, 900, 1800, 3600], STEPS_S = [60, 300, 600, 900];
const KINDS = 6;

/** Round steps that divide low…high into about four. */
function ticks(low, high) {
  const rough = (high - low || Math.abs(high) || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const first = Math.floor(low / step) * step;
  const marks = [];
  for (let n = 0; n < 12 && first + (n - 1) * step < high; n += 1) marks.push(Number((first + n * step).toPrecision(12)));
  return marks;
}

/**
 * Lines of several series. series: [{name, values}] beside times in seconds; a value that is null leaves a gap.
 * without: what to say where none has a value.
 */
export function lines(figure, { title, unit, times, series, gapS, without = "Nobody gives a figure." }) {
  const known = series.filter((s) => s.values.some((v) => v !== null));
  const caption = el("figcaption", {}, el("b", {}, `${title}, ${unit}`),
    ...known.map((s) => el("span", { class: "key" }, swatch(series.indexOf(s)), s.name)));
  if (!known.length) {
    show(figure, el("figcaption", {}, el("b", {}, `${title}, ${unit}`)), el("p", { class: "dim empty" }, times.length ? without : "The first point comes within ten seconds."));
    return;
  }
  const width = Math.max(260, figure.clientWidth - 34);
  const end = times.at(-1), span = SPANS_S.find((s) => end - times[0] <= s) ?? SPANS_S.at(-1);
  const all = known.flatMap((s) => s.values).filter((v) => v !== null);
  const low = Math.min(...all), high = Math.max(...all);
  const marks = ticks(low >= 0 && low < high * 0.6 ? 0 : low, high);
  const x = (t) => LEFT + ((t - end + span) / span) * (width - LEFT - RIGHT);
  const y = (v) => TOP + ((marks.at(-1) - v) / (marks.at(-1) - marks[0] || 1)) * (HEIGHT - TOP - BOTTOM);
  const drawing = frame(width, marks.map((v) => [y(v), number(v)]), timeMarks(span).map(([s, text]) => [x(end - s), text]));
  for (const s of known) drawing.append(svg("path", { class: `line c${series.indexOf(s) % KINDS}`, d: path(times, s.values, x, y, gapS) }));
  const summary = known.map((s) => spoken(s, unit)).join("; ");
  drawing.setAttribute("aria-label", `${title}: ${summary}`);
  const readout = el("p", { class: "readout dim" }, "point at the chart for figures");
  listen(drawing, readout, { times, series: known, x, unit });
  figure.replaceChildren(caption, drawing, readout, details(figure, title, known, unit));
}

function swatch(index) {
  return svg("svg", { width: 22, height: 8, viewBox: "0 0 22 8", "aria-hidden": "true", class: "swatch" },
    svg("path", { class: `line c${index % KINDS}`, d: "M0 4H22" }));
}

function timeMarks(span) {
  const step = STEPS_S[SPANS_S.indexOf(span)];
  const marks = [[0, "now"]];
  for (let s = step; s < span; s += step) marks.push([s, `−${s / 60} min`]);
  return marks;
}

function frame(width, rows, columns, extra = 0) {
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img" });
  for (const [at, text] of rows) {
    drawing.append(svg("path", { class: "grid", d: `M${LEFT + extra} ${at}H${width - RIGHT}` }),
      svg("text", { x: LEFT + extra - 6, y: at + 4, "text-anchor": "end" }, text));
  }
  for (const [at, text] of columns) {
    drawing.append(svg("text", { x: Math.min(at, width - 4), y: HEIGHT - 6, "text-anchor": text === "now" ? "end" : "middle" }, text));
  }
  return drawing;
}

function path(times, values, x, y, gapS) {
  let d = "", before = null;
  values.forEach((value, index) => {
    if (value === null) { before = null; return; }
    const joined = before !== null && times[index] - before <= gapS;
    d += `${joined ? "L" : "M"}${x(times[index]).toFixed(1)} ${y(value).toFixed(1)}${joined ? "" : "h.1"}`;
    before = times[index];
  });
  return d;
}

function spoken(series, unit) {
  const values = series.values.filter((v) => v !== null);
  return `${series.name} ${number(Math.min(...values))} to ${number(Math.max(...values))} ${unit}, last ${number(values.at(-1))}`;
}

function listen(drawing, readout, { times, series, x, unit }) {
  const cursor = svg("path", { class: "cursor", d: "" });
  drawing.append(cursor);
  const move = (event) => {
    const box = drawing.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * drawing.viewBox.baseVal.width;
    const index = times.reduce((best, t, i) => (Math.abs(x(t) - at) < Math.abs(x(times[best]) - at) ? i : best), 0);
    cursor.setAttribute("d", `M${x(times[index]).toFixed(1)} ${TOP}V${HEIGHT - BOTTOM}`);
    readout.textContent = `${clock(times[index])}  ${series.map((s) => `${s.name} ${number(s.values[index])} ${unit}`).join(" · ")}`;
  };
  drawing.addEventListener("pointermove", move);
  drawing.addEventListener("pointerdown", move);
}

function details(figure, title, series, unit) {
  const open = figure.querySelector("details")?.open;
  const rows = series.map((s) => {
    const values = s.values.filter((v) => v !== null);
    const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
    return [s.name, ...[Math.min(...values), mean, Math.max(...values), values.at(-1)].map((v) => number(v))];
  });
  const shown = el("details", open ? { open: "" } : {}, el("summary", {}, "Figures"),
    table(`${title} in ${unit}`, ["", "least", "mean", "most", "last"], rows));
  return shown;
}

/** Latency against energy of the candidates: whom nobody beats, the one that serves, and why that one. */
export function front(figure, candidates, choice) {
  const known = candidates.filter((c) => c.latency_ms !== null && c.energy_j !== null && c.latency_ms > 0 && c.energy_j > 0);
  if (!known.length) {
    show(figure, el("p", { class: "dim" }, "No placement has both a predicted time and predicted joules."));
    return;
  }
  const width = Math.max(260, figure.clientWidth);
  const [x, columns] = axis(known.map((c) => c.latency_ms), LEFT + 24, width - RIGHT - 30);
  const [y, rows] = axis(known.map((c) => c.energy_j), HEIGHT - BOTTOM - 14, TOP + 14);
  const drawing = frame(width, rows.map(([at, v]) => [at, joules(v)]), columns.map(([at, v]) => [at, `${number(v)} ms`]), 10);
  const best = known.filter((c) => c.on_front).sort((a, b) => a.latency_ms - b.latency_ms);
  drawing.append(svg("path", { class: "front", d: best.map((c, i) => `${i ? "L" : "M"}${x(c.latency_ms)} ${y(c.energy_j)}`).join("") }));
  for (const c of known) {
    const [cx, cy] = [x(c.latency_ms), y(c.energy_j)];
    const told = `${c.accelerator}: ${number(c.latency_ms)} ms, ${joules(c.energy_j)} – ${c.chosen ? `serves: ${choice}` : [c.state, c.reason].filter(Boolean).join(", ")}`;
    drawing.append(svg("circle", { class: `dot${c.on_front ? " on-front" : ""}${c.chosen ? " is-chosen" : ""}`, cx, cy, r: 5 }, svg("title", {}, told)));
    if (c.chosen) drawing.append(svg("circle", { class: "ring", cx, cy, r: 9 }));
  }
  for (const { at: [cx, cy], names } of neighbours(known, x, y)) {
    const late = cx > width * 0.6;
    drawing.append(svg("text", { class: "label", x: cx + (late ? -12 : 12), y: cy + 4, "text-anchor": late ? "end" : "start" }, labelOf(names)));
  }
  const chosen = known.find((c) => c.chosen)?.accelerator ?? "none";
  drawing.setAttribute("aria-label", `Predicted latency and energy of ${known.length} placements; chosen: ${chosen}; not beaten: ${best.map((c) => c.accelerator).join(", ")}`);
  figure.replaceChildren(el("figcaption", {}, el("b", {}, "Joules per answer (up) against milliseconds (right), both modelled"),
    el("span", {}, "filled and ringed: serves now · blue: on the Pareto front · dashed: the front")), drawing,
    el("p", { class: "why" }, el("b", {}, "Chosen: "), choice));
}

const MOST_LABEL = 26;

function labelOf(names) {
  const all = names.join(", ");
  return all.length <= MOST_LABEL || names.length < 2 ? all : `${names[0]} and ${names.length - 1} more`;
}

/** Placements so close that their names would lie over each other share one label. */
function neighbours(known, x, y) {
  const groups = [];
  for (const c of [...known].sort((a, b) => x(a.latency_ms) - x(b.latency_ms))) {
    const here = [x(c.latency_ms), y(c.energy_j)];
    const near = groups.find((g) => Math.abs(g.at[1] - here[1]) < 13 && Math.abs(g.at[0] - here[0]) < 70);
    if (near) near.names.push(c.accelerator);
    else groups.push({ at: here, names: [c.accelerator] });
  }
  return groups;
}

/** A scale from values to pixels, logarithmic where they span more than a factor of ten, and its marks. */
function axis(values, from, to) {
  const low = Math.min(...values), high = Math.max(...values);
  const log = high / low > 10;
  const f = log ? Math.log : (v) => v;
  const a = f(low === high ? low * 0.8 : low), b = f(low === high ? high * 1.2 : high);
  const scale = (v) => from + ((f(v) - a) / (b - a)) * (to - from);
  const marks = low === high ? [low] : log ? [low, Math.sqrt(low * high), high] : [low, (low + high) / 2, high];
  return [scale, marks.map((v) => [scale(v), v])];
}
