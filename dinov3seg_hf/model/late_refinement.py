# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Late refinement: attention of the embedded correlations over the image, then over the classes.

The guidance is joined to queries and keys only. The projection of a concatenation, `W [x; g]`, is computed as
`W_x x + W_g g`. The guidance of an image is the same for all its classes, and the guidance of a class is the same for
all positions, so `W_g g` is computed only once.

Shapes: B images, C classes, N maps or positions, h x w patches, E channels of a correlation, G channels of the
guidance, L tokens of an attention, d channels per head.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .chunking import map_chunks
from .configuration_dinov3seg import Dinov3SegConfig
from .window_attention import attend_in_padded_windows, attend_in_windows

# The biases of a forward pass, by layer and by the rows and columns of a window.
WindowBiases = dict[tuple[nn.Module, int, int], torch.Tensor]


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the attention explicitly, with the interface of transformers.

    Query, key and value are `(N, heads, L, d)`; the result is `(N, L, heads, d)`.
    """
    weights = query @ key.transpose(-1, -2) * scaling  # (N, heads, L, L)
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(dim=-1)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class Dinov3SegGuidedAttention(nn.Module):
    """Multi-head attention over the second-to-last axis, with guidance in the queries and keys."""

    def __init__(self, config: Dinov3SegConfig):
        super().__init__()
        self.config = config
        self.is_causal = False
        width = config.correlation_hidden_size
        self.head_size = width // config.late_num_attention_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        if config.use_guidance:
            self.guidance_query = nn.Linear(config.guidance_hidden_size, width, bias=False)
            self.guidance_key = nn.Linear(config.guidance_hidden_size, width, bias=False)

    def project(
        self, hidden_states: torch.Tensor, guidance: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Computes queries, keys and values; `guidance` (..., G) must be broadcastable to `hidden_states` (..., E)."""
        query, key = self.query(hidden_states), self.key(hidden_states)
        if guidance is not None:
            query, key = query + self.guidance_query(guidance), key + self.guidance_key(guidance)
        return query, key, self.value(hidden_states)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Computes the attention.

        Args:
            query: `(N, heads, L, d)`.
            key: `(N, heads, L, d)`.
            value: `(N, heads, L, d)`.
            bias: Broadcastable to `(N, heads, L, L)`. Optional.

        Returns:
            `(N, L, heads, d)`.
        """
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, _ = attention_interface(self, query, key, value, bias, scaling=self.head_size**-0.5, dropout=0.0)
        return attended


class Dinov3SegFeedForward(nn.Module):
    def __init__(self, config: Dinov3SegConfig):
        super().__init__()
        width = config.correlation_hidden_size
        inner = int(width * config.late_mlp_ratio)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(hidden_states)))


class Dinov3SegSpatialLayer(GradientCheckpointingLayer):
    """A Swin layer over the positions of each class map, with plain or shifted windows."""

    def __init__(self, config: Dinov3SegConfig, shifted: bool):
        super().__init__()
        self.window_size = config.late_window_size
        self.shifted = shifted
        self.num_attention_heads = config.late_num_attention_heads
        self.norm1 = nn.LayerNorm(config.correlation_hidden_size)
        self.attention = Dinov3SegGuidedAttention(config)
        self.norm2 = nn.LayerNorm(config.correlation_hidden_size)
        self.mlp = Dinov3SegFeedForward(config)
        # One bias per relative position in a window and per head (Swin, arXiv 2103.14030).
        self.relative_bias = nn.Parameter(torch.empty((2 * self.window_size - 1) ** 2, self.num_attention_heads))

    def position_bias(self, rows: int, columns: int) -> torch.Tensor:
        """Returns the bias `(heads, L, L)` for the L = rows * columns positions of a window."""
        size, device = self.window_size, self.relative_bias.device
        row, column = torch.arange(rows, device=device), torch.arange(columns, device=device)
        row = row[:, None] - row[None, :] + size - 1  # (rows, rows), of 0 to 2 size - 2
        column = column[:, None] - column[None, :] + size - 1
        table = row[:, None, :, None] * (2 * size - 1) + column[None, :, None, :]  # (row, column, row', column')
        return self.relative_bias[table.reshape(rows * columns, rows * columns)].permute(2, 0, 1)

    def attend(
        self, hidden_states: torch.Tensor, guidance: torch.Tensor | None, known_biases: WindowBiases | None = None
    ) -> torch.Tensor:
        """Applies windowed attention to maps `(..., h, w, E)`; the shape does not change.

        The guidance `(..., h, w, G)` must be broadcastable to the maps.
        """

        size = self.window_size

        def known_bias(rows: int, columns: int) -> torch.Tensor:
            assert known_biases is not None
            key = self, rows, columns
            if key not in known_biases:
                if rows == columns == size:
                    known_biases[key] = self.position_bias(size, size)
                else:  # a corner of the bias of a whole window: one copy in place of eleven operations
                    whole = known_bias(size, size).view(-1, *[size] * 4)  # (heads, row, column, row', column')
                    bias = whole[:, :rows, :columns, :rows, :columns].reshape(len(whole), rows * columns, -1)
                    known_biases[key] = bias
            return known_biases[key]

        query, key, value = (states.flatten(0, -4) for states in self.attention.project(hidden_states, guidance))
        compiled = torch.compiler.is_compiling()  # a single chunk, in which nothing is computed twice
        attend = attend_in_padded_windows if compiled else attend_in_windows
        bias = self.position_bias if compiled or known_biases is None else known_bias
        attended = attend(self.attention.attend, bias, query, key, value, size, self.shifted)
        return self.attention.output(attended.view(hidden_states.shape))

    def forward(
        self, hidden_states: torch.Tensor, guidance: torch.Tensor | None, known_biases: WindowBiases | None = None
    ) -> torch.Tensor:
        """Refines maps `(B, C, h, w, E)` with guidance `(B, h, w, G)`; the shape does not change.

        Classes are independent. Biases of windows are taken from `known_biases`, and added to them.
        """
        guidance = None if guidance is None else guidance[:, None]
        hidden_states = hidden_states + self.attend(self.norm1(hidden_states), guidance, known_biases)
        return hidden_states + self.mlp(self.norm2(hidden_states))


class Dinov3SegClassLayer(GradientCheckpointingLayer):
    """Attention over the classes at each position, equivariant to the order of the classes."""

    def __init__(self, config: Dinov3SegConfig):
        super().__init__()
        self.num_attention_heads = config.late_num_attention_heads
        self.norm1 = nn.LayerNorm(config.correlation_hidden_size)
        self.attention = Dinov3SegGuidedAttention(config)
        self.norm2 = nn.LayerNorm(config.correlation_hidden_size)
        self.mlp = Dinov3SegFeedForward(config)

    def forward(
        self, hidden_states: torch.Tensor, guidance: torch.Tensor | None, counts: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Refines `(B, C, N, E)` at N positions with guidance `(C, G)`; the shape does not change.

        Positions are independent. A class counts as that many equal classes, if `counts` `(C,)` are given.
        """
        hidden_states = hidden_states.transpose(1, 2)  # (B, N, C, E)

        def split_heads(states: torch.Tensor) -> torch.Tensor:  # (B, N, C, E) -> (B N, heads, C, d)
            return states.flatten(0, 1).unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)

        query, key, value = self.attention.project(self.norm1(hidden_states), guidance)
        # a weight of n in the softmax is a bias of log n
        bias = None if counts is None else counts.log().to(query.dtype)[None, None, None]  # (1, 1, 1, C)
        query, key, value = map(split_heads, (query, key, value))
        attended = self.attention.attend(query, key, value, bias)  # (B N, C, heads, d)
        hidden_states = hidden_states + self.attention.output(attended.reshape(hidden_states.shape))
        hidden_states = hidden_states + self.mlp(self.norm2(hidden_states))
        return hidden_states.transpose(1, 2)


def guided(layers: Iterable[nn.Module], *guidance: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns a function that calls the layers in turn, with their guidance as positional arguments.

    Reentrant checkpointing does not support keyword arguments.
    """
    layers = list(layers)

    def apply(hidden_states: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            hidden_states = layer(hidden_states, *guidance)
        return hidden_states

    return apply


class Dinov3SegLateRefinement(nn.Module):
    """`late_num_layers` layers, each with two spatial layers (plain and shifted windows) and a class layer."""

    def __init__(self, config: Dinov3SegConfig):
        super().__init__()
        self.spatial_layers = nn.ModuleList()
        self.class_layers = nn.ModuleList()
        for _ in range(config.late_num_layers):
            if config.use_spatial_refinement:
                self.spatial_layers.append(
                    nn.ModuleList(Dinov3SegSpatialLayer(config, shifted) for shifted in (False, True))
                )
            if config.use_class_refinement:
                self.class_layers.append(Dinov3SegClassLayer(config))
        self.use_guidance = config.use_guidance
        self.num_layers = config.late_num_layers
        if config.use_guidance and config.use_class_refinement:
            # the concatenated global and local halves guide the class attention
            self.text_projection = nn.Linear(2 * config.vision_config.hidden_size, config.guidance_hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        image_guidance: torch.Tensor | None,
        text_embeds: torch.Tensor,
        class_chunk_size: int | None = None,
        class_counts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Refines the embedded correlations; the shape does not change.

        Args:
            hidden_states: The embedded correlations, `(B, C, h, w, E)`. Without gradients and in chunks, the result
                takes their place: the largest tensor of the model is never in memory twice.
            image_guidance: Guidance from the semantic prior, `(B, G, h, w)`.
            text_embeds: Text embeddings, `(C, 2, D)`.
            class_chunk_size: Maximum number of classes at once in the spatial layers. The class layers process as many
                positions at once as need the same memory. `None`: all at once.
            class_counts: Number of classes that each one represents in the class layers, `(C,)`; see
                `active_classes.py`. `None`: one each.
        """
        height, width = hidden_states.shape[2:4]
        if image_guidance is not None:
            image_guidance = image_guidance.permute(0, 2, 3, 1) if self.use_guidance else None  # (B, h, w, G)
        text_guidance = None
        if self.use_guidance and self.class_layers:
            text_guidance = self.text_projection(text_embeds.flatten(1).to(hidden_states.dtype))  # (C, G)
        position_chunk_size = None
        if class_chunk_size is not None:
            position_chunk_size = max(1, class_chunk_size * height * width // hidden_states.shape[1])
        # The biases of windows are the same in all chunks. With gradients, each window has its own, so that a training
        # step sums their gradients in the same order as ever.
        known_biases: WindowBiases | None = None if torch.is_grad_enabled() else {}

        for index in range(self.num_layers):
            if self.spatial_layers:
                layers = guided(self.spatial_layers[index].children(), image_guidance, known_biases)
                hidden_states = map_chunks(layers, hidden_states, dim=1, chunk_size=class_chunk_size, overwrite=True)
            if self.class_layers:
                layers = guided([self.class_layers[index]], text_guidance, class_counts)
                positions = hidden_states.flatten(2, 3)  # (B, C, h w, E)
                positions = map_chunks(layers, positions, dim=2, chunk_size=position_chunk_size, overwrite=True)
                hidden_states = positions.unflatten(2, (height, width))
        return hidden_states
