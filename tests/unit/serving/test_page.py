"""The page in a real browser, served by the real server."""

import json
import os
import re
from pathlib import Path

import pytest
from bento_server import Server

from small_release import HOSTILE
from watchnext.types import TARGETS

CHROMIUM = Path(os.environ.get("WATCHNEXT_CHROMIUM", "/usr/bin/chromium"))
REQUIRED = os.environ.get("WATCHNEXT_REQUIRE_BROWSER") == "1"
ACTIONS = ("watch", "half", "skip", "like", "hide")
STRANGER = "734281569"  # no viewer of the release, whose ids are numbers
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1440, "height": 900}
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="16" height="9"><rect width="16" height="9"/></svg>'
pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists() and not REQUIRED, reason=f"no browser at {CHROMIUM}; install chromium or set WATCHNEXT_CHROMIUM"
)


@pytest.fixture(scope="module")
def server(release, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("page"), releases=release.folder.parent)
    server.ready()
    yield server
    server.end()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    assert CHROMIUM.exists(), f"WATCHNEXT_REQUIRE_BROWSER is 1, but there is no browser at {CHROMIUM}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server):
    """Open the page of `url` in a window, and wait for its feed. `wrong` has its errors, `asked` all addresses it loaded."""
    opened = []

    def open_page(url: str = server.url, viewport=DESK, **window):
        page = browser.new_page(viewport=viewport, **window)
        opened.append(page)
        page.set_default_timeout(20_000)
        page.wrong, page.asked = [], []
        page.on("console", lambda message: page.wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.route("https://pictures.example/**", lambda route: route.fulfill(body=PICTURE, content_type="image/svg+xml"))
        page.goto(url)
        page.wait_for_selector("#cards li")
        return page

    yield open_page
    wrong = [each for page in opened for each in page.wrong]
    for page in opened:
        page.close()
    assert wrong == []


@pytest.fixture
def page(visit):
    return visit()


def videos(page, cards: str = "#cards") -> list[str]:
    return page.eval_on_selector_all(f"{cards} li", "lines => lines.map(line => line.dataset.key)")


def sent(page, path: str, action) -> dict:
    """Return the body of the first POST to `path` after `action()`, which must succeed."""
    with page.expect_response(lambda answer: answer.url.endswith(path) and answer.request.method == "POST") as answered:
        action()
    assert answered.value.ok, answered.value.text()
    return json.loads(answered.value.request.post_data)


def settled(page) -> None:
    page.wait_for_selector("#cards:not([aria-busy=true])")


def as_new_viewer(page) -> dict:
    asked = sent(page, "/v1/recommend", lambda: page.select_option("#viewer", "new"))
    settled(page)
    return asked


# ---- who watches, and what they do -------------------------------------------------------------------------------------


def test_watching_forms_the_feed_again(page, release):
    options = page.eval_on_selector_all("#viewer optgroup option", "options => options.map(option => option.textContent)")
    assert len(options) > 3
    asked = sent(page, "/v1/recommend", lambda: page.select_option("#viewer", index=3))
    settled(page)
    assert str(asked["user_id"]) == options[1].split(" ")[0]
    before = videos(page)
    assert len(before) == 12
    title = page.text_content("#cards li:first-child .title")
    posted = sent(page, "/v1/events", lambda: page.click("#cards li:first-child [data-action=watch]"))["events"][0]
    assert json.dumps(posted["video_id"]) == before[0]
    assert posted.items() >= {"user_id": asked["user_id"], "click": True, "long_view": True}.items()
    page.wait_for_function(
        "gone => ![...document.querySelectorAll('#cards li')].some(line => line.dataset.key === gone)", arg=before[0]
    )
    assert len(videos(page)) == 12
    page.click("#tabs [data-view=past]")
    page.wait_for_function("title => document.querySelector('#history b')?.textContent === title", arg=title)
    focused = page.evaluate("document.activeElement.dataset.view ?? document.activeElement.dataset.action")
    assert focused == "past"


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("half", {"click": True}),
        ("skip", {"watch_ms": 800}),
        ("like", {"like": True, "long_view": True}),
        ("hide", {"watch_ms": 0, "hide": True}),
    ],
)
def test_each_button_sends_what_it_says_and_keeps_the_focus(page, action, expected):
    as_new_viewer(page)
    first = videos(page)[0]
    button = page.locator("#cards li:first-child").locator(f"[data-action={action}]")
    posted = sent(page, "/v1/events", button.click)["events"][0]
    assert expected.items() <= posted.items()
    assert json.dumps(posted["video_id"]) == first
    page.wait_for_function("first => document.querySelector('#cards li').dataset.key !== first", arg=first)
    settled(page)
    assert page.evaluate("document.activeElement.dataset.action") == action
    if action == "half":
        assert 0 < posted["watch_ms"] <= 61_500 / 2 + 1


def test_a_new_viewer_has_a_session_of_their_own(page):
    asked = as_new_viewer(page)
    assert "user_id" not in asked
    assert len(asked["session"]) == 32
    page.click("#tabs [data-view=past]")
    assert page.text_content("#history") == "Nothing yet."
    posted = sent(page, "/v1/events", lambda: page.click("#cards li:first-child [data-action=watch]"))["events"][0]
    assert (posted["session"], posted.get("user_id")) == (asked["session"], None)
    page.wait_for_selector("#history .thumb")
    assert as_new_viewer_again(page)["session"] != asked["session"]


def as_new_viewer_again(page) -> dict:
    sent(page, "/v1/recommend", lambda: page.select_option("#viewer", index=2))
    return as_new_viewer(page)


def test_a_stranger_is_typed_and_has_no_history(page):
    page.select_option("#viewer", "other")
    page.fill("#other", STRANGER)
    asked = sent(page, "/v1/recommend", lambda: page.press("#other", "Enter"))
    assert asked["user_id"] == int(STRANGER)
    settled(page)
    assert page.text_content("#feed-title") == f"Watch next for {STRANGER}"
    page.click("#tabs [data-view=past]")
    page.wait_for_function("document.querySelector('#history').textContent === 'Nothing yet.'")


def test_a_server_that_lists_no_viewers_says_what_to_do(release, tmp_path, visit):
    server = Server(tmp_path, releases=release.folder.parent, variables={"WATCHNEXT_DEMO": "0"}, shell="uvicorn")
    try:
        server.ready()
        page = visit(server.url)
        assert "Watch as a new viewer" in page.text_content("#note")
        assert page.is_visible("#note")
        assert page.input_value("#viewer") == "new"
        sent(page, "/v1/events", lambda: page.click("#cards li:first-child [data-action=like]"))
        settled(page)
        refused = [each for each in page.wrong if "403" in each]  # the browser itself reports the refusal
        page.wrong = [each for each in page.wrong if each not in refused]
    finally:
        server.end()


# ---- dials, request, more ----------------------------------------------------------------------------------------------


def turn(page, name: str, value: float):
    return lambda: page.eval_on_selector(
        f"#values input[name={name}]", "(dial, value) => { dial.value = value; dial.dispatchEvent(new Event('input')); }", value
    )


def test_dials_start_where_the_release_has_them_and_act_at_once(page, release):
    page.click("#tabs [data-view=dials]")
    dials = "dials => Object.fromEntries(dials.map(dial => [dial.name, dial.valueAsNumber]))"
    starts = page.eval_on_selector_all("#values input", dials)
    value, diversity = release.reranker.value, 1 - release.reranker.diversity.trade_off
    expected = {**dict.fromkeys(TARGETS, 0), **value.weights, "diversity": diversity, "engage": value.engage}
    assert starts == pytest.approx(expected, abs=0.026)  # half a step
    before = videos(page)
    asked = sent(page, "/v1/recommend", turn(page, "diversity", 1))
    assert asked["dials"]["diversity"] == 1
    assert asked["dials"]["weights"]["long_view"] == pytest.approx(starts["long_view"])
    settled(page)
    assert videos(page) != before
    asked = sent(page, "/v1/recommend", lambda: page.click("#reset"))
    assert asked["dials"] == {}
    assert page.input_value("#values input[name=diversity]") != "1"


def test_without_any_weight_nothing_is_asked(page):
    page.click("#tabs [data-view=dials]")
    asked = len([url for url in page.asked if url.endswith("/v1/recommend")])
    for name in ("click", "long_view", "like", "watch_s"):
        turn(page, name, 0)()
    assert page.text_content("#formula") == "Give at least one outcome a weight."
    page.wait_for_timeout(400)  # longer than a dial rests
    last = [url for url in page.asked if url.endswith("/v1/recommend")]
    assert len(last) == asked


def test_surface_region_mode_and_number_are_asked_for(page):
    page.click("#tabs [data-view=dials]")
    for field, value in {"surface": "home", "region": "de", "mode": "not_personalised", "k": "6"}.items():
        asked = sent(page, "/v1/recommend", lambda field=field, value=value: page.select_option(f"#{field}", value))
        assert str(asked[field]) == value
    settled(page)
    assert len(videos(page)) == 6


def test_more_videos_come_behind_the_others_without_repeats(page):
    as_new_viewer(page)
    before = videos(page)
    assert sent(page, "/v1/recommend", lambda: page.click("#more"))["page_token"]
    page.wait_for_function("shown => document.querySelectorAll('#cards li').length > shown", arg=len(before))
    after = videos(page)
    assert after[: len(before)] == before
    assert len(set(after)) == len(after)


# ---- why, search, similar ----------------------------------------------------------------------------------------------


def test_the_funnel_has_counts_and_times(page):
    as_new_viewer(page)
    text = page.text_content("#stages")
    assert re.search(r"Retrieved\d+", text)
    assert re.search(r"Re-ranked12", text)
    assert len(re.findall(r"\d ms", text)) >= 4
    assert page.locator("#sources .bar").count() > 2


def test_why_tells_the_reasons_and_escape_closes_it(page):
    reason = page.text_content("#cards li:first-child .reason span")
    page.click("#cards li:first-child [data-action=why]")
    page.wait_for_selector("#why[open]")
    text = page.text_content("#why")
    assert "Why this video" in text
    assert reason in text
    assert "#1 in the feed" in text
    page.keyboard.press("Escape")
    page.wait_for_selector("#why", state="hidden")
    assert page.evaluate("document.activeElement.dataset.action") == "why"


def test_why_not_names_what_kept_a_video_out(page, release):
    unsafe = release.video_ids.value(int((release.catalogue.safety > 0).argmax()))
    page.fill("#asked", unsafe)
    page.press("#asked", "Enter")
    page.wait_for_selector("#why[open]")
    assert "Why not in the feed" in page.text_content("#why")
    assert page.text_content("#why .verdict")
    page.click("#close")
    page.fill("#asked", "no such video")
    page.press("#asked", "Enter")
    page.wait_for_selector("#error:not([hidden])")
    assert "no such video" in page.text_content("#error")
    page.wrong = [each for each in page.wrong if "404" not in each]  # the browser itself reports the refusal


def test_search_finds_a_title_and_hostile_ones_are_inert(page):
    page.fill("#query", "onerror")
    page.press("#query", "Enter")
    page.wait_for_selector("#results li")
    titles = page.eval_on_selector_all("#results .title", "titles => titles.map(title => title.textContent)")
    assert set(titles) == {HOSTILE}
    assert page.locator(".title img, .title b").count() == 0
    assert page.title() == "watchnext"
    page.click("#back")
    assert page.is_visible("#cards")
    assert page.is_hidden("#results")


def test_a_muted_creator_leaves_the_feed_until_unmuted(page):
    as_new_viewer(page)
    creators = "#cards .facts"
    muted = page.text_content(f"#cards li:first-child {creators.split()[1]}").split(" · ")[0]
    asked = sent(page, "/v1/recommend", lambda: page.click("#cards li:first-child [data-action=mute]"))
    settled(page)
    assert [f"Creator {each}" for each in asked["muted"]] == [muted]
    assert muted not in [text.split(" · ")[0] for text in page.locator(creators).all_text_contents()]
    assert sent(page, "/v1/recommend", lambda: page.click("#changes button"))["muted"] == []


def test_similar_videos_are_listed_and_can_be_watched(page):
    asked = sent(page, "/v1/similar", lambda: page.click("#cards li:first-child [data-action=similar]"))
    assert json.dumps(asked["seed_video_id"]) == videos(page)[0]
    page.wait_for_selector("#results li")
    sent(page, "/v1/events", lambda: page.click("#results li:first-child [data-action=skip]"))


def test_links_open_elsewhere_and_only_addresses_of_the_web_are_links(page):
    page.fill("#query", "v0")
    page.press("#query", "Enter")
    page.wait_for_selector("#results li")
    links = page.eval_on_selector_all("#results .title a", "links => links.map(link => [link.href, link.target, link.rel])")
    assert links
    for href, target, rel in links:
        assert href.startswith("https://videos.example/")
        assert (target, rel) == ("_blank", "noopener noreferrer")


# ---- status ------------------------------------------------------------------------------------------------------------


def test_the_status_names_the_release_and_counts_what_was_served(page, release):
    page.click("#tabs [data-view=health]")
    page.wait_for_function("id => document.querySelector('#facts').textContent.includes(id)", arg=release.id)
    text = page.text_content("#health")
    assert "No report of drift" in text
    assert f"{release.id}serves" in page.text_content("#health .releases")
    assert int(re.search(r"Feeds(\d+)", text)[1]) > 0


def test_the_status_names_a_release_that_is_tried(page):
    def tried(route) -> None:
        canary = {"release": "<b>newer</b>", "share": 0.05, "shadow": 0.1, "began": "2026-01-01T00:00:00+00:00"}
        route.fulfill(json=route.fetch().json() | {"canary": canary})

    page.route("**/v1/status", tried)
    page.click("#tabs [data-view=health]")
    page.wait_for_function("text => document.querySelector('#facts').textContent.includes(text)", arg="Tried beside it")
    assert "<b>newer</b>: answers 5.0% of viewers, scores 10.0% of other feeds aside" in page.text_content("#facts")


# ---- looks -------------------------------------------------------------------------------------------------------------


def test_pictures_differ_and_nothing_else_comes_from_elsewhere(page, server):
    read = "all => all.map(one => one.querySelector('svg').outerHTML + one.getAttribute('style'))"
    pictures = page.eval_on_selector_all("#cards .thumb", read)
    assert len(set(pictures)) == len(pictures) == 12
    by_video = dict(zip(videos(page), pictures, strict=True))
    as_new_viewer(page)
    again = dict(zip(videos(page), page.eval_on_selector_all("#cards .thumb", read), strict=True))
    assert by_video.keys() & again.keys()
    assert all(again[video] == by_video[video] for video in by_video.keys() & again.keys())
    elsewhere = [url for url in page.asked if not url.startswith((server.url, "data:"))]
    assert all(url.startswith("https://pictures.example/") for url in elsewhere)


@pytest.mark.parametrize("viewport", [PHONE, DESK, {"width": 320, "height": 640}, {"width": 820, "height": 1180}], ids=str)
def test_nothing_is_wider_than_the_window(visit, viewport):
    page = visit(viewport=viewport)
    for tab in ("feed", "funnel", "dials", "past", "health"):
        if page.is_visible(f"#tabs [data-view={tab}]"):
            page.click(f"#tabs [data-view={tab}]")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab


def test_on_a_phone_a_card_fits_between_the_bars(visit):
    page = visit(viewport=PHONE)

    def edges(selector: str) -> tuple[float, float]:
        box = page.locator(selector).bounding_box()
        return box["y"], box["y"] + box["height"]

    header, tabs = edges("header")[1], edges("#tabs")[0]
    assert edges("#cards li:nth-child(1)")[1] <= tabs  # under the headline
    for card in (1, 2, 3):
        here = f"#cards li:nth-child({card})"
        page.eval_on_selector(here, "card => card.scrollIntoView({ block: 'start', behavior: 'instant' })")
        assert header <= edges(here)[0]
        assert edges(here)[1] <= tabs


FOCUSED = """() => {
  const at = document.activeElement;
  return [at.dataset.action ?? at.dataset.view ?? at.id, getComputedStyle(at).outlineStyle];
}"""
NAMELESS = """all => all.filter(one => !one.closest("[hidden]"))
  .filter(one => !one.textContent.trim() && !one.ariaLabel && !one.labels?.length).map(one => one.outerHTML)"""


def test_every_control_can_be_reached_and_seen_by_the_keyboard(page):
    reached = set()
    for _ in range(16):
        page.keyboard.press("Tab")
        at, outline = page.evaluate(FOCUSED)
        reached.add(at)
        assert outline != "none", at
    assert {"query", "viewer", *ACTIONS, "why", "similar"} <= reached
    page.click("#tabs [data-view=dials]")
    assert page.eval_on_selector_all("button, input, select", NAMELESS) == []
    with page.expect_response("**/v1/events"):
        page.focus("#cards li:first-child [data-action=skip]")
        page.keyboard.press("Enter")


CONTRASTS = (Path(__file__).parent / "contrasts.js").read_text()


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_text_stands_out_from_its_ground(visit, scheme):
    page = visit(color_scheme=scheme)
    for tab in ("funnel", "dials", "past", "health"):
        page.click(f"#tabs [data-view={tab}]")
        page.wait_for_timeout(50)
        assert page.evaluate(CONTRASTS) == [], tab
