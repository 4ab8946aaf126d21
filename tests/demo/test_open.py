# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The demo in the open: sweeping uploads, limits of clients and time, errors that tell nothing of the server."""

import asyncio
import dataclasses
import os
import tempfile
import time
from pathlib import Path

import pytest

pytest.importorskip("gradio")

import gradio as gr
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from dinov3seg_hf import OpenVocabularySegmentationPipeline
from dinov3seg_hf.cli import demo as command
from dinov3seg_hf.demo.clients import MAX_CLIENTS, PRIVATE_NETWORKS, ClientRates, client_of, middleware_of
from dinov3seg_hf.demo.endpoints import Endpoints
from dinov3seg_hf.demo.engine import DemoEngine
from dinov3seg_hf.demo.uploads import LEFTOVER, PREFIX, new_upload_folder, sweep, swept
from dinov3seg_hf.model.files import locked_folder
from dinov3seg_hf.serving.limits import Limits


@pytest.fixture
def engine(tiny_model, tiny_processor):
    pipe = OpenVocabularySegmentationPipeline(model=tiny_model, processor=tiny_processor, device="cpu")
    return DemoEngine(pipe)


@pytest.mark.skipif(os.name == "nt", reason="nothing is locked there")
def test_the_uploads_of_a_killed_server_are_removed_by_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed, running, other = (tmp_path / name for name in (f"{PREFIX}abcdefg1", f"{PREFIX}abcdefg2", f"{PREFIX}mine"))
    for folder in (killed, running, other):
        folder.mkdir()
        (folder / "photo.jpg").write_bytes(b"photo")
    with locked_folder(running), new_upload_folder() as folder:
        assert LEFTOVER.fullmatch(Path(folder).name) and os.stat(folder).st_mode & 0o777 == 0o700
        with new_upload_folder():  # another server
            assert Path(folder).is_dir() and not killed.exists()
    assert sorted(tmp_path.iterdir()) == [running, other]


@pytest.fixture
def upload(tmp_path, monkeypatch, sample_image):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    path = tmp_path / "uploads" / "0123" / "photo.png"
    path.parent.mkdir(parents=True)
    sample_image.save(path)
    return path


# --- uploads ----------------------------------------------------------------------------------------------------------


def make_files(folder: Path, sizes: list[int]) -> list[Path]:
    """Files in folders of their own, the oldest first."""
    paths = []
    for number, size in enumerate(sizes):
        paths.append(folder / f"{number:04d}" / "photo.png")
        paths[-1].parent.mkdir(parents=True)
        paths[-1].write_bytes(bytes(size))
        time.sleep(0.02)
    return paths


def test_old_uploads_are_removed_and_examples_stay(tmp_path):
    first, example, last = make_files(tmp_path, [10, 10, 10])
    sweep(tmp_path, {str(example)}, 1000, max_age=time.time() - (example.stat().st_ctime + last.stat().st_ctime) / 2)
    assert not first.exists() and example.exists() and last.exists()
    sweep(tmp_path, {str(example)}, 1000, max_age=0)
    sweep(tmp_path, {str(example)}, 1000, max_age=0)  # and the folders, once they are empty
    assert sorted(tmp_path.rglob("*")) == [example.parent, example]


def test_the_oldest_uploads_go_when_all_are_too_large_together(tmp_path):
    files = make_files(tmp_path, [100] * 5)
    sweep(tmp_path, (), 250)
    assert [file.exists() for file in files] == [False, False, False, True, True]


def test_links_are_removed_and_not_followed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    (uploads / "file").symlink_to(tmp_path / "mine" / "file")
    (uploads / "folder").symlink_to(tmp_path / "mine")
    for _ in range(2):
        sweep(uploads, (), 0, max_age=0)
    assert (tmp_path / "mine" / "file").read_text() == "x" and not (uploads / "file").is_symlink()


def test_sweeping_goes_on_after_an_error(tmp_path, monkeypatch):
    calls = []

    def broken(*_):
        calls.append(1)
        raise OSError("the disk is away")

    monkeypatch.setattr("dinov3seg_hf.demo.uploads.sweep", broken)
    monkeypatch.setattr("dinov3seg_hf.demo.uploads.INTERVAL_SECONDS", 0.01)
    with swept(tmp_path, (), 0):
        deadline = time.monotonic() + 10
        while len(calls) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(calls) >= 3


# --- clients ----------------------------------------------------------------------------------------------------------


def client_in_the_open(per_minute: int, clock, address: str = "10.0.0.1") -> TestClient:
    def answer(request):
        return PlainTextResponse("done")

    routes = [Route(f"/gradio_api{path}", answer, methods=["GET", "POST"]) for path in ("/upload", "/queue/join")]
    app = Starlette(routes=routes, middleware=[Middleware(ClientRates, per_minute, clock)])
    client = TestClient(app, client=(address, 1))
    client.get("/")  # builds the application
    return client


def test_a_client_with_too_many_requests_is_told_when_to_come_again():
    now = [0.0]
    client = client_in_the_open(6, lambda: now[0])
    codes = [client.post("/gradio_api/upload").status_code for _ in range(4)]
    assert codes == [200, 200, 200, 429]  # half a minute's requests at once
    refused = client.post("/gradio_api/queue/join")
    assert refused.status_code == 503 and refused.headers["retry-after"] == "10"
    assert refused.json() == {"detail": "Too many requests from your address. Wait 10 s."}
    assert client.get("/gradio_api/upload").status_code == 200  # the page itself is not limited
    other = TestClient(client.app, client=("10.0.0.2", 1))
    assert other.post("/gradio_api/upload").status_code == 200
    now[0] = 10
    assert [client.post("/gradio_api/upload").status_code for _ in range(2)] == [200, 429]


def test_an_address_that_a_client_claims_does_not_count():
    """Behind the proxies of a Space, as `demo/app.py` sets it: they add the address that they see."""

    def answer(request):
        return PlainTextResponse("done")

    limited = [
        Middleware(ProxyHeadersMiddleware, trusted_hosts=PRIVATE_NETWORKS),
        Middleware(ClientRates, 6, lambda: 0.0),
    ]
    app = Starlette(routes=[Route("/upload", answer, methods=["POST"])], middleware=limited)
    proxy = TestClient(app, client=("10.1.2.3", 1))

    def upload(*addresses: str) -> int:
        return proxy.post("/upload", headers={"X-Forwarded-For": ", ".join(addresses)}).status_code

    claims = ("1.1.1.1", "8.8.8.8", "127.0.0.1", "9.9.9.9")
    assert [upload(claim, "203.0.113.7", "10.9.9.9") for claim in claims] == [200, 200, 200, 429]
    assert upload("203.0.113.7", "198.51.100.1") == 200  # nor does a claim use up what another client has


def test_the_addresses_of_a_network_are_one_client():
    assert client_of("10.0.0.1") == client_of("::ffff:10.0.0.1") == "10.0.0.1" != client_of("10.0.0.2")
    assert client_of("2001:db8::1") == client_of("2001:db8:0:0:ffff::2") != client_of("2001:db8:0:1::1")
    assert client_of("fe80::1%eth0") == client_of("fe80::2") and client_of("testclient") == "testclient"
    codes = []
    app = client_in_the_open(6, lambda: 0.0).app
    for number in range(4):
        client = TestClient(app, client=(f"2001:db8::{number}", 1))
        codes.append(client.post("/gradio_api/upload").status_code)
    assert codes == [200, 200, 200, 429]


@pytest.mark.parametrize("path", ["/gradio_api/process_recording", "/gradio_api/component_server/"])
def test_what_would_leave_files_outside_of_the_uploads_is_not_there(path):
    """Gradio's own answer to these is a file in the temporary folder of the system that nobody removes."""

    async def store(request):
        pytest.fail("was read")

    app = Starlette(routes=[Route(path, store, methods=["POST"])], middleware=middleware_of(Limits()))
    assert TestClient(app).post(path, files={"other": b"x"}).status_code == 404


def test_addresses_of_many_clients_take_no_memory():
    rates = ClientRates(None, 60)
    for number in range(MAX_CLIENTS + 100):
        for allowance in (rates.requests, rates.bytes):
            allowance.use(str(number), 1)
    assert len(rates.requests) == len(rates.bytes) == MAX_CLIENTS


def demo_client(limits: Limits) -> TestClient:
    """A client of an application that reads what it gets, behind the middleware of the demo."""

    async def answer(request):
        return PlainTextResponse(str(len(await request.body())))

    paths = ("/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/call/segment")
    routes = [Route(path, answer, methods=["POST"]) for path in paths]
    return TestClient(Starlette(routes=routes, middleware=middleware_of(limits)))


def test_one_client_cannot_use_up_the_room_for_uploads():
    client = demo_client(Limits(upload_bytes=4000))
    assert [client.post("/gradio_api/upload", content=bytes(400)).status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = client.post("/gradio_api/upload", content=bytes(400))
    assert refused.json()["detail"].startswith("Too many bytes of uploads from your address. Wait ")
    assert 700 < int(refused.headers["retry-after"]) <= 3600 * 201 / 1000 + 1
    assert client.post("/gradio_api/queue/join").status_code == 200  # what is there can still be segmented


def test_uploads_that_arrive_together_do_not_use_up_the_room_either():
    taken, codes = [], []

    async def store(request):
        async for chunk in request.stream():
            taken.append(len(chunk))
        return PlainTextResponse("")

    rates = [Middleware(ClientRates, 600, lambda: 0.0, upload_bytes=1000, last_bytes=500)]
    app = Starlette(routes=[Route("/upload", store, methods=["POST"])], middleware=rates)

    async def upload():
        async def receive():
            await asyncio.sleep(0)  # the others go on
            return (
                {"type": "http.request", "body": bytes(100), "more_body": True}
                if parts.pop()
                else {"type": "http.request"}
            )

        async def send(message):
            codes.append(message.get("status"))

        parts = [False, *[True] * 4]
        scope = {"type": "http", "method": "POST", "path": "/upload", "query_string": b"", "headers": []}
        await app({**scope, "client": ("10.0.0.1", 1)}, receive, send)

    async def all_at_once():
        await asyncio.gather(*(upload() for _ in range(20)))

    asyncio.run(all_at_once())
    assert sum(taken) <= 1500 and set(codes) == {429, None}


@pytest.mark.parametrize(
    ("path", "size", "remedy"),
    [
        ("/gradio_api/upload", 2**20 + 2**10, "Shrink the image"),
        ("/gradio_api/queue/join", 2**20, "Use fewer words"),
        ("/gradio_api/call/segment", 2**20, "Use fewer words"),
    ],
)
@pytest.mark.parametrize("told", [True, False])
def test_no_request_is_larger_than_an_image_or_without_one_than_words(path, size, remedy, told):
    """Many files in one upload, or endless words, would fill the disk or the memory before anything is checked."""
    client = demo_client(Limits(file_bytes=2**10))
    for num_bytes, status in ((size, 200), (size + 1, 413)):
        body = bytes(num_bytes)
        answer = client.post(path, content=body if told else iter([body[:1000], body[1000:]]))
        assert answer.status_code == status
    assert remedy in answer.text


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_request_that_takes_too_long_is_ended_and_the_next_one_is_served(engine, upload):
    engine.limits = dataclasses.replace(Limits(), seconds=0)
    with pytest.raises(ValueError, match="took more than 0 s, the limit of this server"):
        engine.segment(None, upload, "red circle")
    engine.limits = Limits()
    assert engine.segment(None, upload, "red circle, star").counts.sum() > 0
    assert not any(module._forward_pre_hooks for module in engine.pipe.model.modules())


class Request:
    session_hash = None


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            lambda path: ValueError(f"{str(path)!r} cannot be written: No space left on device."),
            "'photo.png' cannot be",
        ),
        (lambda path: RuntimeError(f"secret {path}"), "Something went wrong on the server"),
        (lambda path: OSError(f"secret {path}"), "Something went wrong on the server"),
    ],
)
def test_errors_have_no_traceback_and_no_folder_of_the_server(engine, upload, error, shown, monkeypatch):
    def fail(*_, **__):
        raise error(upload)

    monkeypatch.setattr(engine, "segment", fail)
    endpoints, image = Endpoints(engine), {"path": str(upload), "orig_name": "photo.png"}
    with pytest.raises(gr.Error) as caught:
        endpoints.segment(image, "cat", None, None, None, 0.0, False, Request())
    answer = endpoints.run(image, "cat", None, None, None, False, Request())
    for message in (caught.value.message, answer["error"]):
        assert shown in message and str(upload.parent) not in message and "secret" not in message
    assert not caught.value.print_exception


def test_endless_inputs_are_refused_before_they_are_looked_at(engine, upload, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "segment", lambda *_, **__: pytest.fail("too late"))
    image = {"path": str(upload), "orig_name": "photo.png"}
    for label in ("x" * 10**6, None):
        with pytest.raises(gr.Error, match="expected one of the words"):
            Endpoints(engine).heat_map(image, "cat", label, None, None, None, Request())
    Image.new("RGB", (1, 17)).save(tmp_path / "long.png")
    with pytest.raises(ValueError, match="at most 16 times the shorter one"):
        engine.photo(None, tmp_path / "long.png")


def test_what_is_stored_beside_the_values_is_small_whatever_a_client_chooses(engine, upload):
    """The memory counts the values, so that long names of sessions and many synonyms filled it without end."""
    request = Request()
    request.session_hash = "x" * 10**5
    image, words = {"path": str(upload)}, "|".join(f"word {number}" for number in range(200))
    endpoints = Endpoints(engine)
    assert "error" not in endpoints.run(image, words, None, None, None, False, request, progress=lambda *_, **__: None)
    assert engine.memory.num_bytes and max(len(repr(key)) for key in engine.memory._entries) < 1000
    endpoints.forget(request)
    assert engine.memory.num_bytes == 0


def test_a_jpeg_with_endless_scans_does_not_keep_the_others_waiting(engine, tmp_path):
    Image.new("L", (40, 40)).save(tmp_path / "photo.jpg", progressive=True)
    content = (tmp_path / "photo.jpg").read_bytes()
    (tmp_path / "photo.jpg").write_bytes(content[:-2] + content[content.rindex(b"\xff\xda") : -2] * 100 + content[-2:])
    with pytest.raises(ValueError, match=r"photo\.jpg.* scans or more"):
        engine.photo(None, tmp_path / "photo.jpg")


@pytest.mark.parametrize("word", ["cat\u200b", "cat\u202egod"])
def test_words_that_look_like_others_are_refused(engine, upload, word):
    with pytest.raises(ValueError, match="invisible character"):
        engine.segment(None, upload, f"cat, {word}")


def test_names_and_passwords_are_read_from_a_file(tmp_path):
    (tmp_path / "users.txt").write_text("ann:one:two\n\nbob:three\n")
    options = command.make_parser("demo").parse_args(["--auth", os.fspath(tmp_path / "users.txt")])
    command.check(options)
    assert options.users == [("ann", "one:two"), ("bob", "three")]
    (tmp_path / "users.txt").write_text("ann:one\n", encoding="utf-8-sig")  # as Windows writes it
    command.check(options)
    assert options.users == [("ann", "one")]
    for content in ("", "ann\n", ":x\n"):
        (tmp_path / "users.txt").write_text(content)
        with pytest.raises(ValueError, match="is no file of passwords"):
            command.check(options)
