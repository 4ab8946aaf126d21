# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The code that travels with a checkpoint, so that `trust_remote_code=True` loads it where the package is missing.

Knows which class answers to which name of transformers, and which files that takes. What is saved refers to the files
that lie beside this one: in the package all of them, in a checkpoint that was itself loaded from the Hub those that
were needed. (transformers' own `register_for_auto_class` notes one name a class, no backends and no pipeline.)
"""

import os
import shutil
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files

_MODEL = "modeling_dinov3seg.Dinov3SegForSemanticSegmentation"
CONFIG_AUTO_MAP = {
    "AutoConfig": "configuration_dinov3seg.Dinov3SegConfig",
    "AutoModel": _MODEL,
    "AutoModelForSemanticSegmentation": _MODEL,
}
IMAGE_PROCESSOR_AUTO_MAP = {
    "AutoImageProcessor": {
        "torchvision": "image_processing_dinov3seg.Dinov3SegImageProcessor",
        "pil": "image_processing_pil_dinov3seg.Dinov3SegImageProcessorPil",
    }
}
PROCESSOR_AUTO_MAP = {"AutoProcessor": "processing_dinov3seg.Dinov3SegProcessor"}
# Not the name of the task that the package registers: an entry of a repository hides a task of the same name, and asks
# for trust even where the package is installed.
CUSTOM_PIPELINES = {
    "dinov3seg": {
        "impl": "pipeline.OpenVocabularySegmentationPipeline",
        "pt": ["AutoModelForSemanticSegmentation"],
        "type": "multimodal",
    }
}

_HERE = Path(__file__).parent


def note_config(config: Any, folder: str | os.PathLike) -> None:
    """Writes the code of configuration, model and pipeline into `folder`, and their names into `config`."""
    config.auto_map = {name: target for name, target in CONFIG_AUTO_MAP.items() if _is_here(target)}
    config.custom_pipelines = {name: task for name, task in CUSTOM_PIPELINES.items() if _is_here(task["impl"])}
    targets = [*config.auto_map.values(), *(task["impl"] for task in config.custom_pipelines.values())]
    _copy_code(targets, folder)


def note_image_processor(image_processor: Any, folder: str | os.PathLike) -> None:
    """Writes the code of the image processor's backends into `folder`, and their names into `image_processor`."""
    backends = IMAGE_PROCESSOR_AUTO_MAP["AutoImageProcessor"]
    backends = {backend: target for backend, target in backends.items() if _is_here(target)}
    image_processor.auto_map = {"AutoImageProcessor": backends}
    _copy_code(backends.values(), folder)


def note_processor(processor: Any, folder: str | os.PathLike) -> None:
    """As `note_image_processor`, for the processor and the image processor in it."""
    processor.auto_map = dict(PROCESSOR_AUTO_MAP)
    _copy_code(PROCESSOR_AUTO_MAP.values(), folder)
    note_image_processor(processor.image_processor, folder)


def remote_files() -> list[Path]:
    """All files of the package that a checkpoint on the Hub needs, sorted by name."""
    targets = [
        *CONFIG_AUTO_MAP.values(),
        *IMAGE_PROCESSOR_AUTO_MAP["AutoImageProcessor"].values(),
        *PROCESSOR_AUTO_MAP.values(),
        *(task["impl"] for task in CUSTOM_PIPELINES.values()),
    ]
    return sorted(set().union(*map(_files_of, targets)))


def _module_file(target: str) -> Path:
    return _HERE / f"{target.partition('.')[0]}.py"


def _is_here(target: str) -> bool:
    return _module_file(target).is_file()


def _files_of(target: str) -> set[Path]:
    entry = _module_file(target)
    return {entry, *map(Path, get_relative_import_files(entry))}


def _copy_code(targets: Any, folder: str | os.PathLike) -> None:
    os.makedirs(folder, exist_ok=True)
    for file in set().union(*map(_files_of, targets)):
        shutil.copyfile(file, Path(folder) / file.name)


__all__ = ["CONFIG_AUTO_MAP", "CUSTOM_PIPELINES", "IMAGE_PROCESSOR_AUTO_MAP", "PROCESSOR_AUTO_MAP", "remote_files"]
