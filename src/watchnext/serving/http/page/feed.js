// The feed: asks for slates, sends what the viewer does, and forms again after every outcome.

import { call, key, name, optional, random } from "./api.js";
import { card, outcomeOf } from "./card.js";
import { $, el } from "./elements.js";

const MOST = 100; // videos of one request
const MUTED_MOST = 200; // creators of one request
export const state = { viewer: null, items: [], slate: null, dials: {}, watched: [], muted: [], took_ms: 0, asking: null, listeners: [] };
const who = () => (state.viewer.session ? { session: state.viewer.session } : { user_id: state.viewer.user_id });
const changed = () => state.listeners.forEach((listener) => listener());

function busy(on) {
  $("cards").ariaBusy = String(on);
  document.querySelectorAll(".acts button, #more").forEach((button) => { button.disabled = on; });
}

// Runs an action; a failure is shown with a button that tries again. An aborted action shows nothing.
export async function attempt(action) {
  $("error").hidden = true;
  busy(true);
  try {
    await action();
  } catch (error) {
    if (error.name === "AbortError") return;
    $("key").hidden = error.status !== 401;
    $("error").hidden = error.status === 401;
    $("error").firstElementChild.textContent = error.message;
    $("error").lastElementChild.onclick = () => attempt(action);
  }
  busy(false);
}

async function ask(fields) {
  state.asking?.abort(); // a later request replaces an earlier one
  state.asking = new AbortController();
  const given = { surface: $("surface").value || null, region: $("region").value || null, mode: $("mode").value };
  const began = performance.now();
  const slate = await call("v1/recommend", { body: { ...who(), ...given, dials: state.dials, muted: state.muted, explain: true, preview: true, ...fields }, signal: state.asking.signal });
  state.took_ms = performance.now() - began;
  return slate;
}

export async function recommend({ again = false } = {}) {
  const shown = again ? state.items.length : 0;
  const slate = await ask({ k: Math.min(Math.max(shown, Number($("k").value)), MOST) });
  const before = again ? new Map(state.items.map((item, index) => [key(item.video_id), index])) : null;
  Object.assign(state, { items: slate.items.map((item) => ({ ...item, request_id: slate.request_id })), slate });
  draw(before);
  drawChanges(before);
  changed();
}

export async function loadMore() {
  const from = state.items.length;
  const slate = await ask({ k: Number($("k").value), page_token: state.slate.page_token });
  state.items.push(...slate.items.map((item) => ({ ...item, request_id: slate.request_id })));
  state.slate = { ...slate, items: state.items };
  $("cards").append(...state.items.slice(from).map((item, index) => cardOf(item, from + index, null)));
  drawMore();
  $("changes").textContent = slate.items.length ? `${slate.items.length} more` : "No more videos are left.";
  $("cards").children[from]?.querySelector("button")?.focus({ preventScroll: true });
  changed();
}

export async function send(item, action) {
  const event = { type: "outcome", ...who(), video_id: item.video_id, request_id: item.request_id ?? null, surface: $("surface").value || null,
    ...outcomeOf(action, item.video), key: random() };
  const place = [...$("cards").children].findIndex((line) => line.dataset.key === key(item.video_id));
  let sent = false; // trying again after a failed answer must not send a second event; a repeated key would count once anyway
  await attempt(async () => {
    if (!sent) await call("v1/events", { body: { events: [event] } });
    if (!sent) state.watched.unshift({ ...item.video, ...event });
    sent = true;
    await recommend({ again: true });
  });
  if (place >= 0) $("cards").children[Math.min(place, $("cards").children.length - 1)]?.querySelector(`[data-action=${action}]`)?.focus({ preventScroll: true });
}

// Asks for no video of the creators in `muted` from now on. The server keeps none of them.
export const mute = (muted) => {
  state.muted = muted.slice(-MUTED_MOST);
  return attempt(() => recommend({ again: true }));
};

// Returns the last watches, latest first: of a listed viewer from the server, of a new one those made on this page.
export async function history() {
  if (state.viewer.session) return state.watched;
  const kept = await optional(`v1/viewers/${encodeURIComponent(name(state.viewer.user_id))}/history?limit=30`);
  return kept?.history ?? state.watched;
}

export const actions = { why: () => {}, similar: () => {} }; // set by found.js
export const cardOf = (item, index, mark) => card(item, { place: index == null ? null : index + 1, mark, act: (action) => send(item, action),
  why: () => actions.why(item), similar: () => actions.similar(item),
  mute: item.video?.creator_id != null && (() => mute([...state.muted, item.video.creator_id])) });

function markOf(item, index, before) {
  const was = before?.get(key(item.video_id));
  if (!before || was === index) return null;
  return was === undefined ? ["new", "New"] : was > index ? ["up", `▲ ${was - index}`] : null;
}

const drawMore = () => { $("more").hidden = !state.slate.page_token || state.items.length >= MOST; };

// FLIP: each card starts where it stood and slides to its new place; a new one fades in.
function draw(before) {
  const stood = new Map([...$("cards").children].map((line) => [line.dataset.key, line.getBoundingClientRect()]));
  $("cards").replaceChildren(...state.items.map((item, index) => cardOf(item, index, markOf(item, index, before))));
  $("empty").hidden = state.items.length > 0;
  $("empty").textContent = "No videos are left: this viewer has seen them, or a rule removed them.";
  drawMore();
  if (!before || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const line of $("cards").children) {
    const old = stood.get(line.dataset.key), now = line.getBoundingClientRect();
    const from = old ? { transform: `translate(${old.x - now.x}px, ${old.y - now.y}px)` } : { opacity: 0, transform: "scale(.96)" };
    line.animate([from, { opacity: 1, transform: "none" }], { duration: 320, easing: "cubic-bezier(.2, .7, .2, 1)" });
  }
}

function drawChanges(before) {
  const marks = state.items.map((item, index) => markOf(item, index, before)?.[0]);
  const counted = [["new", "new"], ["up", "moved up"]].map(([cls, words]) => [cls, words, marks.filter((mark) => mark === cls).length]);
  const chips = counted.filter(([, , n]) => n).map(([cls, words, n]) => el("span", { cls: `chip ${cls}`, text: `${n} ${words}` }));
  const degraded = state.slate.degraded_why.map(({ text }) => el("span", { cls: "chip bad", text }));
  const muted = state.muted.map((creator) => el("button", { type: "button", cls: "chip", title: "Show this creator again", text: `Muted: ${creator} ✕`,
    on: { click: () => mute(state.muted.filter((each) => each !== creator)) } }));
  $("changes").replaceChildren(...chips, ...degraded, ...(before && !chips.length ? ["Nothing moved"] : []), ...muted);
}
