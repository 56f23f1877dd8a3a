"""Complete the OpenAPI document of an app: words and examples for each field, the key of each route, what the gate answers."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from watchnext.serving.http.access.scopes import PUBLIC, scope_of
from watchnext.serving.http.openapi.words import WORDS

ABOUT = (
    "A video recommender. Ids are int64 or strings of at most 64 bytes, of the one kind that the log has, and echoed as given. "
    "Times are UTC milliseconds, ratios are in [0, 1]. A body is JSON, and may be compressed with gzip. A server with keys "
    "wants `Authorization: Bearer KEY`, with a key of the scope that a route names."
)
GATE_ANSWERS = {
    "401": "no key of this server",
    "403": "the key lacks the scope, or the server has no keys and the route lists viewers",
    "429": "the key is above its rate; retry after the seconds in Retry-After",
    "431": "the head of the request is too large",
}
ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}


def complete(app: FastAPI) -> None:
    """Let the app give the completed document; it is made at the first call."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        if "securitySchemes" not in document.setdefault("components", {}):
            _complete(document)
        return document

    app.openapi = openapi


def _complete(document: dict[str, Any]) -> None:
    document["info"]["description"] = ABOUT
    components = document["components"]
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for model in components["schemas"].values():
        for name, field in model.get("properties", {}).items():
            _describe(name, field)
    for method, path, operation in operations(document):
        scope = scope_of(method, path)
        operation["x-scope"] = scope
        if scope != PUBLIC:
            operation["security"] = [{"key": []}]
        for status, text in GATE_ANSWERS.items():
            operation["responses"].setdefault(status, {"description": text, "content": ERROR})
        for parameter in operation.get("parameters", ()):
            parameter["schema"] = _without_null(parameter["schema"])
            _describe(parameter["name"], parameter["schema"])
            parameter.setdefault("description", parameter["schema"].pop("description", ""))
            if parameter["schema"].get("type") != "integer":  # a text of the address, also where it is an id of digits
                parameter["schema"]["examples"] = list(map(str, parameter["schema"].get("examples", ())))
        if body := operation.get("requestBody"):
            media = body["content"]["application/json"]
            media["example"] = _example(media["schema"], components["schemas"])


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter without null, which no address can hold: a parameter is left out instead."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return {**{name: value for name, value in schema.items() if name != "anyOf"}, **kinds[0]} if len(kinds) == 1 else schema


def _describe(name: str, field: dict[str, Any]) -> None:
    text, example = WORDS.get(name, (None, None))
    if text is not None:
        field.setdefault("description", text)
    if example is not None and not (field.keys() & {"$ref", "examples"}):
        field["examples"] = [example]


def _example(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """Make a value of the fields that are needed, or that most calls have."""
    model = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if "oneOf" in model:
        return _example(model["oneOf"][0], schemas)
    if model.get("type") == "array":
        return [_example(model["items"], schemas)]
    if "properties" not in model:
        return next(iter(model.get("examples", ())), None)
    chosen = {*model.get("required", ()), *({"user_id", "k", "surface"} & model["properties"].keys())}
    return {name: _field_example(field, schemas) for name, field in model["properties"].items() if name in chosen}


def _field_example(field: dict[str, Any], schemas: dict[str, Any]) -> Any:
    return field["examples"][0] if "examples" in field else field.get("const", _example(field, schemas))


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Give method, path and operation of each route."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation
