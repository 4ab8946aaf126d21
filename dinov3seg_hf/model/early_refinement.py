# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Early refinement: AnyUp (arXiv 2510.12764) on the patch features, before the correlation with text.

Queries come from the image, keys from the image and the features. **The values are the features themselves, without a
projection**: every output vector is a convex combination of input vectors, so it stays in the space that is aligned
with text. The features may have any number of channels, and the output grid may be finer than theirs.

Shapes: B images, H x W pixels, h x w patches, h' x w' output cells, D channels of a feature, E channels of queries and
keys, d channels per head.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.generic import maybe_autocast

from .configuration_dinov3seg import Dinov3SegConfig
from .pooling import pool
from .unit_length import unit_length
from .windows import ceil_div, size_of

# A query at the relative position p of an axis attends to the keys between p - 0.1 and p + 0.1 of this axis.
WINDOW_RADIUS = 0.1
NUM_GROUPS = 8
MIXING_SLOPE = 10.0
KERNEL_SIZE = 5  # of the learned basis of `Dinov3SegFeatureEncoder`
# Maximum numbers of values in the temporary tensors of attention and encoders on a CPU; they limit memory, not results.
MAX_LOGITS = 2**22
MAX_RESPONSES = 2**25
MAX_BAND = 2**22
MAX_MAPS = 2**26  # of the images that are encoded at once: one of 640 x 640 pixels
# On other devices, operations on so few values take less time than their start.
ELSEWHERE = {"responses": 4, "band": 16, "maps": 4, "side of a tile": 2}
# A traced graph (`torch.compile`, `torch.export`) serves maps of any size, so its number of bands is a constant.
NUM_TRACED_BANDS = 5


class Dinov3SegPointwiseBlock(GradientCheckpointingLayer):
    """A pre-norm residual block of 1x1 convolutions."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(NUM_GROUPS, width)
        self.convolution1 = nn.Conv2d(width, width, kernel_size=1, bias=False)
        self.norm2 = nn.GroupNorm(NUM_GROUPS, width)
        self.convolution2 = nn.Conv2d(width, width, kernel_size=1, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Refines `(B, E, h, w)`; the shape does not change."""
        in_place = not torch.is_grad_enabled()  # there is a cell for each pixel, so as few maps as possible
        inner = self.convolution1(F.silu(self.norm1(hidden_states), inplace=in_place))
        return hidden_states + self.convolution2(F.silu(self.norm2(inner), inplace=in_place))


def elsewhere(limit: str, device: torch.device) -> int:
    """The factor of a limit on a device: 1 on a CPU."""
    return 1 if device.type == "cpu" else ELSEWHERE[limit]


class Dinov3SegPointwiseEncoder(nn.Module):
    """A convolution to E channels and two pointwise blocks."""

    def __init__(self, in_size: int, width: int, kernel_size: int = 1):
        super().__init__()
        self.radius = kernel_size // 2
        self.convolution = nn.Conv2d(in_size, width, kernel_size, bias=False)
        self.blocks = nn.Sequential(Dinov3SegPointwiseBlock(width), Dinov3SegPointwiseBlock(width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Encodes `(B, in, h, w)` as `(B, E, h, w)`."""
        if self.radius > 0:
            # a reflection needs more cells than the radius; smaller maps repeat their border
            mode = "reflect" if min(states.shape[-2:]) > self.radius else "replicate"
            states = F.pad(states, [self.radius] * 4, mode=mode)
        return self.blocks(self.convolution(states))


class Dinov3SegFeatureEncoder(GradientCheckpointingLayer):
    """Maps features of any number of channels to E channels: the responses of every channel to a learned basis.

    Two pointwise blocks follow.

    As published, the softmax is over E consecutive blocks of the flattened (channel, basis) axis and not over the basis
    alone. Published weights were trained with this, so it is kept.
    """

    def __init__(self, width: int):
        super().__init__()
        self.basis = nn.Parameter(torch.empty(width, 1, KERNEL_SIZE, KERNEL_SIZE))
        self.blocks = nn.Sequential(Dinov3SegPointwiseBlock(width), Dinov3SegPointwiseBlock(width))

    def forward(self, patch_features: torch.Tensor) -> torch.Tensor:
        """Maps `(B, D, h, w)` to `(B, E, h, w)`. Memory is limited by bands of rows."""
        batch_size, num_channels, height, num_columns = patch_features.shape
        width, radius = self.basis.shape[0], KERNEL_SIZE // 2
        traced = torch.compiler.is_compiling()
        sides = [radius, radius, radius, radius + NUM_TRACED_BANDS if traced else radius]
        # the number of cells of the map under the basis: fewer at the borders
        ones = F.pad(patch_features.new_ones(1, 1, height, num_columns), sides)
        num_taps = F.conv2d(ones, torch.ones_like(self.basis[:1])).clamp(min=1)
        padded = F.pad(patch_features, sides).flatten(0, 1)[:, None]  # (B D, 1, h + 2 r, w + 2 r)

        def respond(cells: torch.Tensor, num_taps: torch.Tensor) -> torch.Tensor:
            responses = F.conv2d(cells, self.basis) / num_taps
            return responses.reshape(batch_size, width, num_channels, -1, num_columns).softmax(dim=1).mean(dim=2)

        bands = []
        if traced:
            for rows in traced_bands(height, patch_features.device, margin=2 * radius):
                bands.append(respond(padded.index_select(2, rows), num_taps.index_select(2, rows[: -2 * radius])))
            return self.blocks(torch.cat(bands, dim=2)[:, :, :height])
        num_values = MAX_RESPONSES * elsewhere("responses", patch_features.device)
        band_height = max(1, num_values // (batch_size * num_channels * width * num_columns))
        for start in range(0, height, band_height):
            stop = min(start + band_height, height)
            bands.append(respond(padded[:, :, start : stop + 2 * radius], num_taps[:, :, start:stop]))
        return self.blocks(torch.cat(bands, dim=2))


def rotate_by_frequencies(states: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Rotates channels by their position (RoPE), with coordinates from 0 to 1 along each axis.

    Args:
        states: `(B, E, H, W)`; channel i is paired with channel i + E/2.
        frequencies: `(2, E)`: the angles per unit of rows and columns.

    Returns:
        `(B, E, H, W)`.
    """
    rows, columns = (
        unit_steps(size, states.device)[:, None] * frequency
        for frequency, size in zip(frequencies.float(), states.shape[-2:])
    )

    def rotated(band: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        angles = (rows[:, None] + columns).permute(2, 0, 1)  # (E, band, W), in memory like the maps
        first, second = band.chunk(2, dim=1)
        turned = torch.cat([-second, first], dim=1)
        return band * angles.cos().to(band.dtype) + turned * angles.sin().to(band.dtype)

    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return rotated(states, rows)
    band_height = max(1, MAX_BAND * elsewhere("band", states.device) // states[:, :, :1].numel())
    result = torch.empty_like(states)
    for start in range(0, len(rows), band_height):
        band = slice(start, start + band_height)
        result[:, :, band] = rotated(states[:, :, band], rows[band])
    return result


def unit_steps(size: int, device: torch.device) -> torch.Tensor:
    """Returns `size` numbers from 0 to 1."""
    if torch.compiler.is_compiling():  # the size of `linspace` is a constant of a graph
        return torch.arange(size, device=device) / (size - 1)
    return torch.linspace(0, 1, size, device=device)


def traced_bands(height: int, device: torch.device, margin: int = 0) -> tuple[torch.Tensor, ...]:
    """Cuts the rows of a map of any height into `NUM_TRACED_BANDS` bands of equal height.

    Together, the bands have up to `NUM_TRACED_BANDS` - 1 rows more than the map.

    Returns:
        The rows of every band and `margin` rows more, long.
    """
    band_height = ceil_div(height, NUM_TRACED_BANDS)
    rows = torch.arange(band_height + margin, device=device)
    return tuple(rows + band * band_height for band in range(NUM_TRACED_BANDS))


def key_bounds(num_queries: int, num_keys: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the first key and the end of the keys for every query along an axis, long `(num_queries,)`."""
    # in float32, like the published code: the bounds decide which keys are in a window
    positions = (torch.arange(num_queries, dtype=torch.float32, device=device) + 0.5) / num_queries
    first = ((positions - WINDOW_RADIUS).clamp(0, 1) * num_keys).floor().long()
    end = ((positions + WINDOW_RADIUS).clamp(0, 1) * num_keys).ceil().long()
    return first, end


def window_bounds(num_queries: int, num_keys: int) -> tuple[list[int], list[int]]:
    """Returns the bounds of `key_bounds` as plain numbers."""
    first, end = key_bounds(num_queries, num_keys, torch.device("cpu"))
    return first.tolist(), end.tolist()


def plan_tiles(num_queries: int, num_keys: int, tile_size: int) -> list[tuple[slice, slice, torch.Tensor]]:
    """Cuts an axis into tiles of queries.

    Returns:
        For every tile: its queries, the keys in the window of any of them, and a mask `(queries, keys)` of the keys
        outside a query's own window.
    """
    first, end = window_bounds(num_queries, num_keys)
    tiles = []
    for start in range(0, num_queries, tile_size):
        stop = min(start + tile_size, num_queries)
        keys = torch.arange(first[start], end[stop - 1])
        outside = torch.stack([(keys < first[query]) | (keys >= end[query]) for query in range(start, stop)])
        tiles.append((slice(start, stop), slice(first[start], end[stop - 1]), outside))
    return tiles


def window_attention(
    query: torch.Tensor, key: torch.Tensor, values: torch.Tensor, num_attention_heads: int
) -> torch.Tensor:
    """Attention in windows of +-10 % of each side, with weights averaged over heads and values without a projection.

    Tiles of queries are computed one after the other, each with the keys in its windows. Time is linear in the number
    of queries times the size of a window, and no tensor has an entry for every pair of query and key.

    Args:
        query: `(B, E, h', w')`.
        key: `(B, E, h, w)`.
        values: `(B, D, h, w)`.
        num_attention_heads: Number of heads; divides E.

    Returns:
        `(B, D, h', w')`.
    """
    batch_size, width, *size = query.shape
    query = query.unflatten(1, (num_attention_heads, -1)) * (width // num_attention_heads) ** -0.5
    key = key.unflatten(1, (num_attention_heads, -1))  # (B, heads, d, h, w)
    if torch.compiler.is_compiling():
        return traced_window_attention(query, key, values)
    if batch_size * num_attention_heads * math.prod(size) * math.prod(key.shape[-2:]) <= MAX_LOGITS:
        tile_sizes = size  # a single tile: for small maps, many operations cost more than masked pairs
    else:
        radius = WINDOW_RADIUS * elsewhere("side of a tile", query.device)
        tile_sizes = [max(1, round(length * radius)) for length in size]
    row_tiles, column_tiles = (
        plan_tiles(num_queries, num_keys, tile_size)
        for num_queries, num_keys, tile_size in zip(size, key.shape[-2:], tile_sizes)
    )
    bands = []
    for rows, key_rows, outside_rows in row_tiles:
        tiles = []
        for columns, key_columns, outside_columns in column_tiles:
            tiles.append(
                attend(
                    query[..., rows, columns],
                    key[..., key_rows, key_columns],
                    values[..., key_rows, key_columns],
                    outside_rows.to(query.device),
                    outside_columns.to(query.device),
                )
            )
        bands.append(torch.cat(tiles, dim=3))
    return torch.cat(bands, dim=2)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    values: torch.Tensor,
    outside_rows: torch.Tensor,
    outside_columns: torch.Tensor,
) -> torch.Tensor:
    """Attention of a tile of queries, with weights averaged over heads.

    Args:
        query: `(B, heads, d, rows, columns)`, scaled.
        key: `(B, heads, d, key rows, key columns)`.
        values: `(B, D, key rows, key columns)`.
        outside_rows: bool `(rows, key rows)`: the keys outside a query's window.
        outside_columns: bool `(columns, key columns)`.

    Returns:
        `(B, D, rows, columns)`.
    """
    outside = outside_rows[:, None, :, None] | outside_columns[None, :, None, :]
    outside = outside.flatten(2, 3).flatten(0, 1)  # (queries, keys)
    logits = query.flatten(3).transpose(2, 3) @ key.flatten(3)  # (B, heads, queries, keys)
    weights = logits.masked_fill(outside, float("-inf")).softmax(dim=-1, dtype=torch.float32).mean(dim=1)
    average = values.flatten(2) @ weights.transpose(1, 2).to(values.dtype)  # (B, D, queries)
    return average.unflatten(2, query.shape[-2:])


def traced_window_attention(query: torch.Tensor, key: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """`window_attention` in a constant number of operations, for maps of any size.

    A tile is a band of query rows with the key rows in its windows and all columns: 2 of 5 pairs of query and key.

    Args:
        query: `(B, heads, d, h', w')`, scaled.
        key: `(B, heads, d, h, w)`.
        values: `(B, D, h, w)`.

    Returns:
        `(B, D, h', w')`.
    """
    (height, num_columns), (num_key_rows, num_key_columns) = query.shape[-2:], key.shape[-2:]
    first, end = (bound[:, None] for bound in key_bounds(num_columns, num_key_columns, query.device))
    key_columns = torch.arange(num_key_columns, device=query.device)
    outside_columns = (key_columns < first) | (key_columns >= end)
    first, end = key_bounds(height, num_key_rows, query.device)
    # the rows of a window, a fifth of all, and those of a band; five more, because all bounds are rounded
    reach = torch.arange(num_key_rows // 5 + num_key_rows // NUM_TRACED_BANDS + 5, device=query.device)
    bands = []
    for rows in traced_bands(height, query.device):
        rows = rows.clamp(max=height - 1)
        key_rows = first.index_select(0, rows[:1]) + reach
        outside_rows = key_rows < first.index_select(0, rows)[:, None]
        outside_rows = outside_rows | (key_rows >= end.index_select(0, rows)[:, None])
        key_rows = key_rows.clamp(max=num_key_rows - 1)
        band_key, band_values = key.index_select(3, key_rows), values.index_select(2, key_rows)
        bands.append(attend(query.index_select(3, rows), band_key, band_values, outside_rows, outside_columns))
    return torch.cat(bands, dim=2)[:, :, :height]


class Dinov3SegEarlyRefinement(nn.Module):
    """AnyUp, mixed with the features that it refines.

    Args:
        config: Contains the width `early_hidden_size` (128 in published weights), `early_num_attention_heads` (4) and
            `early_refinement_scale`.
    """

    def __init__(self, config: Dinov3SegConfig):
        super().__init__()
        width = config.early_hidden_size
        self.scale = config.early_refinement_scale
        self.patch_size = config.vision_config.patch_size
        self.num_attention_heads = config.early_num_attention_heads
        self.image_encoder = Dinov3SegPointwiseEncoder(config.vision_config.num_channels, width)
        self.query_encoder = Dinov3SegPointwiseEncoder(width, width)
        self.key_encoder = Dinov3SegPointwiseEncoder(width, width)
        self.feature_encoder = Dinov3SegFeatureEncoder(width)
        self.aggregation = Dinov3SegPointwiseEncoder(2 * width, width, kernel_size=3)
        self.query_convolution = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.query_norm, self.key_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.frequencies = nn.Parameter(torch.empty(2, width))
        # Decides the share of the refined features in the result: 1 for published weights, near 0 before training.
        self.mixing_weight = nn.Parameter(torch.empty(1))

    def share(self) -> torch.Tensor:
        """Returns the share of the refined features, between 0 and 1.

        A sigmoid, because at a share of 0 the attention would get no gradient and stay as it is. The factor lets an
        optimizer with steps of the learning rate, such as Adam, cross the range within some hundred steps.
        """
        return torch.sigmoid(MIXING_SLOPE * self.mixing_weight)

    def forward(
        self, patch_features: torch.Tensor, pixel_values: torch.Tensor, output_size: tuple[int, int] | None = None
    ) -> torch.Tensor:
        """Refines patch features with an image.

        Args:
            patch_features: `(B, D, h, w)`, any D.
            pixel_values: `(B, 3, H, W)`, normalized with the ImageNet mean, of the dtype of the weights.
            output_size: `(h', w')`. Default: `early_refinement_scale` times the size of the features.

        Returns:
            `(B, D, h', w')`: convex combinations of the features in a window around each output cell.
        """
        size = size_of(patch_features)
        if output_size is None:
            output_size = (size[0] * self.scale, size[1] * self.scale)
        share = self.share().to(patch_features.dtype)
        refined = window_attention(
            *self.project(patch_features, pixel_values, output_size), patch_features, self.num_attention_heads
        )
        plain = patch_features
        if tuple(output_size) != size:
            plain = F.interpolate(patch_features, size=output_size, mode="bilinear", align_corners=False)
        return share * refined + (1 - share) * plain

    def project(
        self, patch_features: torch.Tensor, pixel_values: torch.Tensor, output_size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes queries `(B, E, h', w')` and keys `(B, E, h, w)`."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._project(patch_features, pixel_values, output_size)
        # On a CPU, the channels of a pixel are side by side: a 1x1 convolution is then a product of matrices, and
        # nothing is copied. Elsewhere, the group norm of torch returns maps of the usual order, so all have it.
        on_cpu = pixel_values.device.type == "cpu"
        order = torch.channels_last if on_cpu else torch.contiguous_format
        pixel_values = pixel_values.contiguous(memory_format=order)
        num_values = pixel_values[0, 0].numel() * len(self.frequencies[0])
        few = max(1, MAX_MAPS * elsewhere("maps", pixel_values.device) // num_values)
        parts = [
            self._project(*images, output_size) for images in zip(patch_features.split(few), pixel_values.split(few))
        ]
        query, key = (torch.cat(maps) for maps in zip(*parts))
        return query, key

    def _project(
        self, patch_features: torch.Tensor, pixel_values: torch.Tensor, output_size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        image = rotate_by_frequencies(self.image_encoder(pixel_values), self.frequencies)
        query = pool(self.query_encoder(image), output_size, self.patch_size // self.scale)
        query = normalize(self.query_norm, self.query_convolution(query).permute(0, 2, 3, 1))
        key = pool(self.key_encoder(image), size_of(patch_features), self.patch_size)
        key = torch.cat([key, self.feature_encoder(unit_length(patch_features, dim=1))], dim=1)
        key = normalize(self.key_norm, self.aggregation(key).permute(0, 2, 3, 1))
        return self.query(query).permute(0, 3, 1, 2), self.key(key).permute(0, 3, 1, 2)


def normalize(norm: nn.RMSNorm, states: torch.Tensor) -> torch.Tensor:
    """Normalizes `(..., E)` in the dtype of the weights; under autocast, inputs of another dtype are slow."""
    with maybe_autocast(states.device.type, enabled=False):
        return norm(states.to(norm.weight.dtype))


def initial_mixing_weight(share: float) -> float:
    """Returns the mixing weight of a share between 0 and 1."""
    return math.log(share / (1 - share)) / MIXING_SLOPE


def initial_frequencies(width: int) -> torch.Tensor:
    """Returns the `(2, width)` frequencies before training: a quarter of the channels for each axis, then repeated.

    The periods go from one side to a hundred sides. Paired channels of `rotate_by_frequencies` have different
    frequencies then, as in the published initialization.
    """
    powers = 100 ** torch.linspace(0, -1, width // 4)
    frequencies = torch.zeros(2, width)
    frequencies[0, : width // 2] = frequencies[1, width // 2 :] = powers.repeat(2)
    return 2 * math.pi * frequencies
