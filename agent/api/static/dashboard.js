// Dashboard: live snapshots into cards, the overview into charts and lists.

import { front, lines } from "./chart.js";
import { follow, json, Refused, useKey } from "./link.js";
import { at, clock, degrees, duration, el, figure, joules, number, percent, show, svg, table, unknown, watts } from "./parts.js";
import { offer } from "./request.js";

const OVERVIEW_MS = 2500;
const MOST_POINTS = 720, MOST_EVENTS = 256;
const FAULTS = new Set(["lane_died", "inference_failed", "model_refused", "policy_rejected", "thermal"]);
const seen = { snapshot: null, overview: null, points: [], events: [] };

// ---------------------------------------------------------------- live

function live(snapshot) {
  const before = seen.snapshot;
  seen.snapshot = snapshot;
  const { agent } = snapshot;
  at("board").textContent = agent.board;
  at("mode").textContent = agent.mode;
  at("mode").className = `pill ${tone(agent.mode)}`;
  at("about").textContent = `policy ${agent.policy} · board ${agent.profile} · version ${agent.version} · since ${new Date(agent.since).toLocaleString()}`;
  announce(before, snapshot);
  conditions(snapshot.conditions);
  show(at("accelerator-cards"), ...snapshot.accelerators.map(accelerator));
  show(at("model-cards"), snapshot.models.length ? models(snapshot.models) : el("p", {}, "No model is configured: add one under models in agent.yaml."));
  offer(snapshot);
  choices(snapshot.models);
}

function tone(state) {
  if (state === "ready" || state === "idle") return "good";
  return ["fault", "quarantined", "refused", "unavailable", "stopped"].includes(state) ? "bad" : "warn";
}

/** Only what changed in kind is spoken; figures that move every second are not. */
function announce(before, now) {
  const said = (snapshot) => [`agent ${snapshot.agent.mode}`,
    ...snapshot.accelerators.map((a) => `${a.name} ${a.state}${a.permit ? "" : ", may not run"}`),
    ...snapshot.models.map((m) => `${m.name} ${m.state} on ${m.placement ?? "nothing"}`),
    ...snapshot.conditions.map((c) => `${c.type}: ${c.cause}`)];
  const old = new Set(before ? said(before) : []);
  const fresh = said(now).filter((sentence) => !old.has(sentence));
  if (before && fresh.length) at("announce").textContent = fresh.join(". ");
}

function conditions(list) {
  at("conditions").hidden = !list.length;
  show(at("conditions-list"), ...list.map((c) => el("article", { class: "card condition" },
    el("h3", {}, c.type.replaceAll("_", " ").replace(":", ": ")),
    el("p", {}, `${c.cause} – ${c.consequence}`),
    el("p", { class: "dim" }, `To mend: ${c.mend} · since ${new Date(c.since).toLocaleString()}`))));
}

function accelerator(a) {
  const more = seen.overview?.accelerators[a.name] ?? {};
  const load = more.busy_share;
  const power = a.simulated ? "simulated" : "measured";
  const bar = svg("svg", { class: "load", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { width: 100, height: 6 }), svg("rect", { class: "level", width: 100 * (load ?? 0), height: 6 }));
  return el("article", { class: "card unit" },
    el("div", { class: "unit-head" }, el("h3", {}, a.name), el("span", { class: `pill ${tone(a.state)}` }, a.state)),
    el("p", { class: "dim" }, `${a.provider}${a.simulated ? ", simulated" : ""}`),
    el("dl", { class: "figures" },
      figure("Load", percent(load), a.queue ? `${a.queue} in lane` : null),
      figure("Temperature", degrees(a.temperature_c), trip(a, more)),
      figure("Power", watts(a.power_w), a.power_w === null ? "unknown" : power)),
    bar,
    el("dl", { class: "facts" },
      el("dt", {}, "May run"), el("dd", { class: a.permit ? "good" : resting(a) ? "dim" : "bad" }, permit(a)),
      el("dt", {}, "Restarts"), el("dd", {}, String(a.restarts)),
      a.last_fault ? el("dt", {}, "Last fault") : null, a.last_fault ? el("dd", {}, a.last_fault) : null,
      ...unknown(a, { temperature_c: "Temperature", power_w: "Power" }).flatMap(([what, why]) => [el("dt", {}, what), el("dd", { class: "why" }, why)])));
}

/** Nothing is loaded there, so that nothing asks for a permit: no fault. */
function resting(a) {
  return !a.permit && a.state === "idle";
}

function permit(a) {
  if (resting(a)) return "nothing is loaded here";
  if (!a.permit) return "no: permit withheld";
  return a.capacity_share < 1 ? `yes, at ${percent(a.capacity_share)} of its capacity` : "yes, at full capacity";
}

function trip(a, more) {
  if (a.temperature_c === null) return "unknown";
  if (more.time_to_trip_s !== null && more.time_to_trip_s !== undefined) {
    return `${more.stop_c.toFixed(0)} °C in ${duration(more.time_to_trip_s)} (modelled)`;
  }
  const trend = more.trend && more.trend !== "unknown" ? `${more.trend}; ` : "";
  return more.stop_c === undefined ? null : `${trend}stops at ${more.stop_c.toFixed(0)} °C`;
}

function ran(m) {
  if (m.accelerated_fraction !== null) return `${m.actual}, ${percent(m.accelerated_fraction)} of the graph`;
  return `${m.actual}, share of the graph unknown: ${m.unknown?.accelerated_fraction ?? "nobody told it"}`;
}

function models(list) {
  const heads = ["Model", "State", "Runs on", "p50 / p99", "Energy per answer", "Requests"];
  return table("Models", heads, list.map((m) => [
    m.name,
    el("span", { class: tone(m.state) }, m.state, m.reason ? el("small", {}, m.reason) : ""),
    el("span", {}, m.placement ?? "–", el("small", {}, m.placement ? ran(m) : "")),
    m.p50_ms === null ? el("span", {}, "–", el("small", {}, m.unknown?.p50_ms ?? "")) : `${number(m.p50_ms)} / ${number(m.p99_ms)} ms`,
    el("span", {}, joules(m.energy_j), el("small", {}, m.energy_j === null ? m.unknown?.energy_j ?? "unknown" : m.provenance)),
    el("span", {}, String(m.requests), m.failed || m.replayed ? el("small", {}, `${m.failed} failed, ${m.replayed} moved`) : ""),
  ]));
}

// ---------------------------------------------------------------- overview

async function refresh() {
  const point = seen.points.at(-1)?.n ?? 0, event = seen.events.at(-1)?.n ?? 0;
  const overview = await json(`overview?points=${point}&events=${event}`);
  if (overview.points.length && overview.points[0].n !== point + 1 && point) seen.points = [];
  if (overview.events.length && overview.events[0].n !== event + 1 && event) seen.events = [];
  seen.points = [...seen.points, ...overview.points].slice(-MOST_POINTS);
  seen.events = [...seen.events, ...overview.events].slice(-MOST_EVENTS);
  const fresh = overview.points.length || !seen.overview;
  seen.overview = overview;
  if (fresh) charts();
  if (overview.events.length || !event) timeline();
  policy(overview.policy);
  placement();
}

function charts() {
  const { points, overview } = seen;
  const times = points.map((p) => p.ts), gapS = 3 * overview.period_s;
  const of = (group, name, field) => points.map((p) => p[group][name]?.[field] ?? null);
  const names = (group) => [...new Set(points.flatMap((p) => Object.keys(p[group])))];
  const draw = (id, title, unit, group, field, without) => lines(at(id), {
    title, unit, times, gapS, without, series: names(group).map((name) => ({ name, values: of(group, name, field) })) });
  draw("chart-power", "Power", "W", "accelerators", "power_w",
    "Nothing here measures or models it. “qeil doctor” names the sensors that are missing.");
  draw("chart-temperature", "Temperature", "°C", "accelerators", "temperature_c",
    "No sensor gives it. “qeil doctor” says what that costs and how to mend it.");
  draw("chart-latency", "Latency, median of recent requests", "ms", "models", "p50_ms", "No request was answered in the last hour.");
}

function timeline() {
  const only = at("faults-only").checked;
  const list = seen.events.filter((e) => !only || FAULTS.has(e.event)).reverse();
  if (!list.length) {
    show(at("event-list"), el("li", {}, el("span", {}, ""), el("span", { class: "dim" }, only ? "No fault since the start." : "Nothing happened yet.")));
    return;
  }
  show(at("event-list"), ...folded(list).map(({ ts, event, text, times }) => el("li", {},
    el("time", { datetime: new Date(ts * 1000).toISOString() }, clock(ts)),
    el("span", { class: FAULTS.has(event) ? "bad" : null }, event.replaceAll("_", " "), times > 1 ? ` × ${times}` : "", el("small", {}, text)))));
}

/** The same thing several times in a row is one line. */
function folded(list) {
  const rows = [];
  for (const { n, ts, event, cause, provenance, old, new: now, ...rest } of list) {
    const told = Object.entries(rest).filter(([, value]) => typeof value === "string").map(([k, v]) => `${k} ${shortened(v)}`);
    const text = [old && now ? `${old} → ${now}` : null, ...told, cause].filter(Boolean).join(" · "), last = rows.at(-1);
    if (last && last.event === event && last.text === text) last.times += 1;
    else rows.push({ ts, event, text, times: 1 });
  }
  return rows;
}

const shortened = (text) => (text.length > 20 && !text.includes(" ") ? `${text.slice(0, 12)}…` : text);

function written(value) {
  if (value === null || value === undefined) return "–";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function flat(value, key = "") {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return [[key, written(value)]];
  return Object.entries(value).flatMap(([name, inner]) => flat(inner, key ? `${key}.${name}` : name));
}

function policy(p) {
  show(at("policy-name"), el("b", {}, p.name), document.createTextNode(` – ${p.description}`), el("br"), el("small", { class: "dim" }, `digest ${p.digest.slice(0, 12)}`));
  const rows = p.changes.map((c) => [c.key, el("span", { class: "old" }, written(c.before)), el("span", { class: "new" }, written(c.now))]);
  show(at("policy-changes"), rows.length ? table(`Changed since policy ${p.before}`, [`changed since ${p.before}`, "before", "now"], rows)
    : el("p", { class: "dim" }, "Unchanged since the agent started."));
  show(at("policy-document"), table("Every key of the policy", ["key", "value"], flat(p.document)));
}

// ---------------------------------------------------------------- placement

function choices(list) {
  const names = list.map((m) => m.name), box = at("placement-model");
  if ([...box.options].map((o) => o.value).join("\n") !== names.join("\n")) {
    const chosen = box.value;
    box.replaceChildren(...names.map((name) => el("option", {}, name)));
    if (names.includes(chosen)) box.value = chosen;
    placement();
  }
}

let drawn = "";

function placement() {
  const found = seen.overview?.placements[at("placement-model").value];
  const key = JSON.stringify([at("placement-model").value, found, at("placement-front").clientWidth]);
  if (!found || key === drawn) return;
  drawn = key;
  at("placement-why").textContent = found.why;
  front(at("placement-front"), found.candidates, found.choice);
  const heads = ["Placement", "predicted", "timed idle", "measured p50", "energy, modelled", "what is it"];
  const because = (c, key, text) => (c.unknown?.[key] && c.unknown[key] !== c.reason ? el("span", {}, text, el("small", {}, c.unknown[key])) : text);
  const rows = found.candidates.map((c) => [c.accelerator,
    because(c, "predicted_ms", c.latency_ms === null ? "–" : `${number(c.latency_ms)} ms`),
    c.timed_ms === null ? "–" : `${number(c.timed_ms)} ms`,
    because(c, "measured_p50_ms", c.measured_p50_ms === null ? "–" : `${number(c.measured_p50_ms)} ms`),
    because(c, "predicted_energy_j", joules(c.energy_j)),
    [c.chosen ? "serves" : c.state, c.on_front ? "on the front" : null, c.reason].filter(Boolean).join(", ")]);
  show(at("placement-rows"), table("Placements of the model", heads, rows, (index) => (found.candidates[index].chosen ? "chosen" : null)));
}

// ---------------------------------------------------------------- start

function linkState(state) {
  const locked = state instanceof Refused && state.status === 401;
  at("door").hidden = !locked;
  const text = state instanceof Refused ? state.message : state;
  at("link").textContent = text;
  at("link").className = `pill ${text === "live" ? "good" : "warn"}`;
}

async function keepOverview() {
  for (;;) {
    if (!document.hidden) await refresh().catch(() => { at("link").title = "the overview did not arrive"; });
    await new Promise((resolve) => { setTimeout(resolve, OVERVIEW_MS); });
  }
}

at("door").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(at("key").value);
});
at("faults-only").addEventListener("change", timeline);
at("placement-model").addEventListener("change", placement);
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => { if (seen.overview) { charts(); placement(); } }, 150);
});
follow(live, linkState);
keepOverview();
