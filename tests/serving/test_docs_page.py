# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The page `/docs`: it has all that the schema has, as text, and nothing that runs or is loaded from elsewhere."""

import base64
import hashlib
import re
import shlex
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Form, Query
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3seg_hf.serving.api import build_app
from dinov3seg_hf.serving.docs_page import page_of
from dinov3seg_hf.serving.limits import Limits

TAGS = set("html head meta title style body h1 h2 p a pre table tr th td ul li".split())
ATTRIBUTES = {"lang", "charset", "name", "content", "href"}


class Page(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: dict[str, Any] = {}
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes.update(attributes)

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def client():
    pipe = SimpleNamespace(device="cpu", model=None)
    return TestClient(build_app(SimpleNamespace(limits=Limits(), pipe=pipe)))


def test_the_page_has_every_address_and_parameter_of_the_schema(client):
    schema, answer = client.get("/openapi.json").json(), client.get("/docs")
    page = Page(answer.text)
    assert answer.status_code == 200 and page.tags <= TAGS and page.attributes.keys() <= ATTRIBUTES
    text = "\n".join(page.texts)
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path}" in text and operation["description"] in text
            assert {parameter["name"] for parameter in operation.get("parameters", ())} <= set(page.texts)
    form = schema["components"]["schemas"]["Body_segment_segment_post"]["properties"]
    assert set(form) <= set(page.texts)
    assert {field["description"] for field in form.values() if "description" in field} <= set(page.texts)
    assert {"file", "required", "json or png or rle", '"json"', "integer or auto"} <= set(page.texts)
    example = next(text for text in page.texts if text.startswith("curl") and text.endswith("/segment"))
    assert shlex.split(example)[1:-1] == ["-F", "image=@FILE", "-F", "labels=cat, grass, sky"]
    example = next(text for text in page.texts if text.startswith("curl") and text.endswith("/setup"))
    assert shlex.split(example)[1:-1] == ["-H", "Content-Type: application/json", "-d", "{}"]


def test_the_page_runs_and_loads_nothing(client):
    answer = client.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, flags=re.DOTALL)
    assert f"style-src 'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy
    assert re.findall(r'(?:href|src)="([^"]*)"', answer.text) == ["openapi.json"]
    assert client.get("/redoc").status_code == client.get("/docs/oauth2-redirect").status_code == 404


@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1) | st.just("<script>'\"&</td></pre>"))
@settings(max_examples=30, deadline=None)
def test_texts_of_the_schema_are_text(text):
    app = FastAPI(title=text, description=text)

    @app.post("/x", description=text, tags=[text])
    def endpoint(
        a: Annotated[str, Query(alias=f"a{text}", description=text)] = text,
        b: Annotated[str, Form(description=text, examples=[text])] = text,
    ) -> None:
        pass

    page = Page(page_of(app.openapi()))
    assert page.tags <= TAGS and page.attributes.keys() <= ATTRIBUTES
    assert (f"a{text}" in page.texts and not text.strip()) or text in page.texts
    (example,) = [found for found in page.texts if found.startswith("curl ")]
    assert shlex.split(example)[2] == f"b={text}"
