# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""LoRA adapters of the encoders come back as they were saved, in every way that PEFT and transformers offer."""

import copy

import pytest
import torch
from transformers import AutoModel, SamVisionConfig

from dinov3seg_hf import OpenVocabularySegmentationPipeline
from dinov3seg_hf.model.configuration_dinov3seg import Dinov3SegConfig
from dinov3seg_hf.model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation

peft = pytest.importorskip("peft")

# PEFT still uses the former name of a property of transformers
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LORA = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}
SAM = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64, "patch_size": 8}
SAM |= {"output_channels": 8, "mlp_dim": 32, "window_size": 4, "global_attn_indexes": [0]}
STEM = {"stem_channels": [8, 8]}


@pytest.fixture(params=["plain", "stem", "sam"])
def base(request, tiny_config, tmp_path):
    """A folder, and the model in it."""
    changes = {"plain": {}, "stem": STEM, "sam": {"prior_config": SamVisionConfig(**SAM).to_dict()}}[request.param]
    torch.manual_seed(0)
    config = Dinov3SegConfig.from_dict({**tiny_config.to_dict(), **changes})
    model = Dinov3SegForSemanticSegmentation(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base", model


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    return {
        "pixel_values": torch.randn(1, 3, 64, 64, generator=generator),
        "text_embeds": torch.nn.functional.normalize(torch.randn(3, 2, 32, generator=generator), dim=-1),
    }


def randomize(model):
    """Gives every adapter an effect; before training, it has none."""
    generator = torch.Generator().manual_seed(2)
    names = [name for name, _ in model.named_parameters() if "lora_B" in name]
    assert any("vision_model" in name for name in names) and any("text_model" in name for name in names)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def logits(model, inputs):
    return model.eval()(**inputs).logits


def test_an_adapter_of_peft_is_loaded_by_every_name(base, inputs, tmp_path):
    folder, model = base
    before = logits(model, inputs)
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**LORA))
    randomize(adapted)
    expected = logits(adapted, inputs)
    assert (expected - before).abs().max() > 1e-3
    adapted.peft_config["default"].base_model_name_or_path = str(folder)
    adapted.save_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(AutoModel.from_pretrained(tmp_path / "adapter"), inputs), expected)

    again = Dinov3SegForSemanticSegmentation.from_pretrained(folder)
    again.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(logits(again, inputs), expected)
    onto = peft.PeftModel.from_pretrained(
        Dinov3SegForSemanticSegmentation.from_pretrained(folder), tmp_path / "adapter"
    )
    assert torch.equal(logits(onto, inputs), expected)


def test_an_adapter_of_transformers_is_saved_and_loaded(base, inputs, tmp_path):
    folder, _ = base
    model = Dinov3SegForSemanticSegmentation.from_pretrained(folder)
    model.add_adapter(peft.LoraConfig(**LORA))
    randomize(model)
    expected = logits(model, inputs)
    model.save_pretrained(tmp_path / "adapter")
    again = Dinov3SegForSemanticSegmentation.from_pretrained(folder)
    again.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(logits(again, inputs), expected)


def test_the_stem_is_initialized_like_the_linear_patch_embedding(tiny_config):
    torch.manual_seed(0)
    config = Dinov3SegConfig.from_dict({**tiny_config.to_dict(), **STEM})
    stem = Dinov3SegForSemanticSegmentation(config).vision_model.backbone.embeddings.patch_embeddings
    convolutions = [module for module in stem.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convolutions) == 3
    for convolution in convolutions:
        assert convolution.weight.std().item() == pytest.approx(config.vision_config.initializer_range, rel=0.15)
        assert convolution.bias is None or not convolution.bias.any()


@torch.no_grad()
def test_texts_are_encoded_again_when_adapters_are_switched(base, tiny_processor):
    """The weights do not change, but what the text tower computes does."""
    _, model = base
    pipe = OpenVocabularySegmentationPipeline(model=model, processor=tiny_processor)
    plain = pipe.encode_labels(["cat", "dog"]).tensor
    found = {}
    for index, name in enumerate(("one", "other")):
        model.add_adapter(peft.LoraConfig(**LORA), adapter_name=name)
        for key, parameter in model.named_parameters():
            if "lora_B" in key and f".{name}." in key:
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
        found[name] = pipe.encode_labels(["cat", "dog"]).tensor
    model.set_adapter("one")
    assert torch.equal(pipe.encode_labels(["cat", "dog"]).tensor, found["one"])
    assert (found["one"] - found["other"]).abs().max() > 1e-3
    model.disable_adapters()
    assert torch.equal(pipe.encode_labels(["cat", "dog"]).tensor, plain)
    model.enable_adapters()
    assert torch.equal(pipe.encode_labels(["cat", "dog"]).tensor, found["one"])
