# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Exports a checkpoint: graphs, tokenizer, settings, `run.py`, license and README in one folder, or nothing."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import tqdm

from ..about import __version__
from ..checkpoint_names import resolve_checkpoint
from ..extras import require_extra
from ..loading import licenses_of_copy, load_model, load_processor
from ..model import image_formats, text_cleaning
from ..model.checks import checked_path
from ..model.files import disk_errors_as_value_errors, open_folder_atomically
from ..model.fingerprints import weights_fingerprint
from ..model.inference_settings import InferenceSettings
from ..model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from ..model.processing_dinov3seg import Dinov3SegProcessor
from ..model.prompts import DEFAULT_TEMPLATE, resolve_templates
from .formats import FORMATS, Format, check_format
from .graphs import ExportedGraph, graphs_of
from .parity import Difference, compare, num_comparisons, reference, refuse_differences, tolerance_of
from .programs import load_program, write_program
from .readme import make_readme

# Sizes while a graph is traced: every size that is not constant is at least 2, and no two are equal.
TRACED_SIZES = (11, 14, 5)
SETTINGS = "export.json"


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        folder: The folder.
        files: The names of its files, sorted.
        differences: The differences between its programs and the model, all small.
    """

    folder: Path
    files: tuple[str, ...]
    differences: tuple[Difference, ...]


def export_checkpoint(
    name: str | os.PathLike,
    output: str | os.PathLike,
    format: Format = "onnx",
    *,
    int8: bool = False,
    templates: str | Sequence[str] = DEFAULT_TEMPLATE,
    progress: bool = False,
) -> Export:
    """Exports a checkpoint with its default head.

    Args:
        name: A folder, or `"embedded"`.
        output: A new or empty folder. It is there if the export is complete and its programs compute what the model
            computes, and else unchanged.
        format: `"onnx"`, `"openvino"`, or `"torch"` for `torch.export`.
        int8: Whether matrices have weights of 8 bits; `"onnx"` only. Everything else is float32.
        templates: Prompt templates that `run.py` uses.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If a library is missing, the checkpoint cannot be loaded, its head is not trained, its license is
            missing, a graph cannot be exported, or a program differs from the model.
    """
    check_format(format, int8, require_extra)
    templates = resolve_templates(templates)
    output, folder = Path(checked_path(output, "output")).expanduser(), Path(resolve_checkpoint(name))
    _refuse_output(output)
    if not folder.is_dir():
        raise ValueError(
            f"The checkpoint {os.fspath(name)!r} is not a folder on this machine. Download it with `hf download`, and "
            "pass the folder."
        )
    licenses = licenses_of_copy(folder)
    model = load_model(name, torch.float32).eval().requires_grad_(False)
    processor = load_processor(name)
    InferenceSettings().resolved(model.config, processor.image_processor)  # refuses a head that is not trained
    settings = {"format": format, "int8": int8, **settings_of(model, processor), "templates": list(templates)}

    remedy = "Free disk space, or choose another folder. Nothing was written."
    with disk_errors_as_value_errors(f"output {str(output)!r}", remedy), open_folder_atomically(output) as partial:
        graphs = {graph.name: graph for graph in graphs_of(model)}
        differences = _write_programs(graphs, format, int8, partial, progress)
        settings["files"] = {graph: f"{graph}{FORMATS[format].ending}" for graph in graphs}
        _write_companions(partial, settings, processor, licenses)
        names = [path.name for path in licenses]
        title = folder.resolve().name
        readme = make_readme(title, format, graphs.values(), settings["files"], settings, differences, names)
        (partial / "README.md").write_text(readme, encoding="utf-8")
        _refuse_output(output)  # again: what others wrote there meanwhile stays
    return Export(output, tuple(sorted(path.name for path in output.iterdir())), tuple(differences))


def settings_of(model: Dinov3SegForSemanticSegmentation, processor: Dinov3SegProcessor) -> dict[str, Any]:
    """Returns what prepares pixels and prompts for the graphs, as in `export.json`.

    Raises:
        ValueError: If the image processor makes images whose sides are no multiples of the patch size.
    """
    image_processor, tokenizer = processor.image_processor, processor.tokenizer
    if not image_processor.do_resize:
        raise ValueError(
            "The image processor does not resize (do_resize is false), so that sides may be no multiples of the patch "
            "size, which the image graph takes. Set do_resize and size of the processor."
        )
    limit = min(tokenizer.model_max_length, model.config.text_config.max_position_embeddings)
    size = {key: value for key, value in dict(image_processor.size).items() if value}
    patch_size, divisor = model.config.vision_config.patch_size, image_processor.size_divisor or 1
    sides = [size["height"], size["width"]] if "height" in size else [divisor]
    if any(side % patch_size for side in sides):
        raise ValueError(
            f"The image processor resizes to multiples of {' x '.join(map(str, sides))} pixels; expected multiples of "
            f"the patch size {patch_size}, which the image graph takes. Set size and size_divisor of the processor."
        )
    return {
        "package_version": __version__,
        "weights": weights_fingerprint(model),
        "head": model.config.head,
        "patch_size": patch_size,
        "size": size,
        "size_divisor": divisor,
        "resample": int(image_processor.resample),
        # what the processor leaves out changes nothing
        "rescale_factor": image_processor.rescale_factor if image_processor.do_rescale else 1.0,
        "image_mean": image_processor.image_mean if image_processor.do_normalize else [0.0] * 3,
        "image_std": image_processor.image_std if image_processor.do_normalize else [1.0] * 3,
        "max_tokens": limit,
        "pad_token_id": tokenizer.pad_token_id or 0,
        "temperature": float(torch.exp(-model.logit_scale.detach().float())),
    }


def _write_programs(
    graphs: dict[str, ExportedGraph], format: Format, int8: bool, folder: Path, progress: bool
) -> list[Difference]:
    """Writes the programs of all graphs and compares what the files compute with the model.

    Raises:
        ValueError: If a graph cannot be exported, or a program differs from the model.
    """
    programs, differences = {}, []
    with tqdm(total=len(graphs) + num_comparisons(), unit="step", disable=not progress) as bar:
        inputs = reference(graphs, *TRACED_SIZES).inputs
        for name, graph in graphs.items():
            bar.set_description(f"Exporting the {name} graph")
            programs[name] = load_program(write_program(graph, inputs[name], format, folder, int8))
            bar.update()
        bar.set_description("Comparing with the model")
        for found in compare(graphs, programs):
            differences += found
            bar.update()
    refuse_differences(differences, tolerance_of(format, int8))
    return list(dict.fromkeys(differences))


def _write_companions(
    folder: Path, settings: dict[str, Any], processor: Dinov3SegProcessor, licenses: Sequence[Path]
) -> None:
    """Writes all files beside the programs and the README."""
    processor.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    code = [Path(text_cleaning.__file__)]
    if FORMATS[settings["format"]].runtime:
        code += [Path(image_formats.__file__), Path(__file__).with_name("run.py")]
    for path in (*licenses, *code):
        shutil.copyfile(path, folder / path.name)


def _refuse_output(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(
            f"output {str(output)!r} is not an empty folder; expected a new or empty folder. Choose another folder."
        )


__all__ = ["Export", "export_checkpoint", "settings_of"]
