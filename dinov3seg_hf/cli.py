# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The command `dinov3seg`: segments images by words, converts published checkpoints, serves the demo.

Knows arguments, files and the terminal; the work is done by the pipeline, the visualization and the conversion. Results
go to stdout and to files, errors in one line to stderr. Exit codes: 0 all done, 2 something was wrong, 130 interrupted.
"""

import argparse
import os
import sys
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlparse

from huggingface_hub.utils import logging as hub_logging
from PIL import Image
from transformers.utils import logging as transformers_logging

from . import TEMPLATES, TINY, OpenVocabularySegmentationPipeline, Vocabulary, __version__
from .image_input import open_image
from .loading import load_pipeline
from .pipeline import as_vocabulary
from .visualization import (
    IMAGE_SUFFIXES,
    Region,
    check_writable,
    color_palette,
    overlay,
    percent,
    regions_of,
    save_image,
    save_json,
    save_mask,
    segments_as_json,
    with_legend,
)

EXIT_ERROR, EXIT_INTERRUPTED = 2, 130
# Encoding so many labels takes long enough to want a bar.
MANY_LABELS = 500

DTYPES = ("float32", "bfloat16", "float16")

SEGMENT_EXAMPLES = """\
examples:
  dinov3seg segment scene.png --labels "red circle, blue striped square" --output overlay.png
  dinov3seg segment scene.png --labels "sofa|couch, cat" --mask labels.png --json segments.json
  dinov3seg segment photos/*.jpg --model DIR_OR_HUB_ID --preset ade20k-150 --output overlays/
"""

DEMO_EXAMPLES = """\
examples:
  dinov3seg demo
  dinov3seg demo --model DIR_OR_HUB_ID --examples photos/ --open
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Those of the command line unless given.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    hub_logging.set_verbosity(hub_logging.CRITICAL)  # its retries; what fails is said once, by us
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack the letters of a label
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries warn their callers, not the people at the terminal
            return options.run(options)
    except BrokenPipeError:  # as in `dinov3seg ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, MemoryError) as error:
        _print_error(options.command, error)
        return EXIT_ERROR
    except KeyboardInterrupt:
        _print_error(options.command, "interrupted")
        return EXIT_INTERRUPTED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="dinov3seg",
        description="Open-vocabulary semantic segmentation: images and any words in, masks out.",
    )
    parser.add_argument("--version", action="version", version=f"dinov3seg {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_segment(commands)
    _add_convert(commands)
    _add_demo(commands)
    return parser


def _print_error(command: str, error: BaseException | str) -> None:
    print(f"dinov3seg {command}: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


# --- segment ---------------------------------------------------------------------------------------------------------


def _add_segment(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "segment",
        help="segment images by words",
        description="Segments images by words: prints the labels found with area and score, writes overlays, label "
        "maps and JSON.",
        epilog=SEGMENT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_segment)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files or http(s) addresses")

    words = parser.add_argument_group("words (one of these)").add_mutually_exclusive_group(required=True)
    words.add_argument("--labels", metavar="TEXT", help='class names, separated by commas; synonyms by "|"')
    words.add_argument("--labels-file", metavar="FILE", help="class names from a .txt (one a line), .tsv or .json file")
    words.add_argument("--preset", metavar="NAME", help=f"a benchmark's vocabulary: {', '.join(Vocabulary.presets())}")
    parser.add_argument(
        "--templates",
        metavar="TEMPLATE",
        action="append",
        help=f'what names are wrapped in: {", ".join(TEMPLATES)}, or a text with one "{{}}"; may be repeated',
    )

    files = parser.add_argument_group(
        "files",
        "With several images, or where the name ends in / or is a folder: a folder, made if need be, for "
        "<image>_overlay.png, <image>_mask.png and <image>.json.",
    )
    files.add_argument(
        "--output", metavar="FILE", help=f"picture with overlay and legend ({', '.join(IMAGE_SUFFIXES)})"
    )
    files.add_argument(
        "--mask", metavar="FILE", help="label map (.png): palette up to 255 labels, 255 is none; above 16 bits"
    )
    files.add_argument("--json", metavar="FILE", help="segments with label, score, area, box and mask (.json)")
    files.add_argument("--alpha", type=_share, default=0.5, metavar="A", help="opacity of the overlay (default 0.5)")

    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", default=TINY, metavar="DIR_OR_HUB_ID", help="default: the embedded one, for drawn scenes"
    )
    model.add_argument(
        "--inference", choices=("whole", "local-global", "slide"), help="default: what the checkpoint is set to"
    )
    model.add_argument(
        "--head", choices=("full", "dinotxt"), help="trained head, or zero-shot (default: the checkpoint's)"
    )
    model.add_argument(
        "--threshold", type=_share, metavar="T", help='pixels that score lower are "none of these", 0 to 1'
    )
    model.add_argument("--device", help='such as "cpu", "cuda" or "cuda:1" (default: an accelerator if there is one)')
    model.add_argument("--dtype", choices=DTYPES, help="default: the checkpoint's; float32 on the CPU")


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} came; expected a number between 0 and 1")
    return value


@dataclass(frozen=True)
class _Task:
    """One image and the files to be made of it."""

    image: str
    overlay: Path | None
    mask: Path | None
    json: Path | None

    @property
    def files(self) -> list[Path]:
        return [path for path in (self.overlay, self.mask, self.json) if path is not None]


def _segment(options: argparse.Namespace) -> int:
    # All that can go wrong early goes wrong here, before a model is loaded.
    vocabulary = _vocabulary(options)
    tasks = _plan(options)

    pipe = load_pipeline(options.model, options.device, options.dtype)
    settings = {"inference": options.inference, "head": options.head, "threshold": options.threshold}
    settings = {name: value for name, value in settings.items() if value is not None}
    progress = len(vocabulary) > MANY_LABELS and sys.stderr.isatty()
    text = pipe.encode_labels(vocabulary, progress=progress)
    palette = color_palette(len(vocabulary))

    num_failed = 0
    for task in tasks:
        try:
            image = open_image(task.image, max_pixels=pipe.image_processor.max_image_pixels)
            result = pipe(image, text, return_label_map=True, return_masks=False, **settings)
            scores = {segment["label"]: segment["score"] for segment in result["segments"]}
            regions = regions_of(result["label_map"], vocabulary.names, scores)
            _write(task, image, result["label_map"], regions, vocabulary, palette, pipe, options)
        except (ValueError, OSError, MemoryError) as error:
            if len(tasks) == 1:
                raise
            _print_error(options.command, error)  # the other images are not to blame
            num_failed += 1
            continue
        if len(tasks) > 1:
            print(f"{task.image}:")
        print(_table(regions))
        if len(tasks) > 1:
            print()
        sys.stdout.flush()
    return EXIT_ERROR if num_failed else 0


def _vocabulary(options: argparse.Namespace) -> Vocabulary:
    templates = options.templates
    if templates is not None and len(templates) == 1:
        templates = templates[0]  # one word may be the name of a set
    if options.labels is not None:
        return as_vocabulary(options.labels, templates)
    if options.labels_file is not None:
        return Vocabulary.from_file(options.labels_file, templates=templates)
    return Vocabulary.from_preset(options.preset, **({} if templates is None else {"templates": templates}))


def _plan(options: argparse.Namespace) -> list[_Task]:
    """Which files come of which image; refuses what could not be written, or would be written over."""
    images = options.images
    for image in images:
        if not _is_address(image) and not Path(image).exists():
            raise ValueError(f"There is no image {image!r} (now in {os.getcwd()!r}). Check the path.")
    columns = []
    for target, suffixes, ending in (
        (options.output, IMAGE_SUFFIXES, "_overlay.png"),
        (options.mask, (".png",), "_mask.png"),
        (options.json, (".json",), ".json"),
    ):
        if target is None:
            columns.append([None] * len(images))
        elif len(images) > 1 or target.endswith(("/", os.sep)) or Path(target).is_dir():
            folder = Path(target)
            if not folder.is_dir() and (folder.exists() or folder.suffix.lower() in suffixes):
                raise ValueError(f"{target!r} names a file; a folder for several files is wanted. Name a folder.")
            paths = [folder / f"{_stem(image)}{ending}" for image in images]
            for path in paths if folder.is_dir() else [folder]:  # a folder that can be made can be written to
                check_writable(path)
            columns.append(paths)
        else:
            check_writable(target, suffixes)
            columns.append([Path(target)])
    tasks = [_Task(*row) for row in zip(images, *columns)]

    inputs = {Path(image).resolve(): image for image in images if not _is_address(image)}
    owner: dict[Path, str] = {}
    for task in tasks:
        for path in task.files:
            key = path.resolve()
            if key in inputs:
                raise ValueError(f"{str(path)!r} would be written over the image {inputs[key]!r}. Choose another name.")
            if key in owner:
                raise ValueError(
                    f"{str(path)!r} would be written twice, for {owner[key]!r} and {task.image!r}. Choose different "
                    "names, or segment images of the same name apart."
                )
            owner[key] = task.image
    return tasks


def _is_address(image: str) -> bool:
    return image.startswith(("http://", "https://", "data:image/"))


def _stem(image: str) -> str:
    if image.startswith("data:image/"):
        return "image"
    return Path(urlparse(image).path if _is_address(image) else image).stem or "image"


def _write(
    task: _Task,
    image: Image.Image,
    label_map,
    regions: list[Region],
    vocabulary: Vocabulary,
    palette,
    pipe: OpenVocabularySegmentationPipeline,
    options: argparse.Namespace,
) -> None:
    for path in task.files:
        path.parent.mkdir(exist_ok=True)
    if task.overlay is not None:
        picture = overlay(image, label_map, alpha=options.alpha, palette=palette)
        save_image(task.overlay, with_legend(picture, regions, palette=palette))
    if task.mask is not None:
        save_mask(task.mask, label_map, len(vocabulary), palette=palette)
    if task.json is not None:
        content = {
            "image": task.image,
            "height": image.height,
            "width": image.width,
            "model": "dinov3seg_hf embedded checkpoint" if options.model == TINY else options.model,
            "head": options.head or pipe.model.config.head,
            "inference": options.inference or pipe.default_inference,
            "threshold": options.threshold,
            "labels": list(vocabulary.names),
            "segments": segments_as_json(label_map, regions),
        }
        save_json(task.json, content)


def _table(regions: Sequence[Region]) -> str:
    rows = [("label", "area", "score")]
    rows += [
        (region.label, percent(region.area), "" if region.score is None else f"{region.score:.2f}")
        for region in regions
    ]
    widths = [max(map(_width, column)) for column in zip(*rows)]
    return "\n".join(
        f"{label}{' ' * (widths[0] - _width(label))}  {area:>{widths[1]}}  {score:>{widths[2]}}".rstrip()
        for label, area, score in rows
    )


def _width(text: str) -> int:
    """Columns of a terminal: East Asian letters take two, accents that are joined to a letter none."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


# --- convert ---------------------------------------------------------------------------------------------------------


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "convert",
        help="turn published DINOv3, dino.txt and SAM weights into a checkpoint",
        description="Turns the published checkpoint files into a folder that from_pretrained and --model load, and "
        "reports what became of every key.",
    )
    parser.set_defaults(run=_convert)
    parser.add_argument(
        "--backbone", required=True, metavar="FILE_OR_HUB_ID", help="DINOv3 ViT as published, or transformers'"
    )
    parser.add_argument("--dinotxt", required=True, metavar="FILE", help="dino.txt's vision head and text encoder")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write; appears whole or not at all")
    parser.add_argument(
        "--prior", metavar="FILE_OR_HUB_ID", help="SAM, the semantic prior (default: the backbone's own layers)"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="FILE_OR_HUB_ID_OR_none",
        default="none",
        help="CLIP's BPE vocabulary; none (default): weights and image processor only, which cannot read words",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the written weights (default float32)")
    parser.add_argument("--seed", type=int, default=0, help="of the parts that are yet to be trained (default 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier conversion in DIR")


def _convert(options: argparse.Namespace) -> int:
    from .conversion import convert

    report = convert(
        options.backbone,
        options.dinotxt,
        options.output,
        prior=options.prior,
        tokenizer=options.tokenizer,
        dtype=options.dtype,
        seed=options.seed,
        overwrite=options.overwrite,
    )
    print(report)
    return 0


# --- demo ------------------------------------------------------------------------------------------------------------


def _add_demo(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "demo",
        help="serve a page on which photos are segmented by words",
        description="Serves a page on which a person drops a photo, types words and sees the segmentation, and its API "
        'for gradio_client. Needs the extra "demo": pip install "dinov3seg_hf[demo]".',
        epilog=DEMO_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_demo)
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", default=TINY, metavar="DIR_OR_HUB_ID", help="default: the embedded one, for drawn scenes"
    )
    model.add_argument("--device", help='such as "cpu", "cuda" or "cuda:1" (default: an accelerator if there is one)')
    model.add_argument("--dtype", choices=DTYPES, help="default: the checkpoint's; float32 on the CPU")
    model.add_argument(
        "--examples",
        metavar="DIR",
        help="images to begin with; the words of photo.jpg are in photo.txt (default: drawn scenes for the embedded "
        "model, else none)",
    )
    server = parser.add_argument_group("server")
    server.add_argument(
        "--host", help='"0.0.0.0" for all who reach this machine (default: $GRADIO_SERVER_NAME, or this machine alone)'
    )
    server.add_argument("--port", type=int, help="default: $GRADIO_SERVER_PORT, or the first free one from 7860 on")
    server.add_argument("--open", action="store_true", help="open the page in the browser")
    bounds = parser.add_argument_group("bounds")
    bounds.add_argument("--max-queue", type=_positive, default=40, metavar="N", help="requests that wait (default 40)")
    bounds.add_argument("--max-labels", type=_positive, default=1000, metavar="N", help="of a request (default 1000)")
    bounds.add_argument(
        "--max-megapixels", type=_positive, default=50, metavar="N", help="larger images are refused (default 50)"
    )
    bounds.add_argument(
        "--cache", type=_positive, default=768, metavar="MIB", help="remembered of all sessions together (default 768)"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} came; expected a whole number of at least 1")
    return int(text)


def _demo(options: argparse.Namespace) -> int:
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'The demo needs Gradio, which cannot be imported ({error}). Install it: pip install "dinov3seg_hf[demo]"'
        ) from error
    from .demo.engine import Limits
    from .demo.page import serve

    serve(
        options.model,
        device=options.device,
        dtype=options.dtype,
        examples=options.examples,
        host=options.host,
        port=options.port,
        queue_size=options.max_queue,
        limits=Limits(
            pixels=options.max_megapixels * 1_000_000, labels=options.max_labels, cache_bytes=options.cache * 2**20
        ),
        open_browser=options.open,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
