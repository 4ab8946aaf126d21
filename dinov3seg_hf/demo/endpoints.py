# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What the page's events and the API call: uploads and words in, JSON and files out.

Sessions are Gradio's, files are uploads; what is computed is the engine's.
"""

import logging
import uuid
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder, is_in_or_equal
from PIL import Image

from ..visualization.files import save_image, save_mask, segments_as_json
from ..visualization.legend import with_legend
from ..visualization.pictures import overlay
from .engine import DemoEngine
from .examples import Example
from .segmentation import Segmentation
from .view import view_of

HINT = "Drop a photo, paste one, or pick an example.\nThen type what to look for."
MAX_FILE_NAME = 60

_PROGRESS = gr.Progress()  # Gradio looks for one among the defaults, and knows from it where to pass its own

_log = logging.getLogger(__name__)


class Endpoints:
    """The functions behind the page, whose names of parameters are those of the API.

    Args:
        engine: The model, and what is remembered.
        examples: Shown for a click.
    """

    def __init__(self, engine: DemoEngine, examples: Sequence[Example] = ()):
        self.engine, self.examples = engine, examples

    # --- the page ----------------------------------------------------------------------------------------------------

    def run(self, image, labels, inference, head, templates, request: gr.Request, progress=_PROGRESS):
        """The viewer's JSON; what is wrong is said in the viewer. Nothing new where it shows the answer already."""
        engine, session = self.engine, request.session_hash
        shown, answer = None, {"hint": HINT}
        try:
            if image is not None:
                result = engine.segment(
                    session,
                    _uploaded_path(image),
                    labels or "",
                    inference=inference,
                    head=head,
                    templates=templates or None,
                    progress=lambda fraction, what: progress(fraction, desc=what),
                )
                shown = result.key
                if engine.shown(session) == shown:
                    return gr.skip()
                progress(0.9, desc="Drawing")
                answer = view_of(result, engine.colors(session, result.vocabulary), engine.model_facts)
        except (ValueError, MemoryError) as error:
            shown, answer = None, {"error": str(error)}
        except Exception:  # an older result must not stay in the place of this one
            _log.exception("A run failed.")
            shown, answer = None, {"error": "Something went wrong on the server.\nTry again, or with another image."}
        engine.set_shown(session, shown)
        return answer

    def show_example(self, index: int) -> tuple[str, str]:
        """Image and words of an example."""
        return self.examples[index].path, self.examples[index].words

    def show_first_example(self) -> tuple[str, str]:
        """What the page opens with."""
        return self.show_example(0)

    def forget(self, request: gr.Request) -> None:
        """A session has ended."""
        if request.session_hash is not None:
            self.engine.forget(request.session_hash)

    # --- the API -----------------------------------------------------------------------------------------------------

    def segment(self, image, labels, inference, head, templates, threshold, request: gr.Request) -> dict[str, Any]:
        """The labels found, as JSON."""
        result = self._segmented(image, labels, inference, head, templates, request)
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
                "threshold": threshold,
                "templates": list(result.vocabulary.templates),
                "labels": list(result.vocabulary.names),
                "segments": segments_as_json(result.label_map(threshold), result.regions(threshold)),
            }

    def overlay(self, image, labels, inference, head, templates, threshold, opacity, request: gr.Request) -> str:
        """The path of a picture with its labels laid over it and a legend."""
        result = self._segmented(image, labels, inference, head, templates, request)
        with _errors_for_clients():
            palette = self.engine.colors(request.session_hash, result.vocabulary)
            picture = overlay(
                result.photo.shown, result.label_map(threshold, shown=True), alpha=opacity, palette=palette
            )
            path = _new_file(f"{_file_stem(image)}_overlay.png")
            save_image(path, with_legend(picture, result.regions(threshold), palette=palette))
            return path

    def label_map(self, image, labels, inference, head, templates, threshold, request: gr.Request) -> str:
        """The path of a PNG with the number of each pixel's label."""
        result = self._segmented(image, labels, inference, head, templates, request)
        with _errors_for_clients():
            palette = self.engine.colors(request.session_hash, result.vocabulary)
            path = _new_file(f"{_file_stem(image)}_labels.png")
            save_mask(path, result.label_map(threshold), len(result.vocabulary), palette=palette)
            return path

    def heat_map(self, image, labels, label, inference, head, templates, request: gr.Request) -> str:
        """The path of a gray PNG with the score of one label, times 255."""
        result = self._segmented(image, labels, inference, head, templates, request)
        with _errors_for_clients():
            scores = result.scores[result.vocabulary.index(label)]
            path = _new_file(f"{_file_stem(image)}_heat.png")
            picture = Image.fromarray(scores).resize(result.photo.image.size, Image.Resampling.BILINEAR)
            save_image(path, picture)
            return path

    def _segmented(self, image, labels, inference, head, templates, request: gr.Request) -> Segmentation:
        if image is None:
            raise gr.Error("There is no image yet. Upload one first.", print_exception=False)
        with _errors_for_clients():
            return self.engine.segment(
                request.session_hash,
                _uploaded_path(image),
                labels or "",
                inference=inference or None,
                head=head or None,
                templates=templates or None,
            )


def _uploaded_path(image: Any) -> str:
    """The path of an uploaded file. Gradio has checked it; a second look costs nothing."""
    path = image.get("path") if isinstance(image, dict) else None
    if not isinstance(path, str) or not is_in_or_equal(path, get_upload_folder()):
        raise ValueError("The image is no uploaded file. Upload it first.")
    return path


def _file_stem(image: dict[str, Any]) -> str:
    """The name of an upload, without what a file system or a shell could stumble over."""
    name = Path(image.get("orig_name") or image["path"]).stem
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:MAX_FILE_NAME] or "image"


def _new_file(name: str) -> str:
    """Where nobody finds it who is not told; Gradio deletes it with the uploads."""
    folder = Path(get_upload_folder()) / uuid.uuid4().hex
    folder.mkdir(parents=True)
    return str(folder / name)


@contextmanager
def _errors_for_clients():
    """What is wrong with a request, as Gradio tells it to clients."""
    try:
        yield
    except (ValueError, TypeError, MemoryError) as error:
        raise gr.Error(str(error), print_exception=False) from error
