# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Computes the segmentations of the demo and stores photos, features and text embeddings of each session.

Uses the pipeline, files and sessions; does not depend on pages, HTTP or Gradio. Each value is stored for one session,
and its key contains everything that the value depends on (bytes of the image, words, settings, model weights). A result
is therefore never outdated and never comes from another session. The stored values have a maximum total size; evicted
values are computed again.
"""

import hashlib
import os
import re
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image

from ..model.checks import checked_choice, checked_path, quoted
from ..model.fingerprints import sha256_of, weights_key
from ..model.image_stages import EncodedImage, LabeledImage, PreparedImage
from ..model.inference_settings import Head, Inference, InferenceSettings, Refine
from ..model.pipeline import OpenVocabularySegmentationPipeline
from ..model.text_embeddings import TextEmbeddings, encode_classes
from ..model.vocabulary import Vocabulary
from ..serving.limits import SLIDE_VALUES, Limits, Progress, check_aspect
from ..serving.memory import Memory, num_bytes_of
from ..serving.time_limit import checked_between_layers, time_limit_error
from ..serving.words import vocabulary_within
from ..visualization.colors import label_palette
from ..visualization.pictures import MIN_DISPLAY_SIDE
from .photos import Photo, open_photo
from .segmentation import LEVELS, NUM_LEVELS, Segmentation
from .zero_gpu import move_to_borrowed_gpu, on_zero_gpu, seconds_of_a_request, with_borrowed_gpu


@dataclass(frozen=True, eq=False)
class ModelAnswer:
    """What the model computes for a request.

    Attributes:
        labeled: The segmentation.
        new_words: The embeddings of the classes that were not stored, by their index.
        seconds: The duration of each step.
    """

    labeled: LabeledImage
    new_words: dict[int, torch.Tensor]
    seconds: dict[str, float]


class DemoEngine:
    """Segments the photos of many sessions by words. Thread-safe.

    Args:
        pipe: The model and its processor, which must have a tokenizer. The weights may change later, but not the
            configuration.
        limits: Limits on the size of requests and on the stored values. Default: `Limits()`.
        name: The name of the model.

    Raises:
        ValueError: If the checkpoint has no tokenizer.
    """

    def __init__(
        self, pipe: OpenVocabularySegmentationPipeline, limits: Limits | None = None, name: str = "dinov3.seg"
    ):
        if pipe.processor is None:
            raise ValueError(
                "The checkpoint has no tokenizer, but the demo needs a tokenizer to encode words. Convert the "
                "checkpoint again with --tokenizer."
            )
        self.pipe, self.limits, self.name = pipe, limits or Limits(), name
        self.memory = Memory(self.limits.cache_bytes)
        self._on_model = with_borrowed_gpu(self._model_steps)
        self._compute = threading.RLock()  # one model on one device: parallel calls are not faster and need more memory

    # --- inputs ------------------------------------------------------------------------------------------------------

    @property
    def inference_modes(self) -> tuple[Inference, ...]:
        return get_args(Inference)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads of the checkpoint, the default first. A converted dino.txt checkpoint has no trained head."""
        config = self.pipe.model.config
        heads: tuple[Head, ...] = get_args(Head) if config.head_trained else ("dinotxt",)
        return tuple(sorted(heads, key=lambda head: head != config.head))

    def vocabulary(self, labels: str | Sequence[str], templates: str | Sequence[str] | None = None) -> Vocabulary:
        """Converts labels that a user typed to a vocabulary.

        Args:
            labels: A text with commas or line breaks between labels, or a list of labels. `|` separates the synonyms of
                a label.
            templates: See `Vocabulary`; or a text with one template per line. Default: the template of the paper.

        Raises:
            ValueError: If there are no labels, there are too many or too long labels, a label occurs twice, or a
                template is invalid.
        """
        return vocabulary_within(self.limits, labels, templates)

    def photo(self, session: str | None, path: str | os.PathLike) -> Photo:
        """Reads an uploaded image and stores it for the session.

        Raises:
            ValueError: If the file cannot be read, is not an image, is damaged, or is too large.
        """
        path = Path(checked_path(path, "The image"))
        try:
            size = path.stat().st_size
            if size > self.limits.file_bytes:
                raise ValueError(
                    f"The image file has {size / 2**20:.0f} MiB; expected at most "
                    f"{self.limits.file_bytes / 2**20:.0f} MiB. Shrink the image."
                )
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ValueError(f"The image cannot be read ({error.strerror}). Upload the image again.") from error
        key = ("photo", digest)
        if session is not None and (known := self.memory.get(session, key)) is not None:
            return known
        with self._compute:  # decoding needs memory for several copies
            try:
                image, source_size = open_photo(path, self.limits)
            except ValueError as error:  # hide the folder of the uploads, and advice that is for programmers only
                reason = str(error).replace(str(path), path.name)
                raise ValueError(re.sub(r", or raise the limit \(.*\)", "", reason)) from error
            check_aspect(self.limits, image.size, dict(self.pipe.image_processor.size))
            if max(image.size) > self.limits.side:
                image.thumbnail((self.limits.side, self.limits.side), Image.Resampling.LANCZOS, reducing_gap=3.0)
            # A small image is enlarged for the page. The factor is odd: each original pixel is the center of a block.
            factor = min(-(-MIN_DISPLAY_SIDE // min(image.size)), self.limits.side // max(image.size))
            factor = max(1, factor - 1 + factor % 2)
            shown = image
            if factor > 1:
                shown_size = (image.width * factor, image.height * factor)
                shown = image.resize(shown_size, Image.Resampling.LANCZOS)
            photo = Photo(digest, image, shown, source_size)
        if session is not None:
            self.memory.put(session, key, photo, photo.num_bytes)
        return photo

    # --- results -----------------------------------------------------------------------------------------------------

    def segment(
        self,
        session: str | None,
        path: str | os.PathLike,
        labels: str | Sequence[str],
        *,
        inference: Inference | None = None,
        head: Head | None = None,
        templates: str | Sequence[str] | None = None,
        refine: Refine = "none",
        progress: Progress | None = None,
    ) -> Segmentation:
        """Segments an image by words. Values that are stored for the session are not computed again.

        Args:
            session: The id of the session. `None`: nothing is stored.
            path: An image file.
            labels: See `vocabulary`.
            inference: See the pipeline. Default: the default of the checkpoint.
            head: See the pipeline. Default: the full head if the checkpoint has one, else the zero-shot head.
            templates: See `vocabulary`.
            refine: See the pipeline.
            progress: Called with the progress, from 0 to 1, and a description of the current step.

        Raises:
            ValueError: If the image, the words or the settings are invalid, or the request takes more than
                `Limits.seconds`; the message contains the remedy.
            MemoryError: If there are too many words for the memory of the device.
        """
        inference = self.pipe.default_inference if inference is None else inference
        checked_choice(inference, "inference", self.inference_modes)
        head = self.heads[0] if head is None else head
        if not isinstance(head, str) or head not in self.heads:
            raise ValueError(f"head is {quoted(head)}; expected a head of this checkpoint: {', '.join(self.heads)}.")
        progress = progress or (lambda fraction, what: None)
        vocabulary = self.vocabulary(labels, templates)
        seconds: dict[str, float] = {}

        progress(0.0, "Reading the image")
        with _timed(seconds, "read"):
            photo = self.photo(session, path)
        with self._compute:
            model_key = self._model_key()
            image_key = (photo.digest, model_key, inference, head)
            key = hashlib.sha256(repr((image_key, vocabulary.fingerprint, refine)).encode()).hexdigest()
            if session is not None and (known := self.memory.get(session, ("segmentation", key))) is not None:
                return known
            settings = InferenceSettings(inference=inference, head=head, refine=refine)
            words = self._known_words(session, vocabulary, model_key)
            # features stay on the GPU that computed them, and a borrowed GPU is given back
            features_of = None if on_zero_gpu() else session
            answer = None
            with closing(self._on_model(features_of, photo, image_key, vocabulary, words, settings)) as steps:
                for step in steps:
                    if isinstance(step, Exception):
                        raise step
                    if isinstance(step, ModelAnswer):
                        answer = step
                    else:
                        progress(*step)
            assert answer is not None  # the last step
            self._remember_words(session, vocabulary, model_key, answer.new_words)
            result = self._result(key, photo, vocabulary, settings, answer.labeled)
        if session is not None:
            self.memory.put(session, ("segmentation", key), result, result.num_bytes)
        # the stored result has no times, because reading it from memory takes no time
        return replace(result, seconds=seconds | answer.seconds, num_new_words=len(answer.new_words))

    def _model_steps(
        self,
        session: str | None,
        photo: Photo,
        image_key: tuple,
        vocabulary: Vocabulary,
        words: dict[int, torch.Tensor],
        settings: InferenceSettings,
    ) -> Generator[tuple[float, str] | ModelAnswer | ValueError | MemoryError, None, None]:
        """Runs the model. Yields the progress and the name of each step, and at the end the answer or the error.

        With ZeroGPU, this runs in another process: all that it takes and yields can be pickled, and an error that is
        raised would arrive without its message.

        Args:
            session: The session that stores the features. `None`: they are not stored.
            photo: The image.
            image_key: What the features depend on, see `segment`.
            vocabulary: The words.
            words: The embeddings of the classes that are stored, by their index.
            settings: The settings of the segmentation.
        """
        seconds: dict[str, float] = {}
        try:
            if on_zero_gpu():
                move_to_borrowed_gpu(self.pipe.model)
                self.pipe.device = self.pipe.model.device
            with self._time_limit():  # where the GPU is
                known = self._known_features(session, photo, image_key)
                remembered = known is not None
                if known is None:
                    yield 0.1, "Encoding the image"
                inputs = known or self._inputs(session, photo, image_key, len(vocabulary), seconds)
                yield 0.2 if remembered else 0.6, "Encoding the words"
                with _timed(seconds, "text"):
                    text, new_words = self._encode_words(vocabulary, words)
                yield 0.4 if remembered else 0.7, "Segmenting"
                with _timed(seconds, "segment"):
                    (labeled,) = self.pipe.segment_prepared([inputs], text, settings, return_scores=True)
        except (ValueError, MemoryError) as error:
            yield error
        else:
            yield ModelAnswer(labeled, new_words, seconds)

    def _known_features(self, session: str | None, photo: Photo, image_key: tuple) -> EncodedImage | None:
        """Returns the stored features of a photo; `None` if there are none."""
        known = None if session is None else self.memory.get(session, ("features", image_key))
        return None if known is None else replace(known, size=(photo.shown.height, photo.shown.width))

    def _time_limit(self) -> AbstractContextManager[None]:
        """Raises an error between two layers of the model if the block takes too long, see `Limits.seconds`."""
        limit = seconds_of_a_request(self.limits.seconds)
        deadline = time.monotonic() + limit

        def refuse_late() -> None:
            if time.monotonic() > deadline:
                raise time_limit_error(limit, has_begun=True)

        return checked_between_layers(self.pipe.model, refuse_late)

    def _inputs(
        self,
        session: str | None,
        photo: Photo,
        image_key: tuple,
        num_labels: int,
        seconds: dict[str, float],
    ) -> PreparedImage | EncodedImage:
        """Returns the photo as input of the pipeline, and stores its features.

        The label map gets the size of `photo.shown`, so that small images have smooth edges.
        """
        _, _, inference, head = image_key
        shown_size = (photo.shown.height, photo.shown.width)
        if inference == "slide":  # no features to store: each window is segmented with the words
            prepared = self.pipe.prepare(photo.image, InferenceSettings(inference=inference))
            assert not isinstance(prepared, EncodedImage)  # `prepare` returns encoded images only for encoded images
            height, width = prepared.tensors["pixel_values"].shape[-2:]
            if num_labels * height * width > SLIDE_VALUES:
                raise ValueError(
                    f"Got {num_labels} labels; expected at most {SLIDE_VALUES // (height * width)} for this image with "
                    "sliding windows. Use fewer words or another inference mode."
                )
            return replace(prepared, size=shown_size)
        with _timed(seconds, "image"):
            encoded = self.pipe.encode_image(photo.image, inference=inference, head=head)
        if session is not None:
            size = num_bytes_of(encoded.features) + encoded.pixels.nbytes
            self.memory.put(session, ("features", image_key), encoded, size)
        return replace(encoded, size=shown_size)

    # The pipeline has a cache of words, too, but all sessions share that cache. Keys are digests: the prompts of a
    # class can have megabytes, which the memory does not count.

    def _known_words(self, session: str | None, vocabulary: Vocabulary, model_key: str) -> dict[int, torch.Tensor]:
        """Returns the stored embeddings of classes, `(2, D)` each, by their index."""
        if session is None:
            return {}
        keys = (("words", model_key, sha256_of(prompts)) for prompts in vocabulary.prompts())
        stored = (self.memory.get(session, key) for key in keys)
        return {index: row for index, row in enumerate(stored) if row is not None}

    def _remember_words(
        self, session: str | None, vocabulary: Vocabulary, model_key: str, rows: dict[int, torch.Tensor]
    ) -> None:
        if session is not None:
            prompts = vocabulary.prompts()
            for index, row in rows.items():
                self.memory.put(session, ("words", model_key, sha256_of(prompts[index])), row, row.nbytes + 256)

    def _encode_words(
        self, vocabulary: Vocabulary, known: dict[int, torch.Tensor]
    ) -> tuple[TextEmbeddings, dict[int, torch.Tensor]]:
        """Returns the embeddings of all classes, and of those that are not known."""
        missing = [index for index in range(len(vocabulary)) if index not in known]
        new: dict[int, torch.Tensor] = {}
        if missing:
            prompts = vocabulary.prompts()
            encoded = encode_classes(
                self.pipe.model, self.pipe.tokenizer, [prompts[index] for index in missing], labels=missing
            )  # (c, 2, D)
            new = {index: row.clone() for index, row in zip(missing, encoded)}  # a view would keep all rows in memory
        rows = known | new
        tensor = torch.stack([rows[index] for index in range(len(vocabulary))])  # (C, 2, D)
        fingerprint = self.pipe.text_fingerprint()
        return TextEmbeddings(tensor, vocabulary.names, vocabulary.fingerprint, fingerprint), new

    def _result(
        self,
        key: str,
        photo: Photo,
        vocabulary: Vocabulary,
        settings: InferenceSettings,
        labeled: LabeledImage,
    ) -> Segmentation:
        assert labeled.scores is not None  # because of return_scores
        assert settings.inference is not None and settings.head is not None and settings.refine is not None
        num_labels = len(vocabulary)
        labels, scores = labeled.label_map, labeled.score_map
        levels = (np.searchsorted(LEVELS, scores.ravel(), side="right") - 1).clip(0, 100).astype(np.uint8)
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
            inference=settings.inference,
            head=settings.head,
            refine=settings.refine,
            shown_labels=labels.astype(np.int16 if num_labels < 2**15 else np.int32),
            shown_levels=levels,
            counts=counts,
            sums=sums.reshape(num_labels, NUM_LEVELS),
            scores=(np.clip(labeled.scores.astype(np.float32), 0, 1) * 255).round().astype(np.uint8),
        )

    def colors(self, session: str | None, vocabulary: Vocabulary) -> np.ndarray:
        """Returns a color for each label, uint8 `(C, 3)`. A word keeps its color while others are added or removed."""
        words = [name.casefold() for name in vocabulary.names]
        book: dict[str, tuple[int, ...]] = (self.memory.get(session, "colors") if session is not None else None) or {}
        colors = label_palette(words, {word: book[word] for word in words if word in book})
        if session is not None:
            self.memory.put(session, "colors", dict(zip(words, map(tuple, colors.tolist()))), 128 * len(words))
        return colors

    def shown(self, session: str | None) -> str | None:
        """Returns the key of the segmentation that the page of a session shows; `None` if it is not stored."""
        return None if session is None else self.memory.get(session, "shown")

    def set_shown(self, session: str | None, key: str | None) -> None:
        if session is not None:
            self.memory.put(session, "shown", key, 128)

    def forget(self, session: str) -> None:
        """Removes the stored values of a session that has ended."""
        self.memory.forget(session)

    @property
    def model_facts(self) -> dict[str, Any]:
        """The facts about the model that the page shows."""
        model = self.pipe.model
        return {
            "model": self.name,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": "a borrowed GPU" if on_zero_gpu() else str(self.pipe.device),
        }

    def _model_key(self) -> str:
        return hashlib.sha256(repr(weights_key(self.pipe.model)).encode()).hexdigest()


@contextmanager
def _timed(seconds: dict[str, float], what: str):
    start = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - start
