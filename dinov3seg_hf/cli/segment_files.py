# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The output files of each image of `dinov3seg segment`, checked before a model is loaded."""

import argparse
import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint_names import title_of
from ..file_names import IMAGE_SUFFIXES, TRAINED_MODEL
from ..model.checks import load_json, quoted
from .inputs import ImageInput, is_address

if TYPE_CHECKING:
    from ..annotations import AnnotationWriter

# The flags that need --output, by the names of their options, with their defaults.
OVERLAY = {"original": False, "alpha": 0.5}
# The flags that determine a label map, besides model and words, by the names of their options.
SETTINGS = ("threshold", "active_classes", "head", "inference", "refine_features")


@dataclass(frozen=True)
class Task:
    """One image and its output files.

    Attributes:
        input: The image.
        overlay, mask, json: The files to write.
        annotations: The files that exist once the annotations of the image are written.
    """

    input: ImageInput
    overlay: Path | None
    mask: Path | None
    json: Path | None
    annotations: tuple[Path, ...] = ()

    @property
    def image(self) -> str:
        """The name of the image in messages and results."""
        return self.input.title

    @property
    def is_annotated(self) -> bool:
        """Whether the annotations of the image exist in files of its own."""
        return bool(self.annotations) and all(path.exists() for path in self.annotations)

    @property
    def files(self) -> list[Path]:
        return [*(path for path in (self.overlay, self.mask, self.json) if path is not None), *self.annotations]


def refuse_without_output(options: argparse.Namespace) -> None:
    """Checks that no option of overlays is set without `--output`.

    Raises:
        ValueError: If one is.
    """
    for name, default in OVERLAY.items():
        if getattr(options, name) != default and options.output is None:
            raise ValueError(f"--{name} is for the overlay, and needs --output. Add it, or leave --{name} out.")


def plan_files(
    options: argparse.Namespace, images: Sequence[ImageInput], writer: "AnnotationWriter | None"
) -> list[Task]:
    """Returns the output files of each image.

    Raises:
        ValueError: If a file cannot be written, would replace an image, or would be written twice.
    """
    from ..visualization.files import check_writable

    if options.skip_existing and {options.output, options.mask, options.json, options.annotations} == {None}:
        raise ValueError(
            "--skip-existing needs files to look for; expected --output, --mask, --json or --annotations with a folder."
        )
    if writer is not None and writer.picture_folder is not None:
        refuse_folder_of_images(writer.picture_folder, options.images, options.recursive)
    columns: list[Sequence[Path | None]] = []
    for target, suffixes, ending in (
        (options.output, IMAGE_SUFFIXES, "_overlay.png"),
        (options.mask, (".png",), "_mask.png"),
        (options.json, (".json",), ".json"),
    ):
        if target is None:
            columns.append([None] * len(images))
        elif len(images) > 1 or target.endswith(("/", os.sep)) or Path(target).is_dir():
            folder = Path(target)
            if not folder.is_dir() and (folder.exists() or folder.suffix.lower() in suffixes):
                raise ValueError(
                    f"{target!r} is the name of a file; expected a folder for several files. Choose a folder."
                )
            refuse_folder_of_images(folder, options.images, options.recursive)
            paths = [folder / f"{image.name}{ending}" for image in images]
            # a folder that can be created is writable
            for path in [path for path in paths if path.parent == folder] if folder.is_dir() else [folder]:
                check_writable(path)
            columns.append(paths)
        else:
            check_writable(target, suffixes)
            columns.append([Path(target)])
    done = [() if writer is None else tuple(writer.files_of(image.file_name)) for image in images]
    tasks = [Task(image, *files) for image, *files in zip(images, *columns, done)]

    _refuse_collisions(options, tasks, [] if writer is None else writer.shared_files)
    return tasks


def _refuse_collisions(options: argparse.Namespace, tasks: Sequence[Task], shared_files: Sequence[Path]) -> None:
    """Checks that no file is written that is read, or written twice.

    Args:
        options: The options of the command.
        tasks: The images and their files.
        shared_files: The files that hold annotations of all images.

    Raises:
        ValueError: If one is.
    """
    refuse_labels_file(options, [path for task in tasks for path in task.files])
    inputs = {task.input.path.resolve(): task.input.source for task in tasks if task.input.path is not None}
    spelled_inputs = {str(path).casefold(): path for path in inputs}
    owner = {path.resolve(): "the annotations of all images" for path in shared_files}
    spelled = {str(path).casefold(): path for path in owner}
    for task in tasks:
        for path in task.files:
            key = path.resolve()
            image = key if key in inputs else spelled_inputs.get(str(key).casefold())
            if image is not None and (image == key or (path.exists() and path.samefile(image))):
                raise ValueError(f"{str(path)!r} would overwrite the image {inputs[image]!r}. Choose another name.")
            first, other = owner.get(key), spelled.setdefault(str(key).casefold(), key)
            if first is None and other != key and ignores_case(path.parent):
                first = owner[other]
            if first is not None:
                raise ValueError(
                    f"{str(path)!r} would be written twice, for {first} and {task.image!r}. Rename one of the images, "
                    "or segment them in separate runs with different output folders."
                )
            owner[key] = repr(task.image)


def refuse_labels_file(options: argparse.Namespace, written: Sequence[Path]) -> None:
    """Checks that the file of class names stays as it is.

    Raises:
        ValueError: If it would be written.
    """
    for path in written:
        if options.labels_file is not None and path.resolve() == Path(options.labels_file).resolve():
            raise ValueError(f"{str(path)!r} would overwrite the file of class names. Choose another name.")


def ignores_case(folder: Path) -> bool:
    """Returns whether "A" and "a" are one file in a folder, which may not exist. Leaves nothing behind."""
    folder = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    probe = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        probe.touch(exist_ok=False)
        return probe.with_name(probe.name.upper()).exists()
    except OSError:  # of a folder that cannot be written, which is reported where files are
        return False
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def noted_options(options: argparse.Namespace) -> dict[str, Any]:
    """The words and options that the JSON file of an image notes and that are known before the model is loaded."""
    vocabulary = options.vocabulary
    return {
        "model": title_of(options.model),
        "threshold": options.threshold,
        "active_classes": options.active_classes,
        "background": options.background or ("never" if vocabulary.calibration is None else "auto"),
        "labels": list(vocabulary.names),
    }


def has_annotations(task: Task, options: argparse.Namespace) -> bool:
    """Whether an earlier run has written the annotations of an image, and this one is to keep them."""
    return task.input.file_name in options.annotated or (options.skip_existing and task.is_annotated)


def is_done(task: Task, options: argparse.Namespace) -> bool:
    """Whether an earlier run has done all for an image."""
    if options.writer is not None and not task.annotations and task.input.file_name not in options.annotated:
        return False  # files of many images say in their journal what is done
    return all(path.exists() for path in task.files)


def run_of(options: argparse.Namespace) -> dict[str, Any]:
    """What annotations depend on, as values of JSON, as far as it is known before the model is loaded."""
    model = Path(os.path.expanduser(options.model))
    weights = [*model.glob("*.safetensors"), *(model / TRAINED_MODEL).glob("*.safetensors")]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(weights)]
    paths = {key: getattr(options, key) for key in ("output", "mask", "json")}
    return {
        **_determined_by(options),
        "weights": stats,
        "dtype": options.dtype,
        **{key: None if path is None else os.path.realpath(path) for key, path in paths.items()},
        "original": options.original,
        "alpha": options.alpha,
    }


def _determined_by(options: argparse.Namespace) -> dict[str, Any]:
    """The options that determine the label map of an image."""
    vocabulary, name = options.vocabulary, title_of(options.model)
    folder = os.path.expanduser(name)
    bounds = None if vocabulary.calibration is None else vocabulary.calibration.thresholds
    return {
        "model": os.path.realpath(folder) if os.path.exists(folder) else name,
        "words": [vocabulary.names, vocabulary.synonyms, vocabulary.templates, bounds],
        **{key: getattr(options, key) for key in SETTINGS},
        "background": noted_options(options)["background"],
        "refine": options.refine or "none",
    }


def note_of(options: argparse.Namespace) -> str:
    """The words and options of a picture, as a note in its file: digests only, because pictures are passed on."""
    return json.dumps({key: _digest(value) for key, value in _determined_by(options).items() if value is not None})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]


def _refuse_other_notes(options: argparse.Namespace, done: Sequence[Task]) -> None:
    from ..visualization.files import read_note

    ours = load_json(note_of(options))
    for path in [path for task in done for path in (task.mask, task.overlay) if path is not None]:
        try:
            noted = load_json(read_note(path) or "")
        except ValueError:  # of an earlier version, or not a file of this command
            continue
        if not isinstance(noted, dict):
            continue
        if changed := [key for key in {**ours, **noted} if ours.get(key) != noted.get(key)]:
            raise ValueError(
                f"{str(path)!r} exists, and was made with another {' and '.join(changed)}; --skip-existing continues a "
                "run with the same words and options. Repeat those of the earlier run, choose other files, or leave "
                "out --skip-existing."
            )


def refuse_other_options(options: argparse.Namespace, done: Sequence[Task]) -> None:
    """Checks that finished files were made with the words and options of this run, as far as they note them.

    Raises:
        ValueError: If a JSON file, a mask or an overlay notes other words or options.
    """
    _refuse_other_json(options, done)
    _refuse_other_notes(options, done)


def _refuse_other_json(options: argparse.Namespace, done: Sequence[Task]) -> None:
    given = {key: getattr(options, key) for key in ("head", "inference") if getattr(options, key) is not None}
    ours = {**noted_options(options), **given}
    for path in [task.json for task in done if task.json is not None]:
        try:
            noted = _noted_in(path)
        except (OSError, ValueError):  # not a file of this command
            continue
        if not isinstance(noted, dict):
            continue
        for key, value in ours.items():
            if key == "model" and _is_same_place(noted.get(key), value):
                continue
            if noted.get(key, value) != value:
                raise ValueError(
                    f"{str(path)!r} exists, and notes {key} {quoted(noted[key])}; expected {quoted(value)}, because "
                    "--skip-existing continues a run with the same words and options. Repeat those of the earlier run, "
                    "choose other files, or leave out --skip-existing."
                )


def _noted_in(path: Path) -> Any:
    """The content of a JSON file, if it is one of this command without its segments, whose masks can be megabytes."""
    with open(path, encoding="utf-8") as file:
        text = file.read(2**13)
        start, is_found, _ = text.partition(', "segments": ')
        return load_json(f"{start}}}" if is_found else text + file.read())


def _is_same_place(noted: Any, given: str) -> bool:
    """Whether both name one folder or Hub id, perhaps spelled in another way."""
    return isinstance(noted, str) and len({os.path.realpath(os.path.expanduser(name)) for name in (noted, given)}) == 1


def refuse_folder_of_images(folder: Path, given: Sequence[str], recursive: bool) -> None:
    """Checks that written pictures would not be images of the next run.

    Raises:
        ValueError: If they would.
    """
    for item in given:
        searched = Path(item).resolve()
        if not is_address(item) and searched.is_dir():
            place = folder.resolve()
            if place == searched or (recursive and place.is_relative_to(searched)):
                raise ValueError(
                    f"The files in {str(folder)!r} would lie among the images of {item!r}, and be segmented themselves "
                    "the next time. Choose another folder."
                )
