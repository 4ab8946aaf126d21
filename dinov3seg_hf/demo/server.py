# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The server of the demo, for `dinov3seg demo` and for a Space: loads the model, serves the page, stops cleanly."""

import os
from collections.abc import Sequence
from dataclasses import replace

from ..about import EMBEDDED, EMBEDDED_TITLE
from ..checkpoint_names import is_embedded
from ..drawn_world.names import NAMES
from ..loading import load_pipeline
from ..model.vocabulary import Vocabulary
from ..serving.allocator import give_back_freed_memory
from ..serving.limits import Limits
from ..signals import terminated_like_ctrl_c
from .clients import middleware_of
from .engine import DemoEngine
from .examples import copied_into, drawn_examples, examples_in, knows
from .page import build_demo
from .theme import launch_options
from .uploads import new_upload_folder, swept
from .zero_gpu import on_zero_gpu


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
    auth: Sequence[tuple[str, str]] = (),
) -> None:
    """Loads a model and serves the demo page until interrupted.

    Args:
        model: Folder or Hub id.
        device: Device of the model. Default: an accelerator if available, else the CPU.
        dtype: Dtype of the weights. Default: float32 on the CPU, else the dtype of the checkpoint.
        examples: Folder of images, see `examples_in`. Default: drawn scenes if the checkpoint knows certain words only,
            and those of the drawn scenes are among them, as the embedded checkpoint; else none.
        host: Host name or address to listen on. `None`: `GRADIO_SERVER_NAME` if set, as on a Space, else localhost.
        port: Port to listen on. `None`: `GRADIO_SERVER_PORT` if set, else the first free port from 7860.
        queue_size: Maximum number of waiting requests.
        limits: Limits on the requests and on the values kept in memory. Default: `Limits()`.
        open_browser: Whether to open the page in a browser.
        auth: Names and passwords; without them, everyone who reaches the port can use the demo.

    Raises:
        ValueError: If the model cannot be loaded or has no tokenizer, no examples are found in `examples`, or the port
            is not available.
    """
    give_back_freed_memory()
    limits = limits or Limits()
    shown = examples_in(examples) if examples is not None else []
    name = EMBEDDED_TITLE if is_embedded(model) else model.rstrip("/").split("/")[-1]
    device = "cpu" if on_zero_gpu() else device  # the GPU is there during a request only
    engine = DemoEngine(load_pipeline(model, device, dtype), limits, name)
    with new_upload_folder() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # the uploads are removed when the server stops
        known_words = engine.pipe.model.config.known_words
        if examples is None and known_words is not None and knows(known_words, Vocabulary(NAMES)):
            shown = drawn_examples(folder)
        else:  # next to the uploads, because the demo reads files only from this folder
            shown = [replace(example, path=copied_into(example.path, folder, i)) for i, example in enumerate(shown)]
        kept = {example.path for example in shown}
        demo = build_demo(engine, shown, queue_size=queue_size)
        try:
            # at SIGTERM, too, the uploads are removed
            with terminated_like_ctrl_c(), swept(folder, kept, limits.upload_bytes):
                demo.launch(
                    server_name=host,
                    server_port=port,
                    inbrowser=open_browser,
                    auth=list(auth) or None,
                    app_kwargs={"middleware": middleware_of(limits)},
                    **launch_options(limits),
                )
        except OSError as error:
            raise ValueError(f"The demo cannot listen on the port: {error} Choose another --port.") from error
