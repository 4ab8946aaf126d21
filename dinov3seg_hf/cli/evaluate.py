# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg evaluate` and `accelerate launch scripts/evaluate.py`: evaluate a checkpoint on data sets."""

import argparse
import dataclasses
import shutil
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from ..about import DTYPES, EMBEDDED
from ..data.benchmarks import BENCHMARKS, Benchmark, find_benchmark
from ..data.columns import Dataset
from ..data.drawn_world import drawn_world
from ..data.opening import find_vocabulary, open_dataset
from ..data.presets import DRAWN_WORLD, drawn_world_vocabulary
from ..data.segmentation import SegmentationDataset
from ..data.streamed import StreamedSegmentationDataset, segmentation_dataset
from ..drawn_world.names import SEEN
from ..drawn_world.seeds import CARD
from ..evaluation.evaluator import evaluate
from ..evaluation.results import results_table
from ..file_names import RESULTS, TRAINING_VOCABULARY
from ..loading import is_embedded, load_pipeline, resolve_checkpoint, title_of
from ..model.files import write_atomically
from ..model.inference_settings import Inference, InferenceSettings
from ..model.vocabulary import Vocabulary
from .console import EXIT_OK, REFINE, REFINE_FEATURES, Parser

EXAMPLES = """\
examples:
  dinov3seg evaluate --benchmark drawn-world --images 30  # the embedded checkpoint, drawn scenes
  dinov3seg evaluate --model runs/coco --benchmark A-150 --data data --output results/a-150
  accelerate launch --multi_gpu --num_processes 2 scripts/evaluate.py --model runs/coco --data data \\
      --output results --benchmark A-847 PC-459 A-150 PC-59 PAS-20  # the paper's table
  dinov3seg evaluate --model runs/mine --benchmark me/my-masks --split test --classes classes.txt

A benchmark is read from the folder DATA/<name of the benchmark>, which `dinov3seg prepare` writes. The scores are
printed and written to OUTPUT/results.json. With several benchmarks, OUTPUT has one folder per benchmark.
"""
INTERRUPTED = "interrupted; with --output, run the same command again to resume"
PROGRESS = ".progress"
NO_CLASSES = "none"


def make_parser(prog: str) -> Parser:
    """Returns the parser of `dinov3seg evaluate`."""
    parser = Parser(
        prog=prog,
        description="Evaluates a checkpoint on benchmarks or on your own data set, in one or several processes. To "
        "resume an interrupted run with --output, run the same command again.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(benchmark.title for benchmark in BENCHMARKS.values())
    parser.add_argument(
        "--model", default=EMBEDDED, metavar="DIR_OR_HUB_ID", help="checkpoint (default: the embedded checkpoint)"
    )
    parser.add_argument(
        "--benchmark",
        nargs="+",
        required=True,
        metavar="NAME_OR_DATASET",
        help=f"{names}; {DRAWN_WORLD}; or the folder or Hub id of a data set",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for results.json; required to resume a run")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")

    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", type=Path, default=Path("data"), metavar="DIR", help="folder of prepared benchmarks (default: data)"
    )
    data.add_argument("--split", help=f"split (default: validation); for {DRAWN_WORLD}: seen, unseen (default) or all")
    data.add_argument(
        "--images", type=int, metavar="N", help=f"use only the first N images (default for {DRAWN_WORLD}: 300)"
    )
    data.add_argument("--config-name", metavar="NAME", help="name of the subset of a data set")
    data.add_argument("--revision", help="revision of a data set on the Hub")
    data.add_argument(
        "--streaming", action="store_true", help="read rows on demand, without downloading all rows first"
    )
    data.add_argument("--image-column", metavar="NAME")
    data.add_argument("--mask-column", metavar="NAME")
    data.add_argument(
        "--mask-values",
        choices=("labels", "raw_ids"),
        help="values in the masks (default: raw_ids if the classes have raw ids, but labels in prepared benchmarks)",
    )
    data.add_argument("--mask-coding", choices=("integers", "ade20k-rgb"), default="integers")
    data.add_argument("--skip-bad", action="store_true", help="skip rows that cannot be read, and count them")
    data.add_argument(
        "--num-workers", type=int, default=0, metavar="N", help="number of processes that read images (default: 0)"
    )

    words = parser.add_argument_group("classes")
    words.add_argument("--classes", metavar="PRESET_OR_FILE", help="class names (default: those in the data set)")
    words.add_argument(
        "--templates",
        action="append",
        metavar="TEMPLATE",
        help="name of a template set, or one template with {}; repeatable",
    )
    words.add_argument(
        "--training-classes",
        metavar="PRESET_OR_FILE",
        help="classes seen in training, to split the scores into seen and unseen (default: the classes in the "
        f"checkpoint; {NO_CLASSES}: no split)",
    )

    _add_inference_options(parser)

    shown = parser.add_argument_group("report")
    shown.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="number of bootstrap resamples (default: 1000)"
    )
    shown.add_argument("--per-class", action="store_true", help="also print the scores per class")
    shown.add_argument("--confusion", action="store_true", help="also write the confusion matrix")
    return parser


def _add_inference_options(parser: Parser) -> None:
    model = parser.add_argument_group("inference")
    model.add_argument(
        "--inference", choices=("whole", "local-global", "slide"), help="default: the setting of the checkpoint"
    )
    model.add_argument("--head", choices=("full", "dinotxt"), help="default: the setting of the checkpoint")
    model.add_argument("--patch-source", choices=("head", "backbone"), help="default: the setting of the checkpoint")
    model.add_argument("--refine-features", action=argparse.BooleanOptionalAction, help=REFINE_FEATURES)
    model.add_argument("--refine", choices=("pixels", "none"), help=REFINE)
    model.add_argument(
        "--shortest-edge",
        type=int,
        metavar="PIXELS",
        help="size of the shorter side (default: the setting of the checkpoint)",
    )
    model.add_argument(
        "--square", type=int, metavar="PIXELS", help="size of both sides (default: the setting of the checkpoint)"
    )
    model.add_argument("--window-size", type=int, metavar="PIXELS")
    model.add_argument("--window-stride", type=int, metavar="PIXELS")
    model.add_argument("--temperature", type=float, help="temperature of the zero-shot head")
    model.add_argument("--batch-size", type=int, default=1, metavar="N", help="images per batch (default: 1)")
    model.add_argument(
        "--dtype",
        choices=DTYPES,
        help="dtype of the weights (default: float32 on the CPU, else the dtype of the checkpoint)",
    )
    model.add_argument("--cpu", action="store_true", help="use the CPU even if an accelerator is available")


class Task:
    """One data set of the evaluation."""

    def __init__(self, options: argparse.Namespace, name: str):
        self.options = options
        try:
            self.benchmark: Benchmark | None = find_benchmark(name)
        except ValueError:
            self.benchmark = None
        self.name = self.benchmark.name if self.benchmark else name
        self.folder = options.output
        if options.output is not None and len(options.benchmark) > 1:
            self.folder = options.output / self.name.strip("./").replace("/", "_")

    def check_output(self) -> None:
        """Checks that existing results are not replaced without `--overwrite`.

        Raises:
            ValueError: If results already exist and `--overwrite` is not set.
        """
        if self.folder is not None and (self.folder / RESULTS).exists() and not self.options.overwrite:
            raise ValueError(
                f"{str(self.folder / RESULTS)!r} already exists. Choose another --output, or replace the results with "
                "--overwrite."
            )

    def open(self) -> tuple[SegmentationDataset | StreamedSegmentationDataset, Vocabulary]:
        """Opens the rows, and the vocabulary of the prompts."""
        options = self.options
        dataset, vocabulary = self._open_drawn_world() if self.name == DRAWN_WORLD else self._open_dataset()
        data = segmentation_dataset(
            dataset,
            vocabulary,
            image_column=options.image_column,
            mask_column=options.mask_column,
            skip_bad=options.skip_bad,
            mask_values=options.mask_values,
            mask_coding=options.mask_coding,
        )
        if options.templates:
            templates = options.templates[0] if len(options.templates) == 1 else options.templates
            vocabulary = dataclasses.replace(vocabulary, templates=templates)
        return data, vocabulary

    def _open_drawn_world(self) -> tuple[Dataset, Vocabulary]:
        options = self.options
        if options.classes is not None:
            raise ValueError(
                f"--classes is not supported for {DRAWN_WORLD}, which has fixed classes. Remove --classes."
            )
        return drawn_world(options.images or 300, options.split or "unseen", CARD), drawn_world_vocabulary()

    def _open_dataset(self) -> tuple[Dataset, Vocabulary]:
        options, place = self.options, self.name
        if self.benchmark is not None:
            place = options.data / self.name
            if not place.is_dir():
                raise ValueError(
                    f"Folder {str(place)!r} was not found. Create it with `dinov3seg prepare {self.benchmark.title} "
                    f"--source ... --output {place}`, or choose another --data."
                )
        dataset = open_dataset(
            place,
            options.split or "validation",
            config_name=options.config_name,
            revision=options.revision,
            streaming=options.streaming,
        )
        vocabulary = find_vocabulary(dataset, options.classes, card=place, revision=options.revision)
        if options.images is not None:
            dataset = dataset.take(options.images)
        return dataset, vocabulary

    def training_classes(self) -> Vocabulary | tuple[str, ...] | None:
        """The class names seen in training; `None` if they are unknown or `--training-classes` is "none"."""
        source = self.options.training_classes
        if source == NO_CLASSES:
            return None
        if source is not None:
            return find_vocabulary(None, source)
        noted = Path(resolve_checkpoint(self.options.model)) / TRAINING_VOCABULARY
        if noted.is_file():
            return Vocabulary.from_file(noted)
        return SEEN if is_embedded(self.options.model) and self.name == DRAWN_WORLD else None


def run(options: argparse.Namespace) -> int:
    """Evaluates every data set and prints the table."""
    _check(options)
    # without an accelerator, Accelerate connects the processes of a launcher only if `cpu` is set
    accelerator = Accelerator(cpu=options.cpu or not torch.accelerator.is_available())
    tasks = [Task(options, name) for name in options.benchmark]
    opened = []
    for task in tasks:  # finds errors in arguments and data before a model is loaded
        task.check_output()
        opened.append((task, *task.open(), task.training_classes()))
    pipe = load_pipeline(options.model, str(accelerator.device), options.dtype)
    if pipe.processor is None:
        raise ValueError(
            f"The checkpoint {options.model!r} has no tokenizer, but class names must be tokenized. Convert the "
            "checkpoint again with --tokenizer."
        )
    settings = _settings(options, pipe.default_inference)

    results = []
    for task, data, vocabulary, training in opened:
        result = evaluate(
            pipe.model,
            pipe.processor,
            data,
            vocabulary,
            settings=settings,
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            accelerator=accelerator,
            resume_from=None if task.folder is None else task.folder / PROGRESS,
            training_vocabulary=training,
            num_resamples=options.resamples,
            benchmark=task.name,
            model_name=title_of(options.model),
        )
        results.append(result)
        if accelerator.is_main_process:
            if task.folder is not None:
                result.save(task.folder / RESULTS, confusion=options.confusion)
                shutil.rmtree(task.folder / PROGRESS)
            for reason in result.skipped:
                print(f"skipped: {reason}", file=sys.stderr)
    if accelerator.is_main_process:
        text = results_table(results)
        if options.per_class:
            text += "".join(f"\n\n{result.class_table()}" for result in results)
        print(text)
        if options.output is not None:
            write_atomically(options.output / "results.txt", f"{text}\n".encode())
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return EXIT_OK


def _check(options: argparse.Namespace) -> None:
    if options.shortest_edge and options.square:
        raise ValueError(
            "Both --shortest-edge and --square are set; expected at most one. Remove one of the two options."
        )
    if len(set(options.benchmark)) < len(options.benchmark):
        raise ValueError("--benchmark contains a benchmark twice; expected each benchmark once. Remove the duplicate.")
    if options.images is not None and options.images < 1:
        raise ValueError(f"--images is {options.images}; expected at least 1.")


def _settings(options: argparse.Namespace, default_inference: Inference) -> InferenceSettings:
    size = {"shortest_edge": options.shortest_edge} if options.shortest_edge else None
    if options.square:
        size = {"height": options.square, "width": options.square}
    return InferenceSettings(
        inference=options.inference or default_inference,
        head=options.head,
        patch_source=options.patch_source,
        refine_features=options.refine_features,
        refine=options.refine,
        temperature=options.temperature,
        size=size,
        window_size=options.window_size,
        window_stride=options.window_stride,
    )
