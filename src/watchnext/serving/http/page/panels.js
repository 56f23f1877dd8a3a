// What stands behind the feed: the funnel with counts and time, what was watched before, and the state of the server.

import { call, name, optional } from "./api.js";
import { $, ago, bar, count, el, length, milliseconds, moment, percent, rule, source, titleOf } from "./elements.js";
import { history, state } from "./feed.js";
import { thumbnail } from "./thumbnail.js";

const STAGES = { state: "Viewer read", retrieval: "Retrieved", ranking: "Ranked", reranking: "Re-ranked", answer: "Answered" };

export function drawFunnel() {
  const { slate } = state;
  if (!slate) return;
  const { stages, sources, removed } = slate.trace ?? { stages: [], sources: {}, removed: slate.removed };
  const most = Math.max(...stages.map((stage) => stage.count ?? 0), 1);
  const line = ({ name, count: videos, ms }) => el("li", { cls: videos == null ? "stage quiet" : "stage" },
    el("span", { cls: "label", text: STAGES[name] ?? name }), el("span", { cls: "number", text: videos == null ? "" : count(videos) }),
    el("span", { cls: "number soft", text: milliseconds(ms) }), videos != null && el("i", { vars: { "--share": percent(videos / most) } }));
  const out = Object.entries(removed).filter(([, videos]) => videos).sort((a, b) => b[1] - a[1]);
  const taken = out.map(([each, videos]) => el("li", { cls: "taken" }, el("span", { cls: "label", text: rule(each) }), el("span", { cls: "number", text: `−${count(videos)}` })));
  const at = stages.findIndex((stage) => stage.name === "reranking");
  const total = stages.reduce((sum, stage) => sum + stage.ms, 0);
  $("stages").replaceChildren(...stages.slice(0, Math.max(at, 0)).map(line), ...taken, ...stages.slice(Math.max(at, 0)).map(line),
    el("li", { cls: "total soft", text: `${milliseconds(total)} in the server, ${milliseconds(state.took_ms)} until it was here` }));
  const named = Object.entries(sources).sort((a, b) => b[1] - a[1]), largest = Math.max(...named.map(([, videos]) => videos), 1);
  $("sources").replaceChildren(...named.flatMap(([each, videos]) => bar(source(each), videos / largest, count(videos))));
}

export async function drawHistory() {
  const viewer = state.viewer;
  $("past-title").textContent = viewer.session ? "Watched as a new viewer" : `Watched before by ${name(viewer.user_id)}`;
  const watches = await history();
  if (viewer !== state.viewer) return; // another was chosen meanwhile
  const outcome = ({ watch_ms, duration_ms, like, hide, follow }) => [hide ? "hidden" : `${length(watch_ms)}${duration_ms ? ` of ${length(duration_ms)}` : ""}`,
    like && "liked", follow && "followed"].filter(Boolean).join(" · ");
  const when = ({ ago_s }) => (ago_s == null ? "" : ago(ago_s / 3600));
  const line = (watch) => el("li", {}, thumbnail(name(watch.video_id), watch), el("div", {}, el("b", { text: titleOf({ video_id: watch.video_id, video: watch }, name) }),
    el("span", { cls: "soft", text: [outcome(watch), when(watch)].filter(Boolean).join(" · ") }),
    el("span", { cls: "bar" }, el("i", { vars: { "--share": percent(watch.duration_ms ? watch.watch_ms / watch.duration_ms : 0) } }))));
  $("history").replaceChildren(...(watches.length ? watches.map(line) : [el("li", { cls: "soft", text: "Nothing yet." })]));
}

// Sums the samples of one metric in Prometheus's text format, of the labels that `labels` names.
function sum(text, metric, labels = "") {
  const lines = text.split("\n").filter((line) => line.startsWith(`${metric}{`) || line.startsWith(`${metric} `));
  return lines.filter((line) => line.includes(labels)).reduce((total, line) => total + Number(line.slice(line.lastIndexOf(" "))), 0);
}

function quantile(text, metric, labels, share) {
  const total = sum(text, `${metric}_count`, labels);
  const buckets = [...text.matchAll(new RegExp(`^${metric}_bucket\\{(.*)le="([^"]+)"(.*)\\} (.*)$`, "gm"))].filter(([line]) => line.includes(labels));
  const edge = buckets.map(([, , le, , n]) => [le, Number(n)]).find(([, n]) => total && n >= share * total)?.[0];
  return edge == null ? "none yet" : edge === "+Inf" ? "over 2.5 s" : `at most ${milliseconds(1000 * Number(edge))}`;
}

const fact = (label, value, cls = "") => [el("dt", { text: label }), el("dd", { text: value, cls })];

function served(text) {
  const slates = `route="/v1/recommend"`;
  const lost = sum(text, "watchnext_impressions_lost_total") + sum(text, "watchnext_served_log_dropped") + sum(text, "watchnext_served_log_failed");
  return [el("h3", { text: "Since the server started" }), el("dl", {}, ...fact("Feeds", count(sum(text, "watchnext_requests_total", slates))),
    ...fact("Half answered in", quantile(text, "watchnext_request_seconds", slates, 0.5)), ...fact("99% answered in", quantile(text, "watchnext_request_seconds", slates, 0.99)),
    ...fact("Degraded", count(sum(text, "watchnext_degraded_slates_total"))), ...fact("Events stored", count(sum(text, "watchnext_events_total", `result="accepted"`))),
    ...fact("Lost records", count(lost), lost ? "bad" : ""))];
}

function drifted({ drift }) {
  if (!drift) return [el("p", { cls: "soft", text: "No report of drift is there. `python -m watchnext.monitoring drift` writes one." })];
  const cls = drift.verdict === "none" ? "good" : "bad";
  return [el("dl", {}, ...fact("Verdict", drift.verdict === "none" ? "no drift" : drift.verdict.replaceAll("_", " "), cls), ...fact("Columns that drifted", `${drift.drifted.length} of ${drift.columns}`),
    ...fact("Reported", moment(drift.reported_ms)), ...(drift.drifted.length ? fact("They are", drift.drifted.join(", ")) : []))];
}

function released(admin) {
  if (!admin) return []; // the key is not one of an administrator
  const state = ({ release, serves, damaged }) => damaged ?? (serves ? "serves" : release === admin.before ? "served before" : "can serve");
  const lines = [...admin.releases.map((each) => fact(each.release, state(each), each.damaged ? "bad" : "")),
    ...admin.refused.map(({ release, reason }) => fact(release, `refused: ${reason}`, "bad"))];
  return [el("h3", { text: "Releases" }), el("dl", { cls: "releases" }, ...lines.flat())];
}

function tried({ canary }) {
  return canary ? fact("Tried beside it", `${canary.release}: answers ${percent(canary.share)} of viewers, scores ${percent(canary.shadow)} of other feeds aside`) : [];
}

export async function drawHealth(status) {
  const [metrics, admin] = await Promise.all([optional("metrics"), optional("v1/admin/releases")]);
  const { release } = status;
  const lost = Object.entries(release.lost_to);
  $("facts").replaceChildren(...fact("Release", release.id), ...fact("Of data", release.data), ...fact("State as of", moment(release.as_of_ms)), ...fact("Videos", count(release.videos)),
    ...fact("Viewers", count(release.viewers)), ...tried(status), ...fact("Against baselines", lost.length ? lost.map(([baseline, depths]) => `loses to ${baseline} (${depths})`).join(", ") : "loses to none on its validation days", lost.length ? "bad" : "good"));
  $("health").querySelectorAll(":scope > :not(h2, #facts)").forEach((node) => node.remove());
  $("health").append(el("h3", { text: "Drift of what was served" }), ...drifted(status), ...released(admin), ...(metrics ? served(metrics) : [el("p", { cls: "soft", text: "Metrics need a key that reads." })]));
}
