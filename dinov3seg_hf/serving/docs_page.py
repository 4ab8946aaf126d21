# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The page `/docs`: the schema of the service as HTML without scripts, and without anything from other places.

The pages of FastAPI load scripts and styles of a third party, which could do all that a client of the service can, and
stay empty without a connection to the internet.
"""

import base64
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

Schema = Mapping[str, Any]

ADDRESS = "http://localhost:8000"  # in the examples

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere }
h2 { border-top: 1px solid; padding-top: 1rem }
table { border-collapse: collapse; width: 100% }
th, td { border-top: 1px solid; padding: .25rem .5rem .25rem 0; text-align: left; vertical-align: top }
pre { white-space: pre-wrap }
"""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
COLUMNS = ("name", "in", "type", "default", "description")


class Parameter(NamedTuple):
    """A value of a request: its name, where it stands ("form", "JSON", "path", "query"), and its schema."""

    name: str
    place: str
    schema: Schema
    is_required: bool
    description: str


def add_docs(app: FastAPI) -> None:
    """Adds the page."""

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(page_of(app.openapi()), headers=HEADERS)


def page_of(schema: Schema) -> str:
    """Returns the page of a schema of OpenAPI."""
    title = f"{schema['info']['title']} {schema['info']['version']}"
    operations = [
        _operation(schema, path, method.upper(), operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"{_paragraphs(schema['info'].get('description', ''))}"
        f"<p>The examples are for a service at {escape(ADDRESS)}. "
        'For programs, there is <a href="openapi.json">openapi.json</a>.</p>\n'
        f"{''.join(operations)}</body>\n</html>\n"
    )


def _operation(schema: Schema, path: str, method: str, operation: Schema) -> str:
    parameters = list(_parameters(schema, operation))
    rows = [_row(schema, parameter) for parameter in parameters]
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    table = f"<table>\n<tr>{head}</tr>\n{''.join(rows)}</table>\n" if rows else ""
    answers = "".join(
        f"<li>{escape(code)}: {escape(answer.get('description', ''))}</li>\n"
        for code, answer in operation.get("responses", {}).items()
    )
    tags = "".join(f" ({escape(tag)})" for tag in operation.get("tags", ()))
    return (
        f"<h2>{escape(method)} {escape(path)}{tags}</h2>\n{_paragraphs(operation.get('description', ''))}{table}"
        f"<pre>{escape(_example(schema, path, method, operation, parameters))}</pre>\n<ul>\n{answers}</ul>\n"
    )


def _parameters(schema: Schema, operation: Schema) -> Iterator[Parameter]:
    for given in operation.get("parameters", ()):
        given = _resolved(schema, given)
        is_required, description = given.get("required", False), given.get("description", "")
        yield Parameter(given["name"], given["in"], given.get("schema", {}), is_required, description)
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        body = _resolved(schema, content.get("schema", {}))
        place = "JSON" if kind == "application/json" else "form"
        for name, value in body.get("properties", {}).items():
            yield Parameter(name, place, value, name in body.get("required", ()), value.get("description", ""))


def _row(schema: Schema, parameter: Parameter) -> str:
    if parameter.is_required:
        default = "required"
    else:
        default = json.dumps(parameter.schema["default"]) if "default" in parameter.schema else ""
    cells = (parameter.name, parameter.place, _type_of(schema, parameter.schema), default, parameter.description)
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>\n"


def _type_of(schema: Schema, value: Schema) -> str:
    """Returns the type of a value in words: "text", "auto or integer"."""
    value = _resolved(schema, value)
    if "enum" in value or "const" in value:
        return " or ".join(map(str, value.get("enum", [value.get("const")])))
    if kinds := value.get("anyOf", value.get("oneOf")):
        names = [_type_of(schema, kind) for kind in kinds if kind.get("type") != "null"]
        return " or ".join(dict.fromkeys(names))
    if "contentMediaType" in value or value.get("format") == "binary":
        return "file"
    if value.get("type") == "array":
        return f"list of {_type_of(schema, value.get('items', {}))}"
    kind: str = value.get("type", "anything")
    return "text" if kind == "string" else kind


def _example(schema: Schema, path: str, method: str, operation: Schema, parameters: list[Parameter]) -> str:
    """Returns a command of curl with the values that are required or have an example."""
    command = ["curl"]
    document: dict[str, Any] = {}
    for parameter in parameters:
        examples = parameter.schema.get("examples", ())
        if parameter.place == "path":
            path = path.replace(f"{{{parameter.name}}}", parameter.name.upper())
        elif parameter.is_required or examples:
            kind = _type_of(schema, parameter.schema)
            if parameter.place == "form":
                value = examples[0] if examples else "@FILE" if kind == "file" else parameter.name.upper()
                command += ["-F", f"{parameter.name}={value}"]
            elif parameter.place == "JSON":
                empty: Any = [] if kind.startswith("list") else {} if kind == "object" else parameter.name.upper()
                document[parameter.name] = examples[0] if examples else empty
    if "application/json" in operation.get("requestBody", {}).get("content", {}):
        command += ["-H", "Content-Type: application/json", "-d", json.dumps(document, ensure_ascii=False)]
    elif method != "GET" and len(command) == 1:
        command += ["-X", method]
    return shlex.join([*command, f"{ADDRESS}{path}"])


def _resolved(schema: Schema, value: Schema) -> Schema:
    """Follows a reference into the schema."""
    while "$ref" in value:
        found: Any = schema
        for key in value["$ref"].removeprefix("#/").split("/"):
            found = found[key]
        value = found
    return value


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part)}</p>\n" for part in text.split("\n\n") if part.strip())
