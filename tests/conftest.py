# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What all tests share: no network, few threads, and a tiny random model with its processor.

The fixtures are made once a session and are read-only: a test that changes one copies it first.
"""

import os

# before transformers is imported: a test that needs the network fails on every machine
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

# Tiny models lose more to the hand-over between threads than they gain.
torch.set_num_threads(int(os.environ.get("DINOV3SEG_TEST_THREADS", "1")))


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """CLIP's byte-level BPE with a small vocabulary, made offline; writes any text."""
    from dinov3seg_hf.drawn_world.tokenizer import make_tokenizer

    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_config(tiny_tokenizer):
    """Every part of the model, as small as it goes; no prior encoder. Copy before changing."""
    from tiny import make_tiny_config

    return make_tiny_config(tiny_tokenizer)


@pytest.fixture(scope="session")
def tiny_model(tiny_config):
    """Random weights, float32, eval mode, no gradients. Different places and different words get different answers."""
    from tiny import make_tiny_model

    return make_tiny_model(tiny_config)


@pytest.fixture(scope="session")
def tiny_processor(tiny_tokenizer):
    """Short side 64, windows of 48 at a stride of 24 for local-global inference (off unless asked for)."""
    from tiny import make_tiny_processor

    return make_tiny_processor(tiny_tokenizer)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tiny_model, tiny_processor):
    """A folder that `from_pretrained` loads: `tiny_model` and `tiny_processor`."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sample_image():
    """RGB, 60 x 90 (height x width): three shapes on a noisy ground."""
    noise = np.random.default_rng(0).integers(0, 40, (60, 90, 3), dtype=np.uint8)
    image = Image.fromarray(noise + np.array([60, 120, 60], dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((5, 10, 35, 40), fill=(210, 30, 30))
    draw.rectangle((45, 20, 80, 50), fill=(30, 60, 210))
    draw.polygon([(30, 58), (50, 58), (40, 40)], fill=(240, 220, 40))
    return image


@pytest.fixture
def fresh_accelerate():
    """Accelerate keeps the options of the first Accelerator of a process; afterwards they are forgotten."""
    from accelerate.state import AcceleratorState, GradientState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
