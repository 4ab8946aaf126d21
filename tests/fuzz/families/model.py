# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Processor, configuration, forward, post-processing and pipeline."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import torch

from dinov3seg_hf import Dinov3SegConfig, Dinov3SegForSemanticSegmentation, EncodedImage

from ..outcomes import Case
from ..values import Draw, as_json, described
from ..world import WORDS, World


def an_image(draw: Draw, world: World):
    """An image of any supported kind, or of none."""
    kind = draw.randrange(8)
    height, width = draw.choice((8, 17, 24)), draw.choice((9, 24, 32))
    image = draw.image(height, width)
    if kind == 0:
        return draw.anything()
    if kind == 1:
        return draw.array(draw.choice(((height, width), (height, width, 3), (3, height, width), (height, width, 7))))
    if kind == 2:
        return draw.tensor(draw.choice(((3, height, width), (1, height, width), (2, 3, height, width))))
    if kind == 3:
        return np.asarray(image.convert("RGB"))
    if kind == 4:
        path = world.folder / f"image{draw.randrange(9)}.png"
        image.convert("RGB").save(path)
        return draw.choice((path, str(path), [str(path)]))
    return image


def some_words(draw: Draw):
    """Class names, good or not."""
    good = draw.sample(WORDS, draw.randint(1, len(WORDS)))
    return draw.one_of(
        lambda: good,
        lambda: good,
        lambda: good,
        lambda: ", ".join(good),
        lambda: tuple(good),
        lambda: [*good, draw.text()],
        lambda: [*good, good[0]],
        lambda: [f"{word}|{draw.text()}" for word in good],
        draw.anything,
    )


# --- processor --------------------------------------------------------------------------------------------------------


def processor(draw: Draw, world: World) -> Case:
    images = None if draw.chance(0.1) else [an_image(draw, world) for _ in range(draw.choice((1, 1, 2)))]
    if images is not None and (len(images) == 1 or draw.chance(0.1)):
        images = images[0]
    text = None if draw.chance(0.2) else some_words(draw)
    options = draw.some(
        {
            "templates": lambda: draw.choice(("scene", "none", "simple", ["{}", "a {}"])),
            "size": lambda: draw.choice(({"height": 16, "width": 24}, {"shortest_edge": 16}, {"shortest_edge": 8})),
            "size_divisor": lambda: draw.choice((1, 8)),
            "do_windows": lambda: draw.chance(0.5),
            "window_size": lambda: draw.choice((8, 16)),
            "window_stride": lambda: draw.choice((4, 8)),
            "do_resize": lambda: draw.chance(0.5),
            "do_rescale": lambda: draw.chance(0.5),
            "do_normalize": lambda: draw.chance(0.5),
            "do_convert_rgb": lambda: True,
            "rescale_factor": lambda: 1 / 255,
            "image_mean": lambda: draw.choice(([0.5] * 3, 0.5, [0, 0, 0])),
            "image_std": lambda: draw.choice(([0.5] * 3, 0.5, [1, 1, 1], [0.0, 1.0, 1.0])),
            "resample": lambda: draw.choice((0, 2, 3)),
            "max_image_pixels": lambda: draw.choice((10**6, 100)),
            "input_data_format": lambda: draw.choice(("channels_first", "channels_last")),
            "return_tensors": lambda: draw.choice(("pt", "np")),
            "padding": lambda: draw.choice(("longest", "max_length", True, False)),
            "max_length": lambda: draw.choice((77, 8, 3)),
            "truncation": lambda: draw.chance(0.5),
            "pad_to_multiple_of": lambda: 8,
            "segmentation_maps": lambda: draw.label_map(3),
        },
        given=draw.choice((0.0, 0.1, 0.2)),
    )

    def check(result) -> str | None:
        if text is not None and "input_ids" in result and isinstance(text, list):
            if len(result["input_ids"]) != len(text):
                return f"{len(result['input_ids'])} classes for {len(text)} names"
        for name in ("pixel_values", "window_pixel_values"):
            for values in result.get(name, ()):
                if not np.isfinite(np.asarray(values, dtype=np.float64)).all():
                    return f"{name} is not finite"
        return None

    return Case(
        f"processor({described({'images': images, 'text': text, **options})})",
        lambda: world.processor(images=images, text=text, **options),
        check,
    )


# --- configuration ----------------------------------------------------------------------------------------------------

PARTS = ("vision_config", "text_config")
FIELDS = (
    *("stem_channels", "vision_head_num_layers", "vision_head_intermediate_size", "logit_scale_init_value", "head"),
    *("head_trained", "patch_source", "known_words", "use_global_text", "use_early_refinement", "refine_features"),
    *("early_hidden_size", "early_num_attention_heads", "early_refinement_scale", "late_num_layers"),
    *("early_refinement_type", "early_window_size", "correlation_hidden_size", "correlation_kernel_size"),
    *("use_text_threshold", "use_correlation_residual", "late_window_size", "late_num_attention_heads"),
    *("late_mlp_ratio", "guidance_hidden_size", "use_spatial_refinement", "use_class_refinement", "use_guidance"),
    *("decoder_hidden_sizes", "decoder_prior_sizes", "class_chunk_size", "initializer_range", "prior_config"),
    *PARTS,
)


def config(draw: Draw, world: World) -> Case:
    values = copy.deepcopy(world.config_values)
    for _ in range(draw.choice((1, 1, 2))):
        mutate_config(draw, values)
    way = draw.randrange(4)

    def call():
        if way == 1:
            path = world.folder / "config.json"
            path.write_text(as_json({"model_type": "dinov3seg", **values}))
            made = Dinov3SegConfig.from_json_file(path)
        elif way == 2:
            made = Dinov3SegConfig(**copy.deepcopy(world.config_values))
            for name, value in values.items():
                if name not in (*PARTS, "prior_config") and value != world.config_values.get(name):
                    setattr(made, name, value)
            made.validate()
        else:
            made = Dinov3SegConfig(**values)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Dinov3SegForSemanticSegmentation(made).eval()
        with torch.no_grad():
            width = made.vision_config.hidden_size
            return model(
                pixel_values=torch.rand(1, 3, 2 * made.vision_config.patch_size, 3 * made.vision_config.patch_size),
                text_embeds=torch.nn.functional.normalize(torch.rand(2, 2, width), dim=-1),
            )

    def check(result) -> str | None:
        return None if result.logits.isfinite().all() else "a configuration gives logits that are not finite"

    return Case(f"Dinov3SegConfig way {way} ({described(values)})", call, check)


def mutate_config(draw: Draw, values: dict) -> None:
    """Gives one value that is probably impossible; large sizes are left out, since they only take memory."""

    def value():
        small = (-3, -1, 0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 0.5, -0.5, 1.5, True, "3", None, math.nan, math.inf)
        other = (
            [],
            [0],
            [-1],
            [8],
            [8, 8],
            [8, 0],
            [8, 8, 8],
            [4.5, 4],
            ["a", "b"],
            {},
            {"a": 1},
            "full",
            "x",
            object(),
        )
        return draw.choice(small if draw.chance(0.7) else other)

    if draw.chance(0.25):
        part = draw.choice(PARTS)
        if isinstance(values[part], dict):
            values[part][draw.choice(list(values[part]) or ["hidden_size"])] = value()
    elif draw.chance(0.05):
        values[draw.misspelt(draw.choice(FIELDS))] = value()
    else:
        values[draw.choice(FIELDS)] = value()


# --- forward ----------------------------------------------------------------------------------------------------------


def forward(draw: Draw, world: World) -> Case:
    model, width = world.model, world.model.config.vision_config.hidden_size
    vocabulary_size = model.config.text_config.vocab_size
    ids = torch.from_numpy(draw.arrays.integers(0, vocabulary_size, (2, 1, 6)))
    good = {
        "pixel_values": lambda: torch.rand(1, 3, 16, 24),
        "input_ids": lambda: ids,
        "attention_mask": lambda: torch.ones_like(ids),
        "text_embeds": lambda: torch.nn.functional.normalize(torch.rand(2, 2, width), dim=-1),
        "window_pixel_values": lambda: torch.rand(1, 2, 3, 16, 16),
        "window_boxes": lambda: torch.tensor([[0, 0, 16, 16], [0, 8, 16, 16]]),
        "labels": lambda: torch.from_numpy(draw.label_map(2, 16, 24))[None].long(),
        "head": lambda: draw.choice(("full", "dinotxt")),
        "patch_source": lambda: draw.choice(("head", "backbone")),
        "refine_features": lambda: draw.chance(0.5),
    }
    names = draw.choice(
        (
            ("pixel_values", "input_ids"),
            ("pixel_values", "text_embeds"),
            ("pixel_values", "input_ids", "attention_mask"),
            ("pixel_values", "text_embeds", "window_pixel_values", "window_boxes"),
            ("pixel_values", "text_embeds", "labels"),
            tuple(name for name in good if draw.chance(0.5)),
        )
    )
    torch.manual_seed(draw.randrange(99))
    inputs = {name: good[name]() for name in (*names, *(name for name in tuple(good)[-3:] if draw.chance(0.2)))}
    for _ in range(draw.choice((0, 1, 1, 2))):
        name = draw.choice(list(inputs) or ["pixel_values"])
        inputs[name] = mutated_tensor(draw, inputs.get(name))
    if draw.chance(0.05):
        inputs["image_features"] = draw.anything()

    def check(result) -> str | None:
        if result.logits.ndim != 4 or not result.logits.isfinite().all():
            return f"logits of shape {tuple(result.logits.shape)}, finite: {bool(result.logits.isfinite().all())}"
        if result.loss is not None and not torch.isfinite(result.loss):
            return "the loss is not finite"
        return None

    def call():
        with torch.no_grad():
            return model(**inputs)

    return Case(f"model({described(inputs)})", call, check)


def mutated_tensor(draw: Draw, value):
    if not isinstance(value, torch.Tensor) or not value.numel():
        return draw.anything()
    return draw.one_of(
        draw.anything,
        lambda: draw.tensor(tuple(value.shape)),
        lambda: draw.tensor(),
        lambda: value.numpy(),
        lambda: value.tolist(),
        lambda: torch.atleast_1d(value)[0],
        lambda: value[None],
        lambda: torch.atleast_1d(value)[:0],
        lambda: torch.atleast_1d(value)[..., :-1],
        lambda: value.float(),
        lambda: value.double(),
        lambda: value.int(),
        lambda: ~value if value.dtype == torch.bool else -value,
        lambda: value + 10**6,
        lambda: value * float("nan"),
        lambda: torch.cat([torch.atleast_1d(value)] * 2),
        lambda: torch.atleast_1d(value).transpose(0, -1),
    )


# --- post-processing --------------------------------------------------------------------------------------------------


def post_processing(draw: Draw, world: World) -> Case:
    logits = torch.from_numpy(draw.arrays.normal(size=(2, 3, 5, 6))).float()
    if draw.chance(0.4):
        logits = mutated_tensor(draw, logits)
    sizes = [(7, 9), (5, 6)]
    targets = (sizes, torch.tensor(sizes), sizes[:1], [(7.5, 9), (5, 6)], [7, 9], "ab")
    options = draw.some(
        {
            "target_sizes": lambda: draw.choice(targets),
            "threshold": lambda: draw.choice((0, 0.5, 1)),
            "none_label": lambda: draw.choice((-1, 255)),
            "score_function": lambda: draw.choice(("sigmoid", "softmax", "none")),
            "temperature": lambda: draw.choice((1, 0.07)),
            "return_scores": lambda: draw.chance(0.5),
            "return_segmentation_scores": lambda: draw.chance(0.5),
        }
    )
    outputs = draw.anything() if draw.chance(0.05) else SimpleNamespace(logits=logits)

    def check(result) -> str | None:
        expected = options.get("target_sizes")
        for index, item in enumerate(result):
            labels = getattr(item, "segmentation", item)
            if labels.ndim != 2 or labels.dtype != torch.int32:
                return f"a label map is {labels.dtype} {tuple(labels.shape)}"
            if expected is not None and tuple(labels.shape) != tuple(int(side) for side in expected[index]):
                return f"a label map is {tuple(labels.shape)} for the target {expected[index]}"
            if "none_label" not in options and labels.max() >= logits.shape[1]:
                return "a label is no class"
        return None

    return Case(
        f"post_process_semantic_segmentation({described({'logits': logits, **options})})",
        lambda: world.processor.post_process_semantic_segmentation(outputs, **options),
        check,
    )


# --- pipeline ---------------------------------------------------------------------------------------------------------


def pipeline(draw: Draw, world: World) -> Case:
    images = draw.image(20, 28) if draw.chance(0.6) else an_image(draw, world)
    if draw.chance(0.15):
        images = [images, draw.image(9, 8)]
    labels = list(WORDS) if draw.chance(0.5) else world.embeddings if draw.chance(0.1) else some_words(draw)
    options = draw.some(
        {
            "templates": lambda: draw.choice(("scene", "none", ["{}", "a {}"])),
            "inference": lambda: draw.choice(("whole", "local-global", "slide")),
            "head": lambda: draw.choice(("full", "dinotxt")),
            "patch_source": lambda: draw.choice(("head", "backbone")),
            "refine_features": lambda: draw.chance(0.5),
            "refine": lambda: draw.choice(("pixels", "none")),
            "threshold": lambda: draw.choice((0, 0.5, 1)),
            "background": lambda: draw.choice(("auto", "never")),
            "active_classes": lambda: draw.choice(("auto", 1, 2)),
            "temperature": lambda: draw.choice((0.01, 1)),
            "size": lambda: draw.choice(({"height": 16, "width": 24}, {"shortest_edge": 16})),
            "window_size": lambda: draw.choice((8, 16)),
            "window_stride": lambda: draw.choice((8, 16)),
            "return_label_map": lambda: draw.chance(0.7),
            "return_scores": lambda: draw.chance(0.5),
            "return_masks": lambda: draw.chance(0.5),
            "batch_size": lambda: draw.choice((1, 2)),
        },
        given=draw.choice((0.0, 0.1, 0.25)),
    )
    encoded_first = draw.chance(0.1)

    def call():
        given = images
        if encoded_first and not isinstance(images, list):
            given = world.pipe.encode_image(images, inference="whole")
            assert isinstance(given, EncodedImage)
        result = world.pipe(given, candidate_labels=labels, **options)
        return result if isinstance(result, (list, dict)) else list(result)

    def check(result) -> str | None:
        for item in result if isinstance(result, list) and result and not _is_segment(result[0]) else [result]:
            if (problem := _problem_of(item)) is not None:
                return problem
        return None

    return Case(f"pipe({described({'images': images, 'candidate_labels': labels, **options})})", call, check)


def _is_segment(value) -> bool:
    return isinstance(value, dict) and "score" in value


def _problem_of(item) -> str | None:
    segments = item["segments"] if isinstance(item, dict) else item
    for segment in segments:
        if not 0 <= segment["score"] <= 1:
            return f"the score of {segment['label']!r} is {segment['score']}"
    if isinstance(item, dict):
        found = {item["labels"][label] for label in np.unique(item["label_map"]).tolist() if label >= 0}
        if found != {segment["label"] for segment in segments}:
            return "the segments are not the labels of the label map"
        if not np.isfinite(item["score_map"]).all():
            return "a score is not finite"
    return None


FAMILIES = {
    "processor": processor,
    "config": config,
    "forward": forward,
    "post-processing": post_processing,
    "pipeline": pipeline,
}
