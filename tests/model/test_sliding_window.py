# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Sliding-window inference: probabilities, the same whatever is computed at a time."""

import pytest
import torch
import torch.nn.functional as F

from dinov3seg_hf.model import sliding_window as inference
from dinov3seg_hf.model.sliding_window import segment_windows
from dinov3seg_hf.model.windows import plan_windows


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 41, 75, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def text_embeds():
    return F.normalize(torch.randn(5, 2, 32, generator=torch.Generator().manual_seed(1)), dim=-1)


HEADS = pytest.mark.parametrize("head", ["dinotxt", "full"])


def maps_of(model, window, text_embeds, head):
    logits = model(window, text_embeds=text_embeds, head=head).logits
    logits = F.interpolate(logits, size=window.shape[-2:], mode="bilinear", align_corners=False)
    return logits.softmax(dim=1) if head == "dinotxt" else logits


@HEADS
def test_one_window_over_the_image_is_the_whole_model(tiny_model, images, text_embeds, head):
    whole = maps_of(tiny_model, images, text_embeds, head)
    torch.testing.assert_close(segment_windows(tiny_model, images, text_embeds, 100, 50, head), whole)


@HEADS
def test_every_pixel_has_the_mean_of_its_windows(tiny_model, images, text_embeds, head):
    total, count = torch.zeros(2, 5, 41, 75), torch.zeros(41, 75)
    for top, left, height, width in plan_windows((41, 75), 32, 16):
        area = (..., slice(top, top + height), slice(left, left + width))
        total[area] += maps_of(tiny_model, images[area], text_embeds, head)
        count[area] += 1
    torch.testing.assert_close(segment_windows(tiny_model, images, text_embeds, 32, 16, head), total / count)


def test_names_with_high_logits_keep_their_order():
    # the sigmoid of both is 1 in float32
    logits = torch.tensor([40.0, 41.0])[None, :, None, None].expand(2, 2, 4, 4)
    boxes = plan_windows((8, 12), 8, 4)
    assert (inference._average(logits, boxes, (8, 12), over_classes=False).argmax(dim=0) == 1).all()


@HEADS
def test_images_windows_and_classes_at_a_time_change_nothing(tiny_model, images, text_embeds, head, monkeypatch):
    together = segment_windows(tiny_model, images, text_embeds, 32, 24, head)
    monkeypatch.setattr(inference, "MAX_WINDOW_VALUES", 1)  # one class at a time
    for index in range(2):
        alone = segment_windows(tiny_model, images[index : index + 1], text_embeds, 32, 24, head, window_batch_size=1)
        torch.testing.assert_close(alone[0], together[index], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 8), (32, 32)])
def test_any_size_gives_a_distribution_over_the_classes(tiny_model, text_embeds, size):
    image = torch.randn(1, 3, *size)
    probabilities = segment_windows(tiny_model, image, text_embeds, 32, 32, "dinotxt")
    assert probabilities.shape == (1, 5, *size) and probabilities.min() >= 0
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(1, *size))


def test_the_order_of_the_classes_does_not_matter(tiny_model, images, text_embeds):
    order = torch.tensor([3, 0, 4, 1, 2])
    straight = segment_windows(tiny_model, images[:1], text_embeds, 32, 24, "dinotxt")
    permuted = segment_windows(tiny_model, images[:1], text_embeds[order], 32, 24, "dinotxt")
    torch.testing.assert_close(permuted, straight[:, order])


def test_temperature_sharpens_without_changing_the_winner_of_a_window(tiny_model, images, text_embeds):
    mild, sharp = (
        segment_windows(tiny_model, images[:1], text_embeds, 100, 50, "dinotxt", temperature=temperature)
        for temperature in (1.0, 0.01)
    )
    assert torch.equal(mild.argmax(dim=1), sharp.argmax(dim=1))
    assert (sharp.amax(dim=1) > mild.amax(dim=1)).all()


def test_the_configuration_says_which_head_unless_told(tiny_model, images, text_embeds):
    assert tiny_model.config.head == "full"
    default = segment_windows(tiny_model, images[:1], text_embeds, 48, 24)
    torch.testing.assert_close(default, segment_windows(tiny_model, images[:1], text_embeds, 48, 24, "full"))
    zero_shot = segment_windows(tiny_model, images[:1], text_embeds, 48, 24, "dinotxt")
    other_tokens = segment_windows(tiny_model, images[:1], text_embeds, 48, 24, "dinotxt", "backbone")
    assert not torch.allclose(zero_shot, other_tokens, atol=1e-4)


def test_no_gradients_are_kept(tiny_model, images):
    text_embeds = F.normalize(torch.randn(2, 2, 32), dim=-1).requires_grad_()
    assert not segment_windows(tiny_model, images[:1], text_embeds, 32, 32).requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": torch.zeros(3, 40, 40)}, "pixel_values has shape"),
        ({"temperature": 0.0}, "positive temperature"),
        ({"temperature": float("nan")}, "positive temperature"),
        ({"window_batch_size": 0}, "at least 1 window"),
        ({"stride": 64}, "stride"),
        ({"head": "none"}, 'expected "full" or "dinotxt"'),
        ({"text_embeds": torch.zeros(2, 32)}, "text_embeds has shape"),
    ],
)
def test_wrong_options_are_named(tiny_model, images, text_embeds, change, message):
    options = {"pixel_values": images, "text_embeds": text_embeds, "window_size": 32, "stride": 16}
    with pytest.raises(ValueError, match=message):
        segment_windows(tiny_model, **(options | change))
