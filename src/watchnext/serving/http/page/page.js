// The demo page: chooses who watches, and wires the feed to what stands behind it. No framework, nothing from other sites.

import { call, name, optional, parse, random, useKey } from "./api.js";
import { drawDials, reset } from "./dials.js";
import { $, count, el } from "./elements.js";
import { attempt, loadMore, recommend, state } from "./feed.js";
import { askAbout, back, search, showFeed } from "./found.js";
import { drawFunnel, drawHealth, drawHistory } from "./panels.js";

const NEW = "new", OTHER = "other";
let listed = [], status = null;

// ---- who watches ----

function typed() {
  const text = $("other").value.trim();
  const known = listed.find((viewer) => name(viewer.user_id) === text);
  if (known) return known.user_id;
  return status.viewer_ids !== "string" && /^(0|-?[1-9]\d{0,18})$/.test(text) ? parse(text) : text; // one kind of id a data set
}

function choose() {
  const chosen = $("viewer").value;
  $("other").hidden = $("start").hidden = chosen !== OTHER;
  if (chosen === OTHER && !$("other").value.trim()) {
    $("other").focus();
    return;
  }
  state.viewer = chosen === NEW ? { session: random() } : { user_id: chosen === OTHER ? typed() : listed[Number(chosen)].user_id };
  Object.assign(state, { watched: [], muted: [] });
  $("feed-title").textContent = chosen === NEW ? "Watch next, as a new viewer" : `Watch next for ${name(state.viewer.user_id)}`;
  showFeed();
  attempt(() => recommend());
}

function drawViewers() {
  const option = (value, text) => el("option", { value, text });
  const watched = listed.map(({ user_id, watches }, index) => option(index, `${name(user_id)} · ${count(watches)} watches`));
  $("viewer").replaceChildren(option(NEW, "New viewer"), option(OTHER, "Another viewer…"),
    ...(watched.length ? [el("optgroup", { label: "Viewers with a history" }, watched)] : []));
  $("viewer").value = watched.length ? "0" : NEW;
}

// ---- views ----

function view(id) {
  document.body.dataset.view = id;
  const shown = id === "feed" ? "funnel" : id; // beside the feed of a wide screen
  for (const section of document.querySelectorAll("aside > section")) section.hidden = section.id !== shown;
  for (const tab of document.querySelectorAll("#tabs button")) {
    const current = tab.dataset.view === id;
    tab.ariaCurrent = current ? "page" : null;
    tab.classList.toggle("beside", tab.dataset.view === shown);
  }
  if (id === "health") attempt(async () => drawHealth(status = await call("v1/status")));
}

const options = (names, none) => [el("option", { value: "", text: none }), ...names.map((text) => el("option", { value: text, text }))];

async function start() {
  status = await call("v1/status");
  const [viewers, parameters] = await Promise.all([optional("v1/viewers?limit=50"), call("v1/parameters")]);
  listed = viewers?.viewers ?? [];
  $("note").hidden = Boolean(viewers);
  $("note").textContent = "This server does not list its viewers to you. Watch as a new viewer, or choose “Another viewer…” and type an id that you know.";
  $("surface").replaceChildren(...options(status.surfaces, "any"));
  $("region").replaceChildren(...options(status.regions, "the viewer's own"));
  drawViewers();
  drawDials(parameters);
  choose();
}

state.listeners.push(drawFunnel, () => drawHistory().catch((error) => { $("history").replaceChildren(el("li", { cls: "soft", text: error.message })); }));
const on = (id, event, action) => $(id).addEventListener(event, (happened) => { happened.preventDefault(); action(happened); });
on("viewer", "change", choose);
on("who", "submit", choose);
on("search", "submit", () => { const query = $("query").value.trim(); if (query) attempt(() => search(query)); else back(); });
on("ask", "submit", () => attempt(() => askAbout($("asked").value.trim())));
on("request", "change", () => attempt(() => recommend()));
on("key", "submit", () => { useKey($("bearer").value.trim()); $("bearer").value = ""; attempt(start); });
on("back", "click", back);
on("more", "click", () => attempt(loadMore));
on("reset", "click", reset);
on("close", "click", () => $("why").close());
$("why").addEventListener("click", (event) => { if (event.target === $("why")) $("why").close(); }); // beside it
for (const tab of document.querySelectorAll("#tabs button")) tab.addEventListener("click", () => view(tab.dataset.view));
view("feed");
attempt(start);
