# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Encodes pictures as a video, each at its time, with PyAV (FFmpeg). The file appears when it is complete."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import require_extra
from ..kept_errors import FileWithKeptError
from ..model.checks import checked_path, is_number, quoted
from ..model.files import open_atomically
from ..signals import interrupts_held_back

# FFmpeg's names of the container and the codec of each suffix. H.264 and VP9 play in browsers.
FORMATS = {
    ".mp4": ("mp4", "libx264"),
    ".mov": ("mov", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx-vp9"),
}
# Constant quality: colors of labels stay apart, and files small. With several threads, the files of x264 differ from
# run to run.
OPTIONS = {"libx264": {"crf": "20", "threads": "1"}, "libvpx-vp9": {"crf": "30", "b": "0"}}
PIXEL_FORMAT = "yuv420p"
MAX_TICKS = 2**62  # a time is a number of ticks of 64 bits
# Without the random numbers that Matroska and WebM give to a file.
BIT_EXACT = {"fflags": "+bitexact"}


class VideoWriter:
    """Writes pictures, one after the other; see `new_video`."""

    def __init__(
        self, container: Any, target: FileWithKeptError, codec: str, time_base: Fraction, frame_rate: Fraction
    ):
        self._container, self._target, self._codec = container, target, codec
        self._time_base, self._frame_rate = time_base, frame_rate
        self._stream: Any = None
        self._last = -1
        self._shape: tuple[int, ...] | None = None

    def add(self, picture: np.ndarray, time: float) -> None:
        """Adds a picture.

        Args:
            picture: RGB, uint8 `(H, W, 3)`, of the size of the first one. Odd sides get one more row or column,
                because colors are stored for two pixels at once.
            time: When it is shown, in seconds; later than the one before.

        Raises:
            ValueError: If the picture or the time is none, or the picture has another size than the first one.
        """
        import av

        if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3) or (
            picture.shape[2] != 3 or picture.size == 0 or picture.shape != (self._shape or picture.shape)
        ):
            found = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
            raise ValueError(
                f"A picture is {found}; expected uint8 {self._shape or '(H, W, 3)'}, of the size of the first one. "
                "Convert or resize it."
            )
        if not is_number(time) or abs(time / self._time_base) > MAX_TICKS:
            raise ValueError(f"The time of a picture is {quoted(time)}; expected a number of seconds.")
        self._shape = picture.shape
        height, width = picture.shape[:2]
        picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._container.add_stream(self._codec, rate=self._frame_rate, options=OPTIONS[self._codec])
            self._stream.height, self._stream.width = picture.shape[:2]
            self._stream.pix_fmt = PIXEL_FORMAT
            self._stream.codec_context.time_base = self._time_base
        # converted here, because the converter inside of the stream makes files that differ as well
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=PIXEL_FORMAT)
        # a damaged file can have two frames with the same time, which a video cannot
        self._last = max(self._last + 1, round(time / self._time_base))
        frame.pts, frame.time_base = self._last, self._time_base
        with interrupts_held_back():
            self._container.mux(self._stream.encode(frame))
        self._target.check()

    def finish(self) -> None:
        """Writes what the encoder still holds."""
        if self._stream is not None:
            with interrupts_held_back():
                self._container.mux(self._stream.encode())


@contextmanager
def new_video(
    path: str | os.PathLike[str], frame_rate: Fraction | None = None, time_base: Fraction | None = None
) -> Iterator[VideoWriter]:
    """Opens a new video without sound, which is renamed to `path` at the end of the `with` block.

    Args:
        path: The file; its suffix, one of `FORMATS`, determines the format.
        frame_rate: Frames per second, on average; the last picture is shown for the time of one. Default: 25.
        time_base: The unit of times, in seconds. Default: 1/90000.

    Raises:
        ValueError: If the suffix is unknown, the path cannot be written, or PyAV is missing or lacks the codec.
    """
    check_encoder(path)
    import av

    container_format, codec = FORMATS[Path(path).suffix.lower()]
    rate = Fraction(frame_rate or 25).limit_denominator(1_000_000)
    with open_atomically(path) as file:
        target = FileWithKeptError(file)
        try:
            container = av.open(target, "w", format=container_format, container_options=BIT_EXACT)
            try:
                writer = VideoWriter(container, target, codec, time_base or Fraction(1, 90_000), rate)
                yield writer
                writer.finish()
            finally:
                with interrupts_held_back():
                    container.close()  # writes, too
            target.check()
        except av.error.FFmpegError as error:
            target.check()  # a full disk, which `open_atomically` reports
            if isinstance(error, OSError):
                raise
            raise ValueError(f"{str(path)!r} cannot be encoded ({error.strerror}). Choose another suffix.") from error


def check_encoder(path: str | os.PathLike[str]) -> None:
    """Checks that a video of this name can be written.

    Raises:
        ValueError: If the suffix is unknown, or PyAV is missing or lacks the codec.
    """
    suffix = Path(checked_path(path, "The path of the video")).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{str(path)!r} ends in {suffix!r}; expected {', '.join(FORMATS)}. Choose another name.")
    require_extra("video", "av", what="Writing videos")
    import av

    try:
        av.Codec(FORMATS[suffix][1], "w")
    except ValueError as error:
        raise ValueError(
            f"{str(path)!r} needs the encoder {FORMATS[suffix][1]}, which this FFmpeg lacks. Install PyAV from PyPI "
            '(pip install "dinov3seg_hf[video]"), or choose another suffix.'
        ) from error
