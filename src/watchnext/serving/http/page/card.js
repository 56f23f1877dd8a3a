// A card: picture, title, the reason, and what a viewer may do with the video.

import { key, name } from "./api.js";
import { ago, el, icon, length, titleOf } from "./elements.js";
import { thumbnail } from "./thumbnail.js";

const UNKNOWN_LENGTH_MS = 30_000;
// What is sent of the viewer: a like is of a video watched to its end, a skip of one left within a second.
export const ACTIONS = {
  watch: { label: "Watch", says: "Watched to the end", outcome: (length) => ({ watch_ms: length, click: true, long_view: true }) },
  half: { label: "Half", says: "Left halfway", outcome: (length) => ({ watch_ms: Math.round(length / 2), click: true }) },
  skip: { label: "Skip", says: "Skipped within a second", outcome: () => ({ watch_ms: 800 }) },
  like: { label: "Like", says: "Watched to the end and liked", outcome: (length) => ({ watch_ms: length, click: true, long_view: true, like: true }) },
  hide: { label: "Hide", says: "Hidden unwatched", outcome: () => ({ watch_ms: 0, hide: true }) },
};
export const outcomeOf = (action, video) => ACTIONS[action].outcome(Math.min(Math.round(video?.duration_ms ?? UNKNOWN_LENGTH_MS), 86_400_000));

export function titleLine(item, tag = "h2") {
  const title = titleOf(item, name), url = item.video?.url;
  const link = url && /^https?:\/\//.test(url) && el("a", { href: url, target: "_blank", rel: "noopener noreferrer", text: title, title: "Opens where the video is" });
  return el(tag, { cls: "title" }, link || title);
}

export const chips = (texts) => el("p", { cls: "chips" }, texts.map((text) => el("span", { cls: "chip", text })));

export function facts({ creator_id, age_h, tags } = {}) {
  const line = [creator_id != null && `Creator ${creator_id}`, ago(age_h)].filter(Boolean).join(" · ");
  return [line && el("p", { cls: "soft facts", text: line }), tags?.length > 0 && chips(tags.slice(0, 4))];
}

// `act(action)`, `why()`, `similar()` and `mute()`, if given, are called on a click; `mark` is [class, text] of what changed, or null.
export function card(item, { place, mark, act, why, similar, mute }) {
  const title = titleOf(item, name), { video } = item;
  const picture = thumbnail(name(item.video_id), video, place && el("span", { cls: "place", text: place }),
    video?.duration_ms && el("span", { cls: "length", text: length(video.duration_ms) }), mark && el("span", { cls: `mark ${mark[0]}`, text: mark[1] }));
  const action = (id) => el("button", { type: "button", cls: id, title: ACTIONS[id].says, ariaLabel: `${ACTIONS[id].label}: ${title}`, data: { action: id }, on: { click: () => act(id) } },
    icon(id), el("span", { text: ACTIONS[id].label }));
  const reason = item.reasons?.[0];
  const more = el("div", { cls: "more" },
    el("button", { type: "button", cls: "reason", ariaLabel: `Why: ${title}`, data: { action: "why" }, on: { click: why } }, icon("why"), el("span", { text: reason ?? "Why not in the feed?" }), item.reasons?.length > 1 && el("span", { cls: "soft", text: `+${item.reasons.length - 1}` })),
    el("button", { type: "button", cls: "similar", ariaLabel: `Similar videos: ${title}`, data: { action: "similar" }, on: { click: similar }, text: "Similar" }),
    mute && el("button", { type: "button", cls: "similar", title: "No videos of this creator", ariaLabel: `Mute the creator of ${title}`, data: { action: "mute" }, on: { click: mute }, text: "Mute" }));
  const article = el("article", { cls: `card ${mark?.[0] ?? ""}` }, picture,
    el("div", { cls: "body" }, titleLine(item), facts(video), more),
    el("div", { cls: "acts", role: "group", ariaLabel: "What the viewer does" }, Object.keys(ACTIONS).map(action)));
  return el("li", { data: { key: key(item.video_id) } }, article);
}
