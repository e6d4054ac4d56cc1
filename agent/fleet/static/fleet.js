// Fleet: asks the controller every few seconds and draws boards, figures, rollouts and one board.

import { lines } from "./chart.js";
import { at, clock, degrees, duration, el, joules, number, show, svg, table } from "./parts.js";

const PERIOD_MS = 5000, LISTED = 100, STATES = ["offline", "silent", "troubled", "unknown", "online"];
const howMany = (count) => `${count} board${count === 1 ? "" : "s"}`;
let token = sessionStorage.getItem("qeil-fleet-token"), fleet = { now_s: 0, boards: [] }, found = [], chosen = null;

class Refused extends Error {}

async function ask(path) {
  const answer = await fetch(path, { headers: token ? { Authorization: `Bearer ${token}` } : {} });
  if (answer.status === 401 || answer.status === 403) throw new Refused((await answer.json()).error);
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `HTTP ${answer.status}`);
  return answer.json();
}

/** What a person has to look at first: away, silent, then with conditions. */
const look = (board) => (board.status === "online" && board.conditions ? "troubled" : board.status);

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function taken(data) {
  const boards = data.boards.map((row) => Object.fromEntries(data.columns.map((name, i) => [name, row[i]])));
  for (const board of boards) {
    board.look = look(board);
    board.key = `${board.tenant}/${board.board}`;
    board.text = [board.key, board.profile, board.policy, board.mode, board.look].join(" ").toLowerCase();
  }
  boards.sort((a, b) => STATES.indexOf(a.look) - STATES.indexOf(b.look) || (a.key < b.key ? -1 : 1));
  fleet = { now_s: data.now_s, boards };
}

function drawMap() {
  const canvas = at("canvas"), width = canvas.clientWidth || 300, count = Math.max(1, found.length);
  const size = Math.max(4, Math.min(18, Math.floor(Math.sqrt((width * 260) / count))));
  const across = Math.max(1, Math.floor(width / size)), scale = window.devicePixelRatio || 1;
  const height = Math.ceil(count / across) * size;
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const colours = { online: colour("--s2"), silent: colour("--s1"), offline: colour("--bad"), unknown: colour("--dim"), troubled: colour("--warn") };
  found.forEach((board, i) => {
    pen.fillStyle = colours[board.look];
    pen.fillRect((i % across) * size, Math.floor(i / across) * size, size - 1, size - 1);
  });
  canvas.dataset.across = across;
  canvas.dataset.size = size;
  canvas.setAttribute("aria-label", `${howMany(found.length)}: ${counts(found).map(([s, n]) => `${n} ${s}`).join(", ")}`);
}

const counts = (boards) => STATES.map((s) => [s, boards.filter((b) => b.look === s).length]).filter(([, n]) => n);

function drawList() {
  const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  found = fleet.boards.filter((board) => words.every((word) => board.text.includes(word)));
  show(at("counts"), ...counts(fleet.boards).map(([state, n]) => el("span", {}, el("span", { class: `key-square key-${state}` }), ` ${n} ${state === "troubled" ? "with conditions" : state}`)));
  at("found").textContent = found.length > LISTED ? `${found.length} boards, the first ${LISTED} listed` : howMany(found.length);
  show(at("list"), found.length ? table("Boards", ["Board", "State", "Hottest", "Per answer", "Policy", "Bundle", "Last heard"], found.slice(0, LISTED).map((b) => [
    el("a", { href: `#board=${encodeURIComponent(b.key)}` }, b.key), b.look === "troubled" ? `${b.conditions} conditions` : b.look,
    degrees(b.temperature_c), joules(b.energy_j) + (b.provenance === "modelled" ? " modelled" : ""), b.policy ?? "–",
    b.bundle_ver === null ? "–" : `${b.bundle_ver} ${b.bundle_status ?? ""}`, `${duration(Math.max(0, fleet.now_s - b.heard_s))} ago`,
  ])) : null);
  drawMap();
}

/** How many boards lie where. */
function spread(figure, title, unit, values, say) {
  const caption = el("figcaption", {}, el("b", {}, title));
  if (!values.length) {
    show(figure, caption, el("p", { class: "dim" }, "No board gives a figure."));
    return;
  }
  const sorted = [...values].sort((a, b) => a - b), low = sorted[0], high = sorted.at(-1), bins = 24, counted = Array(bins).fill(0);
  for (const v of sorted) counted[Math.min(bins - 1, Math.floor(((v - low) / (high - low || 1)) * bins))] += 1;
  const most = Math.max(...counted), q = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  const words = `median ${say(q(0.5))}, 95 of 100 at most ${say(q(0.95))}, most ${say(high)}, ${howMany(sorted.length)}`;
  const drawing = svg("svg", { viewBox: "0 0 480 150", role: "img", "aria-label": `${title}: ${words}` });
  counted.forEach((n, i) => drawing.append(svg("rect", { class: "bar-fill", x: i * 20 + 1, width: 18, y: 130 - (125 * n) / most, height: (125 * n) / most })));
  drawing.append(svg("text", { x: 0, y: 146 }, say(low)), svg("text", { x: 480, y: 146, "text-anchor": "end" }, say(high)));
  show(figure, caption, drawing, el("p", { class: "readout dim" }, words));
}

function drawRollouts(all) {
  const parts = { kept: "kept", offered: "offered", trial: "offered", waiting: "waiting", refused: "failed", reverted: "failed", silent: "failed" };
  show(at("rollout-list"), ...(all.length ? all.slice(0, 20).map((rollout) => {
    const total = Object.values(rollout.boards).reduce((a, b) => a + b, 0) || 1;
    const words = Object.entries(rollout.boards).map(([status, n]) => `${n} ${status}`).join(", ") || "no boards yet";
    const strip = svg("svg", { class: "progress", viewBox: "0 0 1000 14", preserveAspectRatio: "none", role: "img", "aria-label": words });
    let x = 0;
    for (const [status, n] of Object.entries(rollout.boards)) {
      strip.append(svg("rect", { class: `part-${parts[status] ?? "other"}`, x, y: 0, width: (1000 * n) / total, height: 14 }));
      x += (1000 * n) / total;
    }
    const ring = `ring ${Math.min(rollout.ring + 1, rollout.plan.rings.length)} of ${rollout.plan.rings.length}`;
    return el("article", { class: "card rollout" }, el("h3", {}, `${rollout.name} ${rollout.ver}`, el("span", { class: "pill" }, rollout.status), el("small", { class: "dim" }, `${ring}, by ${rollout.by_whom}`)),
      strip, el("p", { class: "note" }, rollout.reason ? `${words} – ${rollout.reason}` : words));
  }) : [el("p", { class: "card dim" }, "No rollout yet: qeil fleet rollout start begins one.")]));
}

async function drawBoard() {
  const key = decodeURIComponent((location.hash.match(/^#board=(.+)$/) ?? [])[1] ?? "");
  at("one").hidden = !key;
  if (!key) {
    chosen = null;
    return;
  }
  const path = `v1/boards/${key.split("/").map(encodeURIComponent).join("/")}`;
  const [one, rows, hours] = await Promise.all([ask(path), ask(`${path}/rows/tlm?limit=200`), ask(`${path}/hours?limit=200`)]);
  const points = [...hours.map((h) => ({ t: h.hour_s, c: h.hottest_c, j: h.energy_answers ? h.energy_j / h.energy_answers : null })).reverse(),
    ...rows.filter((r) => r.when_s).map((r) => ({ t: r.when_s, ...ofRow(r.row) })).reverse()];
  at("one-title").textContent = `Board ${key}`;
  const entry = one, conditions = entry.conditions.map((c) => [c.type ?? "", c.cause ?? "", c.since ?? ""]);
  show(at("one-facts"), el("p", {}, `${entry.status}, mode ${entry.mode ?? "–"}, agent ${entry.agent ?? "–"}, profile ${entry.profile ?? "–"}, policy ${entry.policy ?? "–"}, last heard ${clock(entry.heard_s)}, ${entry.missing} rows missing`),
    conditions.length ? table("Conditions", ["Condition", "Cause", "Since"], conditions) : el("p", { class: "dim" }, "No conditions."));
  const times = points.map((p) => p.t);
  lines(at("one-temperature"), { title: "Hottest accelerator", unit: "°C", times, series: [{ name: "hottest", values: points.map((p) => p.c ?? null) }], gapS: 7200 });
  lines(at("one-energy"), { title: "Energy per answer", unit: "J", times, series: [{ name: "all models", values: points.map((p) => p.j ?? null) }], gapS: 7200 });
  if (chosen !== key) at("one-title").focus();
  chosen = key;
}

function ofRow(row) {
  const hot = Object.values(row.accelerators ?? {}).map((a) => a.temperature_c?.last).filter((v) => typeof v === "number");
  const models = Object.values(row.models ?? {}).filter((m) => m.requests - m.failed > 0);
  const known = models.length && models.every((m) => typeof m.energy_j === "number");
  const sum = (f) => models.reduce((total, m) => total + f(m), 0);
  return { c: hot.length ? Math.max(...hot) : null, j: known ? sum((m) => m.energy_j) / sum((m) => m.requests - m.failed) : null };
}

async function round() {
  try {
    const [health, data, rollouts] = await Promise.all([ask("v1/health"), ask("v1/fleet"), ask("v1/rollouts")]);
    taken(data);
    at("door").hidden = true;
    at("health").textContent = health.ok ? "works" : health.broker ? "the database does not answer" : "no broker";
    at("health").className = `pill ${health.ok ? "good" : "bad"}`;
    at("about").textContent = `${number(fleet.boards.length, 9)} boards, ${clock(fleet.now_s)}`;
    drawList();
    spread(at("spread-temperature"), "Hottest accelerator", "°C", fleet.boards.map((b) => b.temperature_c).filter((v) => v !== null), degrees);
    spread(at("spread-energy"), "Energy per answer", "J", fleet.boards.map((b) => b.energy_j).filter((v) => v !== null), joules);
    drawRollouts(rollouts);
    await drawBoard();
  } catch (error) {
    at("health").textContent = error instanceof Refused ? "locked" : `no answer: ${error.message}`;
    at("health").className = "pill warn";
    if (error instanceof Refused) {
      at("refused").textContent = token ? error.message : "";
      at("door").hidden = false;
    }
  }
}

at("door").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  sessionStorage.setItem("qeil-fleet-token", token);
  round();
});
at("search").addEventListener("input", drawList);
at("canvas").addEventListener("click", (event) => {
  const { across, size } = at("canvas").dataset, board = found[Math.floor(event.offsetY / size) * across + Math.floor(event.offsetX / size)];
  if (board) location.hash = `#board=${encodeURIComponent(board.key)}`;
});
window.addEventListener("hashchange", () => drawBoard().catch((error) => { at("one-title").textContent = error.message; }));
window.addEventListener("resize", drawMap);
(async () => {
  if (token) await round(); else at("door").hidden = false;
  for (;;) {
    await new Promise((resolve) => { setTimeout(resolve, PERIOD_MS); });
    if (token && !document.hidden) await round();
  }
})();
