// The demo page: gets a slate from the API, shows its explanations, and sends outcomes. No framework, nothing from other sites.

const $ = (id) => document.getElementById(id);
const ACTIONS = {
  Watch: (length) => ({ watch_ms: length, click: true, long_view: true, like: false }),
  Skip: () => ({ watch_ms: 800, click: false, long_view: false, like: false }),
  Like: (length) => ({ watch_ms: length, click: true, long_view: true, like: true }),
  Hide: () => ({ watch_ms: 0, click: false, long_view: false, like: false, hide: true }),
};
const SOURCES = { two_tower: "taste", trending: "what trends here", fresh: "new uploads", related: "videos watched together",
  transitions: "videos watched next", followed: "creators you follow or like", continue: "videos you left midway",
  popular: "popular all along", popular_recently: "popular lately", popular_now: "popular now", again: "what you have seen" };
const UNKNOWN_LENGTH_MS = 30_000;
const state = { viewers: [], shown: null, asking: null };

// Ids are sent back exactly as received: an int64 above 2^53 keeps its digits where the browser supports JSON.rawJSON.
const keepDigits = (_, value, context) =>
  Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source && JSON.rawJSON ? JSON.rawJSON(context.source) : value;
const parse = (text) => JSON.parse(text, keepDigits);
const name = (id) => id?.rawJSON ?? String(id ?? "none");
const key = (id) => JSON.stringify(id);

function el(tag, { cls, text, vars, on, ...rest } = {}, ...children) {
  const node = Object.assign(document.createElement(tag), rest);
  if (cls) node.className = cls;
  if (text !== undefined) node.textContent = text; // text only: a title is never read as HTML
  for (const [variable, value] of Object.entries(vars ?? {})) node.style.setProperty(variable, value);
  for (const [event, handler] of Object.entries(on ?? {})) node.addEventListener(event, handler);
  node.append(...children.filter(Boolean));
  return node;
}

async function call(path, { body, signal } = {}) {
  const options = body ? { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal } : { signal };
  const answer = await fetch(path, options).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("the server does not answer");
  });
  const text = await answer.text();
  let content = null;
  try { content = parse(text); } catch { /* an error page of a proxy */ }
  if (answer.ok && content) return content;
  const detail = content?.detail ?? content?.error ?? (text.slice(0, 200) || answer.statusText);
  const wait = answer.headers.get("Retry-After");
  throw new Error(`${answer.status}: ${typeof detail === "string" ? detail : JSON.stringify(detail)}${wait ? ` (retry after ${wait} s)` : ""}`);
}

const seconds = (ms) => (ms == null ? "?" : ms < 60_000 ? `${Math.round(ms / 1000)} s` : `${Math.floor(ms / 60_000)}:${String(Math.floor(ms / 1000) % 60).padStart(2, "0")}`);
const age = (hours) => (hours == null ? "" : hours < 48 ? `${Math.round(hours)} h old` : `${Math.round(hours / 24)} d old`);
const percent = (share) => `${(100 * Math.min(1, Math.max(0, share || 0))).toFixed(1)}%`;
const hue = (tag) => [...String(tag ?? "")].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 3600, 7) * 137 % 360;

function chosenViewer() {
  const typed = $("other").value.trim();
  if (!typed) return state.viewers[$("viewer").value]?.user_id;
  const listed = state.viewers.find((viewer) => name(viewer.user_id) === typed);
  if (listed) return listed.user_id;
  const strings = typeof state.viewers[0]?.user_id === "string"; // one kind of id a data set
  return !strings && /^(0|-?[1-9]\d{0,18})$/.test(typed) ? parse(typed) : typed;
}

function bars({ click, long_view, like, watch_s } = {}, length) {
  const row = (label, share, value) => [
    el("span", { text: label }), el("div", { cls: "bar" }, el("i", { vars: { "--share": percent(share) } })), el("span", { text: value })];
  const chance = (label, p) => (p == null ? [] : row(label, p, percent(p)));
  const watched = watch_s == null ? [] : row("watch", (1000 * watch_s) / (length ?? UNKNOWN_LENGTH_MS), `${watch_s.toFixed(1)} s`);
  return el("div", { cls: "heads" }, ...chance("click", click), ...chance("long view", long_view), ...chance("like", like), ...watched);
}

const chips = (texts, cls = "") => el("div", { cls: "chips" }, ...texts.map((text) => el("span", { cls: `chip ${cls}`, text })));

function card(item, index, before) {
  const { title, creator_id, tags, duration_ms, age_h } = item.video ?? {};
  const label = title ?? `Video ${name(item.video_id)}`;
  const was = before?.get(key(item.video_id));
  const mark = !before ? null : was === undefined ? ["new", "new"] : was > index ? ["up", `▲ ${was - index}`] : null;
  const act = (action) => el("button", { type: "button", text: action, ariaLabel: `${action}: ${label}`, on: { click: () => send(item, action) } });
  const thumb = el("div", { cls: "thumb" }, el("div", { text: tags?.[0] ?? "·" }), el("span", { cls: "place", text: `${index + 1}` }),
    duration_ms && el("span", { cls: "length", text: seconds(duration_ms) }), mark && el("span", { cls: `mark ${mark[0]}`, text: mark[1] }));
  const facts = [creator_id != null && `by ${name(creator_id)}`, age(age_h), Number.isFinite(item.score) && `value ${item.score.toFixed(3)}`];
  const body = el("div", { cls: "body" }, el("h3", { text: label }), el("p", { cls: "soft", text: facts.filter(Boolean).join(" · ") }),
    tags?.length && chips(tags), item.reasons?.length && el("p", { cls: "why", text: item.reasons.join(" · ") }),
    bars(item.predictions ?? {}, duration_ms), item.sources?.length && el("p", { cls: "soft", text: `from ${item.sources.map((source) => SOURCES[source] ?? source).join(", ")}` }));
  const article = el("article", { cls: `card ${mark?.[0] ?? ""}`, vars: { "--hue": hue(tags?.[0]) } }, thumb, body,
    el("div", { cls: "acts" }, ...Object.keys(ACTIONS).map(act)));
  const line = el("li", {}, article);
  line.dataset.key = key(item.video_id);
  return line;
}

function drawChanges(before, items) {
  const now = new Map(items.map((item, index) => [key(item.video_id), index]));
  const count = (test) => items.filter((item, index) => test(before.get(key(item.video_id)), index)).length;
  const gone = [...before.keys()].filter((id) => !now.has(id)).map((id) => id.replace(/^"|"$/g, ""));
  const marks = [["new", count((was) => was === undefined)], ["up", count((was, index) => was > index)]].filter(([, n]) => n);
  const words = { new: "new", up: "moved up" };
  $("changes").replaceChildren(...marks.map(([cls, n]) => el("span", { cls: `chip ${cls}`, text: `${n} ${words[cls]}` })),
    gone.length ? "gone:" : "", ...gone.slice(0, 8).map((text) => el("span", { cls: "chip gone", text })), gone.length > 8 ? `and ${gone.length - 8} more` : "");
}

// FLIP: each card starts at its old position and slides to the new one; a new card fades in.
function drawCards(items, before) {
  const stood = new Map([...$("cards").children].map((line) => [line.dataset.key, line.getBoundingClientRect()]));
  $("cards").replaceChildren(...items.map((item, index) => card(item, index, before)));
  if (!before || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const line of $("cards").children) {
    const [old, now] = [stood.get(line.dataset.key), line.getBoundingClientRect()];
    const start = old ? { transform: `translate(${old.x - now.x}px, ${old.y - now.y}px)` } : { opacity: 0, transform: "scale(.85)" };
    line.animate([start, { opacity: 1, transform: "none" }], { duration: 450, easing: "cubic-bezier(.2, .8, .2, 1)" });
  }
}

function drawFunnel({ retrieved, ranked, slate } = {}, removed = {}) {
  const most = Math.max(retrieved ?? 0, ranked ?? 0, slate ?? 0, 1);
  const bar = (count) => el("i", { vars: { "--share": percent(count / most) } });
  const stage = (label, count, cls = "") => count != null && el("li", { cls: `stage ${cls}` }, bar(count), `${count} ${label}`);
  const taken = Object.entries(removed).filter(([, count]) => count).sort((a, b) => b[1] - a[1]);
  $("funnel").replaceChildren(...[stage("retrieved", retrieved), stage("ranked", ranked),
    ...taken.map(([rule, count]) => el("li", { cls: "removed" }, bar(count), ` −${count} ${rule.replaceAll("_", " ")}`)),
    stage("in the slate", slate, "last")].filter(Boolean));
}

function drawHistory(history) {
  const tile = ({ video_id, tags, watch_ms, long_view }) => el("li", {},
    el("div", { cls: "thumb", text: tags?.[0] ?? "·", vars: { "--hue": hue(tags?.[0]) } }), el("div", { text: name(video_id) }),
    el("div", { cls: long_view ? "long" : "", text: `${seconds(watch_ms)}${long_view ? " · long" : ""}` }));
  $("history").replaceChildren(...(history.length ? history.map(tile) : [el("li", { text: "Nothing yet." })]));
}

function drawStatus(slate, took) {
  const steps = Object.entries(slate.timings_ms ?? {}).map(([step, ms]) => `${step} ${Number(ms).toFixed(1)}`).join(", ");
  const reason = typeof slate.degraded === "boolean" ? "" : `: ${[slate.degraded].flat().join(", ")}`;
  const degraded = Array.isArray(slate.degraded) ? slate.degraded.length : slate.degraded;
  $("status").replaceChildren(`release ${slate.release} · ${slate.items.length} videos in ${took.toFixed(0)} ms`, steps && ` (server ms: ${steps})`,
    slate.as_of_ms != null ? ` · as of ${new Date(slate.as_of_ms).toISOString().slice(0, 19).replace("T", " ")} UTC` : "",
    degraded ? el("span", { cls: "degraded", text: ` · degraded${reason}` }) : "");
}

function drawSlate(slate, user_id, took) {
  const same = state.shown && key(state.shown.user_id) === key(user_id);
  const before = same ? new Map(state.shown.items.map((item, index) => [key(item.video_id), index])) : null;
  state.shown = { user_id, items: slate.items, request_id: slate.request_id };
  $("slate-title").textContent = `Watch next for ${name(user_id)}`;
  drawCards(slate.items, before);
  if (before) drawChanges(before, slate.items);
  else $("changes").replaceChildren();
  $("empty").hidden = slate.items.length > 0;
  $("empty").textContent = "No videos are left: every candidate was seen or removed by a rule.";
  drawFunnel(slate.funnel, slate.removed);
  drawStatus(slate, took);
}

function busy(on) {
  $("cards").ariaBusy = String(on);
  document.querySelectorAll(".acts button").forEach((button) => { button.disabled = on; });
}

// Runs an action; a failure is shown with a button to retry it. An aborted action shows nothing.
async function attempt(action) {
  $("error").hidden = true;
  busy(true);
  try {
    await action();
  } catch (error) {
    if (error.name === "AbortError") return;
    $("error").hidden = false;
    $("error").firstElementChild.textContent = error.message;
    $("error").lastElementChild.onclick = () => attempt(action);
    $("status").textContent = "The request failed.";
  }
  busy(false);
}

async function recommend() {
  state.asking?.abort(); // a later request replaces an earlier one
  state.asking = new AbortController();
  const { signal } = state.asking;
  const user_id = chosenViewer();
  if (user_id === undefined) throw new Error("choose a viewer, or type the id of one");
  const began = performance.now();
  const slate = await call("v1/recommend", { body: { user_id, k: $("k").valueAsNumber, mode: $("mode").value }, signal });
  drawSlate(slate, user_id, performance.now() - began);
  try {
    drawHistory((await call(`v1/viewers/${encodeURIComponent(name(user_id))}/history?limit=10`, { signal })).history);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    $("history").replaceChildren(el("li", { text: `Not available: ${error.message}` })); // the slate is shown without it
  }
}

async function send(item, action) {
  const { user_id, request_id } = state.shown;
  const unique = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const seen = ACTIONS[action](item.video?.duration_ms ?? UNKNOWN_LENGTH_MS);
  const event = { type: "outcome", request_id, user_id, video_id: item.video_id, ...seen, key: unique };
  let sent = false; // retrying after a failed reload must not send a second event; a repeated key would count once anyway
  await attempt(async () => {
    if (!sent) await call("v1/events", { body: { events: [event] } });
    sent = true;
    await recommend();
  });
  $("slate").focus({ preventScroll: true }); // the button that had the focus is gone
}

async function start() {
  const { viewers, release } = await call("v1/viewers?limit=50");
  state.viewers = viewers;
  const option = ({ user_id, watches }, index) => el("option", { value: index, text: `${name(user_id)} (${watches} watches)` });
  if (viewers.length) $("viewer").replaceChildren(...viewers.map(option));
  $("status").textContent = `release ${release} · ${viewers.length} viewers`;
  if (viewers.length) return recommend();
  $("empty").hidden = false;
  $("empty").textContent = "No viewer has watched anything yet. Type any id above: unknown viewers get a slate too.";
}

$("ask").addEventListener("submit", (event) => { event.preventDefault(); attempt(recommend); });
$("viewer").addEventListener("change", () => { $("other").value = ""; attempt(recommend); });
attempt(start);
