# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The videos of `dinov3seg segment`: their flags, and their files, checked before a model is loaded."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoint_names import resolve_checkpoint
from ..extras import require_installed
from ..file_names import VIDEO_SUFFIXES
from .annotations import open_annotations
from .console import Parser, not_negative, positive, print_error
from .inputs import ImageInput
from .segment_files import Task, note_of, refuse_folder_of_images
from .words import vocabulary_of

# Flags that need a video, by the names of their options.
VIDEOS = {"every": "--every", "smoothing": "--smoothing"}
# Digits of the number of a frame in the names of its files: at 60 frames per second, enough for four hours.
DIGITS = 6


@dataclass(frozen=True)
class VideoTask:
    """A video and its files.

    Attributes:
        input: The video.
        overlay: The video to write.
        masks, json: The folders of the files of its frames.
    """

    input: ImageInput
    overlay: Path | None
    masks: Path | None
    json: Path | None

    def frame(self, number: int) -> Task:
        """Returns a frame, by its number from 0, with its files."""
        name = self.input.name.with_name(f"{self.input.name.name}_{number + 1:0{DIGITS}d}")
        return Task(
            replace(self.input, name=name, frame=number),
            None,
            self.masks and self.masks / f"{name}_mask.png",
            self.json and self.json / f"{name}.json",
        )


def add_videos(parser: Parser) -> None:
    """Adds the options of videos."""
    group = parser.add_argument_group(
        "videos",
        "Each frame is segmented for itself; --smoothing averages its scores with those of the frames before. Nothing "
        f"is tracked. --output is a video ({', '.join(VIDEO_SUFFIXES)}) without sound or a folder; --mask, --json and "
        '--annotations get files for each frame, <video>_<number of the frame>. Requires the extra "video": '
        'pip install "dinov3seg_hf[video]".',
    )
    group.add_argument("--every", type=positive, metavar="N", help="segment every N-th frame (default: all)")
    group.add_argument(
        "--smoothing",
        type=not_negative("a time in seconds"),
        metavar="SECONDS",
        help="time in which the weight of a frame in the average falls to 37 %%, for still cameras (default: 0, none)",
    )


def refuse_without_video(options: argparse.Namespace) -> None:
    """Checks that no option of videos is set without a video.

    Raises:
        ValueError: If one is.
    """
    for name, flag in VIDEOS.items():
        if getattr(options, name) is not None:
            raise ValueError(f"{flag} needs a video; got images. Pass a video, or leave {flag} out.")


def check_videos(options: argparse.Namespace, videos: Sequence[ImageInput]) -> None:
    """Adds the vocabulary, the writer of annotations and the tasks to the options.

    Raises:
        ValueError: If an option does not fit, there are images among the videos, a file cannot be written, the only
            video cannot be read, the checkpoint does not exist, or PyAV is missing.
    """
    require_installed("video", "av", what="A video")
    for video in videos:
        if not video.is_video:
            raise ValueError(f"Got videos and {video.source!r}; expected either. Segment images in a run of their own.")
        if video.path is None:
            raise ValueError(f"{video.source!r} is an address; expected a file. Download the video first.")
    if options.all_frames:
        raise ValueError("--all-frames is for images; of videos, --every chooses the frames. Leave --all-frames out.")
    if options.skip_existing and options.output is None:
        raise ValueError("--skip-existing looks for the overlay of a video; expected --output. Add it.")
    options.vocabulary = vocabulary_of(options)
    options.note = note_of(options)
    options.writer = open_annotations(options, options.vocabulary, videos)
    if options.writer is not None and options.writer.picture_folder is not None:
        refuse_folder_of_images(options.writer.picture_folder, options.images, options.recursive)
    options.tasks = _planned(options, videos)
    options.several = len(videos) > 1
    if options.skip_existing:
        options.tasks = [task for task in options.tasks if task.overlay is None or not task.overlay.exists()]
        if len(options.tasks) < len(videos):
            done = len(videos) - len(options.tasks)
            print_error("dinov3seg segment", f"{done} of {len(videos)} videos were done before")
    if options.tasks:
        resolve_checkpoint(options.model)
    if not options.several and options.tasks:
        from ..video.reading import open_video

        with open_video(options.tasks[0].input.source):  # a damaged one of several must not stop the others
            pass


def _planned(options: argparse.Namespace, videos: Sequence[ImageInput]) -> list[VideoTask]:
    from ..visualization.files import check_writable

    overlays: list[Path | None] = [None] * len(videos)
    if (target := options.output) is not None:
        from ..video.writing import check_encoder

        if len(videos) > 1 or target.endswith(("/", os.sep)) or Path(target).is_dir():
            folder = _folder(target, "--output", options)
            files = [folder / f"{video.name}_overlay.mp4" for video in videos]
        else:
            files = [Path(target)]
            check_writable(target, VIDEO_SUFFIXES)
        check_encoder(files[0])
        overlays = list(files)
    masks = None if options.mask is None else _folder(options.mask, "--mask", options)
    json = None if options.json is None else _folder(options.json, "--json", options)

    inputs = {video.path.resolve() for video in videos if video.path is not None}
    written = [path.resolve() for path in overlays if path is not None]
    if len({*inputs, *written}) < len(inputs) + len(written):
        raise ValueError(
            "Two of the videos and written overlays have the same path, so one would overwrite the other. Choose other "
            "names or folders."
        )
    if len({video.name for video in videos}) < len(videos):
        raise ValueError(
            "Two videos have the same name, so files of their frames would, too. Rename one of them, or segment them "
            "in separate runs."
        )
    return [VideoTask(video, overlay, masks, json) for video, overlay in zip(videos, overlays)]


def _folder(target: str, flag: str, options: argparse.Namespace) -> Path:
    """Returns the folder of a flag, which can be created."""
    from ..visualization.files import check_writable

    folder = Path(target)
    if not folder.is_dir() and (folder.exists() or folder.suffix):
        raise ValueError(f"{flag} is {target!r}; expected a folder, for several files. Choose a folder.")
    refuse_folder_of_images(folder, options.images, options.recursive)
    check_writable(folder / "probe" if folder.is_dir() else folder)
    return folder
