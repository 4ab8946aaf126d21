# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The demo's API over HTTP, as clients and attackers call it. Needs the extra `demo`."""

import json
import re
import shutil
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("gradio", reason="needs the extra demo")

import httpx
from gradio_client import Client, handle_file

from dinov3seg_hf import OpenVocabularySegmentationPipeline
from dinov3seg_hf.about import TINY
from dinov3seg_hf.demo.address import MAX_ADDRESS, Address, read_address
from dinov3seg_hf.demo.endpoints import Endpoints
from dinov3seg_hf.demo.engine import DemoEngine
from dinov3seg_hf.demo.examples import Example, copied_into, examples_in, topics_of
from dinov3seg_hf.demo.page import build_demo
from dinov3seg_hf.demo.server import serve
from dinov3seg_hf.demo.theme import launch_options
from dinov3seg_hf.drawn_world.names import COLORS, KINDS, PATTERNS
from dinov3seg_hf.model.image_input import read_label_map
from dinov3seg_hf.model.vocabulary import Vocabulary
from dinov3seg_hf.serving.limits import Limits

from places import REPO

LABELS = "red circle, blue square|blue box, yellow triangle, green background"
FILE = {"meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def engine(tiny_model, tiny_processor):
    pipe = OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu")
    return DemoEngine(pipe, Limits(file_bytes=2**20), name="a tiny one")


@pytest.fixture(scope="module")
def image(tmp_path_factory, sample_image):
    path = tmp_path_factory.mktemp("photos") / "my photo.png"
    sample_image.save(path)
    return str(path)


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def demo(engine, image, uploads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        demo = build_demo(engine, [Example(image, LABELS)], queue_size=3)
        demo.launch(prevent_thread_lock=True, quiet=True, **launch_options(engine.limits))
        yield demo
        demo.close()


@pytest.fixture(scope="module")
def url(demo):
    return demo.local_url.rstrip("/")


@pytest.fixture(scope="module")
def client(url, tmp_path_factory):
    return Client(url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


def upload(url, path, name="upload.png"):
    response = httpx.post(f"{url}/gradio_api/upload", files={"files": (name, Path(path).read_bytes())})
    response.raise_for_status()
    return {"path": response.json()[0], **FILE}


def call(url, endpoint, *data):
    """What curl would get: ("complete" or "error", data)."""
    response = httpx.post(f"{url}/gradio_api/call/{endpoint}", json={"data": list(data)})
    if response.status_code != 200:
        return "error", response.text
    with httpx.stream("GET", f"{url}/gradio_api/call/{endpoint}/{response.json()['event_id']}", timeout=60) as stream:
        event = None
        for line in stream.iter_lines():
            if line.startswith("event:"):
                event = line.removeprefix("event:").strip()
            elif line.startswith("data:") and event in ("complete", "error"):
                return event, line.removeprefix("data:").strip()
    raise AssertionError("the stream ended without an answer")


# --- what it answers --------------------------------------------------------------------------------------------------


def test_api_is_documented_and_the_page_keeps_its_own_events(client):
    api = client.view_api(return_format="dict", print_info=False)
    assert set(api["named_endpoints"]) == {"/overlay", "/label_map", "/segment", "/heat_map"}
    assert not api["unnamed_endpoints"]
    for endpoint in api["named_endpoints"].values():
        names = [parameter["parameter_name"] for parameter in endpoint["parameters"]]
        assert names[:2] == ["image", "labels"] and {"inference", "head", "templates"} < set(names)
        optional = {p["parameter_name"] for p in endpoint["parameters"] if p["parameter_has_default"]}
        assert {"inference", "head", "templates"} < optional


def test_answers_follow_the_edges_if_asked(client, engine, image):
    expected = engine.pipe(image, LABELS, templates=["{}"], refine="pixels", return_label_map=True)
    path = client.predict(handle_file(image), LABELS, templates=["{}"], refine=True, api_name="/label_map")
    np.testing.assert_array_equal(read_label_map(path).numpy(), expected["label_map"])
    answer = client.predict(handle_file(image), LABELS, templates=["{}"], refine=True, api_name="/segment")
    assert answer["refine"] == "pixels"
    assert client.predict(handle_file(image), LABELS, api_name="/segment")["refine"] == "none"


def test_answers_are_the_pipelines(client, engine, image):
    options = {"inference": "local-global", "head": "full", "templates": ["{}"], "threshold": 0.4}
    expected = engine.pipe(
        image, LABELS, inference="local-global", templates=["{}"], threshold=0.4, return_label_map=True
    )
    answer = client.predict(handle_file(image), LABELS, **options, api_name="/segment")
    assert {s["label"]: s["score"] for s in answer["segments"]} == pytest.approx(
        {s["label"]: s["score"] for s in expected["segments"]}, abs=1e-3
    )
    assert (answer["height"], answer["width"]) == expected["label_map"].shape
    assert answer["labels"] == expected["labels"] and answer["inference"] == "local-global"
    for segment in answer["segments"]:
        runs = np.repeat(np.arange(len(segment["mask"]["counts"])) % 2, segment["mask"]["counts"])
        mask = runs.reshape(segment["mask"]["size"], order="F").astype(bool)
        np.testing.assert_array_equal(mask, expected["label_map"] == segment["index"])

    path = client.predict(handle_file(image), LABELS, **options, api_name="/label_map")
    labels = read_label_map(path).numpy()
    np.testing.assert_array_equal(np.where(labels == 255, -1, labels), expected["label_map"])
    assert Path(path).name == "my_photo_labels.png"

    path = client.predict(handle_file(image), LABELS, **options, opacity=1.0, api_name="/overlay")
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width >= 512 and picture.height > 512
    path = client.predict(handle_file(image), LABELS, "red circle", api_name="/heat_map")
    with Image.open(path) as picture:
        assert picture.mode in ("L", "RGB") and picture.size == (90, 60)


def test_a_client_that_asks_again_has_its_image_encoded_once(url, engine, image, monkeypatch):
    encoded = []
    encode_image = engine.pipe.encode_image
    monkeypatch.setattr(engine.pipe, "encode_image", lambda *a, **k: encoded.append(1) or encode_image(*a, **k))
    first, second = (Client(url, verbose=False) for _ in range(2))
    for labels in ("cat, dog", "cat, dog, bird"):
        first.predict(handle_file(image), labels, api_name="/segment")
    assert len(encoded) == 1
    second.predict(handle_file(image), "cat, dog", api_name="/segment")  # another's image is another's
    assert len(encoded) == 2


def test_unusual_files_are_read(client, tmp_path, sample_image):
    tiff, gif = tmp_path / "press.tif", tmp_path / "moving.gif"
    sample_image.convert("CMYK").save(tiff)
    frames = [sample_image.quantize(64), sample_image.rotate(180).quantize(64)]
    frames[0].save(gif, save_all=True, append_images=frames[1:])
    for path in (tiff, gif):
        answer = client.predict(handle_file(path), LABELS, api_name="/segment")
        assert (answer["height"], answer["width"]) == (60, 90) and answer["segments"]


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ("", {}, "No words"),
        ("cat, cat", {}, "same name"),
        (", ".join(f"thing {i}" for i in range(1001)), {}, "1001 labels"),
        ("cat", {"threshold": 2.0}, "threshold"),
        ("cat", {"templates": ["nothing"]}, "nothing"),
        ("cat", {"inference": "fast"}, "fast"),
        ("cat", {"head": 7}, "head"),
    ],
)
def test_what_is_wrong_is_said(client, image, labels, options, message):
    with pytest.raises(Exception, match=message):
        client.predict(handle_file(image), labels, **options, api_name="/segment")


def test_what_fails_unexpectedly_keeps_its_secrets(client, engine, image, monkeypatch):
    monkeypatch.setattr(engine, "segment", lambda *a, **k: 1 / 0)
    with pytest.raises(Exception) as error:
        client.predict(handle_file(image), "cat", api_name="/segment")
    assert "division" not in str(error.value) and "Traceback" not in str(error.value)


@pytest.mark.parametrize("meta", [FILE, {}])
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        str(REPO / "examples" / "scene.png"),
        "examples/scene.png",
        "{uploads}/../secret.png",
        "{uploads}/x/../../secret.png",
        "file:///etc/passwd",
        "http://127.0.0.1:1/image.png",
        "http://169.254.169.254/latest/meta-data",
        "",
        None,
    ],
)
def test_no_file_but_an_upload_is_read(url, uploads, sample_image, path, meta):
    secret = uploads.parent / "secret.png"
    sample_image.save(secret)
    path = path.format(uploads=uploads) if path else path
    for endpoint in ("segment", "overlay"):
        event, data = call(url, endpoint, {"path": path, "orig_name": "x.png", **meta}, "cat", *OPTIONS[endpoint])
        assert event == "error" and "segments" not in data and "root:" not in data
        assert re.search(r"Upload (the|an) image", data) and str(REPO) not in data


OPTIONS = {
    "segment": ["whole", "full", ["{}"], 0.0, False],
    "overlay": ["whole", "full", ["{}"], 0.0, 0.5, False],
}


def test_calls_of_the_test_before_succeed_with_an_upload(url, image):
    for endpoint, options in OPTIONS.items():
        event, data = call(url, endpoint, upload(url, image), "cat, dog", *options)
        assert event == "complete" and json.loads(data)[0]


@pytest.mark.parametrize("given", ["x", 7, [], {"path": 7}, {"path": ["a"]}, {"url": "data:image/png;base64,AAAA"}])
def test_what_is_no_file_is_refused(url, given):
    event, data = call(url, "segment", given, "cat", *OPTIONS["segment"])
    assert event == "error" and "Upload the image first" in data


def test_missing_inputs_are_refused_with_a_sentence(url, image):
    for inputs in ([], [upload(url, image), "cat"]):
        event, data = call(url, "segment", *inputs)
        assert event == "error" and "send all inputs" in data


def test_folder_of_an_upload_as_a_file_does_not_reach_the_cleaning_of_gradio(demo, url, image):
    """Gradio's cleaning ended at a folder, and uploads piled up."""
    file = upload(url, image)
    folder = {**file, "path": str(Path(file["path"]).parent)}
    for sent in (folder, {"path": folder["path"]}, [folder], {"x": [folder]}):
        event, data = call(url, "segment", sent, "cat", *OPTIONS["segment"])
        assert event == "error" and "Upload the image first" in data
    call(url, "segment", file, "cat", *OPTIONS["segment"])
    known = {path for block in demo.blocks.values() for path in getattr(block, "temp_files", ())}
    assert file["path"] in known and folder["path"] not in known


def test_server_downloads_nothing(url, monkeypatch):
    asked = []

    async def download(address, cache_dir):
        asked.append(address)
        raise ValueError

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", download)
    for meta in (FILE, {}, {**FILE, "is_stream": True}):
        for address in ("http://1.1.1.1/a.png", "https://example.org/a.png"):
            event, _ = call(url, "segment", {"path": address, "url": address, **meta}, "cat", *OPTIONS["segment"])
            assert event == "error"
    assert not asked


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "{repo}/pyproject.toml", "{uploads}/../secret.png", "../../etc/passwd"]
)
def test_server_gives_no_other_files(url, uploads, path):
    path = path.format(repo=REPO, uploads=uploads)
    response = httpx.get(f"{url}/gradio_api/file={path}")
    assert response.status_code in (403, 404)


def test_file_name_of_an_upload_goes_nowhere(url, image, uploads):
    for name in ("../../../evil.png", "/evil.png", "a" * 300 + ".png", "ünï códe.png", "<b>.png"):
        file = upload(url, image, name)
        assert Path(file["path"]).resolve().is_relative_to(uploads.resolve())
        file["orig_name"] = name
        event, data = call(url, "label_map", file, "cat, dog", *OPTIONS["segment"])
        assert event == "complete"
        assert Path(json.loads(data)[0]["path"]).resolve().is_relative_to(uploads.resolve())
    assert not (uploads.parent / "evil.png").exists()


def test_heavy_upload_is_refused(url, tmp_path):
    path = tmp_path / "heavy.png"
    path.write_bytes(b"\0" * (2**20 + 1))
    with pytest.raises(httpx.HTTPStatusError):
        upload(url, path)


def test_queue_cannot_be_passed_by(url, image):
    file = upload(url, image)
    for route in ("run/segment", "api/segment"):
        response = httpx.post(f"{url}/gradio_api/{route}", json={"data": [file, "cat", *OPTIONS["segment"]]})
        assert response.status_code == 404


def test_full_queue_says_so_and_the_others_are_served(url, engine, image, monkeypatch):
    free, segment = threading.Event(), engine.segment

    def waiting(*args, **kwargs):
        assert free.wait(60)
        return segment(*args, **kwargs)

    monkeypatch.setattr(engine, "segment", waiting)
    clients = [Client(url, verbose=False) for _ in range(6)]
    jobs = [client.submit(handle_file(image), "cat, dog", api_name="/segment") for client in clients]
    deadline = time.monotonic() + 30
    while sum(job.done() for job in jobs) < 2 and time.monotonic() < deadline:  # the refused ones
        time.sleep(0.05)
    free.set()
    outcomes = []
    for job in jobs:
        try:
            outcomes.append(bool(job.result(timeout=60)["segments"]))
        except Exception as error:
            assert "Queue is full" in str(error)
            outcomes.append(None)
    assert outcomes.count(None) >= 1 and outcomes.count(True) >= 3 and False not in outcomes


def test_page_names_no_other_host_to_load_from(url):
    page = httpx.get(url).text
    assert "fonts.googleapis" not in page and "cdnjs" not in page
    config = httpx.get(f"{url}/config").json()
    assert config["analytics_enabled"] is False


# --- addresses --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.text(max_size=200),
    example=st.integers(0, 4),
    templates=st.lists(st.text(max_size=60).map(lambda text: text + "{}"), max_size=5),
    inference=st.sampled_from(["whole", "local-global", "slide"]),
)
def test_address_is_read_as_it_was_written(engine, words, example, templates, inference):
    fields = [("words", words), ("example", str(example)), ("inference", inference)]
    fragment = urlencode([*fields, *(("templates", template) for template in templates)])
    read = read_address(fragment, engine, 5)
    expected = Address(words or None, example, inference, None, templates or None)
    assert read == (expected if len(fragment) <= MAX_ADDRESS else Address(too_long=True))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fragment=st.text(max_size=400) | st.text("&=;%+0123456789abcdefinrtxwords", max_size=400))
def test_any_address_opens_the_page(engine, image, fragment):
    opened = Endpoints(engine, [Example(image, LABELS)]).open_page(fragment)
    assert len(opened) == 7 and opened[0] == image and opened[-1] == 0


@pytest.mark.parametrize(
    "fragment",
    [
        "words=" + "a," * MAX_ADDRESS,
        "&".join("words=a" for _ in range(10_000)),
        "inference=fast&head=__class__&refine=maybe&example=5&templates=" + "x" * 500,
        "example=-1",
        "example=99999999999999999999999",
        "example=²",
        None,
        7,
    ],
)
def test_address_out_of_bounds_asks_for_nothing(engine, fragment):
    read = read_address(fragment, engine, 5)
    assert read in (Address(), Address(too_long=True))


@pytest.mark.parametrize("index", [-1, 5, None, "0", 0.5, [0]])
def test_example_that_does_not_exist_changes_nothing(engine, image, index):
    shown = Endpoints(engine, [Example(image, LABELS)]).show_example(index)
    assert image not in shown and LABELS not in shown


# --- examples, starting -----------------------------------------------------------------------------------------------


def test_examples_come_from_a_folder_with_their_words(tmp_path, sample_image):
    with pytest.raises(ValueError, match="No images were found"):
        examples_in(tmp_path)
    sample_image.save(tmp_path / "b.jpg")
    sample_image.save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("cat, dog\n", encoding="utf-8")
    first, second = examples_in(tmp_path)
    assert (Path(first.path).name, first.words) == ("a.png", "cat, dog") and "sky" in second.words
    (tmp_path / "streets").mkdir()
    sample_image.save(tmp_path / "streets" / "corner.png")
    topics = topics_of(examples_in(tmp_path))
    assert [topic["name"] for topic in topics] == ["Examples", "streets"]
    assert [scene["index"] for topic in topics for scene in topic["scenes"]] == [0, 1, 2]
    assert topics[1]["scenes"][0]["name"].startswith("corner: ")
    (tmp_path / "c.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"c\.png"):
        examples_in(tmp_path)
    with pytest.raises(ValueError, match=r"Examples folder .* was not found"):
        examples_in(tmp_path / "missing")


def test_example_is_copied_to_a_path_that_is_text(tmp_path, image):
    assert copied_into(image, str(tmp_path), 3) == str(tmp_path / "example_3" / Path(image).name)


def test_occupied_port_is_refused(url, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "restored afterwards")
    with pytest.raises(ValueError, match="--port"):
        serve(device="cpu", port=int(url.rsplit(":", 1)[1]))


def presets_and_note(demo):
    components = demo.get_config_file()["components"]
    (preset,) = (part["props"] for part in components if part["props"].get("elem_id") == "preset")
    intro = next(
        str(part["props"]["value"]) for part in components if 'class="intro"' in str(part["props"].get("value"))
    )
    return [name for name, _ in preset["choices"][1:]], intro


@pytest.mark.parametrize(
    ("words", "offered", "note"),
    [
        (None, {"ade20k-150 (150)"}, None),
        (
            [*COLORS, *PATTERNS, *KINDS],
            {"Colors of the drawn world (8)", "All names of the drawn world (192)"},
            "drawn",
        ),
        ([*COLORS, "<b>road</b>"], {"Colors of the drawn world (8)"}, "This model knows 9 words only"),
        (["sky"], set(), "This model knows 1 words only"),
    ],
    ids=["all", "drawn", "colors", "sky"],
)
def test_page_offers_only_words_that_the_checkpoint_knows(engine, monkeypatch, words, offered, note):
    monkeypatch.setattr(engine.pipe.model.config, "known_words", words)
    titles, intro = presets_and_note(build_demo(engine))
    assert offered <= set(titles)
    drawn = {title for title in titles if "drawn world" in title}
    assert drawn == (set() if words is None else set(titles))
    assert len(titles) == (0 if not offered else 4 if note == "drawn" else 1 if words else len(titles))
    assert "<b>road" not in intro and ("--model" in intro) == (words is not None) and (note or "") in intro


def test_fine_tuned_words_are_offered_beside_the_drawn_ones(engine, monkeypatch):
    preset = Vocabulary.from_preset("ade20k-150")
    learned = [word for words in preset.synonyms for phrase in words for word in phrase.split()]
    monkeypatch.setattr(engine.pipe.model.config, "known_words", [*COLORS, *PATTERNS, *KINDS, *learned])
    titles, _ = presets_and_note(build_demo(engine))
    assert {"ade20k-150 (150)", "All names of the drawn world (192)"} <= set(titles)


def test_a_copy_of_the_embedded_checkpoint_is_served_as_the_original(tmp_path, monkeypatch):
    """For example one that was published, in its Space."""
    copy, made = shutil.copytree(TINY, tmp_path / "copy"), []

    def noted(engine, examples, **options):
        made.append(presets_and_note(build_demo(engine, examples, **options)))
        made.append(examples)
        raise KeyboardInterrupt

    monkeypatch.setenv("GRADIO_TEMP_DIR", "restored afterwards")
    monkeypatch.setattr("dinov3seg_hf.demo.server.build_demo", noted)
    with pytest.raises(KeyboardInterrupt):
        serve(str(copy), device="cpu")
    (titles, intro), examples = made
    assert "All names of the drawn world (192)" in titles and not any("ade20k" in title for title in titles)
    assert "drawn scenes" in intro and len(examples) > 5


def test_without_a_password_nothing_is_read_or_computed(engine, image):
    demo = build_demo(engine)
    _, url, _ = demo.launch(
        prevent_thread_lock=True, quiet=True, auth=[("ann", "secret")], **launch_options(engine.limits)
    )
    try:
        with httpx.Client(base_url=url) as client:

            def codes():
                body = {"data": [], "fn_index": 0, "session_hash": "a"}
                posts = (client.post(f"gradio_api/{path}", json=body) for path in ("queue/join", "call/segment"))
                files = {"files": ("a.png", Path(image).read_bytes())}
                gets = (client.get(path) for path in ("config", "gradio_api/info"))
                return {answer.status_code for answer in (*posts, *gets, client.post("gradio_api/upload", files=files))}

            assert codes() == {401}
            assert client.post("login", data={"username": "ann", "password": "guess"}).status_code == 400
            assert codes() == {401}
            assert client.post("login", data={"username": "ann", "password": "secret"}).status_code == 200
            assert codes() == {200}
    finally:
        demo.close()
