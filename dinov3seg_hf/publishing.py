# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""From a checkpoint's folder to a model and a Space on the Hub.

Complete folders come first, to look at: weights as sharded safetensors, code, processor, card, example; the demo with
pinned requirements. They are loaded in a fresh process that cannot import this package, and must segment the example as
the checkpoint does. Only then do they go up, each in one commit.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata as installed
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from huggingface_hub import HfApi, metadata_load
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from transformers import AutoModelForSemanticSegmentation, AutoProcessor

from . import __version__
from .hub_upload import PublishingError, Upload, check_access, upload_folder
from .image_input import open_image
from .model_card import DINOV3_LICENSE, AuthorsNotes, make_card, read_results, without_relative_links
from .pipeline import TASK, OpenVocabularySegmentationPipeline
from .processing_dinov3seg import Dinov3SegProcessor
from .remote_code import CUSTOM_PIPELINES, remote_files
from .visualization import overlay, regions_of, save_image, with_legend

MAX_SHARD_SIZE = "2GB"
CHECK_TIMEOUT_SECONDS = 1800
SCORE_TOLERANCE = 2e-3  # scores travel as float16, whose steps near 1 are half a thousandth
CONVERSION_REPORT, RUN_FILE = "conversion_report.json", "run.json"
PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Example:
    """An image and words: shown on the card, and what the folder has to segment before it is published."""

    image: Path
    labels: str


@dataclass(frozen=True)
class Publication:
    """What was built and, unless it was a dry run, uploaded."""

    model_folder: Path
    space_folder: Path | None
    uploads: tuple[Upload, ...]


def publish(
    model: str | os.PathLike,
    repo_id: str,
    output: str | os.PathLike,
    *,
    card_template: str | os.PathLike,
    example: Example,
    space_id: str | None = None,
    demo: str | os.PathLike | None = None,
    constraints: str | os.PathLike | None = None,
    results: Sequence[str | os.PathLike] = (),
    metadata: dict[str, Any] | None = None,
    private: bool = False,
    dry_run: bool = False,
    max_shard_size: str = MAX_SHARD_SIZE,
    api: HfApi | None = None,
) -> Publication:
    """Builds, checks and uploads a model, and a Space that runs from it.

    Args:
        model: The folder of a checkpoint.
        repo_id: Where the model goes, "owner/name".
        output: A new or empty folder; the folders to upload are made in it.
        card_template: `model_card.md`.
        example: What is segmented to check the folder, and shown.
        space_id, demo, constraints: Where the Space goes, the folder that it is made of, and pinned versions of what it
            requires.
        results: `results.json` files of this very checkpoint.
        metadata: Fields of the card's front matter: `license`, `license_name`, `license_link`, `base_model`,
            `datasets`.
        private: Whether the repositories are to be seen by their owners alone.
        dry_run: Build and check, and leave it at that.
        max_shard_size: Of a file of weights.
        api: Endpoint and token; those of the environment unless given.

    Raises:
        PublishingError: Something is missing or wrong; says what to do.
    """
    api = HfApi() if api is None else api
    if not dry_run:  # before the long work
        for name in filter(None, (repo_id, space_id)):
            check_access(name, api)
    output = _empty_folder(output)
    with _clear_errors(output):
        model_folder = build_model_folder(
            model,
            repo_id,
            output / "model",
            card_template=card_template,
            example=example,
            space_id=space_id,
            results=results,
            metadata=metadata,
            max_shard_size=max_shard_size,
        )
        space_folder = None
        if space_id is not None:
            space_folder = build_space_folder(
                demo, repo_id, space_id, output / "space", example=example, constraints=constraints
            )
    uploads = []
    if not dry_run:
        message = f"Publish with dinov3seg_hf {__version__}"
        options = {"private": private, "message": message, "api": api}
        uploads.append(upload_folder(model_folder, repo_id, **options))
        if space_folder is not None:  # after the model that it runs from
            uploads.append(upload_folder(space_folder, space_id, repo_type="space", **options))
    return Publication(model_folder, space_folder, tuple(uploads))


# --- the model --------------------------------------------------------------------------------------------------------


def build_model_folder(
    model: str | os.PathLike,
    repo_id: str,
    output: str | os.PathLike,
    *,
    card_template: str | os.PathLike,
    example: Example,
    space_id: str | None = None,
    results: Sequence[str | os.PathLike] = (),
    metadata: dict[str, Any] | None = None,
    max_shard_size: str = MAX_SHARD_SIZE,
) -> Path:
    """Writes all that the model's repository holds, and checks it in a fresh process.

    Args, Raises: As `publish`.

    Returns:
        The folder.
    """
    source, output = Path(model), Path(output)
    pipe = _load(source)
    output.mkdir(parents=True)
    pipe.model.save_pretrained(output, max_shard_size=max_shard_size)
    pipe.processor.save_pretrained(output)
    _check_code(output)

    measured = [result for path in results for result in read_results(path)]
    _check_results_are_of(pipe.model, measured)
    shown = _show_example(pipe, example, output / "examples")
    notes = AuthorsNotes.read(source / "README.md")
    conversion = _read_json(source / CONVERSION_REPORT)
    run = _read_json(source / RUN_FILE) or _read_json(source.resolve().parent / RUN_FILE)  # a run's output/model
    fields = {**_metadata_of_conversion(conversion), **notes.metadata, **(metadata or {})}
    facts = {
        "task": TASK,
        "remote_task": next(iter(CUSTOM_PIPELINES)),
        "package_version": __version__,
        "num_parameters": sum(parameter.numel() for parameter in pipe.model.parameters()),
        "dtype": str(pipe.model.dtype).removeprefix("torch."),
        "config": pipe.model.config,
        "image_size": {key: value for key, value in dict(pipe.image_processor.size).items() if value},
        "window_size": pipe.image_processor.window_size,
        "window_stride": pipe.image_processor.window_stride,
        "default_inference": pipe.default_inference,
        "example": shown,
        "space_id": space_id,
        "run": run,
        "conversion": conversion,
    }
    card = make_card(card_template, repo_id, facts, notes, measured, fields)
    (output / "README.md").write_text(card, encoding="utf-8")

    check_model_folder(output, pipe, Example(output / shown["image"], example.labels))
    return output


def _load(folder: Path) -> OpenVocabularySegmentationPipeline:
    if not (folder / "config.json").is_file():
        raise PublishingError(f"There is no checkpoint in {str(folder)!r} (no config.json). Check the path.")
    try:
        model, report = AutoModelForSemanticSegmentation.from_pretrained(
            folder, dtype="auto", output_loading_info=True, local_files_only=True, use_safetensors=True
        )
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library reports what it does not find or understand in many ways
        raise PublishingError(
            f"The checkpoint {str(folder)!r} cannot be loaded: {_first_line(error)} Expected a folder with the weights "
            "of dinov3.seg as safetensors, and its processor."
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise PublishingError(
            f"The weights in {str(folder)!r} lack {len(missing)} of the model's tensors, such as {missing[0]}. "
            "Save the whole model."
        )
    if not isinstance(processor, Dinov3SegProcessor):
        raise PublishingError(
            f"The checkpoint {str(folder)!r} comes without a tokenizer, which words need. Convert it again with "
            "--tokenizer."
        )
    return OpenVocabularySegmentationPipeline(model=model, processor=processor, device="cpu")


def _check_code(folder: Path) -> None:
    """Exactly the code that is meant to travel, and no file that runs when it is read."""
    code = {path.name for path in folder.glob("*.py")}
    if code != (expected := {path.name for path in remote_files()}):
        raise PublishingError(f"The code in {str(folder)!r} is not what belongs there: {sorted(code ^ expected)}.")
    pickles = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
    if found := [path.name for path in folder.rglob("*") if path.suffix in pickles]:
        raise PublishingError(f"{', '.join(found)} in {str(folder)!r} could run code when it is read. Remove it.")


def _check_results_are_of(model: torch.nn.Module, results: Sequence[Any]) -> None:
    if not any(result.weights for result in results):
        return
    from .weights import weights_fingerprint

    fingerprint = weights_fingerprint(model)
    for result in results:
        if result.weights and result.weights != fingerprint:
            raise PublishingError(
                f"The results on {result.name} were measured with other weights ({result.weights[:12]}; these are "
                f"{fingerprint[:12]}). Evaluate this checkpoint."
            )


def _show_example(pipe: OpenVocabularySegmentationPipeline, example: Example, folder: Path) -> dict[str, Any]:
    """The example, its overlay, and what was found, as the card shows them."""
    image = open_image(example.image)
    model, dtype = pipe.model, pipe.model.dtype
    model.float()  # what the CPU computes well
    try:
        result = pipe(image, example.labels, return_label_map=True, return_masks=False)
    finally:
        model.to(dtype)
    scores = {segment["label"]: segment["score"] for segment in result["segments"]}
    regions = regions_of(result["label_map"], result["labels"], scores)
    if not regions:
        raise PublishingError(f"None of the labels was found in the example {str(example.image)!r}. Choose others.")
    folder.mkdir()
    name = f"{example.image.stem}.png"
    save_image(folder / name, image)
    save_image(folder / f"overlay-{name}", with_legend(overlay(image, result["label_map"]), regions))
    return {
        "image": f"examples/{name}",
        "overlay": f"examples/overlay-{name}",
        "labels": result["labels"],
        "regions": regions,
    }


def check_model_folder(folder: Path, pipe: OpenVocabularySegmentationPipeline, example: Example) -> None:
    """Segments the example in a process without the package, and compares with what `pipe` makes of it.

    Raises:
        PublishingError: The folder does not load there, or gives something else.
    """
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "result.npz"
        # a home of its own, where nothing was fetched before; no token, since nothing is to be asked of the Hub
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE_"))}
        environment |= {"HF_HOME": scratch, "HF_HUB_OFFLINE": "1"}
        script = (PACKAGE / "published_check.py").read_text(encoding="utf-8")
        command = [sys.executable, "-c", script, *map(str, (folder.resolve(), example.image.resolve(), example.labels))]
        try:
            done = subprocess.run(
                [*command, str(output)],
                cwd=scratch,
                env=environment,
                capture_output=True,
                text=True,
                timeout=CHECK_TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise PublishingError(
                f"The folder {str(folder)!r} did not load and segment within {CHECK_TIMEOUT_SECONDS} s. Nothing was "
                "published."
            ) from error
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise PublishingError(
                f"The folder {str(folder)!r} does not work without the package: {lines[-1]} Nothing was published."
            )
        with np.load(output) as found:
            label_map, scores = found["label_map"], found["scores"]
    model, dtype = pipe.model, pipe.model.dtype
    model.float()
    try:
        expected = pipe(
            str(example.image),
            example.labels,
            inference="whole",
            return_label_map=True,
            return_scores=True,
            return_masks=False,
        )
    finally:
        model.to(dtype)
    error = float(np.abs(scores.astype(np.float32) - expected["scores"].astype(np.float32)).max())
    if label_map.shape != expected["label_map"].shape or error > SCORE_TOLERANCE:
        raise PublishingError(
            f"The folder {str(folder)!r} segments the example otherwise than the checkpoint: scores differ by "
            f"{error:.2g}. Nothing was published."
        )


def _metadata_of_conversion(report: dict[str, Any] | None) -> dict[str, Any]:
    """Converted weights stay under the license of DINOv3, and come from where they were taken."""
    if report is None:
        return {}
    files = [str(given) for given in report.get("files", {}).values()]
    hub_ids = [given for given in files if re.fullmatch(r"[\w.-]+/[\w.-]+", given)]
    if any("lvd1689m" in given for given in files):
        hub_ids.insert(0, "facebook/dinov3-vitl16-pretrain-lvd1689m")
    return {**DINOV3_LICENSE, "base_model": list(dict.fromkeys(hub_ids)) or None}


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishingError(f"{str(path)!r} cannot be read ({error}). Mend or remove it.") from error


# --- the Space --------------------------------------------------------------------------------------------------------


def build_space_folder(
    demo: str | os.PathLike | None,
    repo_id: str,
    space_id: str,
    output: str | os.PathLike,
    *,
    example: Example | None = None,
    constraints: str | os.PathLike | None = None,
) -> Path:
    """Writes all that the Space's repository holds: the demo, the package that it imports, pinned requirements.

    `app.py` reads the model's name and the folder of examples from the environment variables `DINOV3SEG_MODEL` and
    `DINOV3SEG_EXAMPLES`, whose defaults are set here.

    Args:
        demo: A folder with `app.py`, `requirements.txt` and `README.md`.
        repo_id: The model that it runs from.
        space_id: Where it goes.
        output: The folder to make.
        example: What the page begins with.
        constraints: Pinned versions; those that are installed, where it has none.

    Raises:
        PublishingError: A file is missing, or a requirement has no version to pin.
    """
    demo, output = Path(demo or "demo"), Path(output)
    for name in ("app.py", "requirements.txt", "README.md"):
        if not (demo / name).is_file():
            raise PublishingError(f"The demo {str(demo)!r} has no {name}. Check the path.")
    ignored = shutil.ignore_patterns("__pycache__", ".*", "*.pyc")
    shutil.copytree(demo, output, ignore=ignored)
    # The package is not on the package index; the embedded checkpoint stays out, the published model takes its place.
    shutil.copytree(PACKAGE, output / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", "checkpoints"))

    defaults = {"DINOV3SEG_MODEL": repo_id}
    if example is not None:
        (output / "examples").mkdir(exist_ok=True)
        image = output / "examples" / example.image.name
        shutil.copyfile(example.image, image)
        image.with_suffix(".txt").write_text(example.labels + "\n", encoding="utf-8")
        defaults["DINOV3SEG_EXAMPLES"] = "examples"

    pins = _pinned(_dependencies(demo / "requirements.txt"), constraints)
    (output / "requirements.txt").write_text("".join(f"{pin}\n" for pin in pins.values()), encoding="utf-8")
    app = (demo / "app.py").read_text(encoding="utf-8")
    (output / "app.py").write_text(_with_defaults(app, defaults), encoding="utf-8")
    if "gradio" not in pins:
        raise PublishingError(f"The requirements of {str(demo)!r} name no gradio, which the Space runs on. Add it.")
    card = _space_card(demo / "README.md", repo_id, space_id, pins["gradio"].partition("==")[2])
    (output / "README.md").write_text(card, encoding="utf-8")
    return output


def _dependencies(requirements: Path) -> list[Requirement]:
    """What the demo requires, and in the place of the package, which is copied, what that requires."""
    lines = [line.partition("#")[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines()]
    try:
        named = [Requirement(line) for line in lines if line and not line.startswith(("-", "./"))]
    except InvalidRequirement as error:
        raise PublishingError(f"{str(requirements)!r} holds what is no requirement: {error}") from error
    package = canonicalize_name(PACKAGE.name)
    extras = {"", *(extra for item in named if canonicalize_name(item.name) == package for extra in item.extras)}
    try:
        own = [Requirement(line) for line in installed.requires(PACKAGE.name) or ()]
    except installed.PackageNotFoundError as error:
        raise PublishingError(
            f"{PACKAGE.name} is not installed, so what it requires is unknown. Install it with pip."
        ) from error
    own = [item for item in own if item.marker is None or any(item.marker.evaluate({"extra": e}) for e in extras)]
    return [item for item in (*named, *own) if canonicalize_name(item.name) != package]


def _pinned(requirements: Sequence[Requirement], constraints: str | os.PathLike | None) -> dict[str, str]:
    """Canonical name -> "name==version", in the order of the requirements."""
    versions = {}
    if constraints is not None:
        for line in Path(constraints).read_text(encoding="utf-8").splitlines():
            if (line := line.partition("#")[0].strip()) and "==" in line:
                pin = Requirement(line)
                if pin.marker is None or pin.marker.evaluate():
                    versions[canonicalize_name(pin.name)] = next(iter(pin.specifier)).version
    pins = {}
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        try:
            version = versions.get(name) or installed.version(requirement.name).partition("+")[0]
        except installed.PackageNotFoundError as error:
            raise PublishingError(
                f"The Space requires {requirement.name}, of which no version is known. Install it, or add it to the "
                "constraints."
            ) from error
        pins[name] = f"{requirement.name}=={version}"
    return pins


def _with_defaults(app: str, variables: dict[str, str]) -> str:
    """They are set before anything is imported that reads them; those that are set on the Space win."""
    lines = "".join(f'os.environ.setdefault("{name}", "{value}")\n' for name, value in variables.items())
    # after the license header and the docstring, before the imports
    start = re.match(r'(?:#.*\n)*\s*(?:"""(?:.|\n)*?"""\s*\n)?\s*', app).end()
    return f"{app[:start]}import os\n\n{lines}\n{app[start:]}"


def _space_card(path: Path, repo_id: str, space_id: str, gradio_version: str) -> str:
    text = path.read_text(encoding="utf-8")
    data = metadata_load(path) or {}
    if data.get("sdk", "gradio") != "gradio":
        raise PublishingError(f"{str(path)!r} is of a Space of {data['sdk']}; expected gradio.")
    data |= {"sdk": "gradio", "sdk_version": gradio_version, "app_file": "app.py", "models": [repo_id]}
    data.setdefault("title", space_id.rpartition("/")[2])
    data["python_version"] = f"{sys.version_info.major}.{sys.version_info.minor}"
    body = re.sub(r"\A---\n.*?\n---\n?", "", text, count=1, flags=re.DOTALL).lstrip()
    front_matter = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    runs = f"This Space runs [{repo_id}](https://huggingface.co/{repo_id})."
    return f"---\n{front_matter}---\n\n{runs}\n\n{without_relative_links(body)}"


# --- folders ----------------------------------------------------------------------------------------------------------


def _empty_folder(path: str | os.PathLike) -> Path:
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise PublishingError(f"The output {str(path)!r} is there and not empty. Remove it, or choose another.")
    return path


@contextlib.contextmanager
def _clear_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, PublishingError):
            raise
        raise PublishingError(
            f"The folders in {str(output)!r} cannot be written: {error.strerror or error}. Make room there, or choose "
            "another --output. Nothing was published."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


__all__ = ["Example", "Publication", "build_model_folder", "build_space_folder", "check_model_folder", "publish"]
