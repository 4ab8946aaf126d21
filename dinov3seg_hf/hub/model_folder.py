# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Builds the files of a model repository on the Hub from a checkpoint and checks them before the upload.

Files: weights as sharded safetensors, code, processor, card, example. The check loads the folder in a new process that
cannot import this package; the example must give the same segmentation as the checkpoint.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..about import MAX_SHARD_SIZE, __version__
from ..checkpoint_names import is_hub_id
from ..file_names import CONVERSION_REPORT, LICENSES, PART_LICENSES, RUN_DESCRIPTION, TRAINING_VOCABULARY
from ..loading import leads_outside, licenses_of_copy, load_model, load_processor
from ..model.checks import load_json
from ..model.default_vocabulary import names_of
from ..model.files import read_text_up_to
from ..model.fingerprints import weights_fingerprint
from ..model.image_input import open_image
from ..model.pipeline import TASK, OpenVocabularySegmentationPipeline
from ..model.processing_dinov3seg import Dinov3SegProcessor
from ..model.remote_code import CUSTOM_PIPELINES, remote_files
from ..model.vocabulary import Vocabulary
from ..visualization.colors import label_palette
from ..visualization.files import save_image
from ..visualization.legend import with_legend
from ..visualization.pictures import overlay, regions_of
from .example import Example
from .model_card import DINOV3_LICENSE, AuthorsNotes, make_card, read_results, widget_of
from .upload import PublishingError

CODE_LICENSE = "apache-2.0"

CHECK_TIMEOUT_SECONDS = 1800

# In front of the script of the check: standard input ends with the process that started it.
END_WITH_PARENT = """\
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
"""

SCORE_TOLERANCE = 2e-3  # scores are float16, whose resolution near 1 is 5e-4


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
    vocabulary: Vocabulary | None = None,
    code_license: str | os.PathLike | None = None,
    max_shard_size: str = MAX_SHARD_SIZE,
) -> Path:
    """Writes all files of the model repository and checks them in a new process.

    Args, Raises: See `publish`.

    Returns:
        The folder.
    """
    source, output = Path(model), Path(output)
    refuse_links(source)
    pipe, processor = _load(source)
    conversion = _read_json(source / CONVERSION_REPORT)
    licenses = _licenses_of(source)
    output.mkdir(parents=True)
    seen = source / TRAINING_VOCABULARY  # with which `evaluate` splits scores into seen and unseen classes
    for path in (*licenses, *([seen] if seen.is_file() else [])):
        shutil.copyfile(path, output / path.name)
    if vocabulary is not None or pipe.model.vocabulary is None:
        # the page of the model offers a call without labels
        pipe.model.set_vocabulary(example.labels if vocabulary is None else vocabulary, processor)
    pipe.model.save_pretrained(output, max_shard_size=max_shard_size)
    processor.save_pretrained(output)
    _check_code(output)

    measured = [result for path in results for result in read_results(path)]
    _check_results_are_of(pipe.model, measured)
    shown = _show_example(pipe, example, output / "examples")
    notes = AuthorsNotes.read(source / "README.md")
    run = _read_json(source / RUN_DESCRIPTION) or _read_json(
        source.resolve().parent / RUN_DESCRIPTION
    )  # in the parent folder, if the checkpoint is the folder `model` of a run
    names = [path.name for path in licenses]
    of_weights = [name for name in names if name in LICENSES]
    license_link = {"license_link": of_weights[0]} if of_weights else {}
    given = {key: value for key, value in (metadata or {}).items() if value}  # options that were not passed are None
    fields = with_license({**_metadata_of_conversion(conversion), **license_link}, notes.metadata, given)
    if code_license is not None:
        # of the code; weights under another license have theirs beside it
        name = "LICENSE" if fields.get("license") == CODE_LICENSE and not of_weights else "LICENSE-CODE"
        shutil.copyfile(code_license, output / name)
    image_processor = processor.image_processor
    facts = {
        "task": TASK,
        "remote_task": next(iter(CUSTOM_PIPELINES)),
        "default_labels": list(names_of(pipe.model.config)),
        "package_version": __version__,
        "num_parameters": sum(parameter.numel() for parameter in pipe.model.parameters()),
        "dtype": str(pipe.model.dtype).removeprefix("torch."),
        "config": pipe.model.config,
        "image_size": {key: value for key, value in dict(image_processor.size).items() if value},
        "window_size": image_processor.window_size,
        "window_stride": image_processor.window_stride,
        "default_inference": pipe.default_inference,
        "example": shown,
        "space_id": space_id,
        "run": run,
        "conversion": conversion,
        "part_licenses": {part: name for part, files in PART_LICENSES.items() for name in names if name in files},
    }
    fields = {**fields, **widget_of(repo_id, shown["image"], example.labels)}
    card = make_card(card_template, repo_id, facts, notes, measured, fields)
    (output / "README.md").write_text(card, encoding="utf-8")

    check_model_folder(output, pipe, Example(output / shown["image"], example.labels))
    return output


def _load(folder: Path) -> tuple[OpenVocabularySegmentationPipeline, Dinov3SegProcessor]:
    if not folder.is_dir():
        raise PublishingError(f"Checkpoint folder {str(folder)!r} was not found. Check the path.")
    try:
        model = load_model(folder, local_files_only=True, use_safetensors=True)
        processor = load_processor(folder, local_files_only=True)
    except ValueError as error:
        raise PublishingError(f"{error} The checkpoint needs weights as safetensors, and a processor.") from error
    return OpenVocabularySegmentationPipeline(model=model, processor=processor, device="cpu"), processor


def _licenses_of(folder: Path) -> list[Path]:
    try:
        return licenses_of_copy(folder)
    except ValueError as error:
        raise PublishingError(str(error)) from error


def refuse_links(folder: Path) -> None:
    """Checks that no file of the folder is a link to a file elsewhere, whose content would be published.

    Raises:
        PublishingError: If a link leads outside.
    """
    for path in folder.rglob("*") if folder.is_dir() else ():
        if leads_outside(path, folder):
            raise PublishingError(
                f"{str(path)!r} is a link to a file outside of the folder, which would be published; expected the file "
                "itself. Remove the link, or put a copy in its place."
            )


def _check_code(folder: Path) -> None:
    """Checks that the folder contains exactly the expected code, and does not contain pickles."""
    code = {path.name for path in folder.glob("*.py")}
    if code != (expected := set(remote_files())):
        raise PublishingError(
            f"The code files in {str(folder)!r} differ from those of the package: {sorted(code ^ expected)}. Reinstall "
            "the package."
        )
    pickles = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
    if found := [path.name for path in folder.rglob("*") if path.suffix in pickles]:
        raise PublishingError(
            f"{str(folder)!r} contains files that could run code when loaded: {', '.join(found)}. Remove these files."
        )


def _check_results_are_of(model: torch.nn.Module, results: Sequence[Any]) -> None:
    if not any(result.weights for result in results):
        return
    fingerprint = weights_fingerprint(model)
    for result in results:
        if result.weights and result.weights != fingerprint:
            raise PublishingError(
                f"The results on {result.name} were measured with other weights ({result.weights[:12]}); expected the "
                f"weights of this checkpoint ({fingerprint[:12]}). Evaluate this checkpoint."
            )


def _show_example(pipe: OpenVocabularySegmentationPipeline, example: Example, folder: Path) -> dict[str, Any]:
    """Saves the example and its overlay, and returns the values of the example for the card."""
    image = open_image(example.image)
    with in_float32(pipe.model):
        result = pipe(image, example.labels, return_label_map=True, return_masks=False)
    scores = {segment["label"]: segment["score"] for segment in result["segments"]}
    regions = regions_of(result["label_map"], result["labels"], scores)
    if not regions:
        raise PublishingError(
            f"The model found none of the labels in the example image {str(example.image)!r}; expected at least one "
            "of them. Choose other labels."
        )
    folder.mkdir()
    name = example.file_name
    save_image(folder / name, image)
    palette = label_palette(result["labels"])
    picture = with_legend(overlay(image, result["label_map"], palette=palette), regions, palette=palette)
    save_image(folder / f"overlay-{name}", picture)
    return {
        "image": f"examples/{name}",
        "overlay": f"examples/overlay-{name}",
        "labels": result["labels"],
        "regions": regions,
    }


@contextmanager
def in_float32(model: PreTrainedModel) -> Iterator[None]:
    """Converts the model to float32 inside the context, because other dtypes are slow or inaccurate on the CPU."""
    module: torch.nn.Module = model  # transformers types its own `float` as an unbound function
    # each its own: frequencies of positions are float32 in every model, and `to` would round them
    dtypes = [tensor.dtype for tensor in (*module.parameters(), *module.buffers())]
    module.float()
    try:
        yield
    finally:
        for tensor, dtype in zip((*module.parameters(), *module.buffers()), dtypes):
            tensor.data = tensor.data.to(dtype)


def check_model_folder(folder: Path, pipe: OpenVocabularySegmentationPipeline, example: Example) -> None:
    """Segments the example in a process without the package, and compares the result with that of `pipe`.

    Raises:
        PublishingError: If the folder cannot be loaded in that process, or gives another result.
    """
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "result.npz"
        # a new HF_HOME with an empty cache; no token, because the check must not access the Hub
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE_"))}
        environment |= {"HF_HOME": scratch, "HF_HUB_OFFLINE": "1"}
        script = END_WITH_PARENT + Path(__file__).with_name("published_check.py").read_text(encoding="utf-8")
        command = [sys.executable, "-c", script, *map(str, (folder.resolve(), example.image.resolve(), example.labels))]
        read_end, write_end = os.pipe()
        try:
            done = subprocess.run(
                [*command, str(output)],
                stdin=read_end,
                cwd=scratch,
                env=environment,
                capture_output=True,
                text=True,
                timeout=CHECK_TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise PublishingError(
                f"Loading the folder {str(folder)!r} and segmenting the example took more than "
                f"{CHECK_TIMEOUT_SECONDS} s. Nothing was published. Use a smaller example image or a faster machine."
            ) from error
        finally:
            os.close(read_end)
            os.close(write_end)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["unknown error"]
            raise PublishingError(
                f"The folder {str(folder)!r} does not work without the package: {lines[-1].rstrip('.')}. Nothing was "
                "published."
            )
        with np.load(output) as found:
            label_map, scores = found["label_map"], found["scores"]
    with in_float32(pipe.model):
        expected = pipe(
            str(example.image),
            example.labels,
            inference="whole",
            return_label_map=True,
            return_scores=True,
            return_masks=False,
        )
    refuse_other_results((label_map, scores), (expected["label_map"], expected["scores"]), folder)


def refuse_other_results(
    found: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray], folder: str | os.PathLike
) -> None:
    """Raises an error if the result of the folder differs from the result of the checkpoint.

    Args:
        found: Label map `(H, W)` and scores `(C, h, w)` of the folder.
        expected: Label map and scores of the checkpoint from which the folder was built.
        folder: The folder, for error messages.

    Raises:
        PublishingError: If label maps or scores differ in shape, or scores differ by more than `SCORE_TOLERANCE`; NaN
            counts as different. The values of the label maps are not compared.
    """
    shapes, expected_shapes = ([array.shape for array in arrays] for arrays in (found, expected))
    if shapes != expected_shapes:
        reason = f"label map and scores have the shapes {shapes}; expected {expected_shapes}"
    else:
        difference = float(np.abs(found[1].astype(np.float32) - expected[1].astype(np.float32)).max())
        if difference <= SCORE_TOLERANCE:
            return
        reason = f"scores differ by {difference:.2g}; expected at most {SCORE_TOLERANCE}"
    raise PublishingError(
        f"The folder {str(folder)!r} and the checkpoint segment the example differently: {reason}. Nothing was "
        "published."
    )


def with_license(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Joins the fields of a card, the last ones first. Name and link of a license go if a later one is another."""
    fields: dict[str, Any] = {}
    for layer in layers:
        if "license" in fields and layer.get("license", fields["license"]) != fields["license"]:
            fields = {key: value for key, value in fields.items() if key not in ("license_name", "license_link")}
        fields |= layer
    return fields


def _metadata_of_conversion(report: dict[str, Any] | None) -> dict[str, Any]:
    """The metadata of converted weights: the license of DINOv3, and the Hub ids of the published weights."""
    if report is None:
        return {}
    files = [str(given) for given in report.get("files", {}).values()]
    hub_ids = [given for given in files if is_hub_id(given)]
    if any("lvd1689m" in given for given in files):
        hub_ids.insert(0, "facebook/dinov3-vitl16-pretrain-lvd1689m")
    return {**DINOV3_LICENSE, "base_model": list(dict.fromkeys(hub_ids)) or None}


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return load_json(read_text_up_to(path))
    except (OSError, ValueError) as error:
        raise PublishingError(
            f"{str(path)!r} cannot be read ({error}); expected JSON. Correct this file, or move it to another folder."
        ) from error


__all__ = ["Example", "build_model_folder", "check_model_folder"]
