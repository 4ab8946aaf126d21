# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""An exponential moving average of score maps over time: less flicker, at the price of a lag.

It is no tracking: a pixel is averaged with what was at the same place before.
"""

import math
from dataclasses import replace

import torch

from ..model.checks import is_number, quoted
from ..model.labeling import ScoreMaps


class MovingAverage:
    """Averages the score maps of frames: logits, cosine similarities or probabilities, whatever the head gives.

    The weight of the past is exp(-t / seconds), where t is the time since the frame before, so the average does not
    depend on how many frames there are in a second, also if their distances vary.

    Args:
        seconds: The time in which the weight of a frame falls to 37 %. 0: no average.

    Raises:
        ValueError: If the time is negative or not finite.
    """

    def __init__(self, seconds: float):
        if not is_number(seconds, 0):
            raise ValueError(f"smoothing is {quoted(seconds)}; expected a time in seconds of at least 0.")
        self._seconds = seconds
        self._average: torch.Tensor | None = None
        self._time = 0.0

    def update(self, maps: ScoreMaps, time: float) -> ScoreMaps:
        """Returns the average up to a frame.

        Args:
            maps: The maps of the frame, of the same size as those before.
            time: The time of the frame in seconds.
        """
        if self._seconds == 0:
            return maps
        average = maps.maps
        if self._average is not None:
            past = math.exp(-max(time - self._time, 0.0) / self._seconds)
            average = torch.lerp(maps.maps, self._average, past)
        self._average, self._time = average, time
        return replace(maps, maps=average)
