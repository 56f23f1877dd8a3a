// Elements, and numbers and words as people read them. Text is set as text: a title is never read as HTML.

export const $ = (id) => document.getElementById(id);

export function el(tag, { cls, text, vars, on, data, ...rest } = {}, ...children) {
  const node = Object.assign(document.createElement(tag), rest);
  if (cls) node.className = cls;
  if (text !== undefined) node.textContent = text;
  Object.assign(node.dataset, data ?? {});
  for (const [variable, value] of Object.entries(vars ?? {})) node.style.setProperty(variable, value);
  for (const [event, handler] of Object.entries(on ?? {})) node.addEventListener(event, handler);
  node.append(...children.flat(Infinity).filter((child) => child || child === 0));
  return node;
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  node.append(...children);
  return node;
}

export const icon = (id) => svg("svg", { class: "icon", "aria-hidden": "true", viewBox: "0 0 24 24" }, svg("use", { href: `#i-${id}` }));

export const SOURCES = { two_tower: "taste", trending: "what trends here", fresh: "new uploads", related: "videos watched together",
  transitions: "videos watched next", followed: "creators you watch", continue: "videos you left midway",
  popular: "popular all along", popular_recently: "popular lately", popular_now: "popular now", again: "what you have seen" };
export const RULES = { unavailable: "withdrawn", safety: "not safe enough", region: "not allowed in this region", seen: "seen before",
  duplicate: "copies of another", creator_cap: "too many of one creator", tag_cap: "too many of one tag" };
export const TARGETS = { click: "click", long_view: "long view", like: "like", watch_s: "watch time" };
export const source = (each) => SOURCES[each] ?? each.replaceAll("_", " ");
export const rule = (each) => RULES[each] ?? each.replaceAll("_", " ");

export const count = (number) => Number(number).toLocaleString("en");
export const percent = (share) => `${(100 * Math.min(1, Math.max(0, share || 0))).toFixed(1)}%`;
export const milliseconds = (ms) => (ms == null ? "" : ms < 10 ? `${Number(ms).toFixed(1)} ms` : `${Math.round(ms)} ms`);
export const length = (ms) => {
  if (ms == null) return "";
  const seconds = Math.round(ms / 1000);
  const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, String(seconds % 60).padStart(2, "0")];
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
};
export const ago = (hours) => {
  if (hours == null) return "";
  const [number, unit] = hours < 1 ? [Math.max(1, hours * 60), "minute"] : hours < 48 ? [hours, "hour"] : hours < 24 * 60 ? [hours / 24, "day"]
    : hours < 24 * 730 ? [hours / 730, "month"] : [hours / 8766, "year"];
  return `${Math.round(number)} ${unit}${Math.round(number) === 1 ? "" : "s"} ago`;
};
export const moment = (ms) => `${new Date(ms).toISOString().slice(0, 16).replace("T", " ")} UTC`;

export const titleOf = ({ video_id, video }, name) => {
  if (video?.title) return video.title;
  const parts = [video?.creator_id != null && `Creator ${video.creator_id}`, video?.tags?.[0], length(video?.duration_ms)].filter(Boolean);
  return parts.length > 1 ? parts.join(" · ") : `Video ${name(video_id)}`;
};

// A bar with a label before it and a value behind it.
export const bar = (label, share, value, cls = "") => [
  el("span", { text: label }), el("span", { cls: `bar ${cls}` }, el("i", { vars: { "--share": percent(share) } })), el("span", { cls: "number", text: value })];
