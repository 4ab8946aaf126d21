# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Segments images for many clients: one queue, batches of what arrives together, features kept for the next words.

Knows images and vocabularies, not HTTP. Threads read images; one thread runs the model; threads make the answers.
"""

import hashlib
import math
import os
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from ..batches import IMAGE_ERRORS, segment_each
from ..model.image_input import ImageError, open_image
from ..model.image_stages import EncodedImage, LabeledImage, PreparedImage
from ..model.inference_settings import InferenceSettings
from ..model.pipeline import OpenVocabularySegmentationPipeline
from ..model.vocabulary import Vocabulary
from .limits import SLIDE_VALUES, Limits, check_aspect
from .memory import Memory, num_bytes_of
from .time_limit import checked_between_layers

# The features are stored for all clients together: only who has the same image finds them.
SHARED = "all clients"

MAX_ANSWERS = 8  # made at once; each holds maps of the size of its image


class BusyError(RuntimeError):
    """Raised if the queue is full or the service stops.

    Attributes:
        retry_after: When to try again, in seconds.
    """

    def __init__(self, message: str, retry_after: int):
        super().__init__(message)
        self.retry_after = retry_after


class PendingAnswer(Future[Any]):
    """The answer of a request. `cancel()` works until it is there, also while the model computes it.

    Attributes:
        has_begun: Whether the model has begun to compute it.
    """

    has_begun = False


class _UnwantedError(Exception):
    """Ends a computation whose answer nobody waits for."""


@dataclass(frozen=True, eq=False)
class Segmented:
    """The result of a request.

    Attributes:
        labeled: The label map and the score map, of the size of the image.
        vocabulary: The labels.
        settings: The settings, resolved.
        was_encoded: Whether the features of the image were stored.
        batch_size: The number of images that were encoded at once.
        seconds: The time from the arrival of the request, waiting included.
    """

    labeled: LabeledImage
    vocabulary: Vocabulary
    settings: InferenceSettings
    was_encoded: bool
    batch_size: int
    seconds: float


@dataclass(eq=False)
class _Job:
    content: bytes
    vocabulary: Vocabulary
    settings: InferenceSettings
    answer: Callable[[Segmented], Any]
    future: PendingAnswer = field(default_factory=PendingAnswer)
    arrived: float = field(default_factory=time.monotonic)
    key: tuple[object, ...] = ()
    image: PreparedImage | EncodedImage | None = None


class SegmentationEngine:
    """Segments images of many clients. Thread-safe; the weights must not change.

    Args:
        pipe: The model and its processor, which must have a tokenizer.
        limits: The limits on requests and on stored features.
        max_batch: Largest number of images that the model gets at once.
        max_wait: How long an image waits for others to form a batch, in seconds.
        max_queue: Largest number of requests in work.
        num_workers: Number of threads that read images.

    Raises:
        ValueError: If the checkpoint has no tokenizer.
    """

    def __init__(
        self,
        pipe: OpenVocabularySegmentationPipeline,
        limits: Limits | None = None,
        *,
        max_batch: int = 8,
        max_wait: float = 0.01,
        max_queue: int = 64,
        num_workers: int = 2,
    ):
        if pipe.processor is None:
            raise ValueError(
                "The checkpoint has no tokenizer, but the service needs a tokenizer to encode words. Convert the "
                "checkpoint again with --tokenizer."
            )
        self.pipe, self.limits = pipe, limits or Limits()
        self.max_batch, self.max_wait, self.max_queue = max_batch, max_wait, max_queue
        self.memory = Memory(self.limits.cache_bytes)
        self._lock = threading.Lock()
        self._num_pending, self._is_open = 0, True
        self._seconds_per_job = 1.0
        self._ready: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(num_workers, "read")
        num_answers = max(num_workers, min(MAX_ANSWERS, os.cpu_count() or 1))
        self._answerers = ThreadPoolExecutor(num_answers, "answer")
        # the model waits for answers: its results, which can have 400 MB, must not pile up
        self._room = threading.Semaphore(num_answers + 1)
        self._worker = threading.Thread(target=self._work, name="model", daemon=True)
        self._worker.start()

    @property
    def num_pending(self) -> int:
        """The number of requests in work."""
        return self._num_pending

    @property
    def is_open(self) -> bool:
        """Whether new requests are taken."""
        return self._is_open

    def submit(
        self,
        content: bytes,
        vocabulary: Vocabulary,
        settings: InferenceSettings,
        answer: Callable[[Segmented], Any] = lambda result: result,
    ) -> PendingAnswer:
        """Starts to segment an image.

        Args:
            content: The bytes of an image file.
            vocabulary: The labels.
            settings: The settings.
            answer: Makes the answer of the result, in a thread. The request is in work until then. Default: the result.

        Returns:
            The answer, or a `ValueError` or `MemoryError` with a remedy, when it is done. A request that is cancelled
            is not computed any more, and leaves the queue when its turn comes.

        Raises:
            ValueError: If the image is too large or a setting does not fit.
            BusyError: If the queue is full, or the service stops.
        """
        if len(content) > self.limits.file_bytes:
            raise ImageError(
                f"The image file has {len(content) / 2**20:.0f} MiB; expected at most "
                f"{self.limits.file_bytes / 2**20:.0f} MiB. Shrink the image."
            )
        job = _Job(content, vocabulary, settings.resolved(self.pipe.model.config, self.pipe.image_processor), answer)
        with self._lock:
            if not self._is_open:
                raise BusyError("The service stops. Try again later.", 5)
            if self._num_pending >= self.max_queue:
                wait = max(1, math.ceil(self._num_pending * self._seconds_per_job))
                raise BusyError(f"{self._num_pending} requests are waiting. Try again in {wait} seconds.", wait)
            self._num_pending += 1
            self._readers.submit(self._read, job)
        return job.future

    def close(self) -> None:
        """Takes no more requests, and returns when those in work are done."""
        with self._lock:
            self._is_open = False
        self._readers.shutdown(wait=True)
        self._ready.put(None)
        self._worker.join()
        self._answerers.shutdown(wait=True)

    def _finish(self, job: _Job, answer: Any = None, error: Exception | None = None) -> None:
        """Gives the answer or the error to the client; after `cancel()`, nothing. To be called once for each job."""
        with self._lock:
            self._num_pending -= 1
        if not job.future.set_running_or_notify_cancel():
            return
        if error is None:
            job.future.set_result(answer)
        else:
            job.future.set_exception(error)

    # --- threads that read --------------------------------------------------------------------------------------------

    def _read(self, job: _Job) -> None:
        if job.future.cancelled():
            self._finish(job)
            return
        try:
            settings = job.settings
            digest = hashlib.sha256(job.content).hexdigest()
            sizes = repr((settings.size, settings.window_size, settings.window_stride))
            job.key = (digest, _encoding_of(settings), sizes)
            job.image = self.memory.get(SHARED, job.key)
            if job.image is None:
                image = open_image(job.content, self.limits.pixels)
                check_aspect(self.limits, image.size, dict(self.pipe.image_processor.size))
                job.image = self.pipe.prepare(image, settings)
            job.content = b""
            self._check_slide(job)
        except Exception as error:  # whatever it is, the client must get an answer
            self._finish(job, error=error)
        else:
            self._ready.put(job)

    def _check_slide(self, job: _Job) -> None:
        if job.settings.inference == "slide":
            assert isinstance(job.image, PreparedImage)  # features of windows are not stored
            height, width = job.image.tensors["pixel_values"].shape[-2:]
            if len(job.vocabulary) * height * width > SLIDE_VALUES:
                raise ValueError(
                    f"Got {len(job.vocabulary)} labels; expected at most {SLIDE_VALUES // (height * width)} for this "
                    "image with sliding windows. Use fewer words or another inference mode."
                )

    # --- the thread that runs the model -------------------------------------------------------------------------------

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._work_on(batch)
            del batch  # its images must not stay in memory until the next batch comes

    def _work_on(self, batch: list[_Job]) -> None:
        start = time.monotonic()
        batch = [job for job in batch if self._is_wanted(job)]
        if not batch:
            return
        for job in batch:
            job.future.has_begun = True
        try:
            self._segment(batch)
        except Exception as error:  # before the first image is segmented; the clients must get an answer
            for job in batch:
                self._finish(job, error=error)
        self._seconds_per_job += 0.2 * ((time.monotonic() - start) / len(batch) - self._seconds_per_job)

    def _is_wanted(self, job: _Job) -> bool:
        """Whether a client waits for a job; else it is finished."""
        if job.future.cancelled():
            self._finish(job)
            return False
        return True

    def _while_wanted(self, jobs: Sequence[_Job]) -> AbstractContextManager[None]:
        """Raises `_UnwantedError` between two layers of the model if no client waits for one of the jobs."""

        def check() -> None:
            if all(job.future.cancelled() for job in jobs):
                raise _UnwantedError

        return checked_between_layers(self.pipe.model, check)

    def _next_batch(self) -> list[_Job] | None:
        """Returns what arrives together; `None` at the end."""
        job = self._ready.get()
        if job is None:
            return None
        batch, deadline = [job], time.monotonic() + self.max_wait
        while len(batch) < self.max_batch:
            try:
                job = self._ready.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                self._ready.put(None)  # this batch first
                break
            batch.append(job)
        return batch

    def _segment(self, batch: Sequence[_Job]) -> None:
        known = {job.key for job in batch if self.memory.get(SHARED, job.key) is not None}
        num_encoded, features = self._encode(batch)
        for job in batch:
            self._room.acquire()
            if not self._is_wanted(job):
                self._room.release()
                continue
            try:
                result = self._result_of(job, features.get(job.key, job.image), job.key in known, num_encoded or 1)
                self._answerers.submit(self._answer, job, result)
                del result  # it is large
            except Exception as error:  # whatever it is, the client must get an answer
                self._room.release()
                self._finish(job, error=error)

    def _result_of(
        self, job: _Job, image: PreparedImage | EncodedImage | None, is_known: bool, batch_size: int
    ) -> Segmented:
        assert image is not None  # read before
        with self._while_wanted([job]):
            text = self.pipe.encode_labels(job.vocabulary)
            (labeled,) = segment_each(self.pipe, [image], text, job.settings)
        if isinstance(labeled, Exception):
            raise labeled
        was_encoded = isinstance(job.image, EncodedImage) or is_known
        seconds = time.monotonic() - job.arrived
        return Segmented(labeled, job.vocabulary, job.settings, was_encoded, batch_size, seconds)

    def _answer(self, job: _Job, result: Segmented) -> None:
        try:
            answer = None if job.future.cancelled() else job.answer(result)
        except Exception as error:  # whatever it is, the client must get an answer
            self._finish(job, error=error)
        else:
            self._finish(job, answer)
        finally:
            self._room.release()

    def _encode(self, batch: Sequence[_Job]) -> tuple[int, dict[tuple[object, ...], EncodedImage]]:
        """Returns how many images were encoded, and the features of the batch."""
        features: dict[tuple[object, ...], EncodedImage] = {}
        new: dict[InferenceSettings, dict[tuple[object, ...], PreparedImage]] = defaultdict(dict)
        for job in batch:
            known = self.memory.get(SHARED, job.key) or job.image
            if isinstance(known, EncodedImage):
                features[job.key] = known
            elif isinstance(job.image, PreparedImage) and job.settings.inference != "slide":
                new[_encoding_of(job.settings)][job.key] = job.image
        for settings, images in new.items():
            try:
                with self._while_wanted([job for job in batch if job.key in images]):
                    encoded = self.pipe.encode_prepared(list(images.values()), settings)
            except (*IMAGE_ERRORS, _UnwantedError):  # each image on its own then, with its own error
                continue
            for key, image in zip(images, encoded):
                self.memory.put(SHARED, key, image, num_bytes_of(image.features) + image.pixels.nbytes)
                features[key] = image
        return sum(map(len, new.values())), features


def _encoding_of(settings: InferenceSettings) -> InferenceSettings:
    """Returns only the settings that features depend on."""
    return InferenceSettings(
        inference=settings.inference,
        head=settings.head,
        patch_source=settings.patch_source,
        refine_features=settings.refine_features,
    )
