# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Compares exported programs with the model, stage by stage and as a whole, at several sizes.

A stage gets what the model computed before it, so its difference is its own. The whole gets pixels and token ids.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from .formats import Format
from .graphs import ExportedGraph
from .programs import Program

# The largest difference, divided by the largest value. Other orders of the same sums change about 1e-6 of a float32
# result per layer, and the softmax of early refinement a hundred times as much; OpenVINO has its own `exp` and `tanh`.
TOLERANCES: dict[str, float] = {"onnx": 1e-4, "torch": 1e-4, "openvino": 5e-4}
# Weights of 8 bits change up to a tenth of a feature of random pixels; a graph that is wrong changes all of it.
INT8_TOLERANCE = 0.2
# (rows, columns) of patches, and numbers of classes. Not square; more and less than a window of the late refinement and
# a chunk of classes; a single class.
SIZES = ((7, 12), (13, 5))
NUM_CLASSES = (1, 5, 70, 150)


@dataclass(frozen=True)
class Difference:
    """How far an output of a program is from that of the model.

    Attributes:
        stage: "image", "text", "head", or "whole" for the three programs one after the other.
        output: The name of the output.
        sizes: The sizes of the input, such as "56 x 96 pixels, 70 classes".
        absolute: The largest difference; NaN counts as infinity.
        relative: The same, divided by the largest value of the model.
    """

    stage: str
    output: str
    sizes: str
    absolute: float
    relative: float


@dataclass(frozen=True)
class Reference:
    """Inputs of the graphs and what the model computes from them, by the name of the graph."""

    inputs: dict[str, tuple[torch.Tensor, ...]]
    outputs: dict[str, tuple[torch.Tensor, ...]]


def reference(graphs: Mapping[str, ExportedGraph], rows: int, columns: int, num_classes: int) -> Reference:
    """Computes a random example of these sizes, always the same; the inputs of the head are what the model computes."""
    generator = torch.Generator().manual_seed(0)
    config = graphs["image"].model.config
    patch, channels = config.vision_config.patch_size, config.vision_config.num_channels
    pixels = torch.randn(1, channels, rows * patch, columns * patch, generator=generator)

    num_prompts, num_tokens = 2, 9
    shape = (num_classes, num_prompts, num_tokens)
    input_ids = torch.randint(config.text_config.vocab_size, shape, generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1::2, 1] = 0  # every other class has a prompt less
    lengths = torch.randint(2, num_tokens + 1, shape[:2], generator=generator)
    is_end = torch.arange(num_tokens) >= lengths[..., None] - 1
    input_ids = input_ids.masked_fill(is_end, config.text_config.eos_token_id)

    inputs: dict[str, tuple[torch.Tensor, ...]] = {"image": (pixels,), "text": (input_ids, attention_mask)}
    with torch.no_grad():
        outputs = {name: graphs[name](*tensors) for name, tensors in inputs.items()}
        inputs["head"] = head_inputs(graphs["head"], outputs["text"], outputs["image"])
        outputs["head"] = graphs["head"](*inputs["head"])
    return Reference(inputs, outputs)


def head_inputs(
    head: ExportedGraph, text: Sequence[torch.Tensor], image: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """Returns the inputs of the head graph of the outputs of the other graphs."""
    return (*text, *image[: len(head.inputs) - len(text)])


def compare(graphs: Mapping[str, ExportedGraph], programs: Mapping[str, Program]) -> Iterator[list[Difference]]:
    """Compares the programs of all graphs with the model.

    Yields:
        The differences at one combination of `SIZES` and `NUM_CLASSES`.
    """
    for rows, columns in SIZES:
        for num_classes in NUM_CLASSES:
            yield _compare_sizes(graphs, programs, rows, columns, num_classes)


def num_comparisons() -> int:
    """Returns the number of results of `compare`."""
    return len(SIZES) * len(NUM_CLASSES)


def _compare_sizes(
    graphs: Mapping[str, ExportedGraph], programs: Mapping[str, Program], rows: int, columns: int, num_classes: int
) -> list[Difference]:
    expected = reference(graphs, rows, columns, num_classes)
    height, width = expected.inputs["image"][0].shape[-2:]
    image_size, text_size = f"{height} x {width} pixels", f"{num_classes} classes"
    both = f"{image_size}, {text_size}"
    found = {name: programs[name](*inputs) for name, inputs in expected.inputs.items()}
    differences = [
        _difference(name, tensor.name, sizes, *pair)
        for name, sizes in (("image", image_size), ("text", text_size), ("head", both))
        for tensor, *pair in zip(graphs[name].outputs, found[name], expected.outputs[name])
    ]
    whole = programs["head"](*head_inputs(graphs["head"], found["text"], found["image"]))
    return [*differences, _difference("whole", "logits", both, whole[0], expected.outputs["head"][0])]


def _difference(stage: str, output: str, sizes: str, found: torch.Tensor, expected: torch.Tensor) -> Difference:
    if found.shape != expected.shape:
        return Difference(stage, output, sizes, float("inf"), float("inf"))
    absolute = (found.float() - expected.float()).abs().nan_to_num(nan=float("inf")).max().item()
    return Difference(stage, output, sizes, absolute, absolute / max(expected.abs().max().item(), 1e-12))


def table(differences: Sequence[Difference]) -> str:
    """Formats the differences as a Markdown table, each of an output and sizes once."""
    lines = ["| stage | output | sizes | largest difference | divided by the largest value |", "|---|---|---|---|---|"]
    for row in dict.fromkeys(differences):
        lines.append(f"| {row.stage} | {row.output} | {row.sizes} | {row.absolute:.1e} | {row.relative:.1e} |")
    return "\n".join(lines)


def tolerance_of(format: Format, int8: bool = False) -> float:
    """Returns the largest difference that a program may have, divided by the largest value."""
    return INT8_TOLERANCE if int8 else TOLERANCES[format]


def refuse_differences(differences: Sequence[Difference], tolerance: float) -> None:
    """Checks that all differences are within the tolerance.

    Raises:
        ValueError: If one is not; the message names the first stage that differs.
    """
    large = [row for row in differences if not row.relative <= tolerance]
    if large:
        first = large[0]
        raise ValueError(
            f"The exported programs differ from the model: {first.output} of {first.stage} by {first.relative:.1e} of "
            f"its largest value at {first.sizes}; expected at most {tolerance:.0e}. {len(large)} of {len(differences)} "
            "comparisons failed. Nothing was written. Please report this with the configuration of the checkpoint."
        )


__all__ = ["Difference", "compare", "num_comparisons", "reference", "refuse_differences", "table", "tolerance_of"]
