# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Gradio's page, whose refusals of requests that no page makes are sentences, too.

Gradio checks the inputs of a request before a function of ours is called. It refuses a bad one without a word, and
writes a traceback to the log. A folder of uploads that is named as a file passes its check, and then ends its cleaning
of old files, because a folder cannot be removed as a file. A file that is an address of another host is downloaded,
of any size.
"""

import logging
import os
from typing import Any

import gradio as gr
from gradio_client.utils import is_file_obj, is_http_url_like, traverse

BAD_REQUEST = (
    "The server does not understand the request. Upload the image first, and send all inputs, as the page does or a "
    "client made by gradio_client."
)
MAX_REASON = 300

_log = logging.getLogger(__name__)


class PoliteBlocks(gr.Blocks):
    """Blocks that refuse bad inputs with a sentence, and folders and addresses as files."""

    async def preprocess_data(self, block_fn: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Checks the inputs of a request.

        Raises:
            gr.Error: If they are no inputs of the function.
        """
        try:
            traverse(inputs, _refuse_others, is_file_obj)
            return await super().preprocess_data(block_fn, inputs, *args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:MAX_REASON]
            _log.warning("A request was refused: %s: %s", type(error).__name__, reason)
            raise gr.Error(BAD_REQUEST, print_exception=False) from error


def _refuse_others(file: dict[str, Any]) -> dict[str, Any]:
    if is_http_url_like(file["path"]) or os.path.isdir(file["path"]):
        raise gr.Error(BAD_REQUEST, print_exception=False)
    return file
