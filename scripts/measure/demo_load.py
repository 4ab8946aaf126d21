# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Runs a load test of the demo with many local clients, and reports latencies, errors and the memory of the server.

python scripts/measure/demo_load.py                                  # 16 clients for two minutes, embedded checkpoint
python scripts/measure/demo_load.py --clients 4 --seconds 20
python scripts/measure/demo_load.py --clients 32 --seconds 600 --bad 0.3 # bad input among the good

Each client is a session that segments drawn scenes, adds and removes words, and requests files through gradio_client,
from an address of its own, as behind a proxy. Bad requests that gradio_client would not send (files of the server, too
large files, broken JSON) are sent without it. From time to time, a client starts a new session. Before the load test, a
single client measures the time of a full run and of one more word. The exit code is 1 if a good request failed for
another reason than a full queue or its rate, if a bad one did not get a polite refusal (a sentence, no traceback and no
path of the server), if no request succeeded, or if the memory grew by more than --growth after the first third.
"""

import argparse
import json
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from dinov3seg_hf.extras import exit_without_extra

exit_without_extra("demo", "gradio_client")

import httpx
from gradio_client import Client, handle_file
from PIL import Image

from dinov3seg_hf import TINY
from dinov3seg_hf.drawn_world.names import NAMES
from dinov3seg_hf.drawn_world.scenes import draw_scene

ALONE_REPEATS = 7


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=TINY)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--max-queue", type=int, default=40)
    parser.add_argument("--cache", type=int, default=64, help="MiB; small, so that the test includes evictions")
    parser.add_argument("--bad", type=float, default=0.0, help="share of requests with bad input (default: 0)")
    parser.add_argument("--pause", type=float, default=0.3, help="longest pause of a client, seconds (default: 0.3)")
    parser.add_argument(
        "--growth", type=float, default=0.10, help="allowed growth of the memory after the first third (default: 0.1)"
    )
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        scenes = []
        for seed in range(40):
            path = Path(folder) / f"scene_{seed}.png"
            size = random.Random(seed).choice([(96, 96), (96, 144), (480, 640), (900, 1200)])
            scene = Image.fromarray(draw_scene(seed, "all", (96, 128), num_objects=(2, 4)).image)
            scene.resize(size[::-1], Image.Resampling.BICUBIC).save(path)
            scenes.append(path)
        process, url = _start(args)
        try:
            _alone(url, scenes[0])
            return _together(url, process.pid, scenes, _bad_files(Path(folder)), args)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _start(args: argparse.Namespace) -> tuple[subprocess.Popen, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dinov3seg_hf", "demo", "--model", args.model, "--port", str(port)]
    command += ["--max-queue", str(args.max_queue), "--cache", str(args.cache)]
    process, url = (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
        f"http://127.0.0.1:{port}",
    )
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/config", timeout=5).close()
            return process, url
        except OSError:
            if process.poll() is not None:
                raise SystemExit("The demo did not start. Run `dinov3seg demo` to see the error.") from None
            time.sleep(0.5)
    process.kill()
    raise SystemExit("The demo did not start within five minutes.")


def _alone(url: str, scene: Path) -> None:
    """Prints the time of a full run (new image, new words) and of one more word, measured at the client."""
    words = ", ".join(NAMES[:12])
    print(f"alone, {len(words.split(','))} words, {scene.name}, median of {ALONE_REPEATS}:")
    for inference in ("whole", "local-global"):
        full, another = [], []
        for repeat in range(ALONE_REPEATS):
            client = Client(url, verbose=False)  # a new session has no stored values
            full.append(_timed(client, scene, words, inference))
            another.append(_timed(client, scene, f"{words}, another {repeat}", inference))
        full, another = statistics.median(full), statistics.median(another)
        print(f"  {inference:14s} full run {1000 * full:5.0f} ms, another word {1000 * another:5.0f} ms", flush=True)


def _timed(client: Client, scene: Path, words: str, inference: str) -> float:
    start = time.perf_counter()
    client.predict(handle_file(scene), words, inference=inference, api_name="/segment")
    return time.perf_counter() - start


def _bad_files(folder: Path) -> dict[str, Path]:
    """Files that are no images, or have too many pixels."""
    Image.new("RGB", (200, 200)).save(folder / "good.png")
    content = (folder / "good.png").read_bytes()
    Image.new("1", (12_000, 12_000)).save(folder / "bomb.png")
    (folder / "text.png").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    return {f"a file: {name}": folder / f"{name}.png" for name in ("bomb", "text", "empty", "cut")}


def _bad_request(rng: random.Random, scene: Path, files: dict[str, Path]) -> tuple[str, Any, str, dict]:
    """Draws a bad request: its kind, the image, the words and the options."""
    wrong_words = {
        "no words": "",
        "an invisible character": "cat\u200b, dog",
        "text from right to left": "cat\u202e, dog",
        "5,000 words": ", ".join(f"word {index}" for index in range(5000)),
        "the same word twice": "cat, cat",
        "a long word": "a" * 100_000,
    }
    wrong_options = {"an unknown mode": {"inference": "none"}, "an unknown head": {"head": "../head"}}
    kind = rng.choice([*files, *wrong_words, *wrong_options, *DIRECT])
    image = handle_file(files.get(kind, scene))
    return kind, image, wrong_words.get(kind, "red circle, blue square"), wrong_options.get(kind, {})


# Requests that gradio_client refuses itself, or would change.
DIRECT = (
    "a large file",
    "a file of the server",
    "a folder of uploads",
    "an address as a file",
    "inputs missing",
    "no JSON",
)


def _ask_directly(kind: str, url: str, headers: dict[str, str], large: bytes) -> None:
    """Sends a bad request as an attacker does.

    Raises:
        RuntimeError: With what the server answered, if it refused the request.
    """
    api = f"{url}/gradio_api"
    content = large if kind == "a large file" else b"no image"
    uploaded = httpx.post(f"{api}/upload", files={"files": ("a.png", content)}, headers=headers, timeout=60)
    if uploaded.is_error:
        raise RuntimeError(uploaded.text)
    path = uploaded.json()[0]
    if kind in ("a file of the server", "an address as a file"):
        path = "/etc/passwd" if kind == "a file of the server" else "http://127.0.0.1:1/image.png"
    elif kind == "a folder of uploads":
        path = str(Path(path).parent)
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = [] if kind == "inputs missing" else [file, "cat, dog", "whole", "full", ["{}"], 0.0, False]
    body = "{" if kind == "no JSON" else json.dumps({"data": data})
    headers = {**headers, "Content-Type": "application/json"}
    asked = httpx.post(f"{api}/call/segment", content=body, headers=headers, timeout=60)
    if asked.is_error:
        raise RuntimeError(asked.text)
    answer = httpx.get(f"{api}/call/segment/{asked.json()['event_id']}", headers=headers, timeout=300).text
    if "event: complete" not in answer:
        raise RuntimeError(str(json.loads(answer.partition("data: ")[2])["error"]))


def _is_polite(error: Exception) -> bool:
    """Whether the server refused with a sentence, without its inside."""
    if isinstance(error, (OSError, httpx.TransportError)):  # it did not answer
        return False
    text = str(error)
    inside = rf"Traceback|site-packages|dinov3seg-demo-|File \"|{re.escape(tempfile.gettempdir())}"
    return len(text) > 20 and not re.search(inside, text)


def _together(url: str, pid: int, scenes: list[Path], bad_files: dict[str, Path], args: argparse.Namespace) -> int:
    stop, lock = threading.Event(), threading.Lock()
    latencies: dict[str, list[float]] = {}
    outcomes: Counter[str] = Counter()
    failures: list[str] = []

    large = bytes(40 * 2**20)

    def ask_badly(client: Client, rng: random.Random, scene: Path, address: dict[str, str]) -> None:
        kind, image, words, options = _bad_request(rng, scene, bad_files)
        message = ""
        try:
            if kind in DIRECT:
                _ask_directly(kind, url, address, large)
            else:
                client.predict(image, words, **options, api_name="/segment")
            outcome = "answered"
        except Exception as error:
            outcome = "refused" if _is_polite(error) else "refused without a sentence"
            if _is_busy(error):
                outcome = "busy"
            message = f"{type(error).__name__}: {error}"[:300]
        with lock:
            outcomes[f"{kind}: {outcome}"] += 1
            if outcome not in ("refused", "busy"):
                failures.append(f"{kind}: {message}")

    def visit(number: int) -> None:
        rng = random.Random(number)
        while not stop.is_set():
            address = {"X-Forwarded-For": f"10.0.0.{number}"}
            client = Client(url, verbose=False, download_files=False, headers=address)
            scene, words = rng.choice(scenes), rng.sample(NAMES, 5)
            for _ in range(rng.randint(4, 12)):
                if stop.wait(rng.uniform(0, args.pause)):
                    return
                if rng.random() < args.bad:
                    ask_badly(client, rng, scene, address)
                    continue
                if rng.random() < 0.6 or len(words) < 3:
                    words.append(f"{rng.choice(NAMES)} {rng.randrange(1000)}")
                else:
                    words.remove(rng.choice(words))
                if rng.random() < 0.2:
                    scene = rng.choice(scenes)
                endpoint = rng.choice(["/segment", "/segment", "/segment", "/overlay", "/label_map"])
                inference = rng.choice(["whole", "whole", "local-global", "slide"])
                start = time.perf_counter()
                try:
                    client.predict(handle_file(scene), ", ".join(words), inference=inference, api_name=endpoint)
                    with lock:
                        latencies.setdefault(endpoint, []).append(time.perf_counter() - start)
                except Exception as error:
                    with lock:
                        if _is_busy(error):
                            outcomes["good: busy"] += 1
                        else:
                            failures.append(f"{type(error).__name__}: {error}")
                    stop.wait(0.5)

    threads = [threading.Thread(target=visit, args=(number,), daemon=True) for number in range(args.clients)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    memory = []
    while time.monotonic() - begin < args.seconds:
        time.sleep(min(5, args.seconds / 12))
        memory.append((time.monotonic() - begin, _resident_mib(pid)))
    stop.set()
    for thread in threads:
        thread.join(60)

    print(f"{args.clients} clients, {args.seconds:.0f} s:")
    _print_latencies(latencies)
    _print_outcomes(outcomes, failures)
    growth = _print_growth(memory, args.seconds)
    return int(bool(failures) or not latencies or growth > args.growth)


def _print_outcomes(outcomes: Counter[str], failures: list[str]) -> None:
    print(f"  failed {len(failures)}; other outcomes:")
    for outcome, count in sorted(outcomes.items()):
        print(f"    {outcome} {count}")
    for failure in sorted(set(failures))[:5]:
        print(f"    {failure}")


def _print_growth(memory: list[tuple[float, float]], seconds: float) -> float:
    """Prints the memory of the server over time; returns its growth after the first third, as a share."""
    print(
        "  resident MiB: "
        + ", ".join(f"{mib:.0f} ({second:.0f} s)" for second, mib in memory[:: max(1, len(memory) // 12)])
    )
    warm = max(mib for second, mib in memory if second <= seconds / 3 + 5)
    end = statistics.median(mib for _, mib in memory[-3:])
    print(f"  after warm-up {warm:.0f} MiB, at the end {end:.0f} MiB ({100 * (end / warm - 1):+.1f} %)")
    return end / warm - 1


def _print_latencies(latencies: dict[str, list[float]]) -> None:
    for endpoint, values in sorted(latencies.items()):
        values.sort()
        median, late = values[len(values) // 2], values[int(0.95 * (len(values) - 1))]
        print(f"  {endpoint:12s} {len(values):5d} answers, median {median:.2f} s, 95 % within {late:.2f} s")


def _is_busy(error: Exception) -> bool:
    """Whether the queue is full, or the address has used up its rate."""
    return any(words in str(error) for words in ("Queue is full", "queue is full", "Too many requests"))


def _resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("The demo has stopped unexpectedly.")


if __name__ == "__main__":
    sys.exit(main())
