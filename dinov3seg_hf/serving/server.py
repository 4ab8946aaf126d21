# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Runs the service: loads the model, listens, and stops when the requests in work are answered."""

import signal
import threading
from collections.abc import Sequence

import uvicorn

from ..about import EMBEDDED
from ..checkpoint_names import title_of
from ..loading import load_pipeline
from ..model.vocabulary import Vocabulary
from .allocator import give_back_freed_memory
from .api import build_app
from .downloads import Downloads
from .engine import SegmentationEngine
from .limits import Limits

# How long requests in work may take after SIGTERM, in seconds.
GRACE_SECONDS = 60


def serve(
    model: str = EMBEDDED,
    *,
    device: str | None = None,
    dtype: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    vocabulary: Vocabulary | None = None,
    images_from: Sequence[str] = (),
    limits: Limits | None = None,
    max_batch: int = 8,
    max_wait: float = 0.01,
    max_queue: int = 64,
    num_workers: int = 2,
) -> None:
    """Loads a model and serves it until SIGTERM or SIGINT; requests in work are answered before it returns.

    Args:
        model: Folder or Hub id.
        device: Device of the model. Default: an accelerator if available, else the CPU.
        dtype: Dtype of the weights. Default: float32 on the CPU, else the dtype of the checkpoint.
        host: Host name or address to listen on.
        port: Port to listen on; 0 for a free one.
        vocabulary: The labels of requests without labels.
        images_from: See `Downloads`.
        limits: Limits on the requests and on the stored features.
        max_batch: See `SegmentationEngine`.
        max_wait: See `SegmentationEngine`.
        max_queue: See `SegmentationEngine`.
        num_workers: See `SegmentationEngine`.

    Raises:
        ValueError: If the model cannot be loaded or has no tokenizer, the labels are calibrated for other settings, or
            the port is not available.
    """
    give_back_freed_memory()
    limits = limits or Limits()
    downloads = Downloads(images_from, limits)
    engine = SegmentationEngine(
        load_pipeline(model, device, dtype),
        limits,
        max_batch=max_batch,
        max_wait=max_wait,
        max_queue=max_queue,
        num_workers=num_workers,
    )
    if vocabulary is not None:  # otherwise each request would be refused
        engine.pipe.check_calibration(engine.pipe.encode_labels(vocabulary))
    app = build_app(engine, title_of(model), vocabulary, downloads=downloads)
    config = uvicorn.Config(
        app,
        host,
        port,
        http="h11",  # limits the bytes of headers, other than httptools, which uvicorn would prefer
        ws="none",
        log_level="info",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    if threading.current_thread() is threading.main_thread():
        # uvicorn raises the signal again when all is done, which would end the process as if it had been killed
        signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        uvicorn.Server(config).run()
    except SystemExit as error:  # uvicorn has logged why
        raise ValueError(f"The service cannot listen on {host}:{port}. Choose another --port.") from error
