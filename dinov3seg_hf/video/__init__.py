# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Segments videos frame by frame, in memory for a few frames. Needs the extra `video`.

`reading` decodes upright frames, `smoothing` averages score maps over time, `segmentation` puts them together,
`writing` encodes pictures. This package is allowed to import `model`.
"""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .reading import Frame, Video, open_video
    from .segmentation import SegmentedFrame, segment_video
    from .writing import new_video
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".reading": ("Frame", "Video", "open_video"),
            ".segmentation": ("SegmentedFrame", "segment_video"),
            ".writing": ("new_video",),
        },
    )

__all__ = ["Frame", "SegmentedFrame", "Video", "new_video", "open_video", "segment_video"]
