# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What the cases share: a tiny model, its processor and pipeline, and their files. Made once; cases copy, never change.

Each case has an empty folder of its own.
"""

import functools
import os
import shutil
import tempfile
from pathlib import Path

import datasets
import torch
from safetensors import safe_open

from dinov3seg_hf import OpenVocabularySegmentationPipeline
from dinov3seg_hf.drawn_world.tokenizer import make_tokenizer

from places import FIXTURES
from tiny import make_tiny_config, make_tiny_model, make_tiny_processor, tiny_config_values

WORDS = ("red circle", "blue square", "black background", "star")


class World:
    """The things that cases share, made when they are first asked for.

    Args:
        folder: An empty folder for files.
    """

    def __init__(self, folder: Path):
        self.root = folder
        self.folder = folder / "case"
        self.uploads = folder / "uploads"

    def fresh_folder(self) -> Path:
        """Empties the folder of the case."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return self.folder

    @functools.cached_property
    def tokenizer(self):
        return make_tokenizer()

    @functools.cached_property
    def config_values(self) -> dict:
        return tiny_config_values(self.tokenizer)

    @functools.cached_property
    def model(self):
        return make_tiny_model(make_tiny_config(self.tokenizer))

    @functools.cached_property
    def processor(self):
        return make_tiny_processor(self.tokenizer)

    @functools.cached_property
    def pipe(self) -> OpenVocabularySegmentationPipeline:
        return OpenVocabularySegmentationPipeline(model=self.model, processor=self.processor, device="cpu")

    @functools.cached_property
    def embeddings(self):
        return self.pipe.encode_labels(WORDS)

    @functools.cached_property
    def checkpoint(self) -> Path:
        """A folder that `from_pretrained` loads."""
        folder = self.root / "checkpoint"
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        return folder

    @functools.cached_property
    def published(self) -> dict[str, dict[str, torch.Tensor]]:
        """The tensors of tiny published files, by `backbone` and `dinotxt`."""
        with safe_open(FIXTURES / "dinotxt_tiny.safetensors", "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        return {
            name: {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}/")}
            for name in ("backbone", "dinotxt")
        }


@functools.cache
def world() -> World:
    """The world of this process; its files are removed when the process ends."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # no case waits for a disk
    holder = tempfile.TemporaryDirectory(prefix="dinov3seg-fuzz-", dir=memory)
    made = World(Path(holder.name).resolve())
    datasets.config.HF_DATASETS_CACHE = str(made.root / "datasets")
    made.holder = holder  # removed with the world
    os.environ["GRADIO_TEMP_DIR"] = str(made.uploads)
    return made
