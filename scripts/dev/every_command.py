# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Starts every command of an installed package once, each with a small piece of real work, and prints a table.

    .venv/bin/python scripts/dev/every_command.py --bare    # the wheel without extras: what needs one says which
    .venv/bin/python scripts/dev/every_command.py           # with all extras

Run it with the Python of the environment that the wheel was installed in. It works in a temporary folder, without the
repository. Exits with 1 if a command did something else than expected.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

COMMAND = Path(sysconfig.get_path("scripts")) / "dinov3seg"
WORDS = ["--labels", "red plain triangle, black plain background, blue striped circle"]
EXTRA_OF_COMMAND = {
    "label": "train",
    "demo": "demo",
    "serve": "serve",
    "train": "train",
    "evaluate": "train",
    "prepare": "train",
}
COMMANDS = ["segment", "doctor", "calibrate", "convert", "export", "publish", *EXTRA_OF_COMMAND]
# Formats with libraries of their own; the tests write and read all of them.
FORMATS = {"coco": "coco.json", "label-studio": "tasks.json", "parquet": "parquet", "geotiff": "geotiff"}
# Draws scenes to photos/, their masks to masks/, a map with a place on earth to map.tif, and a clip.
MAKE_FILES = """
import sys
from pathlib import Path
from PIL import Image
from dinov3seg_hf.drawn_world.scenes import draw_scene
for name in ("photos", "masks"):
    Path(name).mkdir()
for seed in range(4):
    scene = draw_scene(seed, "seen", 96)
    Image.fromarray(scene.image).save(f"photos/{seed}.png")
    Image.fromarray(scene.labels.clip(0, 254).astype("uint8")).save(f"masks/{seed}.png")
if "--all" not in sys.argv:
    Path("clip.mp4").touch()
else:
    import av, rasterio
    with rasterio.open("map.tif", "w", driver="GTiff", height=96, width=96, count=3, dtype="uint8", crs="EPSG:32632",
                       transform=rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)) as file:
        file.write(scene.image.transpose(2, 0, 1))
    with av.open("clip.mp4", "w") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 96
        for seed in range(3):
            for packet in stream.encode(av.VideoFrame.from_ndarray(draw_scene(seed, "seen", 96).image)):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
"""
RAY = """
import numpy, ray
from dinov3seg_hf.ray import Segmenter
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
images = ray.data.from_items([{"image": numpy.full((40, 50, 3), number, numpy.uint8)} for number in range(3)])
labels = {"labels": ["red circle", "black plain background"], "device": "cpu"}
pool = ray.data.ActorPoolStrategy(size=1)
labeled = images.map_batches(Segmenter, fn_constructor_kwargs=labels, compute=pool, batch_size=2)
rows = labeled.take_all()
assert len(rows) == 3 and all(row["mask"] and not row["error"] for row in rows)
"""


@dataclass
class Start:
    """A command to start, and what is expected.

    Attributes:
        arguments: Of `dinov3seg`, or a whole command line that begins with a path.
        makes: Files that exist afterwards.
        says: A pattern in the output.
        refused: The extra that an error in one line names; `None`: the command succeeds.
    """

    arguments: list[str]
    makes: tuple[str, ...] = ()
    says: str = ""
    refused: str | None = None

    @property
    def line(self) -> list[str]:
        return self.arguments if os.sep in self.arguments[0] else [str(COMMAND), *self.arguments]


def bare_starts() -> Iterator[Start]:
    """What an installation without extras can do, and what it refuses."""
    yield Start(["--version"], says=r"dinov3seg \d+\.\d+")
    yield Start(["--help"], says="calibrate")
    for name in COMMANDS:
        yield Start([name, "--help"], says="usage", refused=EXTRA_OF_COMMAND.get(name))
    yield Start(["segment", "--example", "--output", "overlay.png"], ("overlay.png",), "red plain triangle")
    yield Start(["segment", "photos", *WORDS, "--format", "png", "--annotations", "png"], ("png/masks/0.png",))
    annotated = ["segment", "photos", *WORDS, "--annotations"]
    for name, path in FORMATS.items():
        yield Start([*annotated, path, "--format", name], refused="geo" if name == "geotiff" else "export")
    yield Start([*annotated, "map.gpkg", "--format", "geopackage"], refused="geo")
    yield Start(["segment", "photos/0.png", *WORDS, "--tile", "64", "--mask", "map.tif"], refused="large")
    yield Start(["segment", "clip.mp4", *WORDS, "--output", "out.mp4"], refused="video")
    yield Start(["export", "embedded", "--output", "exported"], refused="onnx")
    yield Start(["doctor", *WORDS], says="3 classes")
    yield from _calibrations()
    yield Start(["publish", "--model", "embedded", "--repo", "me/mine", "--dry-run", "--output", "hub"], ("hub",))


def full_starts() -> Iterator[Start]:
    """A small piece of work for each command, with all extras."""
    for name in COMMANDS:
        yield Start([name, "--help"], says="usage")
    files = ["--output", "overlay.png", "--mask", "mask.png", "--json", "segments.json"]
    yield Start(["segment", "--example", *files], ("overlay.png", "mask.png", "segments.json"), "red plain triangle")
    for name, path in FORMATS.items():
        yield Start(["segment", "photos", *WORDS, "--format", name, "--annotations", path], (path,))
    yield Start(["segment", "map.tif", *WORDS, "--format", "geopackage", "--annotations", "map.gpkg"], ("map.gpkg",))
    yield Start(["segment", "map.tif", *WORDS, "--tile", "64", "--mask", "labels.tif"], ("labels.tif",))
    video = ["--every", "2", "--output", "out.mp4", "--mask", "frames/"]
    yield Start(["segment", "clip.mp4", *WORDS, *video], ("out.mp4", "frames/clip_000003_mask.png"))
    yield Start(["label", "--dataset", "photos", *WORDS, "--output", "labeled"], ("labeled/data",), "Labeled 4 images")
    recipe = ["--config", "own_masks", "--init", "embedded", "--dataset", "labeled", "--crop-size", "96"]
    small = ["--steps", "1", "--batch-size", "2", "--eval-split", "none", "--eval-every", "0", "--warmup-steps", "0"]
    yield Start(["train", *recipe, *small, "--output", "run"], ("run/model/config.json",))
    yield Start(["evaluate", "--benchmark", "drawn-world", "--images", "2", "--output", "scores"], ("scores",), "mIoU")
    yield Start(["prepare", "--list"], says="A-847")
    yield Start(["prepare", "drawn-world", "--scenes", "2", "--output", "scenes"], ("scenes",), "2 images")
    yield Start(["export", "embedded", "--output", "exported"], ("exported/run.py",))
    run = [sys.executable, "exported/run.py", "photos/0.png", *WORDS, "--output", "onnx.png"]
    yield Start(run, ("onnx.png",))
    yield Start(["doctor", *WORDS, "--write", "better.tsv"], ("better.tsv",))
    yield from _calibrations()
    space = ["--space", "me/mine-demo", "--dry-run", "--output", "hub"]
    yield Start(["publish", "--model", "embedded", "--repo", "me/mine", *space], ("hub",))
    yield Start([sys.executable, "-c", RAY])


def _calibrations() -> Iterator[Start]:
    images = ["calibrate", *WORDS, "--images", "photos", "--head", "dinotxt", "--write", "bounds.tsv"]
    yield Start(images, ("bounds.tsv",), "show none of the")


def run_start(start: Start, environment: dict[str, str]) -> str:
    """Runs a command and returns what is wrong, or nothing."""
    done = subprocess.run(start.line, env=environment, capture_output=True, text=True)
    if start.refused is not None:
        lines = done.stderr.strip().splitlines()
        is_right = done.returncode == 2 and len(lines) == 1 and f'"dinov3seg_hf[{start.refused}]"' in lines[0]
        problem = f"exit code {done.returncode}; expected one line with [{start.refused}]: {lines[-1:]}"
        return "" if is_right else problem
    if done.returncode:
        return f"exit code {done.returncode}: {done.stderr.strip()[-500:]}"
    if missing := [path for path in start.makes if not Path(path).exists()]:
        return f"did not write {missing}"
    return "" if re.search(start.says, done.stdout) else f"printed {done.stdout[:300]!r}; expected {start.says!r}"


@contextmanager
def served(arguments: list[str], sign: str, environment: dict[str, str]) -> Iterator[tuple[str, subprocess.Popen]]:
    """Starts a server, and yields its address when it answers."""
    process = subprocess.Popen(
        [str(COMMAND), *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            if found := re.search(sign, line):
                yield found[1], process
                return
            last = line.strip() or last
        raise RuntimeError(f"{arguments[0]} ended with {process.wait()}: {last}")
    finally:
        process.kill()
        process.wait()


def check_serve(environment: dict[str, str]) -> str:
    """Asks the service for its health and for a segmentation, and stops it."""
    with served(["serve", "--port", "0"], r"running on (http://\S+)", environment) as (address, process):
        with urlopen(f"{address}/health", timeout=60) as answer:
            assert b'"UP"' in answer.read()
        image = Path("photos/0.png").read_bytes()
        fields = f'--x\r\nContent-Disposition: form-data; name="labels"\r\n\r\n{WORDS[1]}\r\n'
        head = '--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        body = fields.encode() + head.encode() + image + b"\r\n--x--\r\n"
        request = Request(f"{address}/segment", body, {"Content-Type": "multipart/form-data; boundary=x"})
        with urlopen(request, timeout=120) as answer:
            assert b'"segments"' in answer.read()
        process.send_signal(signal.SIGTERM)
        return "" if process.wait(60) == 0 else f"exit code {process.returncode} after SIGTERM"


def check_demo(environment: dict[str, str]) -> str:
    """Opens the page of the demo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with served(["demo", "--port", port], rf"(http://[\w.]+:{port})", environment) as (address, _):
        deadline = time.monotonic() + 120
        while True:
            try:
                with urlopen(address, timeout=60) as answer:
                    return "" if b"<html" in answer.read() else "the page is no HTML"
            except OSError as error:
                if time.monotonic() > deadline:
                    return str(error)
                time.sleep(0.5)


def main() -> int:
    """Starts the commands, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bare", action="store_true", help="the package is installed without extras")
    options = parser.parse_args()
    if not options.bare:
        from dinov3seg_hf.extras import exit_without_extra

        exit_without_extra("dev", "av", "rasterio")
        exit_without_extra("ray", "ray")

    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "RAY_AUTH_MODE": "disabled"}
    environment.pop("PYTHONPATH", None)  # what runs is what was installed
    checks: list[tuple[str, Callable[[], str]]] = []
    for start in bare_starts() if options.bare else full_starts():
        title = "ray.Segmenter" if start.arguments[-1] == RAY else " ".join(map(os.path.basename, start.arguments))
        checks.append((title, lambda start=start: run_start(start, environment)))
    if not options.bare:
        checks.append(("serve", lambda: check_serve(environment)))
        checks.append(("demo", lambda: check_demo(environment)))
    failed, folder = 0, tempfile.mkdtemp()
    try:
        os.chdir(folder)
        made = [sys.executable, "-c", MAKE_FILES, *([] if options.bare else ["--all"])]
        subprocess.run(made, env=environment, check=True)
        for title, check in checks:
            begin = time.monotonic()
            try:
                problem = check()
            except (AssertionError, OSError, RuntimeError) as error:
                problem = repr(error)
            failed += bool(problem)
            print(f"{'FAILED' if problem else 'ok':6} {time.monotonic() - begin:6.1f} s  {title[:110]}", flush=True)
            if problem:
                print(f"       {problem}", flush=True)
    finally:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"Python {version}: {len(checks) - failed} of {len(checks)} as expected")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
