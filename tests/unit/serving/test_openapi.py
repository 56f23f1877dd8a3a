"""The OpenAPI document has words and an example for every field, and the page /docs shows all of it."""

import re
from html.parser import HTMLParser

import jsonschema_rs
import pytest
from fastapi.routing import iter_route_contexts

from watchnext.serving.http.access.scopes import PUBLIC, scope_of
from watchnext.serving.http.openapi.document import operations
from watchnext.serving.http.openapi.words import WORDS

SCALARS = {"string", "integer", "number", "boolean"}


@pytest.fixture
def document(api) -> dict:
    return api("GET", "/openapi.json").json()


def fields(document) -> list[tuple[str, str, dict]]:
    """Model or route, name and schema of each field and parameter."""
    models = document["components"]["schemas"]
    found = [(model, name, field) for model, each in models.items() for name, field in each.get("properties", {}).items()]
    for method, path, operation in operations(document):
        found += [(f"{method} {path}", each["name"], each["schema"] | each) for each in operation.get("parameters", ())]
    return found


def test_every_field_has_words(document):
    missing = [f"{where}.{name}" for where, name, field in fields(document) if not field.get("description")]
    assert missing == [], "describe it in the model, or in openapi/words.py where it means the same everywhere"


def test_every_example_is_one(document):
    for where, name, field in fields(document):
        schema = {key: value for key, value in field.items() if key not in ("schema", "in", "name", "required")}
        validator = jsonschema_rs.validator_for({**schema, "components": document["components"]})
        for example in field.get("examples", ()):
            assert validator.is_valid(example), f"{where}.{name}: {example!r}; change it in openapi/words.py"


def test_every_plain_field_of_a_request_has_an_example(document):
    asked = {name for name in document["components"]["schemas"] if name.endswith(("Request", "Event"))}
    for where, name, field in fields(document):
        if (
            where in asked
            and name not in ("click", "long_view", "like")
            and "$ref" not in field
            and field.get("type") in SCALARS
        ):
            assert "examples" in field or "default" in field or "const" in field, f"{where}.{name}"


def test_no_word_is_left_over(document):
    assert WORDS.keys() - {name for _, name, _ in fields(document)} == set()


def test_every_route_has_words_its_scope_its_refusals_and_a_body_that_it_takes(document):
    for method, path, operation in operations(document):
        assert operation["description"], path
        assert operation["x-scope"] == scope_of(method, path)
        assert ("security" in operation) == (scope_of(method, path) != PUBLIC)
        assert {"401", "403", "429", "431"} <= operation["responses"].keys()
        if "requestBody" in operation:
            media = operation["requestBody"]["content"]["application/json"]
            validator = jsonschema_rs.validator_for({**media["schema"], "components": document["components"]})
            assert validator.is_valid(media["example"]), (path, media["example"])


def test_every_route_refuses_a_query_parameter_that_it_does_not_declare(api, document):
    for method, path, operation in operations(document):
        answer = api(method, f"{path}?unheard=1", body={} if "requestBody" in operation else None)
        assert (answer.status_code, answer.json()["error"]["details"][0]["where"]) == (422, "query.unheard"), path


class Page(HTMLParser):
    """Collect ids, links inside the page, and everything that would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.links, self.loads = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {given["id"]} if "id" in given else set()
        if tag in ("script", "img", "iframe", "link", "style"):
            self.loads.add(given.get("src") or given.get("href"))
        elif given.get("href", "").startswith("#"):
            self.links.add(given["href"][1:])


def test_the_page_shows_every_route_and_field_and_loads_nothing_from_elsewhere(api, document):
    answer = api("GET", "/docs")
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    page = Page(answer.text)
    assert page.loads == {"/docs.css"}
    assert api("GET", "/docs.css").status_code == 200
    assert page.links <= page.ids
    assert len(page.ids) == len(list(operations(document))) + len(document["components"]["schemas"])
    for _, name, _ in fields(document):
        assert f"<code>{name}</code>" in answer.text
    shown = re.findall(r"Scope: (\w+)", answer.text)
    routes = {(each.path, *each.methods) for each in iter_route_contexts(api.app.routes) if each.path.startswith("/v1/")}
    assert len(shown) == len(routes)
