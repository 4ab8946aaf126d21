# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Decodes the frames of a video, one after the other, upright and with their times, with PyAV (FFmpeg).

Times come from the file, so a variable frame rate is no special case. Phones store what the sensor saw, and a matrix
that says how to turn it; it is applied.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import require_extra
from ..model.checks import checked_integer, checked_path
from ..model.image_input import MAX_IMAGE_PIXELS

# Formats of FFmpeg that lead to no other file and no address, by their names there. Playlists (concat, HLS, DASH) do,
# whatever the ending of the file is: a video of a stranger would show other videos of the machine.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,asf,flv,gif,apng,ogg,mxf,nut,ivf,dv,wtv,rm,"
    "m4v,h261,h263,h264,hevc,vvc,obu,mjpeg,yuv4mpegpipe"
)


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a video.

    Attributes:
        number: The number of the frame in the video, from 0.
        time: Seconds since the first frame.
        pixels: The upright frame, RGB, uint8 `(H, W, 3)`.
    """

    number: int
    time: float
    pixels: np.ndarray


class Video:
    """An open video; see `open_video`.

    Attributes:
        num_frames: The number of frames, if the file says it or its duration; an estimate.
        frame_rate: Frames per second, on average; `None`: unknown.
        time_base: The unit of times in the file, in seconds.
    """

    def __init__(self, container: Any, path: Path):
        self._container, self._path = container, path
        self._stream = container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.frame_rate: Fraction | None = self._stream.average_rate or self._stream.guessed_rate
        self.time_base: Fraction = self._stream.time_base or Fraction(1, 90_000)
        self.num_frames: int | None = self._stream.frames or None
        if self.num_frames is None and container.duration and self.frame_rate:
            self.num_frames = round(container.duration * self.frame_rate / 1_000_000)  # in microseconds

    def frames(self, every: int = 1) -> Iterator[Frame]:
        """Yields every n-th frame, from the first one, in the order in which they are shown; can be called once.

        Args:
            every: The n. All frames are decoded, because most depend on others.

        Raises:
            ValueError: If a frame cannot be decoded, or has another size than the first one.
        """
        import av

        checked_integer(every, "every", least=1)
        first, size, number = None, (0, 0), -1
        try:
            for number, decoded in enumerate(self._container.decode(self._stream)):
                if number == 0:
                    first, size = decoded.pts, (decoded.height, decoded.width)
                if size != (decoded.height, decoded.width):
                    raise ValueError(
                        f"Frame {number + 1} of {str(self._path)!r} is {decoded.height} x {decoded.width} and the "
                        f"first one {size[0]} x {size[1]} (height x width); expected one size. Cut the video there."
                    )
                if number % every:
                    continue
                if decoded.pts is None or first is None:  # raw streams have no times
                    time = number / float(self.frame_rate or 25)
                else:
                    time = float((decoded.pts - first) * (decoded.time_base or self.time_base))
                yield Frame(number, time, _upright(decoded, self._path))
        except av.error.FFmpegError as error:
            raise ValueError(
                f"The video {str(self._path)!r} cannot be decoded after {number + 1} frames ({error.strerror}). It may "
                "be truncated or damaged."
            ) from error
        if number < 0:
            raise ValueError(f"The video {str(self._path)!r} has no frames. Check the file.")


@contextmanager
def open_video(path: str | os.PathLike[str]) -> Iterator[Video]:
    """Opens a video file; reads its first video stream, and neither sound nor subtitles.

    Raises:
        ValueError: If the file does not exist, is no video or damaged, has no video stream, or PyAV is missing (the
            message names the extra).
    """
    require_extra("video", "av", what="Reading videos")
    import av

    path = Path(checked_path(path, "The video"))
    if not path.is_file():
        raise ValueError(f"The video {str(path)!r} was not found (current directory: {os.getcwd()!r}). Check the path.")
    try:
        # absolute, because FFmpeg takes a name such as "concat:a.mp4" for a protocol; some titles are not UTF-8
        container = av.open(os.path.abspath(path), metadata_errors="replace", options={"format_whitelist": CONTAINERS})
    except av.error.ArgumentError as error:
        raise ValueError(
            f"The video {str(path)!r} has a format that is not read, because it could lead to other files. Convert it, "
            "for example to MP4."
        ) from error
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(
            f"The video {str(path)!r} cannot be read ({error.strerror}). It may be truncated or damaged, or no video."
        ) from error
    with container:
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
            raise ValueError(f"{str(path)!r} has no video stream (its streams: {kinds}). Check the file.")
        if container.streams.video[0].codec_context is None:
            raise ValueError(f"The codec of the video {str(path)!r} is unknown. Convert it, for example to H.264.")
        height, width = (getattr(container.streams.video[0], side) for side in ("height", "width"))
        if height * width > MAX_IMAGE_PIXELS:
            raise ValueError(
                f"The frames of the video {str(path)!r} are {height} x {width} (height x width); expected at most "
                f"{MAX_IMAGE_PIXELS:,} pixels. Shrink the video first."
            )
        yield Video(container, path)


def _upright(frame: Any, path: Path) -> np.ndarray:
    """Returns a decoded frame as RGB, turned and mirrored as its display matrix says.

    The matrix maps a pixel of the stored frame to x' = a x + c y + ..., y' = b x + d y + ... (libavutil/display.h).
    """
    pixels = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if b == c == 0 and a and d:
        horizontal, vertical = a, d
    elif a == d == 0 and b and c:
        pixels, horizontal, vertical = pixels.transpose(1, 0, 2), c, b
    else:
        raise ValueError(
            f"The video {str(path)!r} is to be shown turned by {frame.rotation} degrees; expected a multiple of 90. "
            "Convert it to an upright video."
        )
    return np.ascontiguousarray(pixels[:: 1 if vertical > 0 else -1, :: 1 if horizontal > 0 else -1])
