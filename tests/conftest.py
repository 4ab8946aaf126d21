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
    from dinov3seg_hf.model.configuration_dinov3seg import Dinov3SegConfig

    return Dinov3SegConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_register_tokens": 4,
            "patch_size": 8,
            "image_size": 64,
        },
        text_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "projection_dim": 64,
            "hidden_act": "gelu",
            "vocab_size": len(tiny_tokenizer),
            "max_position_embeddings": 77,
            "pad_token_id": tiny_tokenizer.pad_token_id,
            "bos_token_id": tiny_tokenizer.bos_token_id,
            "eos_token_id": tiny_tokenizer.eos_token_id,
        },
        prior_config=None,
        stem_channels=[8, 16],
        early_hidden_size=16,
        early_num_attention_heads=2,
        early_window_size=3,
        correlation_hidden_size=16,
        late_num_layers=1,
        late_window_size=4,
        late_num_attention_heads=2,
        guidance_hidden_size=8,
        decoder_hidden_sizes=[8, 8],
        decoder_prior_sizes=[4, 4],
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_config):
    """Random weights, float32, eval mode, no gradients. Different places and different words get different answers."""
    from dinov3seg_hf.model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation

    with torch.random.fork_rng():
        torch.manual_seed(8)  # of the first seeds, the one with the most different answers
        model = Dinov3SegForSemanticSegmentation(tiny_config).eval().requires_grad_(False)
        # fresh weights are so small that all words look alike
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.early_refinement.mixing_weight.fill_(0.5)
    return model


@pytest.fixture(scope="session")
def tiny_processor(tiny_tokenizer):
    """Short side 64, windows of 48 at a stride of 24 for local-global inference (off unless asked for)."""
    from dinov3seg_hf.model.image_processing_pil_dinov3seg import Dinov3SegImageProcessorPil
    from dinov3seg_hf.model.processing_dinov3seg import Dinov3SegProcessor

    image_processor = Dinov3SegImageProcessorPil(
        size={"shortest_edge": 64}, size_divisor=8, do_windows=False, window_size=48, window_stride=24
    )
    return Dinov3SegProcessor(image_processor, tiny_tokenizer)


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
