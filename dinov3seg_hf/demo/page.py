# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The page of the demo, in Gradio: components and events.

The events call the functions in `endpoints.py`; `assets/viewer.js` shows the result. The page loads nothing from other
hosts.
"""

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import gradio as gr
from gradio.components import Component

from ..drawn_world.names import COLORS, KINDS, NAMES, PATTERNS
from ..model.prompts import DEFAULT_TEMPLATE, TEMPLATES
from ..model.vocabulary import Vocabulary, as_vocabulary
from .address import MAX_ADDRESS
from .blocks import PoliteBlocks
from .endpoints import HINT, Endpoints
from .engine import DemoEngine
from .examples import PHOTO_WORDS, Example, knows, topics_of
from .theme import asset

TITLE = "dinov3.seg: segment images by words"
MODES = {
    "whole": "Segments the whole image at once; fastest.",
    "local-global": "Merges features of the whole image and of its windows; finer details. Used in the paper.",
    "slide": "Runs the model on every window and averages the results; slowest. Each new word needs a full run.",
}
HEADS = {"full": "full (trained)", "dinotxt": "zero-shot (dino.txt)"}
NO_PRESET = "Choose a vocabulary …"

READ_ADDRESS = "() => location.hash.slice(1)"

# What `assets/words.js` hears if a segmentation was not answered, because the queue is full, for example.
FAILURE = "() => document.dispatchEvent(new CustomEvent('dinov3seg:answer', { detail: { failed: true } }))"

# (interval, age): every ten minutes, Gradio deletes uploads that are older than an hour.
CLEANING_SECONDS = (600, 3600)


@dataclass(frozen=True)
class Controls:
    """The components for the image, the words and the settings."""

    photo: gr.Image
    gallery: gr.HTML
    words: gr.HTML
    preset: gr.Dropdown
    mode: gr.Radio
    templates: gr.Dropdown
    head: gr.Radio
    refine: gr.Checkbox

    @property
    def asked(self) -> list[Component]:
        """The inputs that all endpoints take, in the order of `Endpoints.run`."""
        return [self.photo, self.words, self.mode, self.head, self.templates]

    @property
    def shared(self) -> list[Component]:
        """What an address can name, in the order of `Endpoints.open_page` and, without the image, of `address.js`."""
        return [*self.asked, self.refine, self.gallery]


@dataclass(frozen=True)
class Results:
    """The components that show a result and download it."""

    viewer: gr.HTML
    overlay_button: gr.Button
    label_map_button: gr.Button
    json_button: gr.Button
    link_button: gr.Button


def build_demo(engine: DemoEngine, examples: Sequence[Example] = (), *, queue_size: int = 40) -> gr.Blocks:
    """Builds the page, ready for `launch(**launch_options())`.

    If the checkpoint knows certain words only (`config.known_words`), the page says so, and offers no others.

    Args:
        engine: The engine that segments the images.
        examples: The examples that the page offers; the page opens with the first example.
        queue_size: Maximum number of waiting requests. Further requests get an error that says to try again.
    """
    endpoints = Endpoints(engine, examples)
    known_words = engine.pipe.model.config.known_words
    presets = _presets(engine.limits.labels, known_words)
    first_words = PHOTO_WORDS if knows(known_words, as_vocabulary(PHOTO_WORDS)) else ""
    with PoliteBlocks(title=TITLE, analytics_enabled=False, delete_cache=CLEANING_SECONDS) as demo:
        gr.HTML(_intro(known_words), apply_default_css=False)
        with gr.Row(equal_height=False, elem_id="layout"):
            with gr.Column(scale=4, min_width=320):
                controls = _add_controls(engine, examples, list(presets), first_words)
            with gr.Column(scale=7, min_width=320):
                results = _add_results()
        _connect_page(demo, endpoints, controls, results, presets)
        _connect_api(endpoints, controls, results)
    demo.queue(max_size=queue_size, default_concurrency_limit=4, api_open=False)
    return demo


def _presets(max_labels: int, known_words: Sequence[str] | None) -> dict[str, str]:
    """Returns a mapping from title to words, without vocabularies that have too many labels, or words not known."""
    vocabularies = {name: Vocabulary.from_preset(name) for name in Vocabulary.presets()}
    if known_words is not None:
        vocabularies |= {
            "Colors of the drawn world": Vocabulary(COLORS),
            "Patterns of the drawn world": Vocabulary(PATTERNS),
            "Shapes and background of the drawn world": Vocabulary(KINDS),
            "All names of the drawn world": Vocabulary(NAMES),
        }
    return {
        NO_PRESET: "",
        **{
            f"{title} ({len(vocabulary)})": text_of(vocabulary)
            for title, vocabulary in vocabularies.items()
            if len(vocabulary) <= max_labels and knows(known_words, vocabulary)
        },
    }


def text_of(vocabulary: Vocabulary) -> str:
    """Returns a vocabulary as text that a user could type. The classes begin with different words."""
    names: dict[str, int] = {}
    # classes with few words choose first
    for index in sorted(range(len(vocabulary)), key=lambda index: len(vocabulary.synonyms[index])):
        words = vocabulary.synonyms[index]
        names[next((word for word in words if word not in names), words[0])] = index
    first = {index: word for word, index in names.items()}
    return ", ".join(
        "|".join([first[index], *(word for word in words if word != first[index])])
        for index, words in enumerate(vocabulary.synonyms)
    )


# --- components -------------------------------------------------------------------------------------------------------


def _add_controls(engine: DemoEngine, examples: Sequence[Example], presets: list[str], first_words: str) -> Controls:
    photo = gr.Image(
        label="Image",
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard", "webcam"],
        height=230,
        buttons=["fullscreen"],
        elem_id="photo",
        placeholder="Drop an image file here to upload",  # as Gradio names it for screen readers
    )
    gallery = gr.HTML(
        html_template=asset("gallery.html"),
        css_template=asset("gallery.css"),
        js_on_load=asset("gallery.js"),
        apply_default_css=False,
        elem_id="examples",
        visible=bool(examples),
        topics=topics_of(examples),
    )
    words = gr.HTML(
        first_words,
        label="Words",
        html_template=asset("words.html"),
        css_template=asset("words.css"),
        js_on_load=asset("words.js"),
        apply_default_css=False,
        elem_id="words",
        max_labels=engine.limits.labels,
    )
    preset = gr.Dropdown(
        presets,
        value=NO_PRESET,
        label="Presets",
        info="Replaces the words. Undo restores them.",
        elem_id="preset",
    )
    default_mode = engine.pipe.default_inference
    mode = gr.Radio(
        [(name, name) for name in engine.inference_modes],
        value=default_mode,
        label="Inference",
        info=MODES[default_mode],
        elem_id="mode",
    )
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        templates, head, refine = _add_advanced(engine)
    return Controls(photo, gallery, words, preset, mode, templates, head, refine)


def _add_advanced(engine: DemoEngine) -> tuple[gr.Dropdown, gr.Radio, gr.Checkbox]:
    templates = gr.Dropdown(
        list(dict.fromkeys([DEFAULT_TEMPLATE, *TEMPLATES["none"], *TEMPLATES["simple"]])),
        value=[DEFAULT_TEMPLATE],
        multiselect=True,
        allow_custom_value=True,
        label="Templates",
        info="Prompts for each word: {} stands for the word. Several templates are averaged. You can type your own.",
        elem_id="templates",
    )
    heads = [(HEADS[name], name) for name in engine.heads]
    head = gr.Radio(heads, value=engine.heads[0], label="Head", elem_id="head")
    refine = gr.Checkbox(
        label="Follow the edges of the image",
        info="Moves the edges of the result to edges of the image, without training.",
        elem_id="refine",
    )
    gr.Markdown("Separate the synonyms of a label with `|`: `sofa|couch|settee`.")
    return templates, head, refine


def _add_results() -> Results:
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
        return Results(
            viewer,
            gr.Button("Overlay PNG", size="sm", elem_id="download-overlay"),
            gr.Button("Label map PNG", size="sm", elem_id="download-label-map"),
            gr.Button("JSON", size="sm", elem_id="download-json"),
            gr.Button("Copy link", size="sm", elem_id="copy-link"),
        )


# --- events -----------------------------------------------------------------------------------------------------------


class _Turns(TypedDict):
    """Event options that all events with the model share."""

    concurrency_id: str
    concurrency_limit: int
    preprocess: bool


class _Run(_Turns):
    """Options of the event that segments."""

    fn: Callable[..., Any]
    inputs: Sequence[Component]
    outputs: Component
    api_visibility: Literal["private"]
    show_progress: Literal["full"]


class _Quiet(TypedDict):
    """Options of an event that shows no progress and is not part of the API."""

    api_visibility: Literal["private"]
    show_progress: Literal["hidden"]


class _InBrowser(TypedDict):
    """Options of an event that runs in the browser alone."""

    fn: None
    js: str
    api_visibility: Literal["private"]


class _InBrowserWithInputs(_InBrowser):
    """The same, with the components whose values it reads."""

    inputs: Sequence[Component]


class _Titles(_Quiet):
    """Options of the event that names the preset of the words."""

    fn: Callable[..., Any]
    inputs: Component
    outputs: Component


# One model on one device: its events run one at a time.
_MODEL: _Turns = {"concurrency_id": "model", "concurrency_limit": 1, "preprocess": False}


def _connect_page(
    demo: gr.Blocks, endpoints: Endpoints, controls: Controls, results: Results, presets: dict[str, str]
) -> None:
    """Connects the components of the page to the functions that run when the components change."""
    running: _Run = {
        "fn": endpoints.run,
        "inputs": [*controls.asked, controls.refine],
        "outputs": results.viewer,
        "api_visibility": "private",
        "show_progress": "full",
        **_MODEL,
    }
    quiet: _Quiet = {"api_visibility": "private", "show_progress": "hidden"}
    failed: _InBrowser = {"fn": None, "js": FAILURE, "api_visibility": "private"}
    shared = _writes_address(endpoints.engine, controls)
    # `photo.change`, because the upload and removal events come before the new value. After a click on an example,
    # `photo.change` starts a run in addition to the run of the example.
    options = (controls.mode.input, controls.head.input, controls.templates.input, controls.refine.input)
    for trigger in (controls.words.edit, controls.photo.change, *options):
        trigger(**running, trigger_mode="always_last").failure(**failed)
    for trigger in (controls.words.edit, *options, results.viewer.threshold):
        trigger(**shared)
    controls.mode.change(lambda mode: gr.Radio(info=MODES[mode]), controls.mode, controls.mode, **quiet)

    title_of_words: _Titles = {
        "fn": lambda words: _preset_of(words, presets),
        "inputs": controls.words,
        "outputs": controls.preset,
        **quiet,
    }
    controls.words.edit(**title_of_words, trigger_mode="always_last")
    opened = demo.load(endpoints.open_page, gr.Textbox(visible=False), controls.shared, js=READ_ADDRESS, **quiet)
    opened.then(**running).failure(**failed)
    opened.then(**title_of_words)
    # the box also sends its value when it loses the focus
    replaced = controls.preset.input(
        lambda title: presets.get(title) or gr.skip(), controls.preset, controls.words, **quiet
    )
    chosen = controls.gallery.choose(
        endpoints.show_example, controls.gallery, [controls.photo, controls.words], **quiet
    )
    for event in (replaced, chosen):
        event.then(**running).failure(**failed)
        event.then(**shared)
    chosen.then(**title_of_words)
    # an image of one's own is no example
    controls.photo.input(lambda: None, None, controls.gallery, **quiet).then(**shared)

    fits = gr.Checkbox(visible=False)
    copied: _InBrowser = {"fn": None, "js": asset("copy_link.js"), "api_visibility": "private"}
    results.link_button.click(**shared, outputs=fits).then(**copied, inputs=fits)
    demo.unload(endpoints.forget)


def _preset_of(words: str | None, presets: dict[str, str]) -> str:
    """Returns the title of the preset that the words are; `NO_PRESET` if they are none."""

    def labels(text: str) -> list[str]:
        return [label.strip() for label in text.split(",")]

    return next((title for title, text in presets.items() if labels(text) == labels(words or "")), NO_PRESET)


def _writes_address(engine: DemoEngine, controls: Controls) -> _InBrowserWithInputs:
    """Returns the options of an event that writes the words and the options into the address."""
    fixed = {
        "inference": engine.pipe.default_inference,
        "head": engine.heads[0],
        "templates": [DEFAULT_TEMPLATE],
        "max_length": MAX_ADDRESS,
    }
    return {
        "fn": None,
        "inputs": controls.shared[1:],  # all but the image
        "js": f"(...given) => ({asset('address.js')})({json.dumps(fixed)}, ...given)",
        "api_visibility": "private",
    }


def _connect_api(endpoints: Endpoints, controls: Controls, results: Results) -> None:
    """Connects the download buttons, which also define the API."""
    threshold = gr.Number(0.0, label="Threshold", visible=False)
    opacity = gr.Number(0.55, label="Opacity", visible=False)
    one_label = gr.Textbox(label="Label", visible=False)
    file = gr.File(label="File", visible=False)
    segments = gr.JSON(label="Segments", visible=False)

    seen = "(...given) => { const view = document.querySelector('#viewer .viewer').dataset; "
    with_threshold = seen + "given[5] = Number(view.threshold || 0); return given; }"
    with_opacity = (
        seen + "given[5] = Number(view.threshold || 0); given[6] = Number(view.opacity || 0.55); return given; }"
    )
    download = {"fn": None, "api_visibility": "private"}
    results.overlay_button.click(
        endpoints.overlay,
        [*controls.asked, threshold, opacity, controls.refine],
        file,
        js=with_opacity,
        api_name="overlay",
        api_description="The image with an overlay of its labels and a legend, as a PNG file.",
        **_MODEL,
    ).success(inputs=file, js=asset("download_file.js"), **download)
    results.label_map_button.click(
        endpoints.label_map,
        [*controls.asked, threshold, controls.refine],
        file,
        js=with_threshold,
        api_name="label_map",
        api_description="The label number of each pixel, as a PNG file: 8 bits with a palette for up to 255 labels "
        "(255 is none of these), 16 bits for more labels (65535 is none of these).",
        **_MODEL,
    ).success(inputs=file, js=asset("download_file.js"), **download)
    results.json_button.click(
        endpoints.segment,
        [*controls.asked, threshold, controls.refine],
        segments,
        js=with_threshold,
        api_name="segment",
        api_description="The labels found, each with score, area, box and mask (uncompressed COCO RLE).",
        **_MODEL,
    ).success(inputs=segments, js=asset("download_json.js"), **download)
    gr.Button(visible=False).click(
        endpoints.heat_map,
        [controls.photo, controls.words, one_label, controls.mode, controls.head, controls.templates],
        file,
        api_name="heat_map",
        api_description="The score of one label at each pixel, multiplied by 255, as a gray PNG file.",
        **_MODEL,
    )


def _intro(known_words: Sequence[str] | None) -> str:
    note = ""
    if known_words is not None:
        about = (
            f"This model knows {len(known_words)} words only, such as <i>{html.escape(', '.join(known_words[:3]))}</i>."
        )
        if set(known_words) == {*COLORS, *PATTERNS, *KINDS}:
            about = (
                "This is a small model for <b>drawn scenes</b>: colors, patterns and shapes, for example <i>purple "
                "striped square</i>."
            )
        note = (
            f'<p class="note">{about} For photos, start the demo with <code>--model</code> and converted dino.txt '
            "weights.</p>"
        )
    return (
        '<header class="intro"><h1>dinov3.seg</h1>'
        f"<p>Upload an image and type any words. Every pixel gets the word that fits best.</p>{note}</header>"
    )
