# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""A tiny random model and its processor, for fixtures and for programs that run without pytest."""

import torch

from dinov3seg_hf.model.configuration_dinov3seg import Dinov3SegConfig
from dinov3seg_hf.model.image_processing_pil_dinov3seg import Dinov3SegImageProcessorPil
from dinov3seg_hf.model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from dinov3seg_hf.model.processing_dinov3seg import Dinov3SegProcessor

# a prior encoder with all that it has: windows, and a layer with global attention
SAM = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "output_channels": 12,
    "image_size": 48,
    "patch_size": 8,
    "window_size": 4,
    "global_attn_indexes": [1],
    "mlp_dim": 32,
    "initializer_range": 0.02,
}


def tiny_config_values(tokenizer):
    """The values of a configuration with every part of the model, as small as it goes; no prior encoder."""
    return {
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_register_tokens": 4,
            "patch_size": 8,
            "image_size": 64,
        },
        "text_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "projection_dim": 64,
            "hidden_act": "gelu",
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 77,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        "prior_config": None,
        "stem_channels": [8, 16],
        "early_hidden_size": 16,
        "early_num_attention_heads": 2,
        "correlation_hidden_size": 16,
        "late_num_layers": 1,
        "late_window_size": 4,
        "late_num_attention_heads": 2,
        "guidance_hidden_size": 8,
        "decoder_hidden_sizes": [8, 8],
        "decoder_prior_sizes": [4, 4],
    }


def make_tiny_config(tokenizer):
    """The configuration of `tiny_config_values`."""
    return Dinov3SegConfig(**tiny_config_values(tokenizer))


def make_tiny_model(config):
    """Random weights, float32, eval mode, no gradients. Different places and different words get different answers."""
    with torch.random.fork_rng():
        torch.manual_seed(8)  # of the first seeds, the one with the most different answers
        model = Dinov3SegForSemanticSegmentation(config).eval().requires_grad_(False)
        # fresh weights are so small that all words look alike
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.early_refinement.mixing_weight.fill_(0.5)
    return model


def make_tiny_processor(tokenizer):
    """Short side 64, windows of 48 at a stride of 24 for local-global inference (off unless asked for)."""
    image_processor = Dinov3SegImageProcessorPil(
        size={"shortest_edge": 64}, size_divisor=8, do_windows=False, window_size=48, window_stride=24
    )
    return Dinov3SegProcessor(image_processor, tokenizer)
