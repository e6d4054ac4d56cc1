// Request: one inference from the page, with tensors as binary, and what the agent says that it cost.

import { ask, json } from "./link.js";
import { at, el, figure, joules, number, percent, show, table } from "./parts.js";

const ARRAYS = {
  BOOL: Uint8Array, UINT8: Uint8Array, INT8: Int8Array, UINT16: Uint16Array, INT16: Int16Array, FP16: Uint16Array,
  UINT32: Uint32Array, INT32: Int32Array, FP32: Float32Array, UINT64: BigUint64Array, INT64: BigInt64Array, FP64: Float64Array,
};
const MOST_ELEMENTS = 50_000_000;
const SHOWN = 6;

/** Keep the choices of the form in step with what the agent serves. */
export function offer({ models, accelerators }) {
  if (options(at("try-model"), models.map((m) => [m.name, m.name]))) shapes().catch(() => show(at("try-shapes")));
  options(at("try-placement"), [["", "as planned"], ...accelerators.map((a) => [a.name, `only ${a.name}`])]);
}

function options(box, rows) {
  if ([...box.options].map((o) => o.value).join("\n") === rows.map(([value]) => value).join("\n")) return false;
  const chosen = box.value;
  box.replaceChildren(...rows.map(([value, text]) => el("option", { value }, text)));
  if (rows.some(([value]) => value === chosen)) box.value = chosen;
  return true;
}

/** What stands for sizes that the model leaves open: images want more than one pixel. */
function closed(shape) {
  const image = shape.length === 4;
  return shape.map((size, axis) => (size >= 0 ? size : image && axis > 0 ? 320 : 1));
}

/** A field for every input whose shape is not fixed. */
async function shapes() {
  const model = at("try-model").value;
  if (!model) return;
  const { inputs } = await json(`v2/models/${encodeURIComponent(model)}`);
  const open = at("try-input").value === "own" ? [] : inputs.filter((input) => input.shape.some((size) => size < 0));
  show(at("try-shapes"), ...open.map((input) => el("p", {},
    el("label", { for: `shape-${input.name}` }, `Shape of ${input.name}`),
    el("input", { id: `shape-${input.name}`, size: 16, value: closed(input.shape).join(" × ") }))));
}

function shapeOf(input) {
  const field = at(`shape-${input.name}`);
  if (!field) return closed(input.shape);
  const shape = field.value.split(/[^0-9]+/).filter(Boolean).map(Number);
  if (shape.length !== input.shape.length) throw new Error(`the shape of ${input.name} has ${input.shape.length} sizes, for example ${closed(input.shape).join(" × ")}`);
  return shape;
}

function filled(input, how) {
  const shape = shapeOf(input);
  const count = shape.reduce((product, size) => product * size, 1);
  if (count > MOST_ELEMENTS) throw new Error(`input ${input.name} has ${count} elements, too many for this page`);
  const kind = ARRAYS[input.datatype];
  if (!kind) return { entry: { name: input.name, shape, datatype: input.datatype, data: Array(count).fill("hello") }, raw: null };
  const raw = new kind(count);
  if (how === "random") fill(raw, input.datatype);
  return { entry: { name: input.name, shape, datatype: input.datatype, parameters: { binary_data_size: raw.byteLength } }, raw };
}

function fill(raw, datatype) {
  const float = datatype === "FP32" || datatype === "FP64", big = datatype.endsWith("INT64");
  for (let i = 0; i < raw.length; i += 1) {
    const coin = Math.random();
    if (float) raw[i] = coin;
    else if (datatype === "FP16") raw[i] = 0x3800 + Math.floor(coin * 0x400);
    else raw[i] = big ? BigInt(Math.round(coin)) : Math.round(coin);
  }
}

async function body(model, how, placement) {
  const metadata = await json(`v2/models/${encodeURIComponent(model)}`);
  const parts = metadata.inputs.map((input) => filled(input, how));
  const parameters = placement ? { placement } : {};
  const header = new TextEncoder().encode(JSON.stringify({ inputs: parts.map((p) => p.entry), parameters }));
  const blob = new Blob([header, ...parts.filter((p) => p.raw).map((p) => p.raw)]);
  return { body: blob, headers: { "Inference-Header-Content-Length": String(header.length), "Content-Type": "application/octet-stream" } };
}

async function example(model) {
  const metadata = await json(`v2/models/${encodeURIComponent(model)}`);
  const inputs = metadata.inputs.map((input) => ({ name: input.name, shape: closed(input.shape), datatype: input.datatype, data: [] }));
  if (!at("try-own").value) at("try-own").value = JSON.stringify({ inputs }, null, 1);  // unless something was typed meanwhile
}

async function send() {
  const model = at("try-model").value, how = at("try-input").value, placement = at("try-placement").value;
  const request = how === "own" ? { body: at("try-own").value, headers: { "Content-Type": "application/json" } } : await body(model, how, placement);
  const begun = performance.now();
  const answer = await (await ask(`v2/models/${encodeURIComponent(model)}/infer`, { method: "POST", ...request })).json();
  return { answer, tookMs: performance.now() - begun };
}

function result({ answer, tookMs }) {
  const cost = answer.parameters;
  const share = cost.accelerated_fraction === null ? null : `${percent(cost.accelerated_fraction)} of the graph`;
  return [
    el("dl", { class: "figures" },
      figure("Ran on", cost.placement, [cost.provider, share].filter(Boolean).join(", ")),
      figure("Execution", `${number(cost.execute_ms)} ms`, `${number(tookMs)} ms with the page's own time`),
      figure("Energy", joules(cost.energy_j), cost.provenance)),
    table("Outputs", ["output", "type", "shape", "first values"], answer.outputs.map((o) => [
      o.name, o.datatype, o.shape.join(" × "), (o.data ?? []).slice(0, SHOWN).map((v) => (typeof v === "number" ? number(v, 4) : String(v))).join(" · ")])),
  ];
}

at("try-input").addEventListener("change", () => {
  const own = at("try-input").value === "own";
  at("try-own-field").hidden = !own;
  shapes().catch(() => show(at("try-shapes")));
  if (own && !at("try-own").value) example(at("try-model").value).catch(() => { at("try-own").value = ""; });
});
at("try-model").addEventListener("change", () => {
  at("try-own").value = "";
  shapes().catch(() => show(at("try-shapes")));
});
at("try-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  at("try-send").disabled = true;
  try {
    show(at("try-result"), ...result(await send()));
  } catch (error) {
    show(at("try-result"), el("p", { class: "bad" }, error.message));
  } finally {
    at("try-send").disabled = false;
  }
});
