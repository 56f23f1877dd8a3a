"""The page in a real browser, served by the real server."""

import os
from pathlib import Path

import pytest
from bento_server import Server

CHROMIUM = Path(os.environ.get("WATCHNEXT_CHROMIUM", "/usr/bin/chromium"))
REQUIRED = os.environ.get("WATCHNEXT_REQUIRE_BROWSER") == "1"
STRANGER = "734281569"  # no viewer of the release, whose ids are numbers
pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists() and not REQUIRED, reason=f"no browser at {CHROMIUM}; install chromium or set WATCHNEXT_CHROMIUM"
)


@pytest.fixture(scope="module")
def server(release, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("page"), releases=release.folder.parent)
    server.ready()
    yield server
    server.end()


@pytest.fixture
def page(server):
    from playwright.sync_api import sync_playwright

    assert CHROMIUM.exists(), f"WATCHNEXT_REQUIRE_BROWSER is 1, but there is no browser at {CHROMIUM}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.wrong = []
        page.on("console", lambda message: page.wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.goto(server.url)
        page.wait_for_selector("#cards li")
        yield page
        browser.close()


def videos(page) -> list[str]:
    return page.eval_on_selector_all("#cards li", "lines => lines.map(line => line.dataset.key)")


def test_watching_changes_the_slate(page, release):
    chosen = page.eval_on_selector_all("#viewer option", "options => options.map(option => option.textContent)")
    assert len(chosen) > 3
    with page.expect_response("**/v1/recommend"):
        page.select_option("#viewer", index=2)
    page.wait_for_function(
        "who => document.querySelector('#slate-title').textContent.endsWith(who)", arg=chosen[2].split(" ")[0]
    )
    before = videos(page)
    assert len(before) == 12
    assert release.id in page.text_content("#status")
    with page.expect_response("**/v1/events") as sent:
        page.click("#cards li:first-child button:has-text('Watch')")
    assert sent.value.json() == {"accepted": 1, "duplicates": 0, "unknown": 0}
    page.wait_for_function(
        "gone => ![...document.querySelectorAll('#cards li')].some(line => line.dataset.key === gone)", arg=before[0]
    )
    assert videos(page) != before
    page.wait_for_selector("#history .thumb")
    assert before[0].strip('"') in page.text_content("#history")
    assert page.is_hidden("#error")
    assert page.wrong == []


def test_a_stranger_gets_a_slate_and_has_no_history(page):
    page.fill("#other", STRANGER)
    page.click("button[type=submit]")
    page.wait_for_function(
        "title => document.querySelector('#slate-title').textContent === title", arg=f"Watch next for {STRANGER}"
    )
    page.wait_for_function("text => document.querySelector('#history').textContent === text", arg="Nothing yet.")
    assert len(videos(page)) == 12
    assert page.wrong == []
