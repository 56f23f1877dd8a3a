"""Render the OpenAPI document as one page without a script: routes, fields, answers, and a call to copy."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from watchnext.serving.http.openapi.document import operations

HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>watchnext API</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="/docs.css"></head><body>"""


def rendered(document: Mapping[str, Any]) -> str:
    """Return the page of a completed document."""
    routes = list(operations(document))
    links = "".join(f'<li><a href="#{_anchor(m, p)}"><b>{m}</b> {escape(p)}</a></li>' for m, p, _ in routes)
    sections = "".join(_route(*route) for route in routes)
    models = "".join(_model(name, model) for name, model in sorted(document["components"]["schemas"].items()))
    about = escape(document["info"]["description"])
    document_link = '<p>The same for programs: <a href="/openapi.json">/openapi.json</a></p>'
    return (
        f"{HEAD}<header><h1>watchnext API</h1><p>{about}</p>{document_link}</header><nav><ul>{links}</ul></nav>"
        f"<main>{sections}<h2>Models</h2>{models}</main></body></html>"
    )


def _anchor(method: str, path: str) -> str:
    return escape(f"{method}{path}".replace("/", "-").strip("{}"), quote=True)


def _route(method: str, path: str, operation: Mapping[str, Any]) -> str:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    rows = [(each["name"], each["schema"], each["description"], each["required"]) for each in operation.get("parameters", ())]
    takes = _table(rows) if rows else ""
    if body:
        takes += f"<p>Body: {_kind(body['schema'])}</p>"
    answers = "".join(
        f"<tr><td>{status}</td><td>{escape(answer['description'])}</td><td>{_answer_kind(answer)}</td></tr>"
        for status, answer in sorted(operation["responses"].items())
    )
    return (
        f'<section id="{_anchor(method, path)}"><h2><b>{method}</b> {escape(path)}</h2>'
        f"<p>{escape(operation['description'])}</p><p class=scope>Scope: {escape(operation['x-scope'])}</p>{takes}"
        f"<pre>{escape(_call(method, path, body.get('example')))}</pre>"
        f"<details><summary>Answers</summary><table>{answers}</table></details></section>"
    )


def _answer_kind(answer: Mapping[str, Any]) -> str:
    return _kind(answer.get("content", {}).get("application/json", {}).get("schema", {}))


def _call(method: str, path: str, example: Any) -> str:
    call = f"curl -s -X {method} localhost:3000{path}" if method != "GET" else f"curl -s 'localhost:3000{path}'"
    return call if example is None else f"{call} -H 'content-type: application/json' \\\n  -d '{json.dumps(example)}'"


def _model(name: str, model: Mapping[str, Any]) -> str:
    needed = model.get("required", ())
    rows = [(field, schema, schema.get("description", ""), field in needed) for field, schema in model["properties"].items()]
    about = escape(model.get("description", ""))
    return f'<section id="{escape(name)}"><h3>{escape(name)}</h3><p>{about}</p>{_table(rows)}</section>'


def _table(rows: list[tuple[str, Mapping[str, Any], str, bool]]) -> str:
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code>{' *' if needed else ''}</td><td>{_kind(schema)}</td><td>{escape(text)}</td>"
        f"<td>{_shown(schema)}</td></tr>"
        for name, schema, text, needed in rows
    )
    return f"<table><tr><th>field</th><th>kind</th><th>what</th><th>example, default</th></tr>{lines}</table>"


def _shown(schema: Mapping[str, Any]) -> str:
    shown = [json.dumps(each) for each in schema.get("examples", ())[:1]]
    shown += [f"default {json.dumps(schema['default'])}"] if "default" in schema else []
    return escape(", ".join(shown))


BOUNDS = {"minimum": "from", "maximum": "to", "maxLength": "characters", "minItems": "from items", "maxItems": "to items"}


def _kind(schema: Mapping[str, Any]) -> str:
    """Write the kind of a value; a model is a link."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(map(_kind, choices))
    if "enum" in schema or "const" in schema:
        return escape(" or ".join(map(json.dumps, schema.get("enum", [schema.get("const")]))))
    bounds = ", ".join(f"{word} {schema[key]:,}" for key, word in BOUNDS.items() if key in schema)
    kind = escape(schema.get("type", "any"))
    of = f" of {_kind(schema['items'])}" if "items" in schema else ""
    return f"{kind}{of}{f' ({bounds})' if bounds else ''}"
