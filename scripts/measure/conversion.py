# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Measures time and memory of a full-size conversion, of one forward pass, and of one photo, with random weights.

    python scripts/measure/conversion.py conversion                  # ViT-L/16 and the 1280-wide text tower, float32
    python scripts/measure/conversion.py conversion --prior          # and SAM ViT-L
    python scripts/measure/conversion.py forward --dtype bfloat16    # 640 x 640, 150 classes, nine windows of 384
    python scripts/measure/conversion.py sizes                       # of the published files, computed
    python scripts/measure/conversion.py photo                       # 640 x 427, 20 labels, every mode, converted ViT-L
    python scripts/measure/conversion.py photo --photo mine.jpg --model dinov3seg-vitl16 --dtype bfloat16 \\
        --modes slide local-global "whole, refine=pixels" "whole, refine_features"    # your photo and weights

Each measurement runs in a separate process, so its peak memory is measured separately. The files (about 10 GB) have the
published layout. They are created in a temporary folder and deleted afterwards; TMPDIR sets the temporary folder. With
`--model`, nothing is created. Reading the photo is not part of the time; resizing and labeling its pixels are.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from transformers import SamConfig, SamModel, SamVisionConfig

from dinov3seg_hf.conversion.converter import convert
from dinov3seg_hf.conversion.layouts import backbone_rules, dinotxt_rules, sam_rules
from dinov3seg_hf.drawn_world.scenes import draw_scene
from dinov3seg_hf.loading import load_pipeline
from dinov3seg_hf.model.configuration_dinov3seg import SAM_VITL16, Dinov3SegConfig
from dinov3seg_hf.model.image_input import open_image
from dinov3seg_hf.model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from dinov3seg_hf.model.text_embeddings import TextEmbeddings
from dinov3seg_hf.model.windows import cut_windows, plan_windows


def published_checkpoints(device: str = "cpu") -> dict[str, dict[str, torch.Tensor]]:
    """Returns random state dicts with the published names and sizes, derived from the rules of the conversion.

    Args:
        device: "meta": shapes only, which take no memory.
    """
    with torch.device("meta"):
        model = Dinov3SegForSemanticSegmentation(Dinov3SegConfig(prior_config={**SAM_VITL16, "image_size": 1024}))
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    config = model.config
    blocks = [f"blocks.{index}." for index in range(config.vision_config.num_hidden_layers)]
    head_blocks = [f"visual_model.head.blocks.{index}." for index in range(config.vision_head_num_layers)]
    text_blocks = [f"text_model.backbone.blocks.{index}." for index in range(config.text_config.num_hidden_layers)]
    sam_blocks = [f"image_encoder.blocks.{index}." for index in range(config.prior_config.num_hidden_layers)]
    files = {
        "backbone": (backbone_rules([*blocks, "blocks.0.attn.qkv.bias"]), "vision_model.backbone."),
        "dinotxt": (dinotxt_rules([*head_blocks, *text_blocks]), ""),
        "prior": (sam_rules(sam_blocks), "semantic_prior.encoder."),
    }

    generator = torch.Generator().manual_seed(0)
    checkpoints = {}
    for name, (rules, prefix) in files.items():
        tensors = {}
        for rule in rules:
            if not rule.targets:
                continue
            shape = list(shapes[prefix + rule.targets[0]])
            if rule.action == "split":
                shape[0] *= 3
            if device == "meta":
                tensor = torch.empty(shape, device=device)
            elif len(shape) > 1 or rule.source.endswith("qkv.bias"):
                tensor = torch.empty(shape).normal_(std=0.02, generator=generator)
            else:
                tensor = torch.full(shape, 0.0 if rule.source.endswith("bias") else 1.0)
            tensors[rule.source] = tensor
        checkpoints[name] = tensors

    backbone = checkpoints["backbone"]
    backbone["mask_token"] = backbone["mask_token"][0]
    num_frequencies = config.vision_config.hidden_size // config.vision_config.num_attention_heads // 4
    backbone["rope_embed.periods"] = 100.0 ** (torch.arange(num_frequencies) / num_frequencies)
    for block in blocks:
        mask = torch.ones(3, config.vision_config.hidden_size)
        mask[1] = 0  # keys
        backbone[f"{block}attn.qkv.bias_mask"] = mask.flatten()
    checkpoints["dinotxt"]["logit_scale"] = torch.full((1,), 4.6)
    return checkpoints


def print_sizes() -> None:
    """Prints the sizes of the published files, of float32 values without the overhead of the format."""
    with torch.device("meta"):
        anyup = Dinov3SegForSemanticSegmentation(Dinov3SegConfig()).early_refinement
        # the file of SAM has its decoder, too, of which a conversion takes nothing
        sam = SamModel(SamConfig(vision_config=SamVisionConfig(**{**SAM_VITL16, "image_size": 1024})))
    files = {name: tensors.values() for name, tensors in published_checkpoints("meta").items() if name != "prior"}
    for name, tensors in {**files, "anyup": anyup.parameters(), "prior": sam.parameters()}.items():
        count = sum(tensor.numel() for tensor in tensors)
        print(f"{name:10}{count / 1e6:8.1f} million values {4 * count / 1e9:8.3f} GB")


def make_files(folder: str, suffix: str) -> None:
    from safetensors.torch import save_file

    for name, tensors in published_checkpoints().items():
        (torch.save if suffix == "pth" else save_file)(tensors, Path(folder) / f"{name}.{suffix}")


def run_conversion(folder: str, suffix: str, dtype: str, prior: bool) -> dict:
    files = {name: Path(folder) / f"{name}.{suffix}" for name in ("backbone", "dinotxt", "prior")}
    before = peak_memory()
    start, cpu_start = time.perf_counter(), time.process_time()
    report = convert(
        files["backbone"],
        files["dinotxt"],
        Path(folder) / "converted",
        prior=files["prior"] if prior else None,
        dtype=dtype,
        license="none",
        progress=False,
    )
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    written = sum(path.stat().st_size for path in (Path(folder) / "converted").glob("*.safetensors"))
    return {
        "parameters (M)": report.num_parameters / 1e6,
        "weights written (GB)": written / 1e9,
        "seconds": seconds,
        "CPU seconds": cpu_seconds,
        "peak RSS (GB)": peak_memory(),
        "peak RSS before, imports alone (GB)": before,
    }


@torch.no_grad()
def run_forward(dtype: str, num_classes: int, head: str) -> dict:
    format = getattr(torch, dtype)
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Dinov3SegForSemanticSegmentation(Dinov3SegConfig())
    model = model.to(format).to_empty(device="cpu").eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.02) if parameter.ndim > 1 else parameter.fill_(1)
    rope = model.vision_model.backbone.rope_embeddings
    rope.inv_freq = type(rope)(model.config.vision_config).inv_freq
    position_ids = torch.arange(model.config.text_config.max_position_embeddings)[None]
    model.text_model.text_model.embeddings.position_ids = position_ids

    image = torch.randn(1, 3, 640, 640, dtype=format)
    boxes = torch.tensor(plan_windows((640, 640), 384, 128))
    input_ids = torch.full((num_classes, 1, 12), 320)  # 12 tokens: the length of a typical prompt
    input_ids[..., -1] = model.config.text_config.eos_token_id
    cpu_start = time.process_time()
    start = time.perf_counter()
    text_embeds = model.get_text_features(input_ids)
    text_seconds = time.perf_counter() - start
    start = time.perf_counter()
    outputs = model(
        image,
        text_embeds=text_embeds,
        window_pixel_values=cut_windows(image, boxes),
        window_boxes=boxes,
        head=head,
    )
    return {
        "parameters (M)": sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        "logits": list(outputs.logits.shape),
        "seconds for text": text_seconds,
        "seconds for the image": time.perf_counter() - start,
        "CPU seconds for both": time.process_time() - cpu_start,
        "peak RSS (GB)": peak_memory(),
    }


# The options of the pipeline for a photo, by what they are called in docs/real-weights.md.
PHOTO_MODES = {
    "whole": {"inference": "whole"},
    "whole, short side 320": {"inference": "whole", "size": {"shortest_edge": 320}},
    "whole, refine=pixels": {"inference": "whole", "refine": "pixels"},
    "whole, refine_features": {"inference": "whole", "refine_features": True},
    "local-global": {"inference": "local-global"},
    "slide": {"inference": "slide"},
}


def run_photo(folder: str, mode: str, dtype: str, path: str | None = None, num_labels: int = 20) -> dict:
    from transformers.utils import logging

    logging.disable_progress_bar()
    start = time.perf_counter()
    pipe = load_pipeline(folder, "cpu", dtype)
    loaded = time.perf_counter() - start
    width = pipe.model.config.vision_config.hidden_size
    tensor = torch.nn.functional.normalize(torch.randn(num_labels, 2, width), dim=-1)
    names = tuple(f"label {index}" for index in range(num_labels))
    text = TextEmbeddings(tensor, names, "random", pipe.text_fingerprint())
    photo = open_photo(path)
    cpu_start, start = time.process_time(), time.perf_counter()
    pipe(photo, text, **PHOTO_MODES[mode])
    return {
        "seconds": time.perf_counter() - start,
        "CPU seconds": time.process_time() - cpu_start,
        "seconds to load": loaded,
        "peak RSS (GB)": peak_memory(),
    }


def open_photo(path: str | None) -> Image.Image:
    """Returns the photo, or a drawn scene of 640 x 427 pixels.

    Raises:
        ValueError: If the file is no image.
    """
    return Image.fromarray(draw_scene(0, size=(427, 640)).image) if path is None else open_image(path)


def peak_memory() -> float:
    """Returns the peak memory of this process in GB, including pages of memory-mapped files that are in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def measure_photos(folder: str, dtype: str, modes: list[str], model: str | None, path: str | None) -> None:
    """Prints a table: one row per mode."""
    print("photo of {} x {} pixels".format(*open_photo(path).size), flush=True)
    if model is None:
        in_own_process(f"make_files({folder!r}, 'pth')")
        model = str(Path(folder) / "converted")
        in_own_process(f"run_conversion({folder!r}, 'pth', {dtype!r}, False)")
    for mode in modes:
        figures = in_own_process(f"run_photo({model!r}, {mode!r}, {dtype!r}, {path!r})")
        if mode == modes[0]:
            print(f"{dtype:24}", *(f"{column:>16}" for column in figures))
        print(f"{mode:24}", *(f"{figure:16.1f}" for figure in figures.values()), flush=True)


def in_own_process(call: str) -> dict | None:
    code = f"import json, torch; torch.set_num_threads({torch.get_num_threads()}); from conversion import *; "
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    result = subprocess.run(
        [sys.executable, "-c", f"{code}print(json.dumps({call}))"], env=environment, stdout=subprocess.PIPE, check=True
    )
    return json.loads(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["conversion", "forward", "photo", "sizes"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--suffix", default="pth", choices=["pth", "safetensors"])
    parser.add_argument("--prior", action="store_true", help="also convert SAM ViT-L")
    parser.add_argument("--head", default="full", choices=["full", "dinotxt"])
    parser.add_argument("--num-classes", type=int, default=150)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--modes", nargs="+", default=list(PHOTO_MODES), choices=PHOTO_MODES, help="for a photo")
    parser.add_argument("--photo", metavar="FILE", help="an image of any size (default: a drawn scene of 640 x 427)")
    parser.add_argument("--model", metavar="DIR", help="converted weights for a photo (default: random weights)")
    arguments = parser.parse_args()
    if arguments.photo is not None:
        try:  # before gigabytes are written
            open_photo(arguments.photo)
        except ValueError as error:
            parser.error(str(error))
    torch.set_num_threads(arguments.threads)

    if arguments.what == "sizes":
        print_sizes()
        return
    if arguments.what == "forward":
        figures = in_own_process(f"run_forward({arguments.dtype!r}, {arguments.num_classes}, {arguments.head!r})")
    elif arguments.what == "photo":
        with tempfile.TemporaryDirectory() as folder:
            measure_photos(folder, arguments.dtype, arguments.modes, arguments.model, arguments.photo)
        return
    else:
        with tempfile.TemporaryDirectory() as folder:
            in_own_process(f"make_files({folder!r}, {arguments.suffix!r})")
            call = f"run_conversion({folder!r}, {arguments.suffix!r}, {arguments.dtype!r}, {arguments.prior})"
            figures = in_own_process(call)
    for name, figure in figures.items():
        print(f"{name}: {figure:.2f}" if isinstance(figure, float) else f"{name}: {figure}")


if __name__ == "__main__":
    main()
