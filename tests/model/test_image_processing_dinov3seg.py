# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Both backends of the image processor: sizes, windows, labels, and label maps from logits."""

import json
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import SizeDict
from transformers.utils import is_torchvision_available

from dinov3seg_hf.model import image_processing_dinov3seg, label_maps, resizing, softmax_sums
from dinov3seg_hf.model.image_processing_dinov3seg import Dinov3SegImageProcessor
from dinov3seg_hf.model.image_processing_pil_dinov3seg import Dinov3SegImageProcessorPil
from dinov3seg_hf.model.windows import merge_windows, plan_windows

needs_torchvision = pytest.mark.skipif(not is_torchvision_available(), reason="torchvision does not import here")
BACKENDS = [
    pytest.param(Dinov3SegImageProcessorPil, id="pil"),
    pytest.param(Dinov3SegImageProcessor, id="torchvision", marks=needs_torchvision),
]
RNG = np.random.default_rng(0)


def photo(height, width):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


PHOTO = photo(20, 30)


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(scope="module")
def pil():
    return Dinov3SegImageProcessorPil()


def test_the_defaults_are_the_papers_inference(backend):
    batch = backend()(photo(30, 50), return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 640, 640)
    assert batch["window_pixel_values"].shape == (1, 9, 3, 384, 384)
    assert batch["window_boxes"].tolist() == [[top, left, 384, 384] for top in (0, 128, 256) for left in (0, 128, 256)]
    assert batch["pixel_values"].dtype == batch["window_pixel_values"].dtype == torch.float32
    assert batch["window_boxes"].dtype == torch.int64


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(12, 40), st.integers(4, 12))
def test_windows_merge_back_to_the_resized_image(pil, height, width, window_size, window_stride):
    size = {"height": height, "width": width}
    batch = pil(PHOTO, size=size, window_size=window_size, window_stride=window_stride, return_tensors="pt")
    boxes = batch["window_boxes"].tolist()
    assert boxes == [list(box) for box in plan_windows((height, width), window_size, window_stride)]
    merged = merge_windows(batch["window_pixel_values"], boxes, (height, width), (height, width))
    torch.testing.assert_close(merged, batch["pixel_values"], rtol=1e-4, atol=1e-4)


def test_pixels_are_normalized_with_the_statistics_of_imagenet(backend):
    batch = backend(do_windows=False)(Image.new("RGB", (8, 8), (255, 0, 51)), return_tensors="pt")
    expected = (torch.tensor([1.0, 0.0, 0.2]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(batch["pixel_values"].mean(dim=(0, 2, 3)), expected, rtol=1e-5, atol=1e-5)
    assert set(batch) == {"pixel_values"}


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 700), st.integers(1, 32), st.integers(0, 500))
def test_the_short_side_is_reached_within_half_a_patch(height, width, shortest, divisor, extra):
    size = image_processing_dinov3seg.SizeDict(shortest_edge=shortest, longest_edge=shortest + extra or None)
    resized = image_processing_dinov3seg._resized_size((height, width), size, divisor, 10**12)
    scale = min(shortest / min(height, width), (shortest + extra) / max(height, width))
    for side, result in zip((height, width), resized, strict=True):
        assert result % divisor == 0 and result >= divisor
        assert result <= max(shortest + extra, divisor)
        # nearest multiple; one lower where the limit forbids it, at least one patch
        assert abs(result - side * scale) <= divisor / 2 + 1e-6 or result in (
            divisor,
            (shortest + extra) // divisor * divisor,
        )


@pytest.mark.parametrize(
    "source, size, expected",
    [
        ((480, 640), {"shortest_edge": 512}, (512, 688)),
        ((640, 480), {"shortest_edge": 512}, (688, 512)),
        ((480, 640), {"shortest_edge": 512, "longest_edge": 600}, (448, 592)),
        ((1, 1), {"shortest_edge": 32}, (32, 32)),
        ((3, 50), {"height": 20, "width": 33}, (20, 33)),
    ],
)
def test_sizes(backend, source, size, expected):
    batch = backend(size=size, do_windows=False)(photo(*source), return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, *expected)


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    target=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.sampled_from((1, 3)),
    resample=st.sampled_from(list(Image.Resampling)),
)
def test_channels_are_resized_one_by_one_as_pil_resizes_them_together(pil, size, target, channels, resample):
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (*size, channels), np.uint8).transpose(2, 0, 1)
    target = SizeDict(height=target[0], width=target[1])
    together = PilBackend.resize(pil, pixels, target, resample)
    np.testing.assert_array_equal(pil.resize(pixels, target, resample), together)


def test_an_image_that_is_not_resized_keeps_its_size(backend):
    batch = backend(do_resize=False, window_size=16, window_stride=16)(photo(20, 33), return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 20, 33)
    assert batch["window_pixel_values"].shape == (1, 6, 3, 16, 16)


def test_every_kind_of_input_gives_the_same_tensors(backend, tmp_path):
    processor = backend(size={"height": 24, "width": 32}, window_size=16, window_stride=8)
    image = photo(40, 60)
    path = tmp_path / "image.png"
    image.save(path)
    array = np.asarray(image)
    reference = processor(image, return_tensors="pt")
    for source in (path, str(path), array, array / 255, torch.tensor(array).permute(2, 0, 1), array[None], [[image]]):
        batch = processor(source, return_tensors="pt")
        assert set(batch) == set(reference)
        for key in reference:
            torch.testing.assert_close(batch[key], reference[key])


def test_a_gray_single_pixel_works(backend):
    assert backend()(np.array([[7]], dtype=np.uint8), return_tensors="pt")["pixel_values"].shape == (1, 3, 640, 640)


def test_without_rescaling_the_scale_of_the_input_is_kept(backend):
    processor = backend(do_rescale=False, do_normalize=False, do_windows=False, size={"height": 4, "width": 4})
    array = np.full((8, 8, 3), 51, dtype=np.uint8)
    for source, expected in ((array, 51), (array / 255, 0.2), (torch.tensor(array / 255).permute(2, 0, 1), 0.2)):
        pixels = processor(source, return_tensors="pt")["pixel_values"].to(torch.float64)
        torch.testing.assert_close(pixels, torch.full_like(pixels, expected), rtol=1e-6, atol=0)


def test_a_batch_equals_its_images_one_by_one(backend):
    processor = backend(size={"height": 24, "width": 32}, window_size=16, window_stride=8)
    images = [photo(40, 60), photo(24, 32), photo(7, 90)]
    batch = processor(images, return_tensors="pt")
    for index, image in enumerate(images):
        single = processor(image, return_tensors="pt")
        for key in ("pixel_values", "window_pixel_values"):
            torch.testing.assert_close(batch[key][index], single[key][0], rtol=1e-6, atol=1e-6)


def test_images_of_different_sizes_come_as_a_list_or_are_refused(backend):
    processor = backend(size={"shortest_edge": 32}, do_windows=False)
    images = [photo(20, 30), photo(30, 20)]
    assert [image.shape for image in processor(images)["pixel_values"]] == [(3, 32, 48), (3, 48, 32)]
    with pytest.raises(ValueError, match="fixed size"):
        processor(images, return_tensors="pt")
    with pytest.raises(ValueError, match="fixed size"):
        processor(images, do_windows=True)


@needs_torchvision
def test_the_backends_agree():
    image = Image.fromarray((np.add.outer(np.arange(90), np.arange(70))[..., None] * [1, 0.5, 1.5]).astype(np.uint8))
    options = {"size": {"height": 48, "width": 64}, "window_size": 32, "window_stride": 16}
    reference = Dinov3SegImageProcessorPil(**options)(image, return_tensors="pt")
    batch = Dinov3SegImageProcessor(**options)(image, return_tensors="pt")
    for key in reference:
        assert reference[key].dtype == batch[key].dtype
        torch.testing.assert_close(batch[key].float(), reference[key].float(), rtol=0, atol=0.05)


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision imports here")
def test_without_torchvision_its_backend_says_so_at_once():
    with pytest.raises(ImportError, match="Dinov3SegImageProcessorPil"):
        Dinov3SegImageProcessor()


@needs_torchvision  # elsewhere every test shows it
def test_the_pil_backend_works_where_torchvision_does_not_import():
    script = (
        "import sys; sys.modules['torchvision'] = None; import numpy as np;"
        "from dinov3seg_hf.image_processing_pil_dinov3seg import Dinov3SegImageProcessorPil as P;"
        "print(P()(np.zeros((9, 9, 3), np.uint8), return_tensors='pt')['pixel_values'].shape)"
    )
    result = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert "[1, 3, 640, 640]" in result.stdout, result.stderr


def test_settings_survive_saving(backend, tmp_path):
    processor = backend(size={"shortest_edge": 96}, size_divisor=8, do_windows=False, window_size=64, window_stride=32)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["image_processor_type"] == "Dinov3SegImageProcessor"
    loaded = backend.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.model_input_names == ["pixel_values"]


@pytest.mark.parametrize(
    "images, options, words",
    [
        ([], {}, "Got no images"),
        ([[], []], {}, "Got no images"),
        ([photo(4, 4), "/no/such.png"], {}, "does not exist"),
        (np.full((4, 4, 3), np.nan), {}, "NaN"),
        (np.zeros((4, 4, 3), np.uint8), {"image_std": [0.2, 0.0, 0.2]}, r"image_std is .* all positive"),
        (np.zeros((4, 4, 3), np.uint8), {"image_std": [0.2] * 4}, "image_std has 4 numbers; expected 1 or 3"),
        (np.zeros((4, 4, 3), np.uint8), {"image_mean": [0.2, float("inf"), 0.2]}, r"image_mean is .* finite"),
        (np.zeros((6, 6, 7)), {}, "channel"),
        (photo(20, 20), {"max_image_pixels": 399}, "20 x 20 pixels"),
        (photo(1, 300), {"size": {"shortest_edge": 640}, "max_image_pixels": 10**6}, "longest_edge"),
        (photo(4, 4), {"size": {"longest_edge": 64}}, "shortest_edge"),
        (photo(4, 4), {"size": {"height": -4, "width": 4}}, "resized to -4 x 4"),
        (photo(4, 4), {"size": {"shortest_edge": -64}}, "positive values"),
        (photo(4, 4), {"size": {"shortest_edge": 64, "longest_edge": -64}}, "positive values"),
        (photo(4, 4), {"window_stride": 385}, "larger than the window"),
        (photo(4, 4), {"window_size": 0}, "window_size"),
        (photo(4, 4), {"do_center_crop": True, "crop_size": {"height": 4, "width": 4}}, "not supported"),
    ],
)
def test_bad_requests_are_refused(backend, images, options, words):
    with pytest.raises(ValueError, match=words):
        backend()(images, return_tensors="pt", **options)


@settings(deadline=None, max_examples=40)
@given(*[st.integers(1, 40)] * 4)
def test_labels_follow_by_nearest_neighbor(pil, height, width, new_height, new_width):
    labels = np.arange(height)[:, None] * 100 + np.arange(width)  # each tells where it stood
    batch = pil(
        photo(height, width),
        labels,
        size={"height": new_height, "width": new_width},
        do_windows=False,
        return_tensors="pt",
    )
    assert batch["labels"].dtype == torch.int64
    for chosen, old, new in (
        (batch["labels"][0, :, 0] // 100, height, new_height),
        (batch["labels"][0, 0] % 100, width, new_width),
    ):
        # distances between centers in whole numbers: floats would break exact ties at random
        distances = ((2 * torch.arange(new)[:, None] + 1) * old - (2 * torch.arange(old) + 1) * new).abs()
        assert torch.equal(distances.gather(1, chosen[:, None])[:, 0], distances.amin(dim=1))


def test_labels_of_a_batch_may_be_files_images_or_arrays(backend, tmp_path):
    processor = backend(size={"height": 16, "width": 16}, do_windows=False)
    labels = RNG.integers(0, 200, (16, 16)).astype(np.uint8)
    path = tmp_path / "labels.png"
    Image.fromarray(labels).save(path)
    images = [photo(16, 16)] * 4
    batch = processor(images, [path, Image.fromarray(labels), labels, torch.tensor(labels)], return_tensors="pt")
    assert batch["labels"].shape == (4, 16, 16)
    assert all(np.array_equal(item, labels) for item in batch["labels"])
    batch = processor(images, np.stack([labels] * 4), return_tensors="pt")
    assert all(np.array_equal(item, labels) for item in batch["labels"])


@pytest.mark.parametrize(
    "labels, words",
    [
        (np.zeros((5, 4), int), "5 x 4"),
        ([np.zeros((4, 4), int)] * 2, "2 segmentation maps"),
        (photo(4, 4), "one channel"),
    ],
)
def test_labels_that_do_not_fit_are_refused(backend, labels, words):
    with pytest.raises(ValueError, match=words):
        backend()(photo(4, 4), labels, return_tensors="pt")


def outputs_of(logits):
    return SimpleNamespace(logits=logits)


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 30), st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40),
    st.integers(1, 2000), st.integers(1, 12), st.sampled_from(["sigmoid", "softmax", "none"]),
    st.sampled_from([1.0, 0.02]),
)  # fmt: skip
def test_strips_and_blocks_give_the_result_of_all_at_once(
    pil, classes, h, w, height, width, budget, block, score_function, temperature
):
    logits = torch.rand(2, classes, h, w) if score_function == "none" else torch.randn(2, classes, h, w) * temperature
    resized = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False) / temperature
    scores = {"sigmoid": resized.sigmoid(), "softmax": resized.softmax(dim=1), "none": resized}[score_function]
    expected_scores, expected = scores.max(dim=1)
    with pytest.MonkeyPatch.context() as patch:
        for module in (resizing, softmax_sums):
            patch.setattr(module, "MAX_RESIZED_VALUES", budget)
        patch.setattr(label_maps, "BLOCK_PIXELS", block)  # down to single cells, where most classes are left out
        patch.setattr(softmax_sums, "SAMPLED_PIXELS", block)
        results = pil.post_process_semantic_segmentation(
            outputs_of(logits),
            [(height, width)] * 2,
            score_function=score_function,
            temperature=temperature,
            return_scores=True,
        )
    for index, result in enumerate(results):
        assert result.segmentation.dtype == torch.int32
        torch.testing.assert_close(result.scores, expected_scores[index], rtol=1e-5, atol=1e-6)
        # where classes tie to the last digit, either may win
        chosen = scores[index].gather(0, result.segmentation.long()[None])[0]
        torch.testing.assert_close(chosen, expected_scores[index], rtol=1e-6, atol=1e-7)
        assert (result.segmentation == expected[index]).float().mean() > 0.99


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 1000.0])  # the last one is beyond what exp of float32 can hold
@pytest.mark.parametrize("temperature", [1.0, 0.02])
def test_log_sums_are_those_of_all_resized_logits(spread, temperature):
    logits = spread * torch.randn(9, 5, 7, generator=torch.Generator().manual_seed(0))
    resized = F.interpolate(logits[None], (60, 40), mode="bilinear", align_corners=False)[0]
    found, largest = torch.full((60, 40), float("nan")), resized.amax(dim=0)
    for rows, columns, block in softmax_sums.softmax_log_sums(logits * temperature, largest, temperature):
        found[rows, columns] = block + largest[rows, columns]
    expected = resized.double().logsumexp(0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5 * max(1.0, spread))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 60), st.integers(1, 7), st.integers(1, 7), st.integers(1, 300), st.integers(1, 300),
    st.floats(0, 30), st.floats(0, 12), st.integers(0, 2**31),
)  # fmt: skip
def test_log_sums_between_samples_are_exact(classes, h, w, height, width, spread, change, seed):
    generator = torch.Generator().manual_seed(seed)
    # classes far from each other, that change little or much from one logit to the next
    logits = spread * torch.randn(classes, 1, 1, generator=generator)
    logits = logits + change * torch.randn(classes, h, w, generator=generator)
    resized = F.interpolate(logits[None].double(), (height, width), mode="bilinear", align_corners=False)[0]
    found, largest = torch.full((height, width), float("nan")), resized.amax(dim=0).float()
    for rows, columns, block in softmax_sums.softmax_log_sums(logits, largest, 1.0):
        found[rows, columns] = block + largest[rows, columns]
    # a part of this is the position of a pixel in float32
    torch.testing.assert_close(found.double(), resized.logsumexp(dim=0), rtol=2e-6, atol=1e-5)


def test_smooth_logits_are_summed_at_few_places(monkeypatch):
    summed, resize = [], resizing.resize_block
    monkeypatch.setattr(softmax_sums, "resize_block", lambda *block: summed.append(resize(*block)) or summed[-1])
    logits = torch.randn(50, 9, 9, generator=torch.Generator().manual_seed(0))
    parts = list(softmax_sums.softmax_log_sums(0.1 * logits, torch.zeros(900, 900), 1.0))
    assert sum(block.numel() for _, _, block in parts) == 900 * 900
    assert sum(strip.numel() for strip in summed if strip.shape[2] == 50) < 50 * 900 * 900 / 50


@pytest.mark.parametrize("change, nodes", [(0.0, 1), (0.3, 5), (1.4, 8)])
def test_no_more_nodes_are_taken_than_the_largest_error_asks_for(change, nodes):
    assert softmax_sums.fewest_samples(change, 100) == (1, nodes)
    assert softmax_sums.fewest_samples(change, nodes) is None  # not fewer than pixels
    places = torch.linspace(0, 1, 1001, dtype=torch.float64)
    values = (change * softmax_sums.chebyshev_nodes(nodes)).exp()
    found = softmax_sums.interpolation_weights(places, nodes) @ values
    assert (found / (change * places).exp() - 1).abs().max() <= softmax_sums.TOLERANCE


@pytest.mark.parametrize("temperature", [1.0, 0.07, 1e-4, 1e-12])
@pytest.mark.parametrize("classes", [1, 2, 30])
def test_softmax_scores_are_exact_and_at_most_one_at_any_temperature(pil, classes, temperature):
    logits = 0.4 * torch.rand(1, classes, 9, 7, generator=torch.Generator().manual_seed(classes))
    logits[:, 0] += 0.5  # wins everywhere
    (result,) = pil.post_process_semantic_segmentation(
        outputs_of(logits), [(70, 65)], score_function="softmax", temperature=temperature, return_scores=True
    )
    resized = F.interpolate(logits.double(), (70, 65), mode="bilinear", align_corners=False)[0]
    expected = (resized / temperature).softmax(dim=0)[0]
    assert result.scores.max() <= 1
    torch.testing.assert_close(result.scores.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1e-4, 1e-8, 1e-30])
def test_softmax_scores_are_exact_where_the_winner_changes_steeply(pil, temperature):
    logits = torch.randn(1, 6, 9, 7, generator=torch.Generator().manual_seed(0))
    logits[:, 5] = logits[:, 4]  # where both win, each has a half
    (result,) = pil.post_process_semantic_segmentation(
        outputs_of(logits), [(200, 150)], score_function="softmax", temperature=temperature, return_scores=True
    )
    resized = F.interpolate(logits.double(), (200, 150), mode="bilinear", align_corners=False)[0]
    best = resized[:5].topk(2, dim=0).values
    is_clear = best[0] - best[1] > 1e-5 + 20 * temperature  # more than the rounding of a resized logit
    expected = (resized / temperature).softmax(dim=0).amax(dim=0)
    assert is_clear.float().mean() > 0.99
    torch.testing.assert_close(result.scores.double()[is_clear], expected[is_clear], rtol=1e-5, atol=1e-6)
    assert result.scores.min() >= 1 / 6


@pytest.mark.parametrize("largest", [1.0, 3e38])
@pytest.mark.parametrize("temperature", [1.0, 0.01])
def test_places_where_a_class_is_masked_by_the_lowest_number_are_no_others(pil, largest, temperature):
    logits = torch.randn(1, 5, 6, 6, generator=torch.Generator().manual_seed(0))
    logits[:, 2, :, :3] = torch.finfo(torch.float32).min
    logits[:, 2, :, 3:] = largest
    (result,) = pil.post_process_semantic_segmentation(
        outputs_of(logits), [(60, 60)], score_function="softmax", temperature=temperature, return_scores=True
    )
    resized = F.interpolate(logits.double(), (60, 60), mode="bilinear", align_corners=False)[0]
    expected, labels = (resized / temperature).softmax(dim=0).max(dim=0)
    assert result.scores.isfinite().all()
    for side in (slice(0, 25), slice(35, 60)):  # between them, float32 cannot tell classes from each other
        torch.testing.assert_close(result.scores[:, side].double(), expected[:, side], rtol=1e-4, atol=1e-4)
        assert (result.segmentation[:, side] == labels[:, side]).float().mean() > 0.999


@pytest.mark.parametrize("change", [1.0, 30.0])
def test_the_weights_of_long_blocks_do_not_take_their_square(monkeypatch, change):
    lengths, weights = [], softmax_sums.interpolation_weights
    monkeypatch.setattr(
        softmax_sums,
        "interpolation_weights",
        lambda places, count: lengths.append(len(places)) or weights(places, count),
    )
    logits = change * torch.randn(3, 1, 2, generator=torch.Generator().manual_seed(0))
    resized = F.interpolate(logits[None].double(), (1, 20_000), mode="bilinear", align_corners=False)[0]
    _, scores = label_maps.label_and_score(logits, (1, 20_000), "softmax", 1.0)
    torch.testing.assert_close(scores.double(), resized.softmax(dim=0).amax(dim=0), rtol=1e-5, atol=1e-5)
    assert max(lengths, default=0) <= softmax_sums.MAX_SAMPLED_SIDE


def half_precision():
    return torch.autocast("cpu", torch.bfloat16)


@contextmanager
def medium_precision():
    earlier = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # some CPUs multiply in bfloat16 then
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(earlier)


@contextmanager
def half_precision_by_default():
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("settings_of_models", [half_precision, medium_precision, half_precision_by_default])
@pytest.mark.parametrize("score_function", ["softmax", "sigmoid"])
def test_fewer_digits_for_models_are_not_for_places(settings_of_models, score_function):
    logits = torch.randn(30, 17, 17, generator=torch.Generator().manual_seed(0))
    labels, scores = label_maps.label_and_score(logits, (200, 150), score_function, 0.05)
    with settings_of_models():
        found, found_scores = label_maps.label_and_score(logits, (200, 150), score_function, 0.05)
    assert (found == labels).float().mean() > 0.9999
    torch.testing.assert_close(found_scores, scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 2, 100])
def test_of_equal_classes_the_first_wins_whatever_the_strips(pil, monkeypatch, budget):
    monkeypatch.setattr(resizing, "MAX_RESIZED_VALUES", budget)
    logits = torch.tensor([0.0, 1.0, 1.0, 1.0])[None, :, None, None]
    (labels,) = pil.post_process_semantic_segmentation(outputs_of(logits))
    assert labels.tolist() == [[1]]


def test_the_map_of_all_classes_at_full_size_is_never_held(pil, monkeypatch):
    held = []
    resize = resizing.resize_block

    def recording_resize(*arguments):
        resized = resize(*arguments)
        held.append(resized.numel())
        return resized

    monkeypatch.setattr(resizing, "resize_block", recording_resize)
    monkeypatch.setattr(resizing, "MAX_RESIZED_VALUES", 10**6)
    logits = torch.randn(1, 847, 10, 10)
    (labels,) = pil.post_process_semantic_segmentation(outputs_of(logits), [(200, 100)])
    assert labels.shape == (200, 100) and labels.max() > 255
    assert 0 < sum(held) <= 847 * 200 * 100 and max(held) <= 10**6


def test_only_classes_that_can_win_nearby_are_resized(pil, monkeypatch):
    resized, resize = [], resizing.resize_block
    monkeypatch.setattr(resizing, "resize_block", lambda *block: resized.append(resize(*block)) or resized[-1])
    monkeypatch.setattr(label_maps, "BLOCK_PIXELS", 10)
    logits = torch.rand(1, 100, 8, 8)
    logits[:, 3] += 2  # everywhere
    logits[:, 70, :2, 3:5] += 2  # in the upper rows
    (labels,) = pil.post_process_semantic_segmentation(outputs_of(logits), [(80, 80)])
    assert {strip.shape[-1] for strip in resized} == {1, 2}
    assert torch.equal(labels, F.interpolate(logits, (80, 80), mode="bilinear").argmax(dim=1)[0].int())


def test_pixels_below_the_threshold_are_none_of_the_classes(pil):
    logits = torch.tensor([[[[-2.0, 0.1, 3.0]], [[-3.0, 0.0, -3.0]]]])
    for score_function, threshold, expected in (
        ("sigmoid", None, [0, 0, 0]),
        ("sigmoid", 0.6, [-1, -1, 0]),
        ("softmax", 0.6, [0, -1, 0]),
        ("sigmoid", 0.0, [0, 0, 0]),
    ):
        (labels,) = pil.post_process_semantic_segmentation(
            outputs_of(logits), threshold=threshold, score_function=score_function
        )
        assert labels.tolist() == [expected]
    (labels,) = pil.post_process_semantic_segmentation(outputs_of(logits), threshold=0.6, none_label=65535)
    assert labels.tolist() == [[65535, 65535, 0]]


def test_low_precision_logits_are_resized_in_full_precision(pil):
    logits = torch.randn(1, 5, 6, 6).to(torch.bfloat16)
    half = pil.post_process_semantic_segmentation(outputs_of(logits), [(33, 21)], return_scores=True)
    full = pil.post_process_semantic_segmentation(outputs_of(logits.float()), [(33, 21)], return_scores=True)
    assert torch.equal(half[0].segmentation, full[0].segmentation) and torch.equal(half[0].scores, full[0].scores)


def test_each_image_gets_its_own_target_size(pil):
    outputs = outputs_of(torch.randn(2, 3, 4, 4))
    for sizes in ([(5, 6), (7, 8)], torch.tensor([[5, 6], [7, 8]])):
        assert [tuple(item.shape) for item in pil.post_process_semantic_segmentation(outputs, sizes)] == [
            (5, 6),
            (7, 8),
        ]


@pytest.mark.parametrize(
    "outputs, options, words",
    [
        (outputs_of(torch.zeros(2, 3, 4, 4)), {"target_sizes": [(4, 4)]}, "Got 1 target sizes for 2 images"),
        (outputs_of(torch.zeros(1, 3, 4, 4)), {"target_sizes": [(4, 0)]}, "at least 1"),
        (outputs_of(torch.zeros(1, 3, 4, 4)), {"target_sizes": [(4, 4, 3)]}, r"\(height, width\)"),
        (outputs_of(torch.zeros(1, 3, 4, 4)), {"threshold": 1.5}, "threshold"),
        (outputs_of(torch.zeros(1, 3, 4, 4)), {"threshold": float("nan")}, "threshold"),
        (outputs_of(torch.zeros(1, 3, 4, 4)), {"target_sizes": [(4.5, 4)]}, "whole pixels"),
        (outputs_of(torch.full((1, 3, 4, 4), float("nan"))), {}, "NaN or infinity"),
        (outputs_of(torch.full((1, 3, 4, 4), float("inf"))), {}, "NaN or infinity"),
        (outputs_of(torch.zeros(3, 4, 4)), {}, r"\(B, C, h, w\)"),
        (outputs_of(torch.zeros(1, 0, 4, 4)), {}, r"\(B, C, h, w\)"),
        (outputs_of(torch.zeros(1, 3, 4, 4)), {"score_function": "relu"}, "relu"),
        (outputs_of(torch.zeros(1, 3, 4, 4)), {"temperature": 0.0}, "temperature"),
    ],
)
def test_outputs_that_make_no_map_are_refused(pil, outputs, options, words):
    with pytest.raises(ValueError, match=words):
        pil.post_process_semantic_segmentation(outputs, **options)


@pytest.mark.parametrize("resample", [6, -1, 2**70, "bicubic", 2.5, None, [3]])
def test_an_unknown_filter_is_refused(resample):
    image = Image.new("RGB", (40, 40))
    processor = Dinov3SegImageProcessorPil()
    with pytest.raises(ValueError, match="expected a filter of PIL"):
        processor(image, resample=resample)
    assert processor(image, resample=resample, do_resize=False, do_windows=False)["pixel_values"]
    for known in (0, 3, Image.Resampling.LANCZOS):
        assert processor(image, resample=known)["pixel_values"]


@pytest.mark.parametrize(
    "given, meant", [("siez", "size"), ("window_sise", "window_size"), ("do_window", "do_windows")]
)
def test_of_a_misspelt_option_the_right_one_is_named(backend, given, meant):
    message = f"Unknown option '{given}' of the image processor. Did you mean '{meant}'"
    with pytest.raises(TypeError, match=message):
        backend(**{given: 3})
    with pytest.raises(TypeError, match=message):
        backend()(Image.new("RGB", (40, 40)), **{given: 3})
    with pytest.raises(TypeError, match=r"The options are .*window_stride"):
        backend(xyz=3)


def test_files_with_options_of_other_versions_are_read(backend, tmp_path):
    content = {**backend(window_size=48).to_dict(), "of_another_version": [1], "window_sise": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**content, "processor_class": "Dinov3SegProcessor"}))
    for read in (
        backend.from_dict(content),
        backend.from_json_file(tmp_path / "preprocessor_config.json"),
        backend.from_pretrained(tmp_path),
        backend.from_dict(content, return_unused_kwargs=True, foo=1)[0],
    ):
        assert read.window_size == 48 and read.of_another_version == [1]
        assert json.loads(read.to_json_string()) == json.loads(json.dumps(content))  # and kept when it is saved
    assert backend.from_pretrained(tmp_path, window_size=64).window_size == 64
    known = {key: value for key, value in content.items() if key not in ("of_another_version", "window_sise")}
    assert backend(**known).to_dict() == known  # a saved dictionary is also what the constructor takes


@pytest.mark.parametrize("factor", [{}, [1.0, 2.0], float("nan"), "1/255"])
def test_a_rescale_factor_that_is_no_number_is_refused(factor):
    processor = Dinov3SegImageProcessorPil(size={"height": 32, "width": 32}, do_windows=False)
    processor.rescale_factor = factor  # as a folder's JSON file sets it
    with pytest.raises(ValueError, match="rescale_factor"):
        processor(Image.new("RGB", (32, 32)), return_tensors="np")


def test_a_list_nested_without_end_is_no_image():
    image: list = []
    for _ in range(100_000):
        image = [image]
    processor = Dinov3SegImageProcessorPil(size={"height": 32, "width": 32}, do_windows=False)
    with pytest.raises((ValueError, TypeError)):
        processor([image], return_tensors="np")


def test_no_size_is_refused_unless_nothing_is_resized(tiny_processor, sample_image):
    with pytest.raises(ValueError, match="size is None; expected"):
        tiny_processor.image_processor(sample_image, size=None)
