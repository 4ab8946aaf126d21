# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The private names of other libraries are still there, and still mean what we take them for."""

import argparse

import datasets
import httpx
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from huggingface_hub import HfApi
from torch import nn

from dinov3seg_hf import compat


def test_a_parser_tells_its_arguments():
    parser = argparse.ArgumentParser(prog="x")
    parser.add_argument("--size", type=int)
    assert [action.dest for action in compat.actions_of(parser)] == ["help", "size"]


def test_a_stream_tells_what_its_columns_hold():
    stream = datasets.IterableDataset.from_generator(lambda: iter([{"text": "a", "number": 1}]))
    assert stream.features is None
    features = compat.with_features(stream).features
    assert set(features) == {"text", "number"}
    known = datasets.Dataset.from_dict({"text": ["a"]}).to_iterable_dataset()
    assert compat.with_features(known) is known


def test_mixed_precision_can_be_taken_off_a_prepared_model():
    for state in (PartialState, AcceleratorState, GradientState):
        state._reset_state()
    model = Accelerator(cpu=True, mixed_precision="bf16").prepare(nn.Linear(64, 64))
    x = torch.randn(8, 64)
    exact = nn.functional.linear(x, model.weight, model.bias)
    rounded = model(x)
    assert not torch.equal(rounded, exact)
    with compat.without_mixed_precision(model):
        assert torch.equal(model(x), exact)
    assert torch.equal(model(x), rounded)
    for state in (PartialState, AcceleratorState, GradientState):
        state._reset_state()


def test_what_a_hub_that_is_not_there_raises_is_a_transport_error(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(compat.TransportError):
        HfApi(endpoint="http://127.0.0.1:9").model_info("org/model", timeout=1)
    assert issubclass(httpx.ConnectError, compat.TransportError) or compat.TransportError.__module__ != "httpx"


def test_work_is_what_reads_or_writes_memory():
    one = torch.ones(3, 4, device="meta")
    with compat.work_of() as operations:
        torch.transpose(one[1:] + 1, 0, 1)
    assert [(str(function), size) for function, size in operations] == [("aten.add.Tensor", 2 * 8 * 4)]


def test_attention_is_one_operation_wherever_torch_computes_it():
    query = torch.ones(2, 3, 5, 8, device="meta", dtype=torch.bfloat16)
    bias = torch.zeros(1, 3, 5, 5, device="meta", dtype=torch.bfloat16)
    with compat.work_of() as operations:
        attended = nn.functional.scaled_dot_product_attention(query, query, query, attn_mask=bias)
        attended.transpose(1, 2).reshape(2, 5, 24)  # a view, as on a GPU
    assert [size for _, size in operations] == [2 * (4 * query.numel() + bias.numel())]


@torch.inference_mode()
def test_the_products_of_attention_on_a_cpu_are_counted():
    query, key, value = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    with compat.product_counter() as fused:
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
    with compat.product_counter() as plain:
        expected = (query @ key.transpose(-1, -2) * 8**-0.5).softmax(dim=-1) @ value
    torch.testing.assert_close(attended, expected)
    assert fused.get_total_flops() == plain.get_total_flops() == 2 * 2 * (2 * 3) * 5 * 7 * 8
