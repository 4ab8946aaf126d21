# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The contract of X-AnyLabeling's remote server: `/v1/models`, `/v1/models/{id}/info` and `/v1/predict`.

The words are the text prompt, separated by commas or dots, or the default vocabulary of the service; the answer has a
polygon for each part. As there, errors of a request have the status 200, and a full queue has 503.
"""

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from ..annotations.coco import ring_of
from ..annotations.image import AnnotatedImage, Cleaned, ExportOptions
from ..model.checks import quoted
from ..model.image_input import ImageError
from ..model.inference_settings import InferenceSettings
from ..model.vocabulary import Vocabulary
from .downloads import decode_base64
from .engine import BusyError, SegmentationEngine, Segmented
from .label_studio import smallest_part
from .waiting import answer_of, while_connected
from .words import vocabulary_within

MODEL_ID = "dinov3seg"


class Prediction(BaseModel):
    """An image to label."""

    model: str
    image: str
    params: dict[str, Any] = {}


def add_endpoints(app: FastAPI, engine: SegmentationEngine, name: str, default: Vocabulary | None) -> None:
    """Adds the endpoints of X-AnyLabeling."""
    facts: dict[str, Any] = {
        "display_name": f"dinov3.seg ({name})",
        "widgets": [
            {"name": "edit_text", "value": None},
            {"name": "button_send", "value": None},
            {"name": "edit_conf", "value": 0.0},
            *([] if default is None else [{"name": "button_run", "value": None}]),
        ],
        "params": {"device": str(engine.pipe.device)},
        "batch_processing_mode": "text_prompt" if default is None else "default",
    }

    @app.get("/v1/models", tags=["X-AnyLabeling"])
    def models() -> dict[str, Any]:
        """Lists the model."""
        return {"success": True, "data": {MODEL_ID: facts}}

    @app.get("/v1/models/{model_id}/info", tags=["X-AnyLabeling"])
    def info(model_id: str) -> dict[str, Any]:
        """Describes the model."""
        if model_id != MODEL_ID:
            return _not_found(model_id)
        return {"success": True, "data": {"model_id": MODEL_ID, **facts}}

    @app.post("/v1/predict", tags=["X-AnyLabeling"])
    async def predict(request: Prediction, connection: Request) -> Any:
        """Labels an image by the words of its text prompt."""
        if request.model != MODEL_ID:
            return _not_found(request.model)
        try:
            vocabulary = await run_in_threadpool(_vocabulary, engine, request.params.get("text_prompt"), default)
            settings = InferenceSettings(threshold=request.params.get("conf_threshold") or None)
            content = decode_base64(request.image)
            pending = engine.submit(content, vocabulary, settings, _shapes)
            shapes = await while_connected(connection, answer_of(pending, engine.limits.seconds))
        except BusyError as error:
            return JSONResponse({"detail": str(error)}, 503, {"Retry-After": str(error.retry_after)})
        except ImageError as error:
            return _failure("INVALID_IMAGE", str(error))
        except (ValueError, MemoryError) as error:
            return _failure("INFERENCE_ERROR", str(error))
        if isinstance(shapes, Response):  # nobody receives it
            return shapes
        return {"success": True, "data": {"shapes": shapes, "description": ""}}


def _vocabulary(engine: SegmentationEngine, prompt: Any, default: Vocabulary | None) -> Vocabulary:
    if isinstance(prompt, str) and prompt.strip(" .,"):
        return vocabulary_within(engine.limits, prompt.replace(".", ","))  # as text, whose length is limited
    if default is None:
        raise ValueError("Got no text prompt; expected words, such as: cat, grass, sky.")
    return default


def _shapes(result: Segmented) -> list[dict[str, Any]]:
    image = AnnotatedImage("image.png", result.labeled.label_map, result.labeled.score_map)
    options = ExportOptions(min_area=smallest_part(image))
    shapes: list[dict[str, Any]] = []
    for part in Cleaned(image, options, len(result.vocabulary)).parts:
        points = ring_of(part, options.tolerance).tolist()
        shapes.append(
            {
                "label": result.vocabulary.names[part.label],
                "shape_type": "polygon",
                "points": [*points, points[0]],  # the polygons there are closed
                "score": part.score,
                "attributes": {},
                "description": None,
                "difficult": False,
                "direction": 0,
                "flags": None,
                "group_id": None,
                "kie_linking": [],
            }
        )
    return shapes


def _not_found(model_id: str) -> dict[str, Any]:
    return _failure("MODEL_NOT_FOUND", f"Model {quoted(model_id)} not loaded; the model is {MODEL_ID!r}")


def _failure(code: str, message: str) -> dict[str, Any]:
    return {"success": False, "error": {"code": code, "message": message}}
