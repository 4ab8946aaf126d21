# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What `dinov3seg evaluate` does when its arguments are known to be right: opens the data, evaluates and prints."""

import argparse
import dataclasses
import functools
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator

from ..checkpoint_names import is_embedded, title_of
from ..data.benchmarks import Benchmark, find_benchmark, prepared_folder
from ..data.columns import Dataset
from ..data.drawn_world import drawn_world
from ..data.looks import warn_of_a_single_class
from ..data.opening import find_vocabulary, open_dataset
from ..data.presets import drawn_world_vocabulary
from ..data.segmentation import SegmentationDataset
from ..data.stored_images import first_rows
from ..data.streamed import StreamedSegmentationDataset, segmentation_dataset
from ..distributed import PATIENCE, Processes, on_main_process, start_processes
from ..drawn_world.names import DRAWN_WORLD, SEEN
from ..drawn_world.seeds import CARD
from ..evaluation.evaluator import evaluate
from ..evaluation.results import EvaluationResult, results_table
from ..file_names import RESULTS, TRAINING_VOCABULARY
from ..loading import find_file, load_pipeline
from ..model.files import write_atomically
from ..model.inference_settings import Inference, InferenceSettings
from ..model.vocabulary import Vocabulary
from .console import EXIT_OK, print_result, printable
from .model_options import refuse_options_of_other_head, refuse_windows_without_windows

PROGRESS = ".progress"
NO_CLASSES = "none"


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

        Results beside a progress log belong to an interrupted run over several benchmarks, which goes on.

        Raises:
            ValueError: If results already exist and `--overwrite` is not set.
        """
        if self.folder is None or self.options.overwrite or (self.folder / PROGRESS).exists():
            return
        if (self.folder / RESULTS).exists():
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
        options = self.options
        place = self.name if self.benchmark is None else prepared_folder(self.benchmark, options.data)
        dataset = open_dataset(
            place,
            options.split or "validation",
            config_name=options.config_name,
            revision=options.revision,
            streaming=options.streaming,
        )
        vocabulary = find_vocabulary(dataset, options.classes, card=place, revision=options.revision)
        if options.images is not None:
            dataset = first_rows(dataset, options.images)
        return dataset, vocabulary

    def training_classes(self) -> Vocabulary | tuple[str, ...] | None:
        """The class names seen in training; `None` if they are unknown or `--training-classes` is "none"."""
        source = self.options.training_classes
        if source == NO_CLASSES:
            return None
        if source is not None:
            return find_vocabulary(None, source)
        noted = find_file(self.options.model, TRAINING_VOCABULARY)
        if noted is not None:
            return Vocabulary.from_file(noted)
        return SEEN if is_embedded(self.options.model) and self.name == DRAWN_WORLD else None


def evaluate_all(options: argparse.Namespace) -> int:
    """Evaluates every data set, prints the table and returns the exit code."""
    accelerator = Accelerator(cpu=start_processes(PATIENCE, options.cpu).device.type == "cpu")
    processes = Processes(accelerator)
    tasks = [Task(options, name) for name in options.benchmark]
    opened = []
    for task in tasks:  # finds errors in arguments and data before a model is loaded
        task.check_output()
        data, vocabulary = task.open()
        processes.from_main(functools.partial(warn_of_a_single_class, data))
        opened.append((task, data, vocabulary, task.training_classes()))
    pipe = load_pipeline(options.model, str(accelerator.device), options.dtype)
    if pipe.processor is None:
        raise ValueError(
            f"The checkpoint {options.model!r} has no tokenizer, but class names must be tokenized. Convert the "
            "checkpoint again with --tokenizer."
        )
    settings = _settings(options, pipe.default_inference)
    refuse_options_of_other_head(options, options.head or pipe.model.config.head)
    refuse_windows_without_windows(options, settings.inference)

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
        on_main_process(accelerator, functools.partial(_save, task, result))
    text = results_table(results)
    if options.per_class:
        text += "".join(f"\n\n{result.class_table()}" for result in results)
    if accelerator.is_main_process:
        print_result(text, has_files=options.output is not None)
    on_main_process(accelerator, functools.partial(_finish, options.output, text, tasks))
    accelerator.end_training()
    return EXIT_OK


def _save(task: Task, result: EvaluationResult) -> None:
    if task.folder is not None:
        result.save(task.folder / RESULTS, confusion=task.options.confusion)
    for reason in result.skipped:
        print(f"skipped: {printable(reason)}", file=sys.stderr)


def _finish(output: Path | None, text: str, tasks: Sequence[Task]) -> None:
    if output is not None:
        write_atomically(output / "results.txt", f"{text}\n".encode())
        for task in tasks:  # not before: an interrupted run must find what is scored
            shutil.rmtree(task.folder / PROGRESS)


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
        active_classes=options.active_classes,
        temperature=options.temperature,
        size=size,
        window_size=options.window_size,
        window_stride=options.window_stride,
    )
