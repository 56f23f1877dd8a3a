// Search, similar videos, and the reason for a video: why it is in the feed, or why not.

import { call, key, name, optional } from "./api.js";
import { facts, titleLine } from "./card.js";
import { $, bar, el, length, percent, rule, source, TARGETS } from "./elements.js";
import { actions, attempt, cardOf, state } from "./feed.js";
import { thumbnail } from "./thumbnail.js";

// ---- lists beside the feed ----

function show(title, items, nothing) {
  $("found-title").textContent = title;
  $("results").replaceChildren(...items.map((item) => cardOf(item, null, null)));
  $("nothing").hidden = items.length > 0;
  $("nothing").textContent = nothing;
  [$("feed").hidden, $("found").hidden] = [true, false];
  document.body.dataset.view = "feed";
  scrollTo(0, 0);
  $("found").focus({ preventScroll: true });
}

export async function search(query) {
  const region = $("region").value ? `&region=${encodeURIComponent($("region").value)}` : "";
  const { items } = await call(`v1/videos?limit=24&query=${encodeURIComponent(query)}${region}`);
  show(`Videos with “${query}”`, items, "No video that may be shown has all of these words in its id, title, creator or tags.");
}

export async function similar(item) {
  $("why").close();
  const { items } = await call("v1/similar", { body: { seed_video_id: item.video_id, k: 24, region: $("region").value || null } });
  show(`Similar to “${titleLine(item).textContent}”`, items, "No similar video may be shown.");
}

export const showFeed = () => { [$("feed").hidden, $("found").hidden] = [false, true]; };

export function back() {
  showFeed();
  $("feed").focus({ preventScroll: true });
}

// ---- why, and why not ----

function predictions({ click, long_view, like, watch_s } = {}, duration_ms) {
  const chances = { click, long_view, like };
  const rows = Object.entries(chances).filter(([, chance]) => chance != null).map(([target, chance]) => bar(TARGETS[target], chance, percent(chance)));
  if (watch_s != null) rows.push(bar(TARGETS.watch_s, (1000 * watch_s) / (duration_ms ?? 30_000), `${watch_s.toFixed(1)} s`));
  return rows.length ? [el("h3", { text: "What the ranker expects of an impression" }), el("div", { cls: "rows" }, rows)] : [];
}

function way(traced) {
  const ranks = Object.entries(traced.sources ?? {}).map(([each, rank]) => el("li", {}, el("b", { text: `#${rank}` }), ` of ${source(each)}`));
  const steps = [traced.merge_rank && `#${traced.merge_rank} of all candidates before ranking`, traced.value_rank && `#${traced.value_rank} by value`,
    traced.position && `#${traced.position} in the feed`, traced.rule && traced.end !== "shown" && `kept out: ${rule(traced.rule)}`];
  return [el("h3", { text: "Its way through the funnel" }), el("ul", { cls: "way" }, ranks, steps.filter(Boolean).map((step) => el("li", { text: step })))];
}

async function traceOf(item) {
  const request_id = item.request_id ?? state.slate?.request_id;
  if (!request_id) return null;
  return optional(`v1/trace/${encodeURIComponent(request_id)}?video_id=${encodeURIComponent(name(item.video_id))}`);
}

async function explain(item) {
  const traced = (await traceOf(item))?.video;
  const inFeed = state.items.some((each) => key(each.video_id) === key(item.video_id));
  const heading = inFeed ? "Why this video" : "Why not in the feed";
  const reasons = item.reasons?.length ? el("ul", { cls: "reasons" }, item.reasons.map((reason) => el("li", { text: reason }))) : null;
  const verdict = !inFeed && el("p", { cls: "verdict", text: traced?.text ? `${traced.text[0].toUpperCase()}${traced.text.slice(1)}.` : "The server no longer keeps the request of this feed." });
  const made = item.sources?.length && !traced?.merge_rank ? el("p", { cls: "soft", text: `Proposed by ${item.sources.map(source).join(", ")}` }) : null;
  const value = Number.isFinite(item.score) && inFeed ? el("p", { cls: "soft", text: `Value ${item.score.toFixed(3)}` }) : null;
  const video = item.video ?? {};
  $("why-body").replaceChildren(
    thumbnail(name(item.video_id), video, video.duration_ms && el("span", { cls: "length", text: length(video.duration_ms) })),
    el("div", { cls: "body" }, el("p", { cls: "over", id: "why-title", text: heading }), titleLine(item), ...facts(video),
      ...[reasons, verdict, made, value].filter(Boolean), ...predictions(traced?.predictions ?? item.predictions, video.duration_ms),
      ...(traced?.merge_rank ? way(traced) : []), el("p", { cls: "soft", text: `Video ${name(item.video_id)}` }),
      el("button", { type: "button", text: "Similar videos", on: { click: () => attempt(() => similar(item)) } })));
  $("why").showModal();
}

actions.why = (item) => attempt(() => explain(item));
actions.similar = (item) => attempt(() => similar(item));

// Describes a video by its id, and says why it is or is not in the feed.
export async function askAbout(id) {
  const known = state.items.find((item) => name(item.video_id) === id);
  await explain(known ?? (await call(`v1/videos/${encodeURIComponent(id)}`)));
}
