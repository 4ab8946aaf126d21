# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Writes clips for tests, without loss, with PyAV."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TIME_BASE = Fraction(1, 600)


def write_clip(
    path: Path,
    frames: Sequence[np.ndarray],
    times: Sequence[int] | None = None,
    rotation: tuple[int, bool, bool] = (0, False, False),
) -> None:
    """Writes a .mov file of RGB frames, uint8 `(H, W, 3)`.

    Args:
        path: The file.
        frames: The frames as they are stored.
        times: When they are shown, in units of 1/600 s. Default: 25 frames per second.
        rotation: How they are to be shown: turned by degrees against the clock, then mirrored left to right, and
            upside down.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("qtrle", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24"
        stream.codec_context.time_base = TIME_BASE
        if rotation != (0, False, False):
            stream.set_display_rotation(*rotation)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = 24 * number if times is None else times[number], TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def read_clip(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """Returns the frames of a video, and their times in seconds."""
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
        return [frame.to_ndarray(format="rgb24") for frame in decoded], [frame.time for frame in decoded]
