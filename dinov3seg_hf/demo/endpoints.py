# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The functions that the page's events and the API call. They take uploads and words and return JSON and files.

Gradio manages the sessions and the uploaded files; the engine computes the results.
"""

import hashlib
import logging
import re
import uuid
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder, is_in_or_equal
from PIL import Image

from ..model.checks import quoted
from ..visualization.files import save_image, save_mask, segments_as_json
from ..visualization.legend import with_legend
from ..visualization.pictures import overlay
from .address import MAX_ADDRESS, read_address
from .engine import DemoEngine
from .examples import Example
from .segmentation import Segmentation
from .view import view_of

HINT = "Drop or paste a photo, or choose an example.\nThen type what to look for."
FAILED = "Something went wrong on the server.\nTry again, or try another image."
MAX_FILE_NAME = 60
MAX_SESSION_ID = 100  # characters; those of Gradio have about 10

_PROGRESS = gr.Progress()  # Gradio passes its progress object to the parameter that has this default

_log = logging.getLogger(__name__)


class Endpoints:
    """The functions behind the page. Their parameter names are the parameter names of the API.

    Args:
        engine: The engine that segments the images.
        examples: The examples that the page offers.
    """

    def __init__(self, engine: DemoEngine, examples: Sequence[Example] = ()):
        self.engine, self.examples = engine, examples

    # --- the page ----------------------------------------------------------------------------------------------------

    def run(self, image, labels, inference, head, templates, refine, request: gr.Request, progress=_PROGRESS):
        """Returns the JSON for the viewer: a segmentation, a hint or an error message.

        Skips the update if the viewer already shows the segmentation.
        """
        engine, session = self.engine, session_of(request)
        answer: dict[str, Any] = {"hint": HINT}
        shown = None
        try:
            if image is not None:
                result = engine.segment(
                    session,
                    _uploaded_path(image),
                    labels or "",
                    inference=inference,
                    head=head,
                    templates=templates or None,
                    refine="pixels" if refine else "none",
                    progress=lambda fraction, what: progress(fraction, desc=what),
                )
                shown = result.key
                if engine.shown(session) == shown:
                    return gr.skip()
                progress(0.9, desc="Drawing the result")
                answer = view_of(result, engine.colors(session, result.vocabulary), engine.model_facts)
        except (ValueError, MemoryError) as error:
            shown, answer = None, {"error": _message(error)}
        except gr.Error:  # of ZeroGPU: the visitor's GPU time is used up, for example
            raise
        except Exception:  # otherwise the viewer would still show the previous result
            _log.exception("The segmentation failed.")
            shown, answer = None, {"error": FAILED, "failed": True}
        engine.set_shown(session, shown)
        return answer

    def open_page(self, fragment: str | None) -> list[Any]:
        """Returns the image, the words and the options that the page opens with, in the order of `Controls.shared`.

        They are those of the first example, unless the address says otherwise.
        """
        address = read_address(fragment, self.engine, len(self.examples))
        if address.too_long:
            gr.Warning(f"The address has more than {MAX_ADDRESS} characters. The page opened without it.")
        values: list[Any] = [None, address.words, address.inference, address.head, address.templates, address.refine]
        example: int | None = None
        if self.examples:
            example = address.example or 0
            values[0] = self.examples[example].path
            values[1] = self.examples[example].words if address.words is None else address.words
        return [gr.skip() if value is None else value for value in (*values, example)]

    def show_example(self, index: int | None) -> tuple[Any, Any]:
        """Returns the image path and the words of an example."""
        if not isinstance(index, int) or not 0 <= index < len(self.examples):
            return gr.skip(), gr.skip()
        return self.examples[index].path, self.examples[index].words

    def forget(self, request: gr.Request) -> None:
        """Removes the stored values of a session that has ended."""
        session = session_of(request)
        if session is not None:
            self.engine.forget(session)

    # --- the API -----------------------------------------------------------------------------------------------------

    def segment(
        self, image, labels, inference, head, templates, threshold, refine, request: gr.Request
    ) -> dict[str, Any]:
        """Returns the labels found, as JSON."""
        result = self._segmented(image, labels, inference, head, templates, refine, request)
        photo = result.photo
        with _errors_for_clients():
            return {
                "image": _file_stem(image),
                "height": photo.image.height,
                "width": photo.image.width,
                "source_height": photo.source_size[0],
                "source_width": photo.source_size[1],
                "model": self.engine.name,
                "head": result.head,
                "inference": result.inference,
                "refine": result.refine,
                "threshold": threshold,
                "templates": list(result.vocabulary.templates),
                "labels": list(result.vocabulary.names),
                "segments": segments_as_json(result.label_map(threshold), result.regions(threshold)),
            }

    def overlay(
        self, image, labels, inference, head, templates, threshold, opacity, refine, request: gr.Request
    ) -> str:
        """Returns the path of a PNG: the image with an overlay of its labels and a legend."""
        result = self._segmented(image, labels, inference, head, templates, refine, request)
        with _errors_for_clients():
            palette = self.engine.colors(session_of(request), result.vocabulary)
            picture = overlay(
                result.photo.shown, result.label_map(threshold, shown=True), alpha=opacity, palette=palette
            )
            path = _new_file(f"{_file_stem(image)}_overlay.png")
            save_image(path, with_legend(picture, result.regions(threshold), palette=palette))
            return path

    def label_map(self, image, labels, inference, head, templates, threshold, refine, request: gr.Request) -> str:
        """Returns the path of a PNG with the label number of each pixel."""
        result = self._segmented(image, labels, inference, head, templates, refine, request)
        with _errors_for_clients():
            palette = self.engine.colors(session_of(request), result.vocabulary)
            path = _new_file(f"{_file_stem(image)}_labels.png")
            save_mask(path, result.label_map(threshold), len(result.vocabulary), palette=palette)
            return path

    def heat_map(self, image, labels, label, inference, head, templates, request: gr.Request) -> str:
        """Returns the path of a gray PNG with the score of one label at each pixel, multiplied by 255."""
        with _errors_for_clients():
            if not isinstance(label, str) or len(label) > self.engine.limits.word_length:
                raise ValueError(
                    f"label is {quoted(label)}; expected one of the words, with at most "
                    f"{self.engine.limits.word_length} characters."
                )
        result = self._segmented(image, labels, inference, head, templates, False, request)
        with _errors_for_clients():
            scores = result.scores[result.vocabulary.index(label)]
            path = _new_file(f"{_file_stem(image)}_heat.png")
            picture = Image.fromarray(scores).resize(result.photo.image.size, Image.Resampling.BILINEAR)
            save_image(path, picture)
            return path

    def _segmented(self, image, labels, inference, head, templates, refine, request: gr.Request) -> Segmentation:
        if image is None:
            raise gr.Error("The image is missing. Upload an image first.", print_exception=False)
        with _errors_for_clients():
            return self.engine.segment(
                session_of(request),
                _uploaded_path(image),
                labels or "",
                inference=inference or None,
                head=head or None,
                templates=templates or None,
                refine="pixels" if refine else "none",
            )


def session_of(request: gr.Request) -> str | None:
    """Returns the id of a session. The client chooses it, and it is stored beside every value: a long one is hashed."""
    given: str | None = request.session_hash
    if given is None or len(given) <= MAX_SESSION_ID:
        return given
    return hashlib.sha256(given.encode(errors="surrogatepass")).hexdigest()


def _uploaded_path(image: Any) -> str:
    """Returns the path of an uploaded file. Gradio checks the path too; the second check is a safeguard."""
    path = image.get("path") if isinstance(image, dict) else None
    if not isinstance(path, str) or not is_in_or_equal(path, get_upload_folder()):
        raise ValueError("The image is not an uploaded file. Upload the image first.")
    return path


def _file_stem(image: dict[str, Any]) -> str:
    """Returns the name of an upload without suffix, with `_` for characters that can be unsafe in a path or a shell."""
    name = Path(image.get("orig_name") or image["path"]).stem
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:MAX_FILE_NAME] or "image"


def _new_file(name: str) -> str:
    """Returns a path in a new folder with a random name that cannot be guessed. Gradio deletes it with the uploads."""
    folder = Path(get_upload_folder()) / uuid.uuid4().hex
    folder.mkdir(parents=True)
    return str(folder / name)


@contextmanager
def _errors_for_clients():
    """Raises the errors of a request as `gr.Error`, whose message Gradio sends to the client."""
    try:
        yield
    except (ValueError, TypeError, MemoryError) as error:
        raise gr.Error(_message(error), print_exception=False) from error
    except gr.Error:  # of ZeroGPU
        raise
    except Exception as error:
        _log.exception("A request failed.")
        raise gr.Error(FAILED, print_exception=False) from error


def _message(error: Exception) -> str:
    """Returns the message of an error, with names of files, but without the folders of the server."""
    folder = re.escape(get_upload_folder())
    return re.sub(rf"{folder}(?:/[^/'\"\s]+)*/", "", str(error))
