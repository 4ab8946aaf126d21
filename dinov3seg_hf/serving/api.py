# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The endpoints of the service: `/segment`, `/vocabularies`, `/health`, and the page `/docs` that describes them.

Needs the extra `serve`. Errors of a request are JSON, `{"detail": ...}`: 400 for words and settings, 413 for files that
are too large, 429 with `Retry-After` if the queue is full, 503 while the service stops, 504 after `Limits.seconds`.
A request whose client closes the connection is not computed.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from ..about import __version__
from ..model.inference_settings import ActiveClasses, Background, Head, Inference, InferenceSettings, Refine
from ..model.vocabulary import Vocabulary, as_vocabulary
from ..visualization.colors import label_palette
from ..visualization.files import mask_as_png, segments_as_json
from ..visualization.pictures import regions_of
from .body_limit import BodyLimit
from .docs_page import add_docs
from .engine import BusyError, SegmentationEngine, Segmented
from .time_limit import TimeLimitError
from .waiting import answer_of, while_connected
from .words import check_prompts, templates_within, vocabulary_within

# More than the image of a request: words, templates, the frame of a form, and a third more for base64.
FORM_BYTES, BASE64_SHARE = 2**20, 4 / 3

DESCRIPTION = """Open-vocabulary semantic segmentation: an image and any list of words in, a label for every pixel out.

The features of an image are kept for a while: other words for the same image cost the head alone.
"""


def build_app(
    engine: SegmentationEngine, name: str = "dinov3.seg", vocabulary: Vocabulary | None = None, **tools: Any
) -> FastAPI:
    """Builds the service.

    Args:
        engine: What segments; it is closed when the service stops.
        name: The name of the model in answers.
        vocabulary: The labels of requests without labels.
        **tools: `downloads`, for the endpoints of Label Studio.
    """
    from . import label_studio, x_anylabeling

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(engine.close)

    app = FastAPI(
        title="dinov3seg",
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(BodyLimit, max_bytes=int(engine.limits.file_bytes * BASE64_SHARE) + FORM_BYTES)
    app.add_exception_handler(BusyError, _busy)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(ValueError, _invalid)
    app.add_exception_handler(MemoryError, _invalid)
    _add_segment(app, engine, name, vocabulary)
    _add_facts(app, engine, name, vocabulary)
    label_studio.add_endpoints(app, engine, name, tools.get("downloads"))
    x_anylabeling.add_endpoints(app, engine, name, vocabulary)
    add_docs(app)
    return app


def _add_segment(app: FastAPI, engine: SegmentationEngine, name: str, default: Vocabulary | None) -> None:
    @app.post(
        "/segment",
        response_model=None,
        responses={
            200: {"content": {"application/json": {}, "image/png": {}}},
            **{code: {"description": text} for code, text in ERRORS.items()},
        },
    )
    async def segment(
        request: Request,
        image: Annotated[UploadFile, File(description="an image file")],
        labels: Annotated[
            str | None,
            Form(description='words, separated by commas; "sofa|couch" for synonyms', examples=["cat, grass, sky"]),
        ] = None,
        vocabulary: Annotated[str | None, Form(description="a name of /vocabularies, in place of labels")] = None,
        templates: Annotated[str | None, Form(description="prompt templates: a name, or one template a line")] = None,
        format: Annotated[
            Literal["json", "png", "rle"],
            Form(description="json: segments; rle: also their masks (COCO run lengths, uncompressed); png: label map"),
        ] = "json",
        inference: Annotated[Inference | None, Form()] = None,
        head: Annotated[Head | None, Form()] = None,
        refine: Annotated[Refine | None, Form()] = None,
        threshold: Annotated[float | None, Form(description="pixels with a lower score get no label")] = None,
        background: Annotated[Background | None, Form()] = None,
        active_classes: Annotated[
            ActiveClasses | None,
            Form(description="classes per patch that the full head refines: auto, or a number"),
        ] = None,
    ) -> Response:
        """Segments an image by words."""
        # thousands of words take a third of a second, in which other clients must be answered
        words = await run_in_threadpool(_vocabulary, engine, labels, vocabulary, templates, default)
        settings = InferenceSettings(
            inference=inference,
            head=head,
            refine=refine,
            threshold=threshold,
            background=background,
            active_classes=active_classes,
        )
        answer = partial(_answer, name=name, format=format)
        pending = engine.submit(await image.read(), words, settings, answer)
        return await while_connected(request, answer_of(pending, engine.limits.seconds))


def _vocabulary(
    engine: SegmentationEngine,
    labels: str | None,
    name: str | None,
    templates: str | None,
    default: Vocabulary | None,
) -> Vocabulary:
    if labels is not None and name is not None:
        raise ValueError("Got labels and a vocabulary; expected one of them. Leave one out.")
    if labels is not None:
        return vocabulary_within(engine.limits, labels, templates)
    vocabulary = default if name is None else Vocabulary.from_preset(name)
    if vocabulary is None:
        raise ValueError("Got neither labels nor a vocabulary; expected one of them, such as labels=cat, grass, sky.")
    if not templates:
        return vocabulary
    vocabulary = as_vocabulary(vocabulary, templates_within(engine.limits, templates))
    check_prompts(engine.limits, sum(map(len, vocabulary.synonyms)), len(vocabulary.templates))
    return vocabulary


def _answer(result: Segmented, name: str, format: str) -> Response:
    labels, labeled = result.vocabulary.names, result.labeled
    if format == "png":
        content = mask_as_png(labeled.label_map, len(labels), palette=label_palette(labels))
        return Response(content, media_type="image/png", headers={"X-Cached": str(result.was_encoded).lower()})
    scores = {labels[index]: score for index, score in labeled.mean_scores(len(labels)).items()}
    segments = segments_as_json(
        labeled.label_map, regions_of(labeled.label_map, labels, scores), with_masks=format == "rle"
    )
    settings = result.settings
    return JSONResponse(
        {
            "height": labeled.label_map.shape[0],
            "width": labeled.label_map.shape[1],
            "model": name,
            "head": settings.head,
            "inference": settings.inference,
            "refine": settings.refine,
            "threshold": settings.threshold,
            "active_classes": settings.active_classes,
            "labels": list(labels),
            "segments": segments,
            "cached": result.was_encoded,
            "batch_size": result.batch_size,
            "seconds": round(result.seconds, 4),
        }
    )


def _add_facts(app: FastAPI, engine: SegmentationEngine, name: str, default: Vocabulary | None) -> None:
    presets = {preset: len(Vocabulary.from_preset(preset)) for preset in Vocabulary.presets()}

    @app.get("/vocabularies")
    def vocabularies() -> dict[str, Any]:
        """Lists the vocabularies by name, with their numbers of labels, and the labels that are the default."""
        default_labels = None if default is None else list(default.names)
        return {"vocabularies": {key: {"num_labels": size} for key, size in presets.items()}, "default": default_labels}

    @app.get("/vocabularies/{vocabulary}")
    def labels_of(vocabulary: str) -> dict[str, Any]:
        """Lists the labels of a vocabulary."""
        if vocabulary not in presets:
            raise HTTPException(404, f"Unknown vocabulary {vocabulary!r}; expected one of {', '.join(presets)}.")
        found = Vocabulary.from_preset(vocabulary)
        return {"name": vocabulary, "labels": list(found.names), "synonyms": [list(words) for words in found.synonyms]}

    @app.get("/health")
    @app.get("/", include_in_schema=False)
    def health() -> JSONResponse:
        """Says whether the service takes requests (200, or 503 while it stops), and how many are in work."""
        facts = {
            "status": "UP" if engine.is_open else "STOPPING",
            "model_class": type(engine.pipe.model).__name__,
            "model": name,
            "models_loaded": 1,
            "version": __version__,
            "device": str(engine.pipe.device),
            "pending": engine.num_pending,
            "max_queue": engine.max_queue,
            "cached_bytes": engine.memory.num_bytes,
        }
        return JSONResponse(facts, 200 if engine.is_open else 503)


ERRORS = {
    400: "words, settings or image are invalid",
    413: "the request is too large",
    429: "the queue is full; see Retry-After",
    503: "the service stops; see Retry-After",
    504: "the request waited or took too long",
}


async def _busy(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BusyError)  # registered for this class
    stops = str(error).startswith("The service stops")
    headers = {"Retry-After": str(error.retry_after)}
    return JSONResponse({"detail": str(error)}, 503 if stops else 429, headers)


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    """Says what is wrong without the input itself, which can be as large as a request, or not fit into an answer."""
    assert isinstance(error, RequestValidationError)  # registered for this class
    details = [{key: detail[key] for key in ("type", "loc", "msg")} for detail in error.errors()]
    return JSONResponse({"detail": details}, 422)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    status = 507 if isinstance(error, MemoryError) else 504 if isinstance(error, TimeLimitError) else 400
    return JSONResponse({"detail": str(error)}, status)
