# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Who reads a stream, and from where on, never changes what a step sees."""

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dinov3seg_hf import Vocabulary
from dinov3seg_hf.data.augmentation import PairedTransform
from dinov3seg_hf.data.parquet import encode_png
from dinov3seg_hf.data.rows import RowError
from dinov3seg_hf.data.streamed import StreamedSegmentationDataset
from dinov3seg_hf.training.stream import TrainingStream, shuffle

VOCABULARY = Vocabulary(["cat", "dog", "grass"])


def rows_of(num_rows: int, bad: tuple[int, ...] = ()) -> datasets.Dataset:
    """Images of one color, that of their number."""
    images = [{"bytes": encode_png(np.full((6, 6, 3), row, np.uint8)), "path": None} for row in range(num_rows)]
    masks = [{"bytes": encode_png(np.full((6, 6), row % 3, np.uint8)), "path": None} for row in range(num_rows)]
    for row in bad:
        images[row] = {"bytes": b"nonsense", "path": None}
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    return datasets.Dataset.from_dict({"image": images, "mask": masks}, features=features)


def stream_of(rows: datasets.Dataset, num_shards: int = 1, skip_bad: bool = False, seed: int = 0, **options):
    data = StreamedSegmentationDataset(
        rows.to_iterable_dataset(num_shards=num_shards), VOCABULARY, skip_bad=skip_bad, seed=seed
    )
    return TrainingStream(data, **options)


def colors(items) -> list[int]:
    return [int(item["image"][0, 0, 0]) for item in items]


def steps_of(items: list, batch_size: int) -> list[list]:
    return [items[start : start + batch_size] for start in range(0, len(items), batch_size)]


# --- order ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 30), st.integers(1, 40), st.integers(0, 3))
@settings(deadline=None)
def test_shuffling_gives_every_value_once_and_as_often_as_asked_the_same(num_values, buffer_size, seed):
    def order():
        return list(shuffle(range(num_values), buffer_size, np.random.default_rng(seed)))

    assert sorted(order()) == list(range(num_values)) and order() == order()
    if buffer_size == 1:
        assert order() == list(range(num_values))
    # what comes out at a place was in the buffer by then
    assert all(value < place + buffer_size for place, value in enumerate(order()))


def test_shuffling_holds_no_more_than_the_buffer():
    taken = []
    shuffled = shuffle((taken.append(value) or value for value in range(100)), 8, np.random.default_rng(0))
    for given_out in range(1, 50):
        next(shuffled)
        assert len(taken) - given_out <= 8


def test_a_large_buffer_shuffles_evenly():
    places = np.array([list(shuffle(range(6), 10, np.random.default_rng(seed))) for seed in range(3000)])
    for value in range(6):
        counts = np.bincount((places == value).argmax(axis=1), minlength=6)
        assert 0.8 < counts.min() / 500 and counts.max() / 500 < 1.2


@given(
    num_rows=st.integers(1, 25),
    num_shards=st.integers(1, 4),
    batch_size=st.integers(1, 6),
    shuffle_buffer=st.integers(1, 30),
    epoch=st.integers(0, 2),
)
@settings(max_examples=40, deadline=None)
def test_an_epoch_has_rows_once_in_whole_steps(num_rows, num_shards, batch_size, shuffle_buffer, epoch):
    rows = rows_of(num_rows)
    stream = stream_of(rows, min(num_shards, num_rows), batch_size=batch_size, shuffle_buffer=shuffle_buffer)
    stream.set_position(epoch)
    found = colors(stream)
    assert found == colors(stream)
    assert len(found) == num_rows - num_rows % batch_size and len(set(found)) == len(found)


def test_epochs_and_seeds_have_orders_of_their_own_and_shards_are_shuffled():
    def order(seed, epoch, **options):
        stream = stream_of(rows_of(12), 4, seed=seed, batch_size=1, **options)
        stream.set_position(epoch)
        return tuple(colors(stream))

    assert len({order(seed, epoch, shuffle_buffer=12) for seed in range(3) for epoch in range(3)}) == 9
    assert order(0, 0, shuffle_buffer=1) == order(1, 5, shuffle_buffer=1) == tuple(range(12))
    # a buffer of two rows alone could not bring a late shard to the front
    assert any(order(seed, 0, shuffle_buffer=2)[0] >= 6 for seed in range(5))


# --- sharing out ------------------------------------------------------------------------------------------------------


@given(
    num_processes=st.sampled_from([1, 2, 4]),
    accumulation=st.sampled_from([1, 2]),
    num_shards=st.integers(1, 3),
    first_step=st.integers(0, 3),
)
@settings(max_examples=20, deadline=None)
def test_processes_and_accumulated_batches_share_out_the_same_steps(
    num_processes, accumulation, num_shards, first_step
):
    rows = rows_of(28)
    alone = stream_of(rows, num_shards, batch_size=8, shuffle_buffer=9)
    alone.set_position(1)
    whole = steps_of(colors(alone), 8)
    parts = []
    for process_index in range(num_processes):
        stream = stream_of(
            rows,
            num_shards,
            batch_size=8,
            shuffle_buffer=9,
            accumulation=accumulation,
            process_index=process_index,
            num_processes=num_processes,
        )
        stream.set_position(1, first_step)
        parts.append(steps_of(colors(stream), stream.images_at_once))
    # batch by batch over the processes is place by place of the step
    together = [color for batches in zip(*parts, strict=True) for batch in batches for color in batch]
    assert steps_of(together, 8) == whole[first_step:]


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_workers_share_out_the_same_batches(num_workers, accumulation):
    def items(num_workers):
        stream = stream_of(rows_of(26), 2, batch_size=4, accumulation=accumulation, shuffle_buffer=7)
        stream.data.transform = PairedTransform(4)
        stream.set_position(2, 1)
        loader = DataLoader(stream, batch_size=stream.images_at_once, num_workers=num_workers, collate_fn=list)
        return [
            [(item["index"], item["image"].tobytes(), item["labels"].tobytes()) for item in batch] for batch in loader
        ]

    assert items(num_workers) == items(0)
    assert len(items(0)) == 5 * accumulation


# --- bad rows ---------------------------------------------------------------------------------------------------------


def test_a_bad_row_is_named_by_its_place_in_its_shard():
    with pytest.raises(RowError, match="Row 7: the image"):
        list(stream_of(rows_of(12, bad=(7,)), batch_size=4))
    with pytest.raises(RowError, match="Row 3 of shard 1: the image"):  # shards of four rows
        list(stream_of(rows_of(12, bad=(7,)), 3, batch_size=4))


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_bad_row_is_replaced_by_the_next_of_its_step_whoever_reads_it(num_processes):
    parts = []
    for process_index in range(num_processes):
        stream = stream_of(
            rows_of(8, bad=(2, 3, 7)),
            skip_bad=True,
            batch_size=4,
            shuffle_buffer=1,
            process_index=process_index,
            num_processes=num_processes,
        )
        parts.append(steps_of(colors(stream), stream.images_at_once))
    assert [color for batches in zip(*parts) for batch in batches for color in batch] == [0, 1, 0, 0, 4, 5, 6, 4]


def test_a_step_of_bad_rows_is_an_error():
    with pytest.raises(RowError, match="All 4 rows of a step are unreadable"):
        list(stream_of(rows_of(8, bad=(4, 5, 6, 7)), skip_bad=True, batch_size=4, shuffle_buffer=1))
