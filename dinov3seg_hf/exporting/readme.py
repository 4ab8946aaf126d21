# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The README of an export: what each graph takes and returns, how pixels are prepared, and the measured parity."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .formats import FORMATS, Format
from .graphs import ExportedGraph, Tensor
from .parity import Difference, table, tolerance_of

RUN_USE = """\
## Use

```bash
pip install numpy {runtime} pillow tokenizers
python run.py photo.jpg --labels "dog, grass, sky|clouds" --output labels.png
```

`run.py` needs nothing else. Its class `Segmenter` encodes words once for any number of images."""
TORCH_USE = """\
## Use

```python
import torch

image, text, head = (torch.export.load(f"{name}.pt2").module() for name in ("image", "text", "head"))
features = image(pixel_values)
(text_embeds,) = text(input_ids, attention_mask)
(logits,) = head(text_embeds, *features[:-1])
```

`export.json` contains what prepares pixels and prompts, `tokenizer.json` is the tokenizer (library `tokenizers`)."""


def make_readme(
    name: str,
    format: Format,
    graphs: Iterable[ExportedGraph],
    files: Mapping[str, str],
    settings: Mapping[str, Any],
    differences: Sequence[Difference],
    licenses: Sequence[str],
) -> str:
    """Returns the text of the README.

    Args:
        name: The checkpoint.
        format: The format of the graphs.
        graphs: The exported graphs.
        files: The file of each graph, by its name.
        settings: The content of `export.json`.
        differences: The measured parity.
        licenses: The names of the license files in the folder.
    """
    runtime, tolerance = FORMATS[format].runtime, tolerance_of(format, settings["int8"])
    parts = [
        f"# {name}, exported as {format}",
        "Open-vocabulary semantic segmentation with dinov3.seg in three graphs: an image is encoded once for any "
        "words, and words once for any images. Exported by dinov3seg_hf "
        f"{settings['package_version']} from weights with the fingerprint `{settings['weights'][:12]}`.",
        RUN_USE.format(runtime=runtime) if runtime else TORCH_USE,
        "## Graphs\n\nA graph serves any number of classes and images of any size. `rows` and `columns` are those of "
        f"the patches: the sides of an image are multiples of {settings['patch_size']} pixels. Inference is `whole`: "
        "there are no windows. All classes are in memory at once. Every pixel gets a label: the bounds of calibrated "
        'labels and `background="auto"` are not in the graphs.'
        + (" Matrices have weights of 8 bits." if settings["int8"] else ""),
        *(_describe(graph, files[graph.name]) for graph in graphs),
        "## Pixels and prompts\n\n"
        f"RGB pixels are resized ({_size(settings)}, PIL filter {settings['resample']}), multiplied by "
        f"{settings['rescale_factor']:.6g}, and normalized with mean {settings['image_mean']} and standard deviation "
        f"{settings['image_std']}. A word is inserted into {settings['templates']}; the prompt is cleaned by "
        f"`text_cleaning.py`, tokenized to at most {settings['max_tokens']} tokens, and padded on the right with "
        f"{settings['pad_token_id']}. Synonyms of a class are prompts of the same class.",
        "## Parity\n\nDifferences from the model in float32 on random inputs, on the CPU. An export with a difference "
        f"above {tolerance:.0e} of the largest value is refused. A stage gets what the model computed before it; "
        f"the whole gets pixels and token ids.\n\n{table(differences)}",
    ]
    if licenses:
        parts.append(f"## License\n\nTo every copy belong the license files of the weights: {', '.join(licenses)}.")
    return "\n\n".join(parts) + "\n"


def _describe(graph: ExportedGraph, file: str) -> str:
    lines = [f"### {graph.name}: `{file}`", "", "| | name | dtype | shape | content |", "|---|---|---|---|---|"]
    for kind, tensors in (("in", graph.inputs), ("out", graph.outputs)):
        lines += [
            f"| {kind} | `{tensor.name}` | {tensor.dtype} | ({_shape(tensor)}) | {tensor.content} |"
            for tensor in tensors
        ]
    return "\n".join(lines)


def _shape(tensor: Tensor) -> str:
    return ", ".join(map(str, tensor.shape))


def _size(settings: Mapping[str, Any]) -> str:
    size = settings["size"]
    if "height" in size:
        return f"to {size['height']} x {size['width']}"
    limit = f", longest side at most {size['longest_edge']}" if size.get("longest_edge") else ""
    return f"short side {size['shortest_edge']}{limit}, rounded to multiples of {settings['size_divisor']}"


__all__ = ["make_readme"]
