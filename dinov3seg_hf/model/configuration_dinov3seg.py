# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The configuration of dinov3.seg: three configurations of transformers and the sizes of the parts between them.

It contains no preprocessing (image size, windows), which is configured in the image processor. Class names are only the
default vocabulary of the model, which any text replaces.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import CLIPTextConfig, DINOv3ViTConfig, PreTrainedConfig, SamVisionConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import SubConfigSpec

from .checks import is_number, quoted
from .remote_code import PipelineTasks, attach_remote_code
from .strict_values import with_value_errors

# Published sizes: DINOv3 ViT-L/16, the text tower of its dino.txt release, the image encoder of SAM ViT-L.
DINOV3_VITL16: dict[str, Any] = {
    "patch_size": 16,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_register_tokens": 4,
}

DINOTXT_TEXT: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 24,
    "num_attention_heads": 20,
    "projection_dim": 2048,
    "hidden_act": "gelu",
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "pad_token_id": 0,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}

SAM_VITL16: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "global_attn_indexes": [5, 11, 17, 23],
    "image_size": 640,  # the image size of the paper; the conversion resizes SAM's positions from 1024 pixels
    "initializer_range": 0.02,
}

if TYPE_CHECKING:
    SubConfig = Any  # passed as a dict or a configuration; a configuration or None after initialization
else:
    SubConfig = dict | PreTrainedConfig | None  # the types that `@strict` accepts


# The smallest and the largest value of each number; a tuple of sizes has one or more of them. Sizes that only take
# memory have no largest value. The parts have more ranges, in transformers.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("vision_head_num_layers", "late_num_layers"), (0, math.inf)),
    **dict.fromkeys(("vision_head_intermediate_size", "early_hidden_size", "early_num_attention_heads"), (1, math.inf)),
    **dict.fromkeys(("correlation_hidden_size", "late_num_attention_heads", "guidance_hidden_size"), (1, math.inf)),
    **dict.fromkeys(("late_window_size", "correlation_kernel_size"), (1, math.inf)),
    **dict.fromkeys(("decoder_hidden_sizes", "decoder_prior_sizes"), (1, math.inf)),
    "stem_channels": (1, math.inf),
    "late_mlp_ratio": (1e-3, 1e3),
    "initializer_range": (0, 1e3),
    "logit_scale_init_value": (-20, 20),  # a temperature between 2e-9 and 5e8
}
PART_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_attention_heads", "patch_size"), (1, math.inf)),
    **dict.fromkeys(("image_size", "vocab_size", "max_position_embeddings", "projection_dim"), (1, math.inf)),
    "num_hidden_layers": (1, math.inf),  # the prior and the decoder read hidden states
    **dict.fromkeys(("num_register_tokens", "eos_token_id", "bos_token_id"), (0, math.inf)),
}


@with_value_errors
@strict
class Dinov3SegConfig(PreTrainedConfig):
    r"""Configuration of [`Dinov3SegForSemanticSegmentation`].

    By default, the encoders have the sizes of the published checkpoints (DINOv3 ViT-L/16, dino.txt, SAM ViT-L). The
    other defaults are ours; those of the correlation embedding, the late refinement and the decoder are after CAT-Seg.

    Args:
        vision_config (`DINOv3ViTConfig` or `dict`, *optional*):
            The image backbone. Default: DINOv3 ViT-L/16.
        text_config (`CLIPTextConfig` or `dict`, *optional*):
            The text tower. Default: that of dino.txt. Its `projection_dim` is twice the vision width: one half is
            aligned with the CLS token (global), the other half with the patch tokens (local).
        prior_config (`SamVisionConfig`, `dict` or `None`, *optional*):
            The semantic prior encoder. Default: SAM ViT-L. `None`: no prior encoder; the prior uses intermediate layers
            of the backbone and, if the backbone has a convolutional stem, the feature maps of the stem.
        stem_channels (`list[int]`, *optional*):
            Widths of the stride-2 convolutions that replace the patch embedding of the backbone. The number of widths
            is log2 of the patch size, minus one. For small models that are trained from scratch. `None`: DINOv3's
            linear patch embedding.
        vision_head_num_layers (`int`, defaults to 2):
            Number of transformer blocks in the vision head of dino.txt.
        vision_head_intermediate_size (`int`, *optional*):
            Width of the SwiGLU in these blocks. `None`: two thirds of four times the hidden size, rounded up to a
            multiple of 64 (2752 for ViT-L).
        logit_scale_init_value (`float`, defaults to 2.6592):
            Initial value of the logarithm of the inverse temperature of the image-text cosine similarity.
        head (`"full"` or `"dinotxt"`, defaults to `"full"`):
            Default head of `forward`: the trained head, or the zero-shot head (cosine similarity with the local text
            half).
        head_trained (`bool`, defaults to `True`):
            Whether the full head is trained. `False` in converted checkpoints, whose full head is random: pipeline and
            commands refuse it. Training sets it.
        patch_source (`"head"` or `"backbone"`, defaults to `"head"`):
            Source of the patch tokens: after the vision head (paper of dino.txt) or before it (published notebook of
            dino.txt).
        known_words (`list[str]`, *optional*):
            The only words that the text tower was trained with. A pipeline warns of labels with other words. `None`: no
            such limit, as for dino.txt.
        default_vocabulary (`dict`, *optional*):
            The words of `id2label` and the token ids of their prompts, which the model uses if it gets no text. Set by
            `model.set_vocabulary`.
        semantic_loss_ignore_index (`int`, *optional*, defaults to 255):
            Label of pixels that the loss ignores, besides negative labels. A number that is a class of the vocabulary
            stays a class.
        freeze_encoders (`bool`, defaults to `False`):
            Whether the model starts with frozen encoders, as after `model.freeze_encoders()`: no gradients, and eval
            mode even in training.
        use_global_text (`bool`, defaults to `True`):
            Whether to correlate patches with both halves of the text embedding. `False`: only with the local half
            (ablation).
        use_early_refinement (`bool`, defaults to `True`):
            Whether to refine the patch features before the correlation with text (`False`: ablation).
        early_hidden_size (`int`, defaults to 128), early_num_attention_heads (`int`, defaults to 4):
            Width of the queries and keys of the early refinement, and number of its attention heads; the defaults are
            those of AnyUp's published weights.
        early_refinement_scale (`1`, `2` or `4`, defaults to 1):
            Size of the grid of refined features, in units of the patch grid.
        refine_features (`bool`, defaults to `False`):
            Whether the zero-shot head also uses the refined features: for AnyUp weights that were trained elsewhere.
        correlation_hidden_size (`int`, defaults to 128), correlation_kernel_size (`int`, defaults to 7):
            Number of channels per class after the correlation embedding, and kernel size of its convolution.
        use_text_threshold (`bool`, defaults to `True`), use_correlation_residual (`bool`, defaults to `True`):
            Two additions of ours: a learned threshold per text, which is subtracted from the correlations, and the
            correlations as a residual connection around late refinement and decoder. `False`: without (the paper).
        late_num_layers (`int`, defaults to 2):
            Number of layers of the late refinement, a spatial block and a class block each; two in the paper.
        late_window_size (`int`, defaults to 12):
            Side of the windows of the spatial blocks, in patches.
        late_num_attention_heads (`int`, defaults to 4):
            Number of attention heads of the late refinement.
        late_mlp_ratio (`float`, defaults to 4.0):
            Width of the MLPs of the late refinement divided by `correlation_hidden_size`.
        guidance_hidden_size (`int`, defaults to 128):
            Number of channels of the image guidance and the text guidance, which are joined to queries and keys.
        use_spatial_refinement, use_class_refinement, use_guidance (`bool`, default to `True`):
            Whether the late refinement uses spatial blocks, class blocks and guidance (`False`: ablation).
        decoder_hidden_sizes (`list[int]`, defaults to `[64, 32]`):
            Number of channels per class after each decoder step. A step doubles height and width.
        decoder_prior_sizes (`list[int]`, defaults to `[32, 16]`):
            Number of channels of the prior features that are joined in each decoder step.
        class_chunk_size (`int` or `"auto"`, *optional*, defaults to `"auto"`):
            Maximum number of classes processed at once outside training mode. Limits memory and does not change
            results, up to rounding. `"auto"`: as many as suit the device. `None`: all classes at once.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial weights of the linear layers and the relative position biases of the
            trained parts. (Their convolutions have He initialization.)
    """

    model_type = "dinov3seg"
    # of an evaluation with `transformers.Trainer`, only the logits are kept
    keys_to_ignore_at_inference = ["text_embeds", "image_embeds", "hidden_states", "attentions"]
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(DINOv3ViTConfig, init_kwargs=DINOV3_VITL16),
        "text_config": SubConfigSpec(CLIPTextConfig, init_kwargs=DINOTXT_TEXT),
        "prior_config": SubConfigSpec(SamVisionConfig, init_kwargs=SAM_VITL16, optional=True),
    }

    vision_config: SubConfig = None
    text_config: SubConfig = None
    # missing: SAM ViT-L, the prior encoder of the paper; an explicit None: no prior encoder
    prior_config: SubConfig = field(default_factory=lambda: dict(SAM_VITL16))

    stem_channels: list[int] | None = None
    vision_head_num_layers: int = 2
    vision_head_intermediate_size: int | None = None
    logit_scale_init_value: float | int = 2.6592
    head: Literal["full", "dinotxt"] = "full"
    head_trained: bool = True
    patch_source: Literal["head", "backbone"] = "head"
    known_words: list[str] | None = None
    default_vocabulary: dict[str, Any] | None = None

    semantic_loss_ignore_index: int | None = 255
    freeze_encoders: bool = False
    # Several names may be true of a pixel. `transformers.Trainer` reads this: it says that it cannot smooth the labels
    # and trains without, where it would compute a wrong loss of maps.
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = (
        "multi_label_classification"
    )

    use_global_text: bool = True
    use_early_refinement: bool = True
    early_hidden_size: int = 128
    early_num_attention_heads: int = 4
    early_refinement_scale: Literal[1, 2, 4] = 1
    refine_features: bool = False

    correlation_hidden_size: int = 128
    correlation_kernel_size: int = 7
    use_text_threshold: bool = True
    use_correlation_residual: bool = True

    late_num_layers: int = 2
    late_window_size: int = 12
    late_num_attention_heads: int = 4
    late_mlp_ratio: float | int = 4.0
    guidance_hidden_size: int = 128
    use_spatial_refinement: bool = True
    use_class_refinement: bool = True
    use_guidance: bool = True

    decoder_hidden_sizes: list[int] | tuple[int, ...] = (64, 32)
    decoder_prior_sizes: list[int] | tuple[int, ...] = (32, 16)

    class_chunk_size: int | Literal["auto"] | None = "auto"
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        _check_release(kwargs)
        for name in self.sub_configs_defaults:  # transformers divides by some of these sizes
            if isinstance(part := getattr(self, name), Mapping):
                _check_ranges(part, PART_RANGES, f"{name}.")
        super().__post_init__(**kwargs)
        if tasks := getattr(self, "custom_pipelines", None):
            self.custom_pipelines = PipelineTasks.of(tasks)
        if self.vision_head_intermediate_size is None:
            # SwiGLU of dino.txt: two thirds of the usual 4 D, rounded up to a multiple of 64
            self.vision_head_intermediate_size = -(-int(self.vision_config.hidden_size * 4 * 2 / 3) // 64) * 64

    @classmethod
    def paper(cls, **kwargs: Any) -> "Dinov3SegConfig":
        """Returns a configuration of what is public of the paper, without our additions; `kwargs` set other values.

        The values are the defaults without the text threshold and the correlation residual. The sizes that are not
        public remain ours, after CAT-Seg.
        """
        return cls(**{"use_text_threshold": False, "use_correlation_residual": False, **kwargs})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Returns the configuration of a saved dictionary; see `PreTrainedConfig.from_dict`.

        Raises:
            ValueError: If it is no dictionary, or if release 0.1.0 saved it, whose early refinement no longer exists.
        """
        if not isinstance(config_dict, Mapping):
            raise ValueError(
                f"The configuration is {quoted(config_dict)}; expected an object with names and values. Restore "
                "config.json."
            )
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Any:
        """Returns the configuration of a JSON file, with the checks of `from_dict`."""
        return cls.from_dict(cls._dict_from_json_file(json_file))

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Writes the JSON file and copies the model code next to it, for loading without this package.

        The code is copied here, because `save_pretrained` uploads to the Hub only the files that are written while it
        runs.
        """
        attach_remote_code(self, json_file_path, "config")
        super().to_json_file(json_file_path, use_diff=use_diff)
        if tasks := getattr(self, "custom_pipelines", None):  # in the file, the names are those of the code beside it
            self.custom_pipelines = PipelineTasks.of(tasks)

    def validate_architecture(self) -> None:
        """Checks the range of each value, and that the sizes fit each other. Called by the validation of `@strict`."""
        _check_ranges({name: getattr(self, name) for name in RANGES}, RANGES, "")
        for part in self.sub_configs_defaults:
            if (config := getattr(self, part)) is not None:
                given = {name: getattr(config, name) for name in PART_RANGES if hasattr(config, name)}
                _check_ranges(given, PART_RANGES, f"{part}.")
                _check_heads(config, part)
                _check_activation(config, part)
                _check_image_size(config, part)
        width, text_width = self.vision_config.hidden_size, self.text_config.projection_dim
        if text_width != 2 * width:
            raise ValueError(
                f"text_config.projection_dim is {text_width}; expected {2 * width}, because a text embedding contains "
                f"two halves of the vision width ({width})."
            )
        for name, size, heads in (
            ("early_hidden_size", self.early_hidden_size, self.early_num_attention_heads),
            ("correlation_hidden_size", self.correlation_hidden_size, self.late_num_attention_heads),
        ):
            if size % heads != 0:
                raise ValueError(f"{name} is {size}; expected a multiple of its number of attention heads ({heads}).")
        self._validate_early_refinement()
        if self.correlation_kernel_size % 2 == 0:
            raise ValueError(
                f"correlation_kernel_size is {self.correlation_kernel_size}; expected an odd size to center the kernel."
            )
        if len(self.decoder_hidden_sizes) != len(self.decoder_prior_sizes):
            raise ValueError(
                f"decoder_hidden_sizes has {len(self.decoder_hidden_sizes)} values and decoder_prior_sizes has "
                f"{len(self.decoder_prior_sizes)}; expected the same length, because each step joins one prior feature."
            )
        if isinstance(self.class_chunk_size, int) and self.class_chunk_size < 1:
            raise ValueError(
                f'class_chunk_size is {self.class_chunk_size}; expected "auto", at least 1, or None for no chunks.'
            )
        patch_size = self.vision_config.patch_size
        if not isinstance(patch_size, int):
            raise ValueError(
                f"vision_config.patch_size is {patch_size}; expected an int, because only square patches are supported."
            )
        if self.stem_channels is not None and 2 ** (len(self.stem_channels) + 1) != patch_size:
            raise ValueError(
                f"stem_channels has {len(self.stem_channels)} widths, so the stem reduces the image "
                f"{2 ** (len(self.stem_channels) + 1)} times, but vision_config.patch_size is {patch_size}; "
                "expected equal numbers. Change the number of widths."
            )

    def _validate_early_refinement(self) -> None:
        if self.early_hidden_size % 8 != 0:
            raise ValueError(
                f"early_hidden_size is {self.early_hidden_size}; expected a multiple of 8, AnyUp's number of groups."
            )
        if self.refine_features and not self.use_early_refinement:
            raise ValueError(
                "refine_features is true, but use_early_refinement is false; expected an early refinement. Set both, "
                "or neither."
            )


def _check_release(kwargs: dict[str, Any]) -> None:
    """Removes the entries of early refinements that no longer exist; raises `ValueError` unless they say AnyUp.

    Release 0.1.0 saved an `early_window_size`; later states of the package also saved an `early_refinement_type`.
    """
    window_size, kind = kwargs.pop("early_window_size", None), kwargs.pop("early_refinement_type", None)
    if kind not in ("anyup", "window", None):
        raise ValueError(f"early_refinement_type is {quoted(kind)}; the only one is AnyUp. Remove the entry.")
    if kind == "window" or (kind is None and window_size is not None):
        raise ValueError(
            "The configuration is of release 0.1.0, whose early refinement (window attention) no longer exists; "
            "expected one of a later release, with AnyUp. Load the folder with dinov3seg_hf 0.1.0, or convert the "
            "weights and train the head again."
        )


def _check_heads(config: PreTrainedConfig, part: str) -> None:
    size, heads = config.hidden_size, config.num_attention_heads
    if size % heads:
        raise ValueError(
            f"{part}.hidden_size is {size}; expected a multiple of num_attention_heads, {heads}. Change one of them."
        )
    if part == "vision_config" and (size // heads) % 4:
        raise ValueError(
            f"vision_config.hidden_size / num_attention_heads is {size}/{heads}; expected a multiple of 4, because "
            "RoPE encodes rows and columns in pairs of channels. Change one of them."
        )


def _check_activation(config: PreTrainedConfig, part: str) -> None:
    name = getattr(config, "hidden_act", None)
    if name is not None and (not isinstance(name, str) or name not in ACT2FN):
        raise ValueError(
            f'{part}.hidden_act is {quoted(name)}; expected an activation of transformers, such as "gelu". Change '
            f"{part}.hidden_act."
        )


def _check_image_size(config: PreTrainedConfig, part: str) -> None:
    size = getattr(config, "image_size", None)
    if isinstance(size, (list, tuple)) and (len(size) != 2 or part == "prior_config"):
        pair = "" if part == "prior_config" else ", or (height, width)"
        raise ValueError(
            f"{part}.image_size is {quoted(size)}; expected a number of pixels{pair}. Change {part}.image_size."
        )


def _check_ranges(values: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]], prefix: str) -> None:
    for name, (least, most) in ranges.items():
        value = values.get(name)
        if value is None:
            continue
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if not numbers or not all(is_number(number, least, most) for number in numbers):
            bounds = f"at least {least:g}" if most == math.inf else f"between {least:g} and {most:g}"
            raise ValueError(f"{prefix}{name} is {quoted(value)}; expected {bounds}. Change {prefix}{name}.")


__all__ = ["Dinov3SegConfig"]
