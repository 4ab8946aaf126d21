# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Sliding windows: plans their boxes, cuts them out of images, and merges their maps.

Computes only geometry, on integers and tensors; does not depend on the model or on image files. `merge_windows` merges
feature maps (local-global inference of the paper) and probabilities (sliding-window inference of dino.txt). A box is
`(top, left, height, width)` in pixels. Sizes are always `(height, width)`.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

Box = tuple[int, int, int, int]


def plan_windows(
    image_size: tuple[int, int], window_size: int | tuple[int, int], stride: int | tuple[int, int]
) -> list[Box]:
    """Places windows of equal size on an image so that every pixel is in at least one window.

    The windows step by `stride` from the top left corner. The last window of an axis ends at the border. An axis that
    is shorter than the window gets one window of the length of the axis.

    Args:
        image_size: (height, width) in pixels, each at least 1.
        window_size: Side of a window in pixels, or (height, width).
        stride: Step between neighboring windows in pixels, or (vertical, horizontal).

    Returns:
        Boxes (top, left, height, width) in pixels, row by row; all have the same height and width.

    Raises:
        ValueError: If a size is not a positive integer, or a stride is larger than its window (pixels would be missed).
    """
    image_height, image_width = _pair(image_size, "image_size")
    window_height, window_width = _pair(window_size, "window_size")
    vertical, horizontal = _pair(stride, "stride")
    if vertical > window_height or horizontal > window_width:
        raise ValueError(
            f"The stride {(vertical, horizontal)} is larger than the window {(window_height, window_width)} and would "
            "leave pixels uncovered. Choose a stride that is not larger than the window."
        )
    height, width = min(window_height, image_height), min(window_width, image_width)
    return [
        (top, left, height, width)
        for top in _starts(image_height, height, vertical)
        for left in _starts(image_width, width, horizontal)
    ]


def size_of(maps: torch.Tensor) -> tuple[int, int]:
    """Returns the (height, width) of images or maps `(..., H, W)`."""
    height, width = maps.shape[-2:]
    return height, width


def ceil_div(number: int, divisor: int) -> int:
    """Returns number / divisor rounded up, also of a size in a traced graph.

    Not as -(-number // divisor), because ONNX rounds quotients of negative integers towards zero.
    """
    return (number + divisor - 1) // divisor


def cut_windows(image: torch.Tensor, boxes: torch.Tensor | Sequence[Sequence[int]]) -> torch.Tensor:
    """Cuts windows out of images.

    Args:
        image: One image `(C, H, W)` or a batch of images `(B, C, H, W)`.
        boxes: N boxes of equal height and width within the image, `(N, 4)` or a list; see `plan_windows`.

    Returns:
        `(N, C, height, width)` or `(B, N, C, height, width)`.

    Raises:
        ValueError: If the boxes differ in size or extend beyond the image.
    """
    places = as_boxes(boxes, size_of(image))
    if len({place[2:] for place in places}) > 1:
        raise ValueError(f"The boxes are {places}; expected boxes of the same size. Plan boxes with `plan_windows`.")
    return torch.stack(
        [image[..., top : top + height, left : left + width] for top, left, height, width in places], dim=-4
    )


def merge_windows(
    windows: torch.Tensor,
    boxes: torch.Tensor | Sequence[Sequence[int]],
    output_size: tuple[int, int],
    source_size: tuple[int, int],
) -> torch.Tensor:
    """Merges the maps of windows into one map, averaged where windows overlap.

    The output is a grid of cells over the source image. The value of a cell is the mean over all windows that contain
    the center of the cell, each sampled bilinearly at this center. If the grid of a window matches the output grid
    (boxes that are multiples of the patch size), the sampling is the identity. If the output is the image itself, the
    sampling is the usual bilinear resize of each window to its box.

    Args:
        windows: `(B, N, C, h, w)`: features or probabilities of N windows, at any resolution.
        boxes: `(N, 4)` long tensor or list: (top, left, height, width) in pixels of the source image. Pass a tensor
            under `torch.compile`: the numbers of a list would be constants of the graph.
        output_size: (height, width) of the result in cells.
        source_size: (height, width) in pixels of the image that the boxes refer to.

    Returns:
        `(B, C, *output_size)` in the dtype of the windows (the sums are in at least float32).

    Raises:
        ValueError: If shapes do not match, a box extends beyond the source image, or the boxes do not cover the source
            image.
    """
    if isinstance(boxes, torch.Tensor) and torch.compiler.is_compiling():
        return _merge_by_matrices(windows, boxes, output_size, source_size)
    source_height, source_width = source_size = _pair(source_size, "source_size")
    output_height, output_width = output_size = _pair(output_size, "output_size")
    places = as_boxes(boxes, source_size)
    if windows.ndim != 5 or windows.shape[1] != len(places):
        raise ValueError(
            f"windows has shape {tuple(windows.shape)}; expected (B, {len(places)}, C, h, w) for {len(places)} boxes. "
            "Pass one box for each window."
        )
    if not _cover(places, source_size):
        raise ValueError(
            f"The boxes {places} leave parts of the {source_height} x {source_width} image uncovered. Plan boxes with "
            "`plan_windows`."
        )

    # sums are in at least float32, because bfloat16 does not represent the sum of three equal numbers exactly
    dtype = torch.promote_types(windows.dtype, torch.float32)
    total = torch.zeros(windows.shape[0], windows.shape[2], *output_size, dtype=dtype, device=windows.device)
    count = torch.zeros(output_size, dtype=dtype, device=windows.device)
    for window, (top, left, height, width) in zip(windows.unbind(1), places):  # (B, C, h, w)
        rows = _cells_within(top, height, output_height, source_height)
        columns = _cells_within(left, width, output_width, source_width)
        window = window.to(dtype)
        if all(edge * output_height % source_height == 0 for edge in (top, height)) and all(
            edge * output_width % source_width == 0 for edge in (left, width)
        ):
            size = (rows.stop - rows.start, columns.stop - columns.start)
            if window.shape[-2:] != size:  # the same sampling, in one fused kernel
                window = F.interpolate(window, size=size, mode="bilinear", align_corners=False)
        else:
            window = _sample(window, -1, columns, left, width, output_width, source_width)
            window = _sample(window, -2, rows, top, height, output_height, source_height)
        total[..., rows, columns] += window
        count[rows, columns] += 1
    return (total / count).to(windows.dtype)  # (B, C, H, W)


def _merge_by_matrices(
    windows: torch.Tensor, boxes: torch.Tensor, output_size: tuple[int, int], source_size: tuple[int, int]
) -> torch.Tensor:
    """`merge_windows` in a traced graph, for any boxes: the sampling of an axis is a matrix of each window.

    The values of the boxes are not checked, because they are unknown while a graph is traced.
    """
    dtype = torch.promote_types(windows.dtype, torch.float32)
    matrices, inside = [], []
    for axis in (0, 1):
        num_cells, num_pixels, size = output_size[axis], source_size[axis], windows.shape[3 + axis]
        start, length = boxes[:, axis, None], boxes[:, 2 + axis, None]  # (N, 1)
        # like `_cells_within` and `_sample`: the centers of the cells from the start of the window, in integers
        center = (2 * torch.arange(num_cells, device=boxes.device) + 1) * num_pixels - 2 * num_cells * start
        denominator = 2 * num_cells * length
        covered = ((center >= 0) & (center < denominator)).to(dtype)  # (N, cells)
        position = torch.minimum((center * size - num_cells * length).clamp(min=0), (size - 1) * denominator)
        lower = position // denominator
        weight = ((position - lower * denominator).to(dtype) / denominator)[..., None]
        distance = torch.arange(size, device=boxes.device) - lower[..., None]  # (N, cells, size)
        matrix = torch.where(distance == 0, 1 - weight, torch.where(distance == 1, weight, torch.zeros_like(weight)))
        matrices.append(matrix * covered[..., None])
        inside.append(covered)
    columns = torch.einsum("bnchw,njw->bnchj", windows.to(dtype), matrices[1])
    total = torch.einsum("bnchj,nih->bcij", columns, matrices[0])
    return (total / torch.einsum("ni,nj->ij", *inside)).to(windows.dtype)


def average_views(context: torch.Tensor | None, own: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
    """Averages the features of the global view with local features.

    Args:
        context: Features of a view of more than the image, at the place of the image: the global view, if given.
        own: Features of the image, which is the global view otherwise.
        local: Features of the windows of the image; all `(B, D, h, w)`.

    Raises:
        ValueError: If the context has another shape.
    """
    if context is not None and context.shape != own.shape:
        raise ValueError(
            f"context_features has shape {tuple(context.shape)}; expected that of the patch features, "
            f"{tuple(own.shape)}."
        )
    return ((own if context is None else context) + local) / 2


def sample_region(
    features: torch.Tensor, box: Box, source_size: tuple[int, int], output_size: tuple[int, int]
) -> torch.Tensor:
    """Samples the features of a region of an image bilinearly.

    Args:
        features: `(B, D, h, w)`, a grid of cells over the whole image.
        box: The region, (top, left, height, width) in pixels of the image.
        source_size: (height, width) of the image in pixels.
        output_size: (height, width) of the result in cells.

    Returns:
        `(B, D, *output_size)`. If the region is the image and the sizes are equal, the features themselves.
    """
    top, left, height, width = box
    for dim, start, length in ((-2, top, height), (-1, left, width)):
        size, num_pixels = features.shape[dim], source_size[dim]
        cells = torch.arange(output_size[dim], device=features.device, dtype=torch.float64)
        position = (start + (cells + 0.5) * length / output_size[dim]) * size / num_pixels - 0.5
        position = position.clamp(0, size - 1)
        lower = position.floor().long()
        weight = (position - lower).to(features.dtype)
        weight = weight if dim == -1 else weight[:, None]
        upper = (lower + 1).clamp(max=size - 1)
        features = torch.lerp(features.index_select(dim, lower), features.index_select(dim, upper), weight)
    return features


def _cells_within(start: int, length: int, num_cells: int, num_pixels: int) -> slice:
    """Returns the output cells whose centers are in [start, start + length) pixels.

    The center of cell i is at (2i + 1) * num_pixels / (2 * num_cells) pixels. The computation uses only integers, so
    rounding cannot lose a cell between two windows.
    """
    first, last = (-((num_pixels - 2 * edge * num_cells) // (2 * num_pixels)) for edge in (start, start + length))
    return slice(first, last)


def _sample(
    window: torch.Tensor, dim: int, cells: slice, start: int, length: int, num_cells: int, num_pixels: int
) -> torch.Tensor:
    """Samples one axis of a window, which spans [start, start + length) pixels, linearly at the centers of `cells`."""
    size = window.shape[dim]
    denominator = 2 * num_cells * length
    # position of the centers in cells of the window, times the denominator; border cells are extended outwards
    position = (2 * torch.arange(cells.start, cells.stop, device=window.device) + 1) * num_pixels
    position = (position - 2 * num_cells * start) * size - num_cells * length
    position = position.clamp(0, (size - 1) * denominator)
    lower = position // denominator
    upper = (lower + 1).clamp(max=size - 1)
    weight = (position % denominator).to(window.dtype) / denominator
    weight = weight if dim == -1 else weight[:, None]
    return torch.lerp(window.index_select(dim, lower), window.index_select(dim, upper), weight)


def _starts(axis: int, window: int, stride: int) -> list[int]:
    num_steps = -(-(axis - window) // stride)
    return [min(step * stride, axis - window) for step in range(num_steps + 1)]


def _cover(boxes: list[Box], size: tuple[int, int]) -> bool:
    height, width = size
    edges = {0} | {top for top, _, _, _ in boxes} | {top + tall for top, _, tall, _ in boxes}
    for row in sorted(edges):
        if row >= height:
            continue
        reached = 0
        for left, wide in sorted((left, wide) for top, left, tall, wide in boxes if top <= row < top + tall):
            if left > reached:
                return False
            reached = max(reached, left + wide)
        if reached < width:
            return False
    return True


def as_boxes(boxes: torch.Tensor | Sequence[Sequence[int]], size: tuple[int, int]) -> list[Box]:
    """Returns boxes as a list of integers.

    Args:
        boxes: `(N, 4)` long tensor or list: (top, left, height, width) in pixels.
        size: (height, width) of the image in pixels.

    Raises:
        ValueError: If there are no boxes, they have another shape or no integers, or a box extends beyond the image.
    """
    rows = boxes.tolist() if isinstance(boxes, torch.Tensor) else boxes
    is_list = isinstance(rows, (list, tuple)) and len(rows) > 0
    if not is_list or any(not isinstance(row, (list, tuple)) or len(row) != 4 for row in rows):
        raise ValueError(
            "boxes has the wrong shape; expected (N, 4) with N >= 1, each (top, left, height, width) in pixels."
        )
    if any(not isinstance(side, int) or isinstance(side, bool) for row in rows for side in row):
        raise ValueError("boxes contains other values than integers; expected whole pixels. Round the boxes.")
    checked: list[Box] = [(top, left, height, width) for top, left, height, width in rows]
    for top, left, height, width in checked:
        inside = 0 <= top < top + height <= size[0] and 0 <= left < left + width <= size[1]
        if not inside:
            raise ValueError(
                f"The box (top, left, height, width) is {(top, left, height, width)}; expected a box inside the image "
                f"of {size[0]} x {size[1]} pixels. Plan boxes for this size with `plan_windows`."
            )
    return checked


def _pair(size: int | Sequence[int], name: str) -> tuple[int, int]:
    pair = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(pair) != 2 or any(not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in pair):
        raise ValueError(
            f"{name} is {size!r}; expected a positive integer or a pair (height, width) of positive integers."
        )
    height, width = pair
    return height, width
