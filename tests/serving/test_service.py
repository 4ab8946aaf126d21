# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg serve`: answers, batches, stored features, limits, and the contracts of Label Studio and X-AnyLabeling.

The tests with Label Studio's SDK and with X-AnyLabeling's client are skipped where these are not installed. They passed
with label-studio-sdk 2.0.19 and x-anylabeling-cvhub 4.2.1.
"""

import asyncio
import base64
import contextlib
import http.server
import io
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import requests
from fastapi.testclient import TestClient
from PIL import Image

from dinov3seg_hf import InferenceSettings, OpenVocabularySegmentationPipeline, Vocabulary
from dinov3seg_hf.model.calibration import Calibration
from dinov3seg_hf.model.image_input import read_label_map
from dinov3seg_hf.serving import server as service
from dinov3seg_hf.serving.api import build_app
from dinov3seg_hf.serving.downloads import Downloads
from dinov3seg_hf.serving.engine import BusyError, SegmentationEngine
from dinov3seg_hf.serving.label_studio import read_interface
from dinov3seg_hf.serving.limits import Limits, check_aspect
from dinov3seg_hf.serving.words import vocabulary_within

NAMES = ["red circle", "blue square", "yellow triangle", "green ground"]
LABELS = ", ".join(NAMES)
LABEL_CONFIG = (
    '<View><Image name="picture" value="$photo"/><BrushLabels name="brush" toName="picture">'
    + "".join(f'<Label value="{name}"/>' for name in NAMES)
    + "</BrushLabels></View>"
)


def png_of(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def content(sample_image):
    return png_of(sample_image)


@pytest.fixture(scope="module")
def pipe(tiny_model, tiny_processor):
    return OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu")


@pytest.fixture(scope="module")
def client(pipe):
    engine = SegmentationEngine(pipe, Limits(file_bytes=2**16, labels=6))
    with TestClient(build_app(engine, "tiny", Vocabulary(NAMES))) as client:
        client.engine = engine
        yield client


@pytest.fixture
def post(client, content):
    def post(**fields):
        return client.post("/segment", files={"image": fields.pop("image", content)}, data={"labels": LABELS, **fields})

    return post


def expected_map(pipe, image, labels=NAMES):
    (labeled,) = pipe.segment_prepared([pipe.encode_image(image)], pipe.encode_labels(Vocabulary(labels)))
    return labeled.label_map


# --- /segment ---------------------------------------------------------------------------------------------------------


def test_png_json_and_run_lengths_say_what_the_pipeline_says(post, pipe, sample_image):
    labels = expected_map(pipe, sample_image)
    answer = post(format="png")
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(read_label_map(answer.content).numpy(), labels)
    for format in ("json", "rle"):
        content = post(format=format).json()
        assert (content["height"], content["width"], content["labels"]) == (60, 90, NAMES)
        assert {segment["label"] for segment in content["segments"]} == {NAMES[i] for i in np.unique(labels)}
        for segment in content["segments"]:
            mask = labels == segment["index"]
            assert segment["num_pixels"] == mask.sum() and ("mask" in segment) == (format == "rle")
            if format == "rle":
                counts = segment["mask"]["counts"]
                values = np.repeat(np.arange(len(counts)) % 2, counts).reshape((60, 90), order="F")
                np.testing.assert_array_equal(values, mask)


def test_other_words_for_the_same_image_cost_the_head_alone(post, client, monkeypatch):
    image = png_of(Image.fromarray(np.random.default_rng(3).integers(0, 255, (40, 50, 3), dtype=np.uint8)))
    calls = []
    encode = client.engine.pipe.encode_prepared
    monkeypatch.setattr(client.engine.pipe, "encode_prepared", lambda *args: calls.append(1) or encode(*args))
    first = post(image=image, labels="red circle, cat").json()
    second = post(image=image, labels="green ground, dog, blue square").json()
    assert (first["cached"], second["cached"], len(calls)) == (False, True, 1)
    assert post(image=image, head="dinotxt").json()["cached"] is False and len(calls) == 2  # other features


def test_a_vocabulary_by_name_and_a_default(client, content):
    listed = client.get("/vocabularies").json()
    assert listed["vocabularies"]["pascal-voc-20"] == {"num_labels": 20} and listed["default"] == NAMES
    assert client.get("/vocabularies/pascal-voc-20").json()["labels"][0] == "aeroplane"
    assert client.get("/vocabularies/ade").status_code == 404
    answer = client.post("/segment", files={"image": content}, data={"vocabulary": "pascal-voc-20"}).json()
    assert len(answer["labels"]) == 20
    assert client.post("/segment", files={"image": content}).json()["labels"] == NAMES


def test_templates_count_whatever_names_the_labels(client, content, monkeypatch):
    seen = []
    encode = client.engine.pipe.encode_labels
    monkeypatch.setattr(client.engine.pipe, "encode_labels", lambda given: seen.append(given) or encode(given))
    for data in ({}, {"vocabulary": "pascal-voc-20"}, {"labels": LABELS}):
        data |= {"templates": "a photo of a {}\nmy {}\n"}
        assert client.post("/segment", files={"image": content}, data=data).status_code == 200
    assert [given.templates for given in seen] == [("a photo of a {}", "my {}")] * 3
    for data in ({}, {"vocabulary": "pascal-voc-20"}):
        data |= {"templates": "\n".join("{}" + "!" * number for number in range(13))}
        answer = client.post("/segment", files={"image": content}, data=data)
        assert answer.status_code == 400 and "expected at most 12 templates" in answer.json()["detail"]


def test_templates_are_counted_before_they_are_compared(monkeypatch):
    monkeypatch.setattr("dinov3seg_hf.serving.words.resolve_templates", lambda given: pytest.fail("too late"))
    many = [f"{{}} {number}" for number in range(10**5)]
    for templates in (many, "\n".join(many), "{}" + "x" * 10**6):
        with pytest.raises(ValueError, match="expected at most 12 templates"):
            vocabulary_within(Limits(), "cat", templates)


def test_an_image_that_the_model_would_get_endless_is_refused(post, pipe, content):
    """Its short side gets 64 pixels: a file of a few bytes would occupy the service for hours."""
    for size, status in (((1, 16), 200), ((17, 1), 400)):
        answer = post(image=png_of(Image.new("RGB", size)))
        assert answer.status_code == status
    assert "at most 16 times the shorter one" in answer.json()["detail"]
    for size in ({"height": 640, "width": 640}, {"shortest_edge": 64, "longest_edge": 640}):
        check_aspect(Limits(), (17, 1), size)


def test_active_classes_are_a_number_or_auto(post):
    for value in ("1", "auto"):
        answer = post(active_classes=value).json()
        assert str(answer["active_classes"]) == value and answer["segments"]


def test_requests_that_cannot_be_answered_say_why(post, client, content):
    for fields, status, message in (
        ({"image": b"no image"}, 400, "known image format"),
        ({"image": b""}, 400, "empty"),
        ({"labels": "a, a"}, 400, "same name"),
        ({"labels": ", "}, 400, "No words yet"),
        ({"labels": "a,b,c,d,e,f,g"}, 400, "expected at most 6"),
        ({"vocabulary": "pascal-voc-20"}, 400, "expected one of them"),
        ({"threshold": "2"}, 400, "between 0 and 1"),
        ({"head": "best"}, 422, "dinotxt"),
        ({"active_classes": "0"}, 400, "integer of at least 1"),
        ({"active_classes": "all"}, 422, "auto"),
        ({"image": bytes(2**16 + 1)}, 400, "expected at most 0 MiB"),
        ({"image": bytes(2**21)}, 413, "too large"),
    ):
        answer = post(**fields)
        assert answer.status_code == status and message in answer.text, fields
    chunks = (b"--x\r\n" + bytes(2**16) for _ in range(40))  # the length is not told
    answer = client.post("/segment", content=chunks, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code in (400, 413)
    assert post().status_code == 200 and client.get("/health").json()["pending"] == 0


def test_what_is_no_request_is_refused_without_its_content(client, content):
    """The content can have megabytes, or no place in an answer: these were answered with 500."""
    long = base64.b64encode(content).decode() * 20
    for body in (
        f'{{"image": "{long}"}}',
        '{"model": NaN, "image": ""}',
        '{"image": "\\ud800"}',
        "[" * 500 + "]" * 500,
    ):
        answer = client.post("/v1/predict", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422 and len(answer.content) < 500
        assert all(set(detail) == {"type", "loc", "msg"} for detail in answer.json()["detail"])
    answer = client.post("/setup", content='{"schema": "<a>\\ud800</a>"}', headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "no XML" in answer.json()["detail"]


def test_an_endless_text_prompt_is_refused_before_it_is_taken_apart(client, content):
    request = {
        "model": "dinov3seg",
        "image": base64.b64encode(content).decode(),
        "params": {"text_prompt": "ab." * 10**6},
    }
    limit = client.engine.limits
    client.engine.limits = Limits(file_bytes=2**24)
    app = build_app(client.engine)
    client.engine.limits = limit
    error = TestClient(app).post("/v1/predict", json=request).json()["error"]
    assert "The text has 3000000 characters; expected at most" in error["message"]


@pytest.mark.parametrize("charset", ["punycode", '"unicode_escape"', "UTF-8; charset=punycode", "utf-8x", "*0=puny"])
def test_a_form_chooses_no_decoder(client, content, charset, monkeypatch):
    """The decoder of punycode takes time that grows with the square of the length; the others are not for forms."""
    request = requests.Request("POST", "http://s", files={"image": content}, data={"labels": LABELS}).prepare()
    name = "" if charset.startswith("*") else "="
    kind = f"{request.headers['content-type']}; CharSet{name}{charset}"
    answer = client.post("/segment", content=request.body, headers={"content-type": kind})
    assert answer.status_code == 415 and "Leave out the charset" in answer.json()["detail"]
    kind = f"{request.headers['content-type']}; charset=UTF-8"
    assert client.post("/segment", content=request.body, headers={"content-type": kind}).status_code == 200


def test_nested_controls_of_a_labeling_interface_are_counted():
    """Each one searches all that is in it, which grows with the square of their number."""
    nested = [f'<BrushLabels toName="p">{"<BrushLabels/>" * (n - 1)}</BrushLabels>' for n in (100, 101)]
    for labels, message in zip(nested, ("with labels on an Image", "has 101 BrushLabels; expected at most 100")):
        with pytest.raises(ValueError, match=message):
            read_interface(f'<View><Image name="p" value="$a"/>{labels}</View>')


def test_what_is_wrong_in_a_request_is_not_sent_back_in_full(client):
    long = "x" * 10**5
    for path, body in (
        ("/predict", {"tasks": [{"data": {"photo": [long]}}], "label_config": LABEL_CONFIG}),
        ("/setup", {"schema": [long]}),
        ("/v1/predict", {"model": long, "image": ""}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code in (200, 400) and "xxx" in answer.text and len(answer.text) < 1000


def test_the_endpoints_are_described(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/segment", "/vocabularies", "/health", "/predict", "/setup", "/v1/predict", "/v1/models"} <= set(paths)
    form = client.get("/openapi.json").json()["components"]["schemas"]["Body_segment_segment_post"]
    assert form["required"] == ["image"] and "background" in form["properties"]


# --- the engine -------------------------------------------------------------------------------------------------------


def test_what_arrives_together_is_one_batch_with_the_answers_of_each(pipe, sample_image):
    engine = SegmentationEngine(pipe, max_batch=4, max_wait=0.5)
    images = [sample_image, sample_image.rotate(180), sample_image.resize((50, 70)), sample_image.rotate(180)]
    words = [NAMES, NAMES[:2], NAMES, [*NAMES[2:], "cat"]]
    futures = [
        engine.submit(png_of(image), Vocabulary(names), InferenceSettings()) for image, names in zip(images, words)
    ]
    results = [future.result(60) for future in futures]
    assert [result.batch_size for result in results] == [3] * 4  # one image twice
    for image, names, result in zip(images, words, results):
        # batches round otherwise than single images, so a few pixels may differ
        assert (result.labeled.label_map == expected_map(pipe, image, names)).mean() > 0.99
    engine.close()


def test_features_of_another_size_are_others(pipe, content):
    engine = SegmentationEngine(pipe)
    for settings in (InferenceSettings(), InferenceSettings(size={"height": 32, "width": 48})):
        result = engine.submit(content, Vocabulary(NAMES), settings).result(60)
        (expected,) = pipe.segment_prepared(
            [pipe.prepare(content, settings)], pipe.encode_labels(Vocabulary(NAMES)), settings
        )
        assert not result.was_encoded
        np.testing.assert_array_equal(result.labeled.label_map, expected.label_map)
    engine.close()


def test_a_bad_image_does_not_spoil_its_batch(pipe, content):
    engine = SegmentationEngine(pipe, max_batch=3, max_wait=0.3)
    good, bad, slide = (
        engine.submit(data, Vocabulary(NAMES), InferenceSettings(inference=inference))
        for data, inference in ((content, None), (content[:200], None), (content, "slide"))
    )
    assert good.result(60).labeled.label_map.shape == slide.result(60).labeled.label_map.shape == (60, 90)
    with pytest.raises(ValueError, match="could not be decoded"):
        bad.result(60)
    engine.close()
    assert engine.num_pending == 0


def test_a_full_queue_tells_when_to_come_back_and_closing_answers_all(pipe, content, monkeypatch):
    engine = SegmentationEngine(pipe, max_batch=1, max_queue=3)
    gate = threading.Event()
    segment = engine._segment
    monkeypatch.setattr(engine, "_segment", lambda batch: gate.wait(60) and segment(batch))
    futures = [engine.submit(content, Vocabulary(NAMES), InferenceSettings()) for _ in range(3)]
    with pytest.raises(BusyError) as error:
        engine.submit(content, Vocabulary(NAMES), InferenceSettings())
    assert error.value.retry_after >= 1
    client = TestClient(build_app(engine))
    answer = client.post("/segment", files={"image": content}, data={"labels": LABELS})
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
    closing = threading.Thread(target=engine.close)
    closing.start()
    while engine.is_open:
        time.sleep(0.01)
    with pytest.raises(BusyError, match="stops"):
        engine.submit(content, Vocabulary(NAMES), InferenceSettings())
    assert client.get("/health").status_code == 503
    gate.set()
    closing.join(60)
    assert all(future.result(0).labeled.label_map.size for future in futures)


def test_the_model_waits_for_answers_and_a_request_is_in_work_until_it_is_answered(pipe, content):
    """Results have the size of the image: those of many clients, with slow answers, would fill the memory."""
    engine = SegmentationEngine(pipe, max_batch=1, max_queue=20, num_workers=1)
    gate, made = threading.Event(), []
    segment = pipe.segment_prepared

    def counted(*arguments, **options):
        made.append(1)
        return segment(*arguments, **options)

    def answer(result):
        gate.wait(60)
        return result.labeled.label_map.shape if result.was_encoded else 1 / 0

    engine._room = threading.Semaphore(3)
    pipe.segment_prepared = counted
    try:
        futures = [engine.submit(content, Vocabulary(NAMES), InferenceSettings(), answer) for _ in range(8)]
        deadline = time.monotonic() + 60
        while len(made) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert len(made) == 3 and engine.num_pending == 8
        gate.set()
        with pytest.raises(ZeroDivisionError):  # an error in an answer reaches its client, and no other
            futures[0].result(60)
        assert [future.result(60) for future in futures[1:]] == [(60, 90)] * 7
        engine.close()
        assert engine.num_pending == 0 and len(made) == 8
    finally:
        del pipe.segment_prepared


def test_an_error_in_the_model_reaches_the_client_and_the_next_request_is_served(pipe, content, monkeypatch):
    engine = SegmentationEngine(pipe)
    monkeypatch.setattr(engine, "_segment", lambda batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.submit(content, Vocabulary(NAMES), InferenceSettings()).result(60)
    monkeypatch.undo()
    assert engine.submit(content, Vocabulary(NAMES), InferenceSettings()).result(60).labeled.label_map.size
    engine.close()


# --- clients that go away, and requests that take too long ------------------------------------------------------------


def asked(content, path):
    """The request of a client, for one of the endpoints that compute."""
    image = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    bodies = {
        "/segment": {"files": {"image": content}, "data": {"labels": LABELS}},
        "/predict": {"json": {"tasks": [task_of(content)], "label_config": LABEL_CONFIG}},
        "/v1/predict": {"json": {"model": "dinov3seg", "image": image, "params": {"text_prompt": LABELS}}},
    }
    return bodies[path]


async def ask_and_leave(app, path, body, leave):
    """Sends a request to an application, and closes the connection when `leave()` is true."""
    request = requests.Request("POST", f"http://service{path}", **body).prepare()
    messages, sent = [{"type": "http.request", "body": request.body}], []

    async def receive():
        if messages:
            return messages.pop()
        while not leave():
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "http_version": "1.1"}
    headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
    await app({**scope, "headers": headers, "scheme": "http", "server": ("service", 80)}, receive, send)
    return sent


class Gate:
    """Holds an engine's first batch back until it is opened, and counts the images that are segmented."""

    def __init__(self, pipe, monkeypatch):
        self.is_open, self.has_begun, self.calls = threading.Event(), threading.Event(), 0
        segment = pipe.segment_prepared

        def counted(*arguments, **options):
            self.calls += 1
            self.has_begun.set()
            assert self.is_open.wait(60)
            return segment(*arguments, **options)

        monkeypatch.setattr(pipe, "segment_prepared", counted)


@pytest.mark.parametrize("path", ["/segment", "/predict", "/v1/predict"])
def test_a_waiting_request_whose_client_is_gone_is_not_computed(pipe, content, monkeypatch, path):
    engine, gate = SegmentationEngine(pipe, max_batch=1), Gate(pipe, monkeypatch)
    first = engine.submit(content, Vocabulary(NAMES), InferenceSettings())
    assert gate.has_begun.wait(60)
    # leaves when its image has been read: before, it would leave the queue at once
    asking = ask_and_leave(build_app(engine), path, asked(content, path), lambda: engine._ready.qsize() == 1)
    asyncio.run(asyncio.wait_for(asking, 60))  # ends although the first one is not done
    last = engine.submit(content, Vocabulary(NAMES[:2]), InferenceSettings())
    assert engine.num_pending == 3  # it leaves the queue in its turn: otherwise, the queue would have no bound
    gate.is_open.set()
    assert first.result(60).labeled.label_map.shape == last.result(60).labeled.label_map.shape == (60, 90)
    engine.close()
    assert gate.calls == 2 and engine.num_pending == 0


def test_a_computation_that_nobody_waits_for_ends_between_two_layers(pipe, content):
    engine, futures, called = SegmentationEngine(pipe), [], []
    ready = threading.Event()

    def leave(module, inputs):
        assert ready.wait(60)
        futures[0].cancel()

    handles = [
        pipe.model.text_model.register_forward_pre_hook(leave),
        pipe.model.decoder.register_forward_pre_hook(lambda module, inputs: called.append(1)),
    ]
    try:
        futures.append(engine.submit(content, Vocabulary(["a word that is new"]), InferenceSettings(head="full")))
        ready.set()
        engine.close()
    finally:
        for handle in handles:
            handle.remove()
    assert futures[0].cancelled() and not called and engine.num_pending == 0
    assert not any(module._forward_pre_hooks for module in pipe.model.modules())


def test_requests_that_take_or_wait_too_long_get_an_answer_and_the_next_one_is_served(pipe, content, monkeypatch):
    engine = SegmentationEngine(pipe, Limits(seconds=0.5), max_batch=1)
    gate = Gate(pipe, monkeypatch)
    with TestClient(build_app(engine)) as client:
        answer = client.post("/segment", **asked(content, "/segment"))
        assert answer.status_code == 504 and "took more than 0.5 s" in answer.json()["detail"]
        assert "smaller image" in answer.json()["detail"]
        answer = client.post("/segment", **asked(content, "/segment"))  # the first one is still in the model
        assert answer.status_code == 504 and "waited for more than 0.5 s" in answer.json()["detail"]
        assert "Try again later" in answer.json()["detail"]
        (result,) = client.post("/predict", **asked(content, "/predict")).json()["results"]
        assert result["result"] == [] and "waited for more than 0.5 s" in result["error"]
        error = client.post("/v1/predict", **asked(content, "/v1/predict")).json()["error"]
        assert error["code"] == "INFERENCE_ERROR" and "waited for more than 0.5 s" in error["message"]
        assert gate.calls == 1
        gate.is_open.set()
        deadline = time.monotonic() + 60
        while client.get("/health").json()["pending"] and time.monotonic() < deadline:
            time.sleep(0.01)
        engine.limits = Limits()
        assert client.post("/segment", **asked(content, "/segment")).status_code == 200
        assert gate.calls == 2


# --- annotation tools -------------------------------------------------------------------------------------------------


def task_of(content):
    return {"id": 1, "data": {"photo": f"data:image/png;base64,{base64.b64encode(content).decode()}"}}


def test_label_studio_gets_brush_masks_for_the_labels_of_its_project(client, content, pipe, sample_image):
    assert client.get("/health").json()["status"] == "UP"
    setup = client.post("/setup", json={"project": "1.2", "schema": LABEL_CONFIG, "hostname": "", "access_token": ""})
    assert setup.status_code == 200 and setup.json()["model_version"]
    request = {"tasks": [task_of(content), {"id": 2, "data": {}}], "label_config": LABEL_CONFIG, "project": "1.2"}
    answer = client.post("/predict", json=request).json()
    first, second = answer["results"]
    assert second["result"] == [] and "expected an address" in second["error"]
    assert 0 <= first["score"] <= 1 and first["model_version"] == answer["model_version"]
    labels, covered = expected_map(pipe, sample_image), np.zeros((60, 90), bool)
    for region in first["result"]:
        assert (region["type"], region["from_name"], region["to_name"]) == ("brushlabels", "brush", "picture")
        (name,) = region["value"]["brushlabels"]
        assert (region["original_height"], region["original_width"]) == (60, 90) and name in NAMES
        covered |= labels == NAMES.index(name)
    assert covered.any()


def test_a_request_of_label_studio_with_more_tasks_than_the_queue_has_room_for(pipe, content):
    engine = SegmentationEngine(pipe, max_batch=2, max_queue=3)
    with TestClient(build_app(engine)) as client:
        tasks = [task_of(content), {"data": "none"}, {"data": ["none"]}, *[task_of(content)] * 5]
        answer = client.post("/predict", json={"tasks": tasks, "label_config": LABEL_CONFIG})
        assert answer.status_code == 200
        assert ["error" in result for result in answer.json()["results"]] == [False, True, True, *[False] * 5]


def test_tasks_that_have_begun_wait_for_room_and_a_full_queue_refuses_new_ones(pipe, content, monkeypatch):
    monkeypatch.setattr("dinov3seg_hf.serving.label_studio.MAX_PAUSE_SECONDS", 0.01)
    engine = SegmentationEngine(pipe, max_batch=1, max_queue=2)
    submit, refusals = engine.submit, iter([False, True, True, False, True, False])

    def busy(*arguments):
        if next(refusals):
            raise BusyError("2 requests are waiting.", 1)
        return submit(*arguments)

    monkeypatch.setattr(engine, "submit", busy)
    request = {"tasks": [task_of(content)] * 3, "label_config": LABEL_CONFIG}
    with TestClient(build_app(engine)) as client:
        answer = client.post("/predict", json=request)
        assert answer.status_code == 200 and all(result["result"] for result in answer.json()["results"])
        refusals = iter([True])  # and no other task of the request is tried
        assert client.post("/predict", json=request).status_code == 429
        assert client.get("/health").json()["pending"] == 0


def test_predictions_fit_the_sdk_of_label_studio(client, content):
    interface = pytest.importorskip("label_studio_sdk.label_interface", reason="pip install label-studio-sdk")
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    for config in (LABEL_CONFIG, LABEL_CONFIG.replace("BrushLabels", "PolygonLabels")):
        request = {"tasks": [task_of(content)], "label_config": config}
        (prediction,) = client.post("/predict", json=request).json()["results"]
        assert prediction["result"]
        assert interface.LabelInterface(config).validate_prediction(prediction)
        for region in prediction["result"]:
            if region["type"] == "brushlabels":
                mask = np.reshape(brush.decode_rle(region["value"]["rle"]), (60, 90, 4))
                assert set(np.unique(mask)) <= {0, 255} and mask.any()


def test_labeling_interfaces_that_cannot_be_used_are_refused(client, content):
    for config, message in (
        ("<View>", "no XML"),
        ('<View><Image name="a" value="$b"/></View>', "no BrushLabels"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View>&a;</View>', "entities"),
    ):
        assert message in client.post("/setup", json={"schema": config}).json()["detail"]
        answer = client.post("/predict", json={"tasks": [task_of(content)], "label_config": config})
        assert answer.status_code == 400 and message in answer.json()["detail"]


def test_images_are_read_from_allowed_places_only(content, monkeypatch):
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # the name of the base class
            seen.append((self.path, self.headers.get("Authorization")))
            if "broken" in self.path:
                self.wfile.write(b"no HTTP\r\n\r\n")
                return
            self.send_response(302 if "away" in self.path else 200)
            self.send_header("Location", "/secret")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "key")
    place = f"http://127.0.0.1:{server.server_port}"
    downloads = Downloads([f"{place}/data"])
    assert downloads.read("/data/upload/1.png") == downloads.read(f"{place}/data/2.png") == content
    assert seen == [("/data/upload/1.png", "Token key"), ("/data/2.png", "Token key")]
    seen.clear()
    assert downloads.read(f"{place}/data/my photo \u00e9.png") == downloads.read("/data/a%20b.png?d=x y") == content
    assert [path for path, _ in seen] == ["/data/my%20photo%20%C3%A9.png", "/data/a%20b.png?d=x%20y"]
    for address in (
        f"{place}/other",
        f"{place}/data/../other",
        f"{place}/data/%2e%2e/other",
        f"{place}/data/..%5cother",
        "file:///etc/passwd",
        "/etc/passwd",
        f"{place}/data/away",
    ):
        with pytest.raises(ValueError, match=r"are not read|could not be downloaded"):
            downloads.read(address)
    assert all(path != "/secret" for path, _ in seen)
    with pytest.raises(ValueError, match="could not be downloaded"):
        downloads.read(f"{place}/data/broken")
    with pytest.raises(ValueError, match="MiB"):
        Downloads([place], Limits(file_bytes=10)).read(f"{place}/data/1.png")
    with pytest.raises(ValueError, match="are not read"):
        Downloads().read("/data/upload/1.png")
    server.shutdown()


def test_x_anylabeling_gets_polygons_for_its_text_prompt(client, content):
    (model_id,) = client.get("/v1/models").json()["data"]
    info = client.get(f"/v1/models/{model_id}/info").json()
    assert info["success"] and info["data"]["model_id"] == model_id
    image = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    for given, prompt in ((image, "red circle.blue square"), (image.partition(",")[2], None)):
        params = {"conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.001}
        params |= {} if prompt is None else {"text_prompt": prompt}
        answer = client.post("/v1/predict", json={"model": model_id, "image": given, "params": params}).json()
        assert answer["success"] and answer["data"]["description"] == "" and answer["data"]["shapes"]
        for shape in answer["data"]["shapes"]:
            assert shape["label"] in NAMES[: 2 if prompt else 4] and shape["shape_type"] == "polygon"
            points = np.array(shape["points"])
            assert len(points) >= 4 and (points[0] == points[-1]).all()
            assert (points >= 0).all() and (points <= (90, 60)).all() and 0 <= shape["score"] <= 1
    for request, code in (
        ({"model": "yolo", "image": image}, "MODEL_NOT_FOUND"),
        ({"model": model_id, "image": "?"}, "INVALID_IMAGE"),
        ({"model": model_id, "image": base64.b64encode(b"no image").decode()}, "INVALID_IMAGE"),
        ({"model": model_id, "image": image, "params": {"text_prompt": "cat.cat"}}, "INFERENCE_ERROR"),
    ):
        answer = client.post("/v1/predict", json=request)
        assert answer.status_code == 200 and answer.json()["error"]["code"] == code
    assert client.get("/v1/models/yolo/info").json()["success"] is False


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the client's libraries
def test_the_client_of_x_anylabeling_draws_what_the_service_answers(client, content, tmp_path, monkeypatch):
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    module = "anylabeling.services.auto_labeling.remote_server"
    remote = pytest.importorskip(module, reason="pip install x-anylabeling-cvhub")

    class Requests:
        """The calls of the client, without a network."""

        @staticmethod
        def get(url, headers, timeout):
            return client.get(url, headers=headers)

        @staticmethod
        def post(url, json, headers, timeout):
            return client.post(url, json=json, headers=headers)

    monkeypatch.setattr(remote, "requests", Requests)
    (tmp_path / "photo.png").write_bytes(content)
    messages = []
    settings = {"remote_server_settings": {"server_url": str(client.base_url)}}  # in a file of the home folder, there
    monkeypatch.setattr("anylabeling.services.auto_labeling.model.get_config", lambda: settings)
    server = remote.RemoteServer({"type": "remote_server", "display_name": "ours"}, messages.append)
    (model_id,) = server.get_available_models()
    server.set_model_id(model_id)
    for prompt, names in (("red circle.blue square.", NAMES[:2]), (None, NAMES)):
        result = server.predict_shapes(object(), str(tmp_path / "photo.png"), prompt)
        assert result.shapes and result.replace and not messages
        for shape in result.shapes:
            assert shape.label in names and shape.shape_type == "polygon" and 0 <= shape.score <= 1
            assert all(0 <= point.x() <= 90 and 0 <= point.y() <= 60 for point in shape.points)


# --- the start --------------------------------------------------------------------------------------------------------


def test_labels_that_are_calibrated_for_something_else_are_refused_at_the_start(tiny_checkpoint, pipe, monkeypatch):
    monkeypatch.setattr(service, "give_back_freed_memory", lambda: None)
    monkeypatch.setattr(service.uvicorn.Server, "run", lambda self: started.append(self.config.http))
    started = []
    used = pipe.resolved_settings()
    for head, is_right in ((used.head, True), ({"full": "dinotxt", "dinotxt": "full"}[used.head], False)):
        calibration = Calibration((0.1,) * 4, head, pipe.text_fingerprint())
        vocabulary = Vocabulary(NAMES, calibration=calibration)
        with contextlib.nullcontext() if is_right else pytest.raises(ValueError, match="calibrated for head"):
            service.serve(str(tiny_checkpoint), device="cpu", vocabulary=vocabulary)
    assert started == ["h11"]  # which has a limit of headers


# --- the process ------------------------------------------------------------------------------------------------------


@pytest.mark.multiprocess
def test_sigterm_ends_the_service_when_all_requests_are_answered(tiny_checkpoint, content):
    command = [sys.executable, "-m", "dinov3seg_hf", "serve", "--model", str(tiny_checkpoint), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--device", "cpu"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if "running on" in line:
            address = line.split("running on ")[1].split()[0]
            break
    answers = []

    def ask():
        answers.append(
            requests.post(f"{address}/segment", files={"image": content}, data={"labels": LABELS}, timeout=60)
        )

    clients = [threading.Thread(target=ask) for _ in range(8)]
    for each in clients:
        each.start()
    while requests.get(f"{address}/health", timeout=60).json()["pending"] < 4 and not answers:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    for each in clients:
        each.join(60)
    assert process.wait(60) == 0
    assert [answer.status_code for answer in answers] == [200] * 8
