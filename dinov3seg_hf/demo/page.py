# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The demo's page and its API, in Gradio: `dinov3seg demo` and the Space's app are both `serve`.

Knows components, events and files of uploads; what is computed is the engine's, what the result looks like is the
viewer's (`assets/viewer.js`). Nothing on the page is fetched from anywhere else.
"""

import logging
import os
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder, is_in_or_equal
from PIL import Image

from .. import TINY
from ..image_input import open_image
from ..prompts import DEFAULT_TEMPLATE, TEMPLATES
from ..synthetic import COLORS, KINDS, NAMES, PATTERNS, draw_scene
from ..visualization import IMAGE_SUFFIXES, overlay, save_image, save_mask, segments_as_json, with_legend
from ..vocabulary import Vocabulary
from .allocator import give_back_freed_memory
from .engine import DemoEngine, Limits, Segmentation
from .view import view_of

_log = logging.getLogger(__name__)

TITLE = "dinov3.seg: words in, masks out"
MODES = {
    "whole": "the image at once: fastest",
    "local-global": "the image and its windows, merged as features: finer (the paper's)",
    "slide": "the whole model in every window, averaged: slowest, nothing is kept for the next word",
}
HEADS = {"full": "full (trained)", "dinotxt": "zero-shot (dino.txt)"}
HINT = "Drop a photo, paste one, or pick an example.\nThen type what to look for."
PHOTO_WORDS = "person, dog, cat, car|vehicle, building, road, tree, grass, sky, water"
# Seeds of drawn scenes that look well; their names become the words.
SCENES = ((61, (4, 5)), (114, (3, 5)), (109, (3, 5)), (116, (3, 5)), (118, (3, 5)))
SCENE_SIZE = (96, 144)

# An upload that nobody uses is deleted after an hour, at the latest an hour and ten minutes.
CLEANING_SECONDS = (600, 3600)
MAX_SESSIONS = 64
MAX_FILE_NAME = 60


@dataclass(frozen=True)
class Example:
    """An image file and the words that it is shown with."""

    path: str
    words: str


def asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def drawn_examples(folder: str | os.PathLike) -> list[Example]:
    """Scenes of the embedded checkpoint's world, drawn into a folder; the last word of each is not there."""
    examples = []
    for seed, num_objects in SCENES:
        scene = draw_scene(seed, "all", SCENE_SIZE, num_objects=num_objects)
        missing = next(name for name in NAMES if name not in scene.names and name.endswith("star"))
        path = Path(folder) / f"scene_{seed}.png"
        Image.fromarray(scene.image).save(path)
        examples.append(Example(str(path), ", ".join([*scene.names, missing])))
    return examples


def examples_in(folder: str | os.PathLike) -> list[Example]:
    """The images of a folder; the words of `photo.jpg` are in `photo.txt`, where it is.

    Raises:
        ValueError: No such folder, no image in it, or one that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder of examples {str(folder)!r} (now in {os.getcwd()!r}). Check the path.")
    examples = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            open_image(path)
            words = path.with_suffix(".txt")
            examples.append(Example(str(path), words.read_text("utf-8").strip() if words.is_file() else PHOTO_WORDS))
    if not examples:
        raise ValueError(f"No image in {str(folder)!r}; expected files that end in {', '.join(IMAGE_SUFFIXES)}.")
    return examples


def text_of(vocabulary: Vocabulary) -> str:
    """A vocabulary as one types it: the words of each class, first one that comes first in no other."""
    names: dict[str, int] = {}
    for index in sorted(range(len(vocabulary)), key=lambda index: len(vocabulary.synonyms[index])):  # no choice first
        words = vocabulary.synonyms[index]
        names[next((word for word in words if word not in names), words[0])] = index
    first = {index: word for word, index in names.items()}
    return ", ".join(
        "|".join([first[index], *(word for word in words if word != first[index])])
        for index, words in enumerate(vocabulary.synonyms)
    )


def build_demo(
    engine: DemoEngine, examples: Sequence[Example] = (), *, queue_size: int = 40, drawn_world: bool = False
) -> gr.Blocks:
    """The page, ready for `launch(**launch_options())`.

    Args:
        engine: The model, and what is remembered.
        examples: Shown for a click; the page opens with the first.
        queue_size: Requests that may wait; those beyond are told to come back.
        drawn_world: The model knows the drawn world only: says so, and offers its words.
    """
    presets = {"": ""}
    if drawn_world:
        presets |= {
            "Colors of the drawn world (8)": ", ".join(COLORS),
            "Patterns of the drawn world (4)": ", ".join(PATTERNS),
            "Kinds of the drawn world (6)": ", ".join(KINDS),
            "All names of the drawn world (192)": ", ".join(NAMES),
        }
    for name in Vocabulary.presets():
        vocabulary = Vocabulary.from_preset(name)
        presets[f"{name} ({len(vocabulary)})"] = text_of(vocabulary)
    presets = {title: words for title, words in presets.items() if words.count(",") < engine.limits.labels}
    default_mode = engine.pipe.default_inference

    # --- what the events call: the session is Gradio's, the files are uploads ---

    def run(image, labels, inference, head, templates, request: gr.Request, progress=gr.Progress()):  # noqa: B008
        """The viewer's JSON; what is wrong is said in the viewer. Nothing new where it shows the answer already."""
        session = request.session_hash
        shown, answer = None, {"hint": HINT}
        try:
            if image is not None:
                result = engine.segment(
                    session,
                    _uploaded(image),
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

    def segmented(image, labels, inference, head, templates, request: gr.Request) -> Segmentation:
        if image is None:
            raise gr.Error("No image came. Upload one first.", print_exception=False)
        try:
            return engine.segment(
                request.session_hash,
                _uploaded(image),
                labels or "",
                inference=inference or None,
                head=head or None,
                templates=templates or None,
            )
        except (ValueError, MemoryError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    def segment(image, labels, inference, head, templates, threshold, request: gr.Request) -> dict[str, Any]:
        result = segmented(image, labels, inference, head, templates, request)
        photo = result.photo
        with _as_error():
            return {
                "image": _stem(image),
                "height": photo.image.height,
                "width": photo.image.width,
                "source_height": photo.source_size[0],
                "source_width": photo.source_size[1],
                "model": engine.name,
                "head": result.head,
                "inference": result.inference,
                "threshold": threshold,
                "templates": list(result.vocabulary.templates),
                "labels": list(result.vocabulary.names),
                "segments": segments_as_json(result.label_map(threshold), result.regions(threshold)),
            }

    def overlay_file(image, labels, inference, head, templates, threshold, opacity, request: gr.Request) -> str:
        result = segmented(image, labels, inference, head, templates, request)
        with _as_error():
            palette = engine.colors(request.session_hash, result.vocabulary)
            picture = overlay(
                result.photo.shown, result.label_map(threshold, shown=True), alpha=opacity, palette=palette
            )
            path = _new_file(f"{_stem(image)}_overlay.png")
            save_image(path, with_legend(picture, result.regions(threshold), palette=palette))
            return path

    def label_map_file(image, labels, inference, head, templates, threshold, request: gr.Request) -> str:
        result = segmented(image, labels, inference, head, templates, request)
        with _as_error():
            palette = engine.colors(request.session_hash, result.vocabulary)
            path = _new_file(f"{_stem(image)}_labels.png")
            save_mask(path, result.label_map(threshold), len(result.vocabulary), palette=palette)
            return path

    def heat_map_file(image, labels, label, inference, head, templates, request: gr.Request) -> str:
        result = segmented(image, labels, inference, head, templates, request)
        with _as_error():
            scores = result.scores[result.vocabulary.index(label)]
            path = _new_file(f"{_stem(image)}_heat.png")
            picture = Image.fromarray(scores).resize(result.photo.image.size, Image.Resampling.BILINEAR)
            save_image(path, picture)
            return path

    def show_example(index: int):
        return examples[index].path, examples[index].words

    def forget(request: gr.Request):
        if request.session_hash is not None:
            engine.forget(request.session_hash)

    # --- the page ---

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=CLEANING_SECONDS) as demo:
        gr.HTML(_intro(drawn_world), apply_default_css=False)
        with gr.Row(equal_height=False, elem_id="layout"):
            with gr.Column(scale=4, min_width=320):
                photo = gr.Image(
                    label="Image",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard", "webcam"],
                    height=230,
                    buttons=["fullscreen"],
                    elem_id="photo",
                    placeholder="Drop a photo here",
                )
                gallery = None
                if examples:
                    gallery = gr.Dataset(
                        components=[gr.Image(visible=False)],
                        samples=[[example.path] for example in examples],
                        type="index",
                        label="Examples",
                        elem_id="examples",
                    )
                words = gr.HTML(
                    "" if drawn_world else PHOTO_WORDS,
                    label="Words",
                    html_template=asset("words.html"),
                    css_template=asset("words.css"),
                    js_on_load=asset("words.js"),
                    apply_default_css=False,
                    elem_id="words",
                    max_labels=engine.limits.labels,
                )
                button = gr.Button("Segment", variant="primary", elem_id="segment-button")
                preset = gr.Dropdown(
                    [title or "Choose a vocabulary …" for title in presets],
                    value="Choose a vocabulary …",
                    label="Presets",
                    info="takes the place of the words; Undo brings them back",
                    elem_id="preset",
                )
                mode = gr.Radio(
                    [(name, name) for name in engine.inference_modes],
                    value=default_mode,
                    label="Inference",
                    info=MODES[default_mode],
                    elem_id="mode",
                )
                with gr.Accordion("Advanced", open=False, elem_id="advanced"):
                    templates = gr.Dropdown(
                        list(dict.fromkeys([DEFAULT_TEMPLATE, *TEMPLATES["none"], *TEMPLATES["simple"]])),
                        value=[DEFAULT_TEMPLATE],
                        multiselect=True,
                        allow_custom_value=True,
                        label="Templates",
                        info="What words are wrapped in, one {} each; several are averaged. Type your own.",
                        elem_id="templates",
                    )
                    head = gr.Radio(
                        [(HEADS[name], name) for name in engine.heads],
                        value=engine.heads[0],
                        label="Head",
                        elem_id="head",
                    )
                    gr.Markdown("Synonyms of one label are separated by `|`: `sofa|couch|settee`.")
            with gr.Column(scale=7, min_width=320):
                viewer = gr.HTML(
                    {"hint": HINT},
                    label="Segmentation",
                    html_template=asset("viewer.html"),
                    css_template=asset("viewer.css"),
                    js_on_load=asset("viewer.js"),
                    apply_default_css=False,
                    elem_id="viewer",
                )
                with gr.Row(elem_id="downloads"):
                    gr.HTML('<span class="lead">Download</span>', apply_default_css=False)
                    overlay_button = gr.Button("Overlay PNG", size="sm", elem_id="download-overlay")
                    label_map_button = gr.Button("Label map PNG", size="sm", elem_id="download-label-map")
                    json_button = gr.Button("JSON", size="sm", elem_id="download-json")

        threshold = gr.Number(0.0, label="Threshold", visible=False)
        opacity = gr.Number(0.55, label="Opacity", visible=False)
        one_label = gr.Textbox(label="Label", visible=False)
        file = gr.File(label="File", visible=False)
        segments = gr.JSON(label="Segments", visible=False)

        # --- the events ---

        model = {"concurrency_id": "model", "concurrency_limit": 1}
        asked = [photo, words, mode, head, templates]
        running = {
            "fn": run,
            "inputs": asked,
            "outputs": viewer,
            "api_visibility": "private",
            "show_progress": "full",
            "preprocess": False,
            **model,
        }
        # photo.change, as the events of an upload or a removal come before its value does; after an example it comes
        # beside the example's own run
        for trigger in (words.edit, photo.change, mode.input, head.input, templates.input):
            trigger(**running, trigger_mode="always_last")
        button.click(**running, trigger_mode="always_last")
        quiet = {"api_visibility": "private", "show_progress": "hidden"}
        mode.change(lambda mode: gr.Radio(info=MODES[mode]), mode, mode, **quiet)
        preset.input(lambda title: presets.get(title, ""), preset, words, **quiet).then(**running)
        if examples:
            gallery.click(show_example, gallery, [photo, words], **quiet).then(**running)
            demo.load(lambda: show_example(0), None, [photo, words], **quiet).then(**running)
        demo.unload(forget)

        seen = "(...given) => { const view = document.querySelector('#viewer .viewer').dataset; "
        with_threshold = seen + "given[5] = Number(view.threshold || 0); return given; }"
        with_opacity = (
            seen + "given[5] = Number(view.threshold || 0); given[6] = Number(view.opacity || 0.55); return given; }"
        )
        download = {"fn": None, "api_visibility": "private"}
        overlay_button.click(
            overlay_file,
            [*asked, threshold, opacity],
            file,
            js=with_opacity,
            api_name="overlay",
            api_description="The image with its labels laid over it and a legend, as a PNG file.",
            preprocess=False,
            **model,
        ).success(inputs=file, js=asset("download_file.js"), **download)
        label_map_button.click(
            label_map_file,
            [*asked, threshold],
            file,
            js=with_threshold,
            api_name="label_map",
            api_description="The number of each pixel's label, as a PNG file: a palette of 8 bits for up to 255 labels "
            "(255 is none of these), 16 bits above (65535 is none of these).",
            preprocess=False,
            **model,
        ).success(inputs=file, js=asset("download_file.js"), **download)
        json_button.click(
            segment,
            [*asked, threshold],
            segments,
            js=with_threshold,
            api_name="segment",
            api_description="The labels found, each with score, area, box and mask (COCO's uncompressed run lengths).",
            preprocess=False,
            **model,
        ).success(inputs=segments, js=asset("download_json.js"), **download)
        gr.Button(visible=False).click(
            heat_map_file,
            [photo, words, one_label, mode, head, templates],
            file,
            api_name="heat_map",
            api_description="The score of one of the labels at every pixel, times 255, as a gray PNG file.",
            preprocess=False,
            **model,
        )
    demo.queue(max_size=queue_size, default_concurrency_limit=4, api_open=False)
    return demo


def launch_options(limits: Limits | None = None) -> dict[str, Any]:
    """What `Blocks.launch` needs for the page to look and behave as it should."""
    fonts = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.zinc,
        font=fonts,
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
        radius_size=gr.themes.sizes.radius_lg,
    ).set(
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_weight="600",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        input_background_fill="white",
        input_border_width="1px",
        checkbox_label_background_fill="*background_fill_secondary",
        button_secondary_background_fill="*block_background_fill",
        button_secondary_background_fill_hover="*background_fill_secondary",
        button_secondary_border_color="*border_color_primary",
        button_border_width="1px",
        block_border_width="1px",
        block_shadow="none",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_500",
        button_primary_text_color="white",
    )
    return {
        "theme": theme,
        "css": asset("page.css"),
        "max_file_size": (limits or Limits()).file_bytes,
        "state_session_capacity": MAX_SESSIONS,
        "show_error": False,  # what we mean to say is said; the rest is nobody's business
        "enable_monitoring": False,
        "run_history": False,
        "ssr_mode": False,
        "pwa": False,
        "footer_links": ["api"],
        "share": False,
    }


def serve(
    model: str = TINY,
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
        host, port: Where to listen. `None`: what `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT` say, as on a Space, else
            this machine alone, the first free port from 7860 on.
        queue_size: Requests that may wait.
        limits: What may be asked and held.
        open_browser: Shows the page.

    Raises:
        ValueError: The model cannot be loaded, or has no tokenizer; no examples; no such port.
    """
    from ..loading import load_pipeline

    give_back_freed_memory()
    limits = limits or Limits()
    is_tiny = Path(model).resolve() == Path(TINY).resolve() if os.path.isdir(model) else False
    shown = examples_in(examples) if examples is not None else []
    pipe = load_pipeline(model, device, dtype)
    engine = DemoEngine(pipe, limits, name="dinov3seg tiny (embedded)" if is_tiny else model.rstrip("/").split("/")[-1])
    with tempfile.TemporaryDirectory(prefix="dinov3seg-demo-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads go with the server, whatever is left
        if is_tiny and examples is None:
            shown = drawn_examples(folder)
        else:  # beside the uploads, the only place that files are read from
            shown = [replace(example, path=_copied(example.path, folder, i)) for i, example in enumerate(shown)]
        demo = build_demo(engine, shown, queue_size=queue_size, drawn_world=is_tiny)
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


def _intro(drawn_world: bool) -> str:
    note = (
        '<p class="note">The built-in model is a small one for <b>drawn scenes</b>: colors, patterns, shapes, such as '
        "<i>purple striped square</i>. For photographs, start the demo with <code>--model</code> and real weights."
        "</p>"
        if drawn_world
        else ""
    )
    return (
        f'<header class="intro"><h1>dinov3.seg</h1><p>An image and any words in, a label for every pixel out.</p>{note}'
        "</header>"
    )


def _uploaded(image: Any) -> str:
    """The path of an uploaded file. Gradio has checked it; a second look costs nothing."""
    path = image.get("path") if isinstance(image, dict) else None
    if not isinstance(path, str) or not is_in_or_equal(path, get_upload_folder()):
        raise ValueError("The image is no uploaded file. Upload it first.")
    return path


def _stem(image: dict[str, Any]) -> str:
    name = Path(image.get("orig_name") or image["path"]).stem
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:MAX_FILE_NAME] or "image"


def _copied(path: str, folder: str, number: int) -> str:
    target = Path(folder) / f"example_{number}" / Path(path).name
    target.parent.mkdir()
    return shutil.copyfile(path, target)


def _new_file(name: str) -> str:
    """Where nobody finds it who is not told; Gradio deletes it with the uploads."""
    folder = Path(get_upload_folder()) / uuid.uuid4().hex
    folder.mkdir(parents=True)
    return str(folder / name)


@contextmanager
def _as_error():
    """What is wrong with a request, as Gradio tells it to clients."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise gr.Error(str(error), print_exception=False) from error
