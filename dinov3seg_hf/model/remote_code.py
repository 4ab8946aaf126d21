# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The code that is saved with a checkpoint, so that `trust_remote_code=True` loads the checkpoint without this package.

Maps the names of transformers to classes, and finds the files that these classes need: the modules of the package,
joined (`joined_code.py`), or what is next to this file in a checkpoint that was itself loaded from the Hub: there, only
what was needed. (`register_for_auto_class` of transformers stores only one name per class, and neither backends nor
pipelines.)
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, PROCESSOR_NAME

from .joined_code import imported_files, joined_code

_MODEL = "modeling_dinov3seg.Dinov3SegForSemanticSegmentation"

CONFIG_AUTO_MAP = {
    "AutoConfig": "configuration_dinov3seg.Dinov3SegConfig",
    "AutoModel": _MODEL,
    "AutoModelForSemanticSegmentation": _MODEL,
}

IMAGE_PROCESSOR_AUTO_MAP = {
    "AutoImageProcessor": {
        "torchvision": "processing_dinov3seg.Dinov3SegImageProcessor",
        "pil": "processing_dinov3seg.Dinov3SegImageProcessorPil",
    }
}

PROCESSOR_AUTO_MAP = {"AutoProcessor": "processing_dinov3seg.Dinov3SegProcessor"}

TASK = "open-vocabulary-segmentation"

# The task is that of the example on a page of the Hub. One entry only, because transformers takes its name as the task
# of `pipeline(model=...)`; `PipelineTasks` answers to the other names.
CUSTOM_PIPELINES: dict[str, dict[str, Any]] = {
    "image-segmentation": {
        "impl": "modeling_dinov3seg.OpenVocabularySegmentationPipeline",
        "pt": ["AutoModelForSemanticSegmentation"],
        "type": "multimodal",
    }
}

OTHER_TASKS = (TASK, "zero-shot-image-segmentation", "dinov3seg")

# The names of the JSON files that `save_pretrained` writes.
JSON_FILES = {"config": CONFIG_NAME, "image_processor": IMAGE_PROCESSOR_NAME, "processor": PROCESSOR_NAME}

_HERE = Path(__file__).parent

# Whether this file is part of the package, and not of a repository that was loaded with `trust_remote_code=True`.
_IS_PACKAGE = not __name__.startswith("transformers_modules.")


class PipelineTasks(dict[str, Any]):
    """The entry `custom_pipelines` of a configuration, as `transformers.pipeline` reads it.

    transformers takes the only key as the task if none is given, and uses the code of the repository for tasks that are
    `in` the entry. In a repository, all names of the task are. In the package, none is: the task is that of the
    package, whose pipeline transformers finds in its registry, with nothing to trust.
    """

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "PipelineTasks":
        """Returns the entry of a configuration file with these rules."""
        return cls(zip((TASK,), entry.values()) if _IS_PACKAGE else entry)

    def __contains__(self, task: object) -> bool:
        return not _IS_PACKAGE and (super().__contains__(task) or task in OTHER_TASKS)

    def __missing__(self, task: str) -> Any:
        if task in OTHER_TASKS and self:
            return next(iter(self.values()))
        raise KeyError(task)


def attach_remote_code(
    target: Any, json_file: str | os.PathLike[str], kind: Literal["config", "image_processor", "processor"]
) -> None:
    """Writes the code of an object next to its JSON file, and stores its class names in the object (`auto_map`).

    Does nothing if the file does not have the name that `save_pretrained` uses: a configuration that is written
    elsewhere (`config.to_json_file("notes.json")`) is written without code.

    Args:
        target: The configuration, image processor or processor that is saved.
        json_file: The path of its JSON file.
        kind: The kind of `target`.
    """
    json_file = Path(json_file)
    if json_file.name != JSON_FILES[kind]:
        return
    if kind == "config":
        target.auto_map = {name: code for name, code in CONFIG_AUTO_MAP.items() if _is_here(code)}
        target.custom_pipelines = {name: task for name, task in CUSTOM_PIPELINES.items() if _is_here(task["impl"])}
        _write_code(
            [*target.auto_map.values(), *(t["impl"] for t in target.custom_pipelines.values())], json_file.parent
        )
        return
    image_processor = target if kind == "image_processor" else target.image_processor
    backends = IMAGE_PROCESSOR_AUTO_MAP["AutoImageProcessor"]
    backends = {backend: code for backend, code in backends.items() if _is_here(code)}
    image_processor.auto_map = {"AutoImageProcessor": backends}
    _write_code(backends.values(), json_file.parent)
    if kind == "processor":
        target.auto_map = dict(PROCESSOR_AUTO_MAP)
        _write_code(PROCESSOR_AUTO_MAP.values(), json_file.parent)


def remote_files() -> dict[str, str]:
    """Returns the text of all files that a checkpoint on the Hub needs, by their names (`"modeling_dinov3seg.py"`)."""
    return _files_of(
        [
            *CONFIG_AUTO_MAP.values(),
            *IMAGE_PROCESSOR_AUTO_MAP["AutoImageProcessor"].values(),
            *PROCESSOR_AUTO_MAP.values(),
            *(task["impl"] for task in CUSTOM_PIPELINES.values()),
        ]
    )


def _all_files() -> dict[str, str]:
    if _IS_PACKAGE:
        return joined_code()
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(_HERE.glob("*.py"))}


def _is_here(target: str) -> bool:
    return f"{target.partition('.')[0]}.py" in _all_files()


def _files_of(targets: Iterable[str]) -> dict[str, str]:
    """Returns the files of targets `"module.Class"` and all files that they import."""
    files, needed = _all_files(), {}
    waiting = {target.partition(".")[0] for target in targets}
    while waiting:
        name = f"{waiting.pop()}.py"
        needed[name] = files[name]
        waiting |= {module for module in imported_files(files[name]) if f"{module}.py" not in needed}
    return needed


def _write_code(targets: Iterable[str], folder: str | os.PathLike[str]) -> None:
    os.makedirs(folder, exist_ok=True)
    for name, text in _files_of(targets).items():
        (Path(folder) / name).write_text(text, encoding="utf-8", newline="\n")


__all__ = [
    "CONFIG_AUTO_MAP",
    "CUSTOM_PIPELINES",
    "IMAGE_PROCESSOR_AUTO_MAP",
    "PROCESSOR_AUTO_MAP",
    "TASK",
    "PipelineTasks",
    "remote_files",
]
