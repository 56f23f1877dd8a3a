// Dials: settings of the re-ranking for the requests of this page, which start where the release has them.

import { $, el, TARGETS } from "./elements.js";
import { attempt, recommend, state } from "./feed.js";

const WAIT_MS = 180; // a dragged dial asks once it rests
let parameters = null, resting = 0;

function act() {
  const inputs = [...$("values").querySelectorAll("input")];
  const of = (name) => inputs.find((input) => input.name === name)?.valueAsNumber;
  const weights = Object.fromEntries(Object.keys(TARGETS).map((target) => [target, of(target)]));
  const weighed = Object.values(weights).some(Boolean);
  $("formula").textContent = weighed ? sentence(weights, of("engage")) : "Give at least one outcome a weight.";
  for (const input of inputs) input.nextElementSibling.textContent = input.valueAsNumber.toFixed(2);
  clearTimeout(resting);
  if (!weighed) return;
  state.dials = { weights, diversity: of("diversity"), engage: of("engage") };
  resting = setTimeout(() => attempt(() => recommend({ again: true })), WAIT_MS);
}

function sentence(weights, engage) {
  const terms = Object.entries(weights).filter(([, weight]) => weight).map(([target, weight]) => `${weight} × ${TARGETS[target]}`);
  return `A video is worth ${terms.join(" + ")}${engage ? `, times how likely it is watched at all, to the power ${engage}` : ""}.`;
}

function dial(name, label, says, value, most) {
  return el("label", { title: says }, el("span", { text: label }), el("input", { type: "range", name, min: 0, max: Math.max(most, value), step: 0.05, value, on: { input: act } }), el("output", { text: value.toFixed(2) }));
}

export function drawDials(given) {
  parameters = given;
  const { weights, engage } = parameters.value;
  $("values").replaceChildren(...Object.entries(TARGETS).map(([target, label]) => dial(target, label, `Weight of the predicted ${label}`, weights[target] ?? 0, 2)),
    dial("diversity", "diversity", "0 is value alone; 1 is unlike the videos above alone", parameters.diversity.dial, 1),
    ...(engage === null ? [] : [dial("engage", "engage", "Power of how likely a watch is; 0 leaves it out", engage, 2)]));
  $("formula").textContent = sentence(weights, engage);
}

export function reset() {
  drawDials(parameters);
  state.dials = {};
  attempt(() => recommend({ again: true }));
}
