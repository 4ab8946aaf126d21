# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The demo as a server, for `dinov3seg demo` and for a Space: loads the model, serves the page, ends cleanly."""

import os
import signal
import tempfile
import threading
from dataclasses import replace
from typing import Any

from ..about import EMBEDDED, EMBEDDED_TITLE
from ..loading import is_embedded, load_pipeline
from .allocator import give_back_freed_memory
from .engine import DemoEngine
from .examples import copied_into, drawn_examples, examples_in
from .limits import Limits
from .page import build_demo
from .theme import launch_options


def serve(
    model: str = EMBEDDED,
    *,
    device: str | None = None,
    dtype: str | None = None,
    examples: str | os.PathLike | None = None,
    host: str | None = None,
    port: int | None = None,
    queue_size: int = 40,
    limits: Limits | None = None,
    open_browser: bool = False,
) -> None:
    """Loads a model and serves its page until interrupted.

    Args:
        model: Folder or Hub id.
        device: An accelerator if there is one, unless given.
        dtype: The checkpoint's unless given; float32 on the CPU.
        examples: A folder of images, see `examples_in`; drawn scenes for the embedded checkpoint, else none.
        host: Name or address to listen at. `None`: what `GRADIO_SERVER_NAME` says, as on a Space, else this machine
            alone.
        port: Where to listen there. `None`: what `GRADIO_SERVER_PORT` says, else the first free port from 7860 on.
        queue_size: Requests that may wait.
        limits: What may be asked and held.
        open_browser: Shows the page.

    Raises:
        ValueError: The model cannot be loaded, or has no tokenizer; no examples; no such port.
    """
    give_back_freed_memory()
    limits = limits or Limits()
    drawn_world = is_embedded(model)
    shown = examples_in(examples) if examples is not None else []
    name = EMBEDDED_TITLE if drawn_world else model.rstrip("/").split("/")[-1]
    engine = DemoEngine(load_pipeline(model, device, dtype), limits, name)
    with tempfile.TemporaryDirectory(prefix="dinov3seg-demo-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads go with the server, whatever is left
        if drawn_world and examples is None:
            shown = drawn_examples(folder)
        else:  # beside the uploads, the only place that files are read from
            shown = [replace(example, path=copied_into(example.path, folder, i)) for i, example in enumerate(shown)]
        demo = build_demo(engine, shown, queue_size=queue_size, drawn_world=drawn_world)
        _end_cleanly_when_terminated()
        try:
            demo.launch(server_name=host, server_port=port, inbrowser=open_browser, **launch_options(limits))
        except OSError as error:
            raise ValueError(f"The page cannot be served: {error} Choose another --port.") from error


def _end_cleanly_when_terminated() -> None:
    """SIGTERM, with which services are stopped, ends the server as Ctrl+C does: uploads are removed."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():  # the only one that may say so
        signal.signal(signal.SIGTERM, interrupt)
