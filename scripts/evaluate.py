# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Scores a checkpoint on benchmarks or on a data set of yours, in one process or several.

    python scripts/evaluate.py --benchmark drawn-world --images 30  # the embedded checkpoint, drawn scenes
    python scripts/evaluate.py --model runs/coco --benchmark A-150 --data data --output results/a-150
    accelerate launch --multi_gpu --num_processes 2 scripts/evaluate.py --model runs/coco --data data \\
        --output results --benchmark A-847 PC-459 A-150 PC-59 PAS-20  # the paper's table
    python scripts/evaluate.py --model runs/mine --benchmark me/my-masks --split test --classes classes.txt

A benchmark is looked for in DATA/<its name>, where scripts/prepare_benchmark.py put it. The scores are written to
OUTPUT/results.json (several benchmarks: one folder each) and printed. A run that was broken off goes on when it is
started again with the same arguments.
"""

import argparse
import dataclasses
import shutil
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers.utils import logging

from dinov3seg_hf import TINY, Vocabulary, synthetic
from dinov3seg_hf.benchmarks import BENCHMARKS, find_benchmark
from dinov3seg_hf.cli import DTYPES
from dinov3seg_hf.data import (
    DRAWN_WORLD,
    drawn_world,
    drawn_world_vocabulary,
    find_vocabulary,
    open_dataset,
    segmentation_dataset,
)
from dinov3seg_hf.evaluation import EvaluationResult, evaluate, results_table
from dinov3seg_hf.files import write_whole
from dinov3seg_hf.loading import load_pipeline
from dinov3seg_hf.run_files import model_of_run

RESULTS, PROGRESS = "results.json", ".progress"
TRAINING_VOCABULARY = "training_vocabulary.json"
FIRST_SEED = 900_000  # of the drawn scenes: those that the embedded checkpoint's card reports
NO_CLASSES = "none"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(benchmark.title for benchmark in BENCHMARKS.values())
    parser.add_argument("--model", default=TINY, metavar="DIR_OR_HUB_ID", help="default: the embedded checkpoint")
    parser.add_argument(
        "--benchmark",
        nargs="+",
        required=True,
        metavar="NAME_OR_DATASET",
        help=f"{names}; {DRAWN_WORLD}; or a folder or Hub id of a data set",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="for results.json; needed to go on after a break")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there")

    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="the prepared (default data)")
    data.add_argument("--split", help=f"default validation; of {DRAWN_WORLD}: seen, unseen (default) or all")
    data.add_argument("--images", type=int, metavar="N", help=f"only the first N; of {DRAWN_WORLD} default 300")
    data.add_argument("--config-name", metavar="NAME", help="which subset of a data set")
    data.add_argument("--revision", help="of a data set on the Hub")
    data.add_argument("--streaming", action="store_true", help="read rows as they are needed")
    data.add_argument("--image-column", metavar="NAME")
    data.add_argument("--mask-column", metavar="NAME")
    data.add_argument("--mask-values", choices=("labels", "raw_ids"), help="what masks hold (default: see the classes)")
    data.add_argument("--mask-coding", choices=("integers", "ade20k-rgb"), default="integers")
    data.add_argument("--skip-bad", action="store_true", help="leave out rows that cannot be read, and count them")
    data.add_argument("--num-workers", type=int, default=0, metavar="N", help="processes that read images (default 0)")

    words = parser.add_argument_group("classes")
    words.add_argument("--classes", metavar="PRESET_OR_FILE", help="default: what the data set says")
    words.add_argument("--templates", action="append", metavar="TEMPLATE", help="a set's name, or a text with one {}")
    words.add_argument(
        "--training-classes",
        metavar="PRESET_OR_FILE",
        help=f"splits the scores into seen and unseen; default: what the run noted; {NO_CLASSES}: no split",
    )

    model = parser.add_argument_group("inference")
    model.add_argument("--inference", choices=("whole", "local-global", "slide"), help="default: the checkpoint's")
    model.add_argument("--head", choices=("full", "dinotxt"), help="default: the checkpoint's")
    model.add_argument("--patch-source", choices=("head", "backbone"), help="default: the checkpoint's")
    model.add_argument("--shortest-edge", type=int, metavar="PIXELS", help="in place of the checkpoint's size")
    model.add_argument("--square", type=int, metavar="PIXELS", help="both sides, in place of the checkpoint's size")
    model.add_argument("--window-size", type=int, metavar="PIXELS")
    model.add_argument("--window-stride", type=int, metavar="PIXELS")
    model.add_argument("--temperature", type=float, help="of the zero-shot head")
    model.add_argument("--batch-size", type=int, default=1, metavar="N", help="images at a time (default 1)")
    model.add_argument("--dtype", choices=DTYPES, help="default: the checkpoint's; float32 on the CPU")
    model.add_argument("--cpu", action="store_true", help="use the CPU even if there is an accelerator")

    shown = parser.add_argument_group("report")
    shown.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap (default 1000)")
    shown.add_argument("--per-class", action="store_true", help="print the classes too")
    shown.add_argument("--confusion", action="store_true", help="write the confusion matrix too")
    args = parser.parse_args()
    if args.shortest_edge and args.square:
        parser.error("give --shortest-edge or --square")
    if len(set(args.benchmark)) < len(args.benchmark):
        parser.error("a benchmark came twice")
    if args.images is not None and args.images < 1:
        parser.error("--images must be at least 1")
    return args


class Task:
    """One of the data sets that were asked for."""

    def __init__(self, args: argparse.Namespace, name: str):
        self.args = args
        try:
            self.benchmark = find_benchmark(name)
        except ValueError:
            self.benchmark = None
        self.name = self.benchmark.name if self.benchmark else name
        self.folder = args.output
        if args.output is not None and len(args.benchmark) > 1:
            self.folder = args.output / self.name.strip("./").replace("/", "_")

    def check_output(self) -> None:
        if self.folder is not None and (self.folder / RESULTS).exists() and not self.args.overwrite:
            raise ValueError(
                f"{str(self.folder / RESULTS)!r} is there already. Choose another --output, or replace it with "
                "--overwrite."
            )

    def open(self):
        """(data, vocabulary of the prompts)"""
        args = self.args
        if self.name == DRAWN_WORLD:
            if args.classes is not None:
                raise ValueError(f"{DRAWN_WORLD} has classes of its own: leave --classes out.")
            dataset = drawn_world(args.images or 300, args.split or "unseen", FIRST_SEED)
            vocabulary = drawn_world_vocabulary()
        else:
            place = self.name
            if self.benchmark is not None:
                place = args.data / self.name
                if not place.is_dir():
                    raise ValueError(
                        f"There is no folder {str(place)!r}. Make it with scripts/prepare_benchmark.py "
                        f"{self.benchmark.title} --source ... --output {place}, or say where it is with --data."
                    )
            dataset = open_dataset(
                place,
                args.split or "validation",
                config_name=args.config_name,
                revision=args.revision,
                streaming=args.streaming,
            )
            vocabulary = find_vocabulary(dataset, args.classes, card=place, revision=args.revision)
            if args.images is not None:
                dataset = dataset.take(args.images)
        data = segmentation_dataset(
            dataset,
            vocabulary,
            image_column=args.image_column,
            mask_column=args.mask_column,
            skip_bad=args.skip_bad,
            mask_values=args.mask_values,
            mask_coding=args.mask_coding,
        )
        if args.templates:
            templates = args.templates[0] if len(args.templates) == 1 else args.templates
            vocabulary = dataclasses.replace(vocabulary, templates=templates)
        return data, vocabulary

    def training_classes(self):
        source = self.args.training_classes
        if source == NO_CLASSES:
            return None
        if source is not None:
            return find_vocabulary(None, source)
        noted = Path(model_of_run(self.args.model)) / TRAINING_VOCABULARY
        if noted.is_file():
            return Vocabulary.from_file(noted)
        return synthetic.SEEN if self.args.model == TINY and self.name == DRAWN_WORLD else None


def run(args: argparse.Namespace) -> list[EvaluationResult]:
    # processes on CPUs take themselves for alone unless told that there is nothing else
    accelerator = Accelerator(cpu=args.cpu or not torch.accelerator.is_available())
    tasks = [Task(args, name) for name in args.benchmark]
    opened = []
    for task in tasks:  # all that can go wrong early goes wrong here, before a model is loaded
        task.check_output()
        opened.append((task, *task.open(), task.training_classes()))
    pipe = load_pipeline(args.model, str(accelerator.device), args.dtype)
    if pipe.processor is None:
        raise ValueError(f"The checkpoint {args.model!r} has no tokenizer, which words need: convert it with one.")
    size = {"shortest_edge": args.shortest_edge} if args.shortest_edge else None
    if args.square:
        size = {"height": args.square, "width": args.square}

    results = []
    for task, data, vocabulary, training in opened:
        result = evaluate(
            pipe.model,
            pipe.processor,
            data,
            vocabulary,
            inference=args.inference or pipe.default_inference,
            head=args.head,
            patch_source=args.patch_source,
            temperature=args.temperature,
            size=size,
            window_size=args.window_size,
            window_stride=args.window_stride,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            accelerator=accelerator,
            resume_from=None if task.folder is None else task.folder / PROGRESS,
            training_vocabulary=training,
            num_resamples=args.resamples,
            benchmark=task.name,
            model_name="dinov3seg_hf embedded checkpoint" if args.model == TINY else args.model,
        )
        results.append(result)
        if accelerator.is_main_process:
            if task.folder is not None:
                result.save(task.folder / RESULTS, confusion=args.confusion)
                shutil.rmtree(task.folder / PROGRESS)
            for reason in result.skipped:
                print(f"skipped: {reason}", file=sys.stderr)
    if accelerator.is_main_process:
        text = results_table(results)
        if args.per_class:
            text += "".join(f"\n\n{result.class_table()}" for result in results)
        print(text)
        if args.output is not None:
            write_whole(args.output / "results.txt", f"{text}\n".encode())
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return results


def main() -> int:
    args = parse_arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        run(args)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        print(f"evaluate: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("evaluate: interrupted; start it again with the same arguments to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
