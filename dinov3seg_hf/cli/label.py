# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""`dinov3seg label`, also under `accelerate launch -m dinov3seg_hf label`: labels whole data sets, in shards."""

import argparse
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint_names import resolve_checkpoint
from ..file_names import IMAGE_ENDINGS
from .console import EXIT_ERROR, EXIT_OK, Parser, positive, print_error, print_result, share
from .inputs import find_images
from .model_options import add_model, refuse_options_of_other_head, settings_of
from .words import add_words, vocabulary_of

if TYPE_CHECKING:
    from ..data.columns import Dataset
    from ..dataset_labeling import LabelingResult

EXAMPLES = """\
examples:
  dinov3seg label --dataset photos --labels "cat, dog, grass" --output labeled
  accelerate launch -m dinov3seg_hf label --dataset me/photos --split train --streaming \\
      --labels-file classes.txt --model DIR_OR_HUB_ID --output labeled --batch-size 8 --num-workers 8
  accelerate launch scripts/train.py --config recipes/own_masks.yaml --init DIR_OR_HUB_ID --dataset labeled \\
      --split "train[:90%]" --eval-split "train[90%:]" --output runs/mine

The result is a data set with the columns image, mask and classes, in data/*.parquet. A shard is written whole or not at
all. Run the same command again to resume: shards that are done are left out, and the number of processes may differ.
Machines must share the folder OUTPUT. The exit code is 2 if rows could not be labeled, also in an earlier run.
"""
INTERRUPTED = "interrupted; run the same command again to resume"
# What a folder contains that `datasets` reads in another way than image by image.
DATA_FILES = ("dataset_dict.json", "state.json", "dataset_infos.json", "metadata.csv", "metadata.jsonl")
DATA_ENDINGS = (".parquet", ".arrow", ".tar", ".zip")
MAX_SHOWN = 20


def make_parser(prog: str) -> Parser:
    """Returns the parser of `dinov3seg label`."""
    parser = Parser(
        prog=prog,
        description="Labels every image of a data set and writes a data set for training, in one or several processes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--dataset",
        required=True,
        metavar="HUB_OR_FOLDER",
        help="id on the Hub; folder of images, with subfolders; or folder that `datasets` reads",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the labeled data set")

    data = parser.add_argument_group("data")
    data.add_argument("--split", help="split (default: train; a folder of images has no splits)")
    data.add_argument("--config-name", metavar="NAME", help="name of the subset of a data set")
    data.add_argument("--revision", help="revision of a data set on the Hub")
    data.add_argument(
        "--streaming", action="store_true", help="read rows on demand, without downloading all rows first"
    )
    data.add_argument("--image-column", metavar="NAME", help="default: found by type and name")
    data.add_argument("--keep", nargs="+", default=[], metavar="COLUMN", help="other columns to keep")

    add_words(parser)
    shards = parser.add_argument_group("shards")
    shards.add_argument(
        "--rows-per-shard",
        type=positive,
        default=128,
        metavar="N",
        help="rows in a file of the result; a process keeps those of one file in memory, so fewer for images of "
        "many megabytes (default: 128)",
    )
    shards.add_argument(
        "--copy-images",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="store the images beside the masks; if not, the result refers to the files of the data set (default: yes)",
    )
    shards.add_argument(
        "--min-area",
        type=positive,
        default=0,
        metavar="N",
        help="connected parts with fewer pixels are ignored (default: keep all; needs the extra export)",
    )
    shards.add_argument(
        "--ignore-below", type=share, metavar="S", help="pixels with a lower score are ignored (default: keep all)"
    )
    shards.add_argument(
        "--retry-failed",
        action="store_true",
        help="label shards again in which a row failed; one with fewer labeled rows than before is kept",
    )

    add_model(parser)
    work = parser.add_argument_group("work, per process")
    work.add_argument(
        "--batch-size", type=positive, default=1, metavar="N", help="images that the model gets at once (default: 1)"
    )
    work.add_argument(
        "--num-workers",
        type=positive,
        default=1,
        metavar="N",
        help="threads that read images and encode masks (default: 1)",
    )
    return parser


def check(options: argparse.Namespace) -> None:
    """Adds the vocabulary and the options of the export to the options.

    Raises:
        ValueError: If a label is invalid, the data set or the checkpoint does not exist, or the output is a file.
    """
    from ..annotations import ExportOptions
    from ..data.dataset_names import check_dataset

    refuse_options_of_other_head(options, options.head)
    check_dataset(options.dataset, options.revision)
    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"--output is {str(options.output)!r}, a file; expected a folder. Choose another name.")
    folder = Path(options.dataset).expanduser()
    if folder.is_dir() and options.output.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"--output is {str(options.output)!r}, which lies in the data set {options.dataset!r}, so the next run "
            "would take the labels for a part of it. Choose a folder elsewhere."
        )

    options.vocabulary = vocabulary_of(options)
    options.export = ExportOptions(
        min_area=options.min_area, ignore_below=options.ignore_below, copy_images=options.copy_images
    )
    resolve_checkpoint(options.model)


def run(options: argparse.Namespace) -> int:
    """Labels the data set."""
    from ..dataset_labeling import ShardedRows, label_dataset
    from ..distributed import PATIENCE, Processes, start_processes
    from ..loading import load_pipeline

    state = start_processes(PATIENCE)
    dataset, root, files = _open(options)
    rows = ShardedRows(dataset, options.image_column, options.keep, options.rows_per_shard)
    pipe = load_pipeline(options.model, options.device or str(state.device), options.dtype)
    result = label_dataset(
        pipe,
        rows,
        options.vocabulary,
        options.output,
        settings=settings_of(options, pipe.model.config.head),
        export=options.export,
        root=root,
        source={key: getattr(options, key) for key in ("dataset", "split", "config_name", "revision")} | files,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        retry_failed=options.retry_failed,
        accelerator=state,
    )
    # the others wait: a launcher stops all processes as soon as one of them exits with an error
    Processes(state).from_main(lambda: _report(result, options.output))
    return EXIT_ERROR if result.failed else EXIT_OK


def _report(result: "LabelingResult", output: Path) -> None:
    from ..dataset_labeling.folder import PROGRESS

    if result.num_done_before:
        print_error("dinov3seg label", f"{result.num_done_before} of {result.num_shards} shards were done before")
    for name, reason in result.failed[:MAX_SHOWN]:
        print_error("dinov3seg label", f"not labeled: {name}: {reason}")
    if result.failed:
        count, total = len(result.failed), result.num_rows + len(result.failed)
        print_error(
            "dinov3seg label",
            f"{count} of {total} rows were not labeled; {output / PROGRESS} lists them with the reasons, and "
            "--retry-failed labels their shards again",
        )
    print_result(f"Labeled {result.num_rows} images ({len(result.failed)} failed): {output}", has_files=True)


def _open(options: argparse.Namespace) -> "tuple[Dataset, Path | None, dict[str, str]]":
    """Returns the data set and, if it is a folder of images, the folder and the digest of the names of its files.

    Rows of such a folder are its files in order: with one more and one less, a run that goes on would label images
    twice or never.

    Such a folder is not opened with `datasets`, which takes "train" and "test" in names of files for splits, and leaves
    the other files out.
    """
    import datasets

    from ..annotations.writer import is_text
    from ..data.opening import open_dataset

    folder = Path(options.dataset).expanduser()
    if options.split is None and folder.is_dir() and _is_folder_of_images(folder):
        images = find_images([str(folder)], recursive=True)
        for image in images:
            if not is_text(image.source):
                raise ValueError(
                    f"The name of {image.source!r} is not UTF-8; a data set stores names as text. Rename the file."
                )
        features = datasets.Features({"image": datasets.Image()})
        paths = [str(image.path) for image in images]
        dataset: Dataset = datasets.Dataset.from_dict({"image": paths}, features=features)
        names = "\0".join(image.path.relative_to(folder).as_posix() for image in images if image.path is not None)
        files = {"files": hashlib.sha256(os.fsencode(names)).hexdigest()}
        return (dataset.to_iterable_dataset() if options.streaming else dataset), folder, files
    dataset = open_dataset(
        options.dataset,
        options.split or "train",
        config_name=options.config_name,
        revision=options.revision,
        streaming=options.streaming,
    )
    return dataset, None, {}


def _is_folder_of_images(folder: Path) -> bool:
    from ..data.mask_folders import find_mask_folders

    if find_mask_folders(folder):
        return False
    has_images = False
    for path in folder.rglob("*"):
        if path.name in DATA_FILES or path.suffix.lower() in DATA_ENDINGS:
            return False
        has_images = has_images or path.suffix.lower() in IMAGE_ENDINGS
    return has_images
