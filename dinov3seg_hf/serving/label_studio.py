# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The contract of Label Studio's ML backends: `/setup`, `/predict` and `/health`, with the labels of the project.

Connect the address of the service in the settings of a project (Model). The labeling interface must have `BrushLabels`
or `PolygonLabels` on an `Image`; the names of the labels are the words.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from xml.etree import ElementTree

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from ..annotations.image import AnnotatedImage, Cleaned, ExportOptions
from ..annotations.label_studio import MODEL_VERSION, prediction_of
from ..model.checks import quoted
from ..model.inference_settings import InferenceSettings
from ..model.vocabulary import Vocabulary
from .downloads import Downloads
from .engine import BusyError, PendingAnswer, SegmentationEngine, Segmented
from .waiting import answer_of, while_connected
from .words import vocabulary_within

MAX_CONFIG_LENGTH = 2**20
MAX_TASKS = 64
MAX_CONTROLS = 100  # brush or polygon labels: of each, all that is in it is searched

MAX_PAUSE_SECONDS = 5  # between looks at a full queue


class Prediction(BaseModel):
    """Tasks whose images are to be labeled."""

    tasks: list[dict[str, Any]]
    label_config: str | None = None
    model_config = {"extra": "allow"}


@dataclass(frozen=True)
class Interface:
    """What a labeling interface says about the image and its labels.

    Attributes:
        labels: The names of the labels.
        from_name, to_name: The names of the labels' tag and of the image's tag.
        value: The key of the image in the data of a task.
        polygons: Whether the labels are polygons instead of brush masks.
    """

    labels: tuple[str, ...]
    from_name: str
    to_name: str
    value: str
    polygons: bool


def read_interface(config: str) -> Interface:
    """Reads a labeling interface.

    Raises:
        ValueError: If it is no XML, or has no brush or polygon labels on an image.
    """
    # entities can grow beyond all memory
    if len(config) > MAX_CONFIG_LENGTH or "<!DOCTYPE" in config or "<!ENTITY" in config:
        raise ValueError("The labeling interface is too long or has entities; expected tags alone.")
    try:
        root = ElementTree.fromstring(config)
    except (ElementTree.ParseError, UnicodeError) as error:
        raise ValueError(f"The labeling interface is no XML: {error}. Correct it in the project's settings.") from error
    images = {tag.get("name", ""): tag.get("value", "").lstrip("$") for tag in root.iter("Image")}
    for kind in ("BrushLabels", "PolygonLabels"):
        tags = list(root.iter(kind))
        if len(tags) > MAX_CONTROLS:
            raise ValueError(f"The labeling interface has {len(tags)} {kind}; expected at most {MAX_CONTROLS}.")
        for tag in tags:
            labels = tuple(label.get("value", "") for label in tag.iter("Label"))
            to_name = tag.get("toName", "")
            if labels and to_name in images:
                return Interface(labels, tag.get("name", ""), to_name, images[to_name], kind == "PolygonLabels")
    raise ValueError(
        "The labeling interface has no BrushLabels or PolygonLabels with labels on an Image; expected one of them. Add "
        "it in the project's settings."
    )


def add_endpoints(app: FastAPI, engine: SegmentationEngine, name: str, downloads: Downloads | None) -> None:
    """Adds the endpoints of Label Studio; `/health` is that of the service."""
    downloads = downloads or Downloads()

    @app.post("/setup", tags=["Label Studio"])
    def setup(request: dict[str, Any]) -> dict[str, str]:
        """Checks the labeling interface of a project (`schema`)."""
        if request.get("schema"):
            interface_of(request["schema"])
        return {"model_version": MODEL_VERSION}

    @app.post("/predict", tags=["Label Studio"])
    async def predict(request: Prediction, connection: Request) -> Any:
        """Labels the images of tasks with the labels of the project."""
        if not request.label_config:
            raise ValueError("The request has no label_config; expected the labeling interface of the project.")
        if len(request.tasks) > MAX_TASKS:
            raise ValueError(f"Got {len(request.tasks)} tasks; expected at most {MAX_TASKS}. Send fewer at once.")
        interface, vocabulary = await run_in_threadpool(interface_of, request.label_config)
        results = await while_connected(connection, label_all(request.tasks, interface, vocabulary))
        if isinstance(results, Response):  # nobody receives it
            return results
        return {"results": results, "model_version": MODEL_VERSION}

    def interface_of(config: Any) -> tuple[Interface, Vocabulary]:
        if not isinstance(config, str):
            raise ValueError(f"The labeling interface is {quoted(config)}; expected XML as text.")
        interface = read_interface(config)
        return interface, vocabulary_within(engine.limits, list(interface.labels))

    async def label_all(
        tasks: list[dict[str, Any]], interface: Interface, vocabulary: Vocabulary
    ) -> list[dict[str, Any]]:
        # Few at once: many tasks fit into a small queue, and leave room in it for others.
        turns, begun = asyncio.Semaphore(max(1, min(engine.max_batch, engine.max_queue // 2))), asyncio.Event()

        async def in_turn(task: dict[str, Any]) -> dict[str, Any]:
            async with turns:
                return await label(task, interface, vocabulary, begun)

        jobs = [asyncio.ensure_future(in_turn(task)) for task in tasks]
        try:
            return await asyncio.gather(*jobs)
        finally:
            for job in jobs:  # that are not done after an error: nobody gets their answers
                job.cancel()

    async def label(
        task: dict[str, Any], interface: Interface, vocabulary: Vocabulary, begun: asyncio.Event
    ) -> dict[str, Any]:
        data = task.get("data")
        try:
            address = data.get(interface.value) if isinstance(data, dict) else None
            content = await run_in_threadpool(downloads.read, address)
            answer = partial(_prediction, interface=interface)
            return await answer_of(await submitted(content, vocabulary, answer, begun), engine.limits.seconds)
        except BusyError:
            raise
        except (ValueError, MemoryError) as error:  # the other tasks are labeled all the same
            return {"result": [], "model_version": MODEL_VERSION, "error": str(error)}

    async def submitted(
        content: bytes, vocabulary: Vocabulary, answer: Callable[[Segmented], Any], begun: asyncio.Event
    ) -> PendingAnswer:
        """Submits an image. If the queue is full, the first one of a request is refused, and the others wait."""
        while True:
            try:
                future = engine.submit(content, vocabulary, InferenceSettings(), answer)
            except BusyError as error:
                if not begun.is_set() or not engine.is_open:
                    raise
                await asyncio.sleep(min(error.retry_after, MAX_PAUSE_SECONDS))
            else:
                begun.set()
                return future


def _prediction(result: Segmented, interface: Interface) -> dict[str, Any]:
    image = AnnotatedImage("image.png", result.labeled.label_map, result.labeled.score_map)
    cleaned = Cleaned(image, ExportOptions(min_area=smallest_part(image)), len(result.vocabulary))
    return prediction_of(cleaned, interface.labels, interface.from_name, interface.to_name, interface.polygons)


def smallest_part(image: AnnotatedImage) -> int:
    """Returns the area below which a part is not worth an annotation that a person looks at: 0.02 % of the image."""
    return max(1, image.height * image.width // 5000)
