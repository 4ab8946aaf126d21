# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What the demo computes and remembers: photos, features and words of each session, keyed by content, within bounds.

Knows the pipeline, files and sessions; nothing of pages, HTTP or Gradio. All that is remembered is found again by what
it was made of (bytes of the image, words, settings, weights of the model) and by the session that asked: a result is
never an old one and never another user's. What is forgotten is computed again.
"""

import hashlib
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image

from ..image_input import open_image
from ..pipeline import Inference, OpenVocabularySegmentationPipeline, _weights_key
from ..prompts import DEFAULT_TEMPLATE, resolve_templates
from ..visualization import MIN_DISPLAY_SIDE, Region, color_palette, regions_of
from ..vocabulary import TextEmbeddings, Vocabulary, model_fingerprint

Head = Literal["full", "dinotxt"]
Progress = Callable[[float, str], None]

# Scores are kept in steps of a hundredth, as fine as the page's threshold.
NUM_LEVELS = 101
_LEVELS = np.arange(NUM_LEVELS, dtype=np.float32) / np.float32(100)

PROMPTS_AT_ONCE = 256
SLIDE_VALUES = 2**28  # of the probabilities that sliding windows hold, in fp32: 1 GiB


@dataclass(frozen=True)
class Limits:
    """How much a session may ask for, and how much all of them together may hold.

    Attributes:
        file_bytes: Size of an image file.
        pixels: Larger images are refused before they are decoded.
        side: Images with a longer side are shrunk to it.
        labels, words: Classes, and words with all their synonyms.
        word_length: Letters of a word.
        templates: Prompt templates.
        prompts: Words times templates.
        cache_bytes: What is remembered of all sessions together; what was used last stays longest.
    """

    file_bytes: int = 32 * 2**20
    pixels: int = 50_000_000
    side: int = 1600
    labels: int = 1000
    words: int = 3000
    word_length: int = 100
    templates: int = 12
    prompts: int = 10_000
    cache_bytes: int = 768 * 2**20


class Memory:
    """Values by key, of which those used longest ago are forgotten where all together exceed a number of bytes."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, Hashable], tuple[Any, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, session: str, key: Hashable) -> Any | None:
        with self._lock:
            if (session, key) not in self._entries:
                return None
            self._entries.move_to_end((session, key))
            return self._entries[session, key][0]

    def put(self, session: str, key: Hashable, value: Any, num_bytes: int) -> None:
        """Remembers a value; one that is larger than everything may be is not remembered at all."""
        with self._lock:
            self._remove((session, key))
            if num_bytes > self.max_bytes:
                return
            self._entries[session, key] = (value, num_bytes)
            self.num_bytes += num_bytes
            while self.num_bytes > self.max_bytes:
                self._remove(next(iter(self._entries)))

    def forget(self, session: str) -> None:
        """Everything of a session."""
        with self._lock:
            for key in [key for key in self._entries if key[0] == session]:
                self._remove(key)

    def _remove(self, key: tuple[str, Hashable]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.num_bytes -= entry[1]


@dataclass(frozen=True, eq=False)
class Photo:
    """An uploaded image.

    Attributes:
        digest: SHA-256 of the file.
        image: RGB, upright, shrunk to the limit.
        shown: The image as the page shows it: `image`, or for a small one a whole and odd multiple of its size.
        source_size: (height, width) of the file's image.
    """

    digest: str
    image: Image.Image
    shown: Image.Image
    source_size: tuple[int, int]

    @property
    def factor(self) -> int:
        return self.shown.height // self.image.height

    @cached_property
    def jpeg(self) -> bytes:
        """What the page gets to see."""
        buffer = BytesIO()
        self.shown.save(buffer, "JPEG", quality=88)
        return buffer.getvalue()

    @property
    def num_bytes(self) -> int:
        """Both images, and a byte a pixel for the JPEG."""
        own, shown = (image.width * image.height for image in (self.image, self.shown))
        return (3 * own if self.factor > 1 else 0) + 3 * shown + shown


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What the model says of every pixel of a photo, before any threshold.

    Attributes:
        key: Of everything that it was made of.
        photo, vocabulary, inference, head: What was asked.
        shown_labels: int16 or int32, the winning label of every pixel of `photo.shown`.
        shown_levels: uint8, its score in hundredths, rounded down.
        counts, sums: `(C, 101)`, pixels of `photo.image` that a label wins at each level, and the sum of their scores.
        scores: uint8 `(C, h, w)`, every label's score times 255, at the resolution of the model.
        seconds: What took how long: "read", "image", "text", "segment". Those that were remembered are missing.
        num_new_words: How many classes were encoded for it.
    """

    key: str
    photo: Photo
    vocabulary: Vocabulary
    inference: Inference
    head: Head
    shown_labels: np.ndarray
    shown_levels: np.ndarray
    counts: np.ndarray
    sums: np.ndarray
    scores: np.ndarray
    seconds: dict[str, float] = field(default_factory=dict)
    num_new_words: int = 0

    @property
    def num_bytes(self) -> int:
        """With the photo, which lives as long as this does."""
        arrays = (self.shown_labels, self.shown_levels, self.counts, self.sums, self.scores)
        return sum(array.nbytes for array in arrays) + self.photo.num_bytes

    def label_map(self, threshold: float = 0.0, *, shown: bool = False) -> np.ndarray:
        """The label of every pixel, -1 where its score is lower than a threshold.

        Args:
            threshold: In hundredths.
            shown: At the size that the page shows, instead of the image's own.

        Returns:
            int32 `(H, W)`.

        Raises:
            ValueError: A threshold outside of 0 to 1.
        """
        labels, levels = self.shown_labels, self.shown_levels
        if not shown:  # the middle of odd blocks is where the image's own pixels lie
            middle = slice(self.photo.factor // 2, None, self.photo.factor)
            labels, levels = labels[middle, middle], levels[middle, middle]
        return np.where(levels < level_of(threshold), -1, labels).astype(np.int32)

    def regions(self, threshold: float = 0.0) -> list[Region]:
        """The labels found, the largest first, with area and mean score; "none of these" last."""
        first = level_of(threshold)
        counts, sums = self.counts[:, first:].sum(axis=1), self.sums[:, first:].sum(axis=1)
        scores = {self.vocabulary.names[i]: float(sums[i] / counts[i]) for i in np.flatnonzero(counts).tolist()}
        return regions_of(self.label_map(threshold), self.vocabulary.names, scores)


def level_of(threshold: float) -> int:
    """A threshold in whole hundredths.

    Raises:
        ValueError: It is no number between 0 and 1.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise ValueError(f"The threshold is {threshold!r}; expected a number between 0 and 1.")
    return round(100 * threshold)


class DemoEngine:
    """Segments the photos of many sessions by their words. Safe to be called from several threads.

    Args:
        pipe: The model with its processor, which has to have a tokenizer. Its weights may change, its configuration
            not.
        limits: How much may be asked and held.
        name: What the model is called.

    Raises:
        ValueError: The checkpoint came without a tokenizer.
    """

    def __init__(
        self, pipe: OpenVocabularySegmentationPipeline, limits: Limits | None = None, name: str = "dinov3.seg"
    ):
        if pipe.processor is None:
            raise ValueError(
                "The checkpoint came without a tokenizer, which words need. Convert it again with --tokenizer."
            )
        self.pipe, self.limits, self.name = pipe, limits or Limits(), name
        self.memory = Memory(self.limits.cache_bytes)
        self._compute = threading.RLock()  # one model, one device: two at once would only take turns and memory
        # once, it reads the whole text tower; words are forgotten with the weights that made them, see _model_key
        self._text_fingerprint = model_fingerprint(pipe.model)

    # --- what was asked ----------------------------------------------------------------------------------------------

    @property
    def inference_modes(self) -> tuple[Inference, ...]:
        return get_args(Inference)

    @property
    def heads(self) -> tuple[Head, ...]:
        """What the checkpoint can do: a converted dino.txt has no trained head."""
        return get_args(Head) if self.pipe.model.config.head == "full" else ("dinotxt",)

    def vocabulary(self, labels: str | Sequence[str], templates: str | Sequence[str] | None = None) -> Vocabulary:
        """What a person typed -> a vocabulary.

        Args:
            labels: A text with commas or line ends between labels, or a list; synonyms are separated by `|`.
            templates: As for `Vocabulary`; the paper's unless given.

        Raises:
            ValueError: No labels, too many or too long ones, the same twice, a bad template.
        """
        limits = self.limits
        if isinstance(labels, str):
            if len(labels) > limits.words * (limits.word_length + 1):
                raise ValueError(f"The words are {len(labels)} letters long. Take fewer words.")
            labels = [label for label in re.split(r"[,\n]", labels) if label.strip()]
        if not labels:
            raise ValueError("No words yet. Type what to look for, such as: cat, grass, sky.")
        if len(labels) > limits.labels:
            raise ValueError(f"{len(labels)} labels came, and the limit here is {limits.labels}. Take fewer.")
        if isinstance(templates, str) and "\n" in templates:
            templates = [line for line in templates.splitlines() if line.strip()]
        templates = resolve_templates(templates or DEFAULT_TEMPLATE)
        if len(templates) > limits.templates or max(map(len, templates)) > 4 * limits.word_length:
            raise ValueError(
                f"{len(templates)} templates came, and the limit here is {limits.templates} of at most "
                f"{4 * limits.word_length} letters. Take fewer or shorter ones."
            )
        if not all(isinstance(label, str) for label in labels):
            raise ValueError("Labels came that are no text; expected words.")
        words = [[word for word in label.split("|") if word.strip()] or [label] for label in labels]
        num_words, longest = sum(map(len, words)), max((word for row in words for word in row), key=len)
        if len(longest.strip()) > limits.word_length:
            raise ValueError(
                f"{longest.strip()[:30] + '...'!r} is {len(longest.strip())} letters long, and the limit here is "
                f"{limits.word_length}. Shorten it."
            )
        if num_words > limits.words or num_words * len(templates) > limits.prompts:
            raise ValueError(
                f"{num_words} words in {len(templates)} templates make {num_words * len(templates)} prompts, and the "
                f"limit here is {limits.words} words and {limits.prompts} prompts. Take fewer words or templates."
            )
        # published vocabularies share words between classes
        return Vocabulary([row[0] for row in words], words, templates=templates, shared_synonyms=True)

    def photo(self, session: str | None, path: str | os.PathLike) -> Photo:
        """Reads an uploaded file.

        Raises:
            ValueError: It is no image, damaged, or too large.
        """
        path = Path(path)
        try:
            size = path.stat().st_size
            if size > self.limits.file_bytes:
                raise ValueError(
                    f"The image file has {size / 2**20:.0f} MiB, and the limit here is "
                    f"{self.limits.file_bytes / 2**20:.0f} MiB. Shrink it first."
                )
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ValueError(f"The image cannot be read ({error.strerror}). Upload it again.") from error
        key = ("photo", digest)
        if session is not None and (known := self.memory.get(session, key)) is not None:
            return known
        with self._compute:  # decoding holds several copies
            try:
                image, source_size = _open(path, self.limits)
            except ValueError as error:  # nobody's business where uploads lie, nor what a program could change
                reason = str(error).replace(str(path), path.name)
                raise ValueError(re.sub(r", or raise the limit \(.*\)", "", reason)) from error
            if max(image.size) > self.limits.side:
                image.thumbnail((self.limits.side, self.limits.side), Image.Resampling.LANCZOS, reducing_gap=3.0)
            # a small image is shown large: by an odd factor, so that its own pixels are the middles of blocks
            factor = min(-(-MIN_DISPLAY_SIDE // min(image.size)), self.limits.side // max(image.size))
            factor = max(1, factor - 1 + factor % 2)
            shown = image
            if factor > 1:
                size = (image.width * factor, image.height * factor)
                shown = image.resize(size, Image.Resampling.LANCZOS)
            photo = Photo(digest, image, shown, source_size)
        if session is not None:
            self.memory.put(session, key, photo, photo.num_bytes)
        return photo

    # --- what is answered --------------------------------------------------------------------------------------------

    def segment(
        self,
        session: str | None,
        path: str | os.PathLike,
        labels: str | Sequence[str],
        *,
        inference: Inference | None = None,
        head: Head | None = None,
        templates: str | Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Segmentation:
        """Segments an image by words. What the session asked before is not computed again.

        Args:
            session: Who asks; `None` is nobody, and nothing is remembered.
            path: An image file.
            labels, templates: As for `vocabulary`.
            inference, head: As for the pipeline; the checkpoint's defaults unless given.
            progress: Is told how far it is, from 0 to 1, and what is being done.

        Raises:
            ValueError: Something is wrong with the image, the words or the settings, and what to do about it.
            MemoryError: The words are too many for the device.
        """
        inference = self.pipe.default_inference if inference is None else inference
        if inference not in self.inference_modes:
            raise ValueError(f"The mode is {inference!r}; choose one of {', '.join(self.inference_modes)}.")
        head = self.heads[0] if head is None else head
        if head not in self.heads:
            raise ValueError(f"The head is {head!r}; this checkpoint has {', '.join(self.heads)}.")
        progress = progress or (lambda fraction, what: None)
        vocabulary = self.vocabulary(labels, templates)
        seconds: dict[str, float] = {}

        progress(0.0, "Reading the image")
        with _timed(seconds, "read"):
            photo = self.photo(session, path)
        with self._compute:
            model_key = self._model_key()
            image_key = (photo.digest, model_key, inference, head)
            key = hashlib.sha256(repr((image_key, vocabulary.fingerprint)).encode()).hexdigest()
            if session is not None and (known := self.memory.get(session, ("segmentation", key))) is not None:
                return known
            inputs, remembered = self._inputs(session, photo, image_key, len(vocabulary), progress, seconds)
            progress(0.6 if not remembered else 0.2, "Reading the words")
            with _timed(seconds, "text"):
                text, num_new_words = self._encode_words(session, vocabulary, model_key)
            progress(0.7 if not remembered else 0.4, "Segmenting")
            with _timed(seconds, "segment"):
                outputs = self.pipe.forward(
                    inputs, text=text, head=head, return_scores=True
                )  # "label_map", "score_map" (H, W) of photo.shown, "scores" (C, h, w)
            result = self._result(key, photo, vocabulary, inference, head, outputs)
        if session is not None:
            self.memory.put(session, ("segmentation", key), result, result.num_bytes)
        # what was remembered took no time, and so has none the next time
        return replace(result, seconds=seconds, num_new_words=num_new_words)

    def _inputs(
        self,
        session: str | None,
        photo: Photo,
        image_key: tuple,
        num_labels: int,
        progress: Progress,
        seconds: dict[str, float],
    ) -> tuple[dict[str, Any], bool]:
        """What the pipeline's forward takes for a photo, and whether it was remembered."""
        _, _, inference, head = image_key
        shown_size = (photo.shown.height, photo.shown.width)
        if inference == "slide":  # nothing to keep: the words take part from the first window on
            inputs = self.pipe.preprocess(photo.image, inference=inference)
            height, width = inputs["tensors"]["pixel_values"].shape[-2:]
            if num_labels * height * width > SLIDE_VALUES:
                raise ValueError(
                    f"Sliding windows hold at most {SLIDE_VALUES // (height * width)} labels for this image, "
                    f"{num_labels} came. Take fewer words or another mode."
                )
            return {**inputs, "size": shown_size}, False
        key = ("features", image_key)
        encoded = None if session is None else self.memory.get(session, key)
        remembered = encoded is not None
        if not remembered:
            progress(0.1, "Looking at the image")
            with _timed(seconds, "image"):
                encoded = self.pipe.encode_image(photo.image, inference=inference, head=head)
            if session is not None:
                self.memory.put(session, key, encoded, _num_bytes(encoded.features))
        # maps come at the size that is shown: smooth edges for small images
        return {"encoded": replace(encoded, size=shown_size)}, remembered

    def _encode_words(self, session: str | None, vocabulary: Vocabulary, model_key: str) -> tuple[TextEmbeddings, int]:
        """Embeddings of all classes, and how many of them this session had not asked for before.

        Not the pipeline's own cache: that is everyone's, and reads the whole text tower for every new word.
        """
        keys = [("words", model_key, tuple(prompts)) for prompts in vocabulary.prompts()]
        rows = [None if session is None else self.memory.get(session, key) for key in keys]
        missing = [index for index, row in enumerate(rows) if row is None]
        num_prompts = max(len(keys[index][2]) for index in missing) if missing else 1
        classes_at_once = max(1, PROMPTS_AT_ONCE // num_prompts)
        # similar lengths together: little is padded
        missing.sort(key=lambda index: (len(keys[index][2]), max(map(len, keys[index][2]))))
        for start in range(0, len(missing), classes_at_once):
            chunk = missing[start : start + classes_at_once]
            tokens = self.pipe.processor(text=[list(keys[index][2]) for index in chunk])
            with torch.inference_mode():
                device = next(self.pipe.model.text_model.parameters()).device
                features = self.pipe.model.get_text_features(
                    tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
                )  # (c, 2, D)
            for index, row in zip(chunk, features.float().cpu()):
                rows[index] = row.clone()  # a view would keep the chunk alive
                if session is not None:
                    self.memory.put(session, keys[index], rows[index], row.nbytes + 256)
        text = TextEmbeddings(
            torch.stack(rows).clone(), vocabulary.names, vocabulary.fingerprint, self._text_fingerprint
        )
        return text, len(missing)

    def _result(
        self,
        key: str,
        photo: Photo,
        vocabulary: Vocabulary,
        inference: Inference,
        head: Head,
        outputs: dict[str, torch.Tensor],
    ) -> Segmentation:
        num_labels = len(vocabulary)
        labels, scores = outputs["label_map"].numpy(), outputs["score_map"].float().numpy()
        levels = (np.searchsorted(_LEVELS, scores.ravel(), side="right") - 1).clip(0, 100).astype(np.uint8)
        levels = levels.reshape(scores.shape)
        middle = slice(photo.factor // 2, None, photo.factor)
        own_labels, own_levels, own_scores = (array[middle, middle].ravel() for array in (labels, levels, scores))
        places = own_labels.astype(np.int64) * NUM_LEVELS + own_levels
        counts = np.bincount(places, minlength=num_labels * NUM_LEVELS).reshape(num_labels, NUM_LEVELS)
        sums = np.bincount(places, weights=own_scores, minlength=num_labels * NUM_LEVELS)
        return Segmentation(
            key=key,
            photo=photo,
            vocabulary=vocabulary,
            inference=inference,
            head=head,
            shown_labels=labels.astype(np.int16 if num_labels < 2**15 else np.int32),
            shown_levels=levels,
            counts=counts,
            sums=sums.reshape(num_labels, NUM_LEVELS),
            scores=(outputs["scores"].float().clamp(0, 1) * 255).round().to(torch.uint8).numpy(),
        )

    def colors(self, session: str | None, vocabulary: Vocabulary) -> np.ndarray:
        """A color for each label, uint8 `(C, 3)`; a word keeps its color while others come and go."""
        words = [name.casefold() for name in vocabulary.names]
        book: dict[str, int] = (self.memory.get(session, "colors") if session is not None else None) or {}
        slots = {word: book[word] for word in words if word in book}
        taken, free = set(slots.values()), 0
        for word in words:
            if word not in slots:
                while free in taken:
                    free += 1
                slots[word] = free
                taken.add(free)
        if session is not None:
            self.memory.put(session, "colors", slots, 128 * len(slots))
        return color_palette(max(slots.values()) + 1)[[slots[word] for word in words]]

    def shown(self, session: str | None) -> str | None:
        """The key of the segmentation that a session's page shows, as far as that is remembered."""
        return None if session is None else self.memory.get(session, "shown")

    def set_shown(self, session: str | None, key: str | None) -> None:
        if session is not None:
            self.memory.put(session, "shown", key, 128)

    def forget(self, session: str) -> None:
        """A session has ended."""
        self.memory.forget(session)

    @property
    def model_facts(self) -> dict[str, Any]:
        """What a page says of the model."""
        model = self.pipe.model
        return {
            "model": self.name,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(self.pipe.device),
        }

    def _model_key(self) -> str:
        return hashlib.sha256(repr(_weights_key(self.pipe.model)).encode()).hexdigest()


def _open(path: Path, limits: Limits) -> tuple[Image.Image, tuple[int, int]]:
    """An upright RGB image and its (height, width) in the file.

    A JPEG is decoded at a fraction of its size where that suffices: photos of telephones open several times faster.
    """
    try:
        file = Image.open(path)
    except Exception:  # open_image says what is wrong
        file = None
    if file is None or file.format != "JPEG" or file.width * file.height > limits.pixels:
        if file is not None:
            file.close()
        image = open_image(path, max_pixels=limits.pixels)
        return image, (image.height, image.width)
    with file:
        source_size = (file.height, file.width)
        file.draft(None, (limits.side, limits.side))
        drafted_size = (file.height, file.width)
        image = open_image(file, max_pixels=limits.pixels)
    turned = drafted_size[0] != drafted_size[1] and image.size == drafted_size  # (width, height) were swapped by EXIF
    return image, source_size[::-1] if turned else source_size


@contextmanager
def _timed(seconds: dict[str, float], what: str):
    start = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - start


def _num_bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, (list, tuple)):
        return sum(map(_num_bytes, value))
    return sum(map(_num_bytes, value.values())) if isinstance(value, dict) else 0
