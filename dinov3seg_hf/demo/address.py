# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The address that a visitor shares: words and options in the fragment, as `assets/address.js` writes it.

The fragment comes from anybody, so what is not understood is left out, and lengths are bounded. Words reach the page as
text, never as HTML.

    #words=cat, sofa|couch&example=2&inference=slide&head=dinotxt&refine=true&threshold=0.3
"""

from dataclasses import dataclass
from urllib.parse import parse_qs

from ..model.inference_settings import Head, Inference
from .engine import DemoEngine

# The longest fragment, in characters; the page writes no longer one.
MAX_ADDRESS = 16_000

MAX_FIELDS = 40


@dataclass(frozen=True)
class Address:
    """What an address asks for. `None` stands for the default of the page.

    Attributes:
        words: The labels, as text.
        example: The index of the example image.
        inference, head, templates, refine: See the pipeline.
        too_long: Whether the fragment was too long, so that all of it was left out.
    """

    words: str | None = None
    example: int | None = None
    inference: Inference | None = None
    head: Head | None = None
    templates: list[str] | None = None
    refine: bool | None = None
    too_long: bool = False


def read_address(fragment: str | None, engine: DemoEngine, num_examples: int) -> Address:
    """Reads the fragment of an address, without `#`. Leaves out what this page does not offer."""
    if not isinstance(fragment, str):
        return Address()
    if len(fragment) > MAX_ADDRESS:
        return Address(too_long=True)
    try:
        fields = parse_qs(fragment, max_num_fields=MAX_FIELDS)
    except ValueError:  # too many fields
        return Address()
    first = {name: values[0] for name, values in fields.items()}
    example = first.get("example", "")
    index = int(example) if example.isascii() and example.isdigit() and len(example) < 6 else -1
    limits = engine.limits
    templates = [text for text in fields.get("templates", ()) if len(text) <= 4 * limits.word_length]
    return Address(
        words=first.get("words"),
        example=index if 0 <= index < num_examples else None,
        inference=next((mode for mode in engine.inference_modes if mode == first.get("inference")), None),
        head=next((head for head in engine.heads if head == first.get("head")), None),
        templates=templates[: limits.templates] or None,
        refine={"true": True, "false": False}.get(first.get("refine", "")),
    )
