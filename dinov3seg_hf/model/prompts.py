# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Prompt templates: from the name of a class to the sentences that the text tower reads.

Knows strings only: no tokenizer, no model.
"""

from collections.abc import Iterable, Sequence

# The paper's prompt, taken literally: it says "a" before every name, "apple" and "stairs" included, in training and in
# evaluation. A grammatical article would give another embedding than the one that the published numbers belong to.
DEFAULT_TEMPLATE = "A photo of a {} in the scene"

# "simple" uses no article, so that plurals, uncountable words and phrases ("striped circle") read naturally.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "scene": (DEFAULT_TEMPLATE,),
    "none": ("{}",),
    "simple": (
        "{}",
        "A photo of {}",
        "A picture that shows {}",
        "{} in the scene",
        "A scene with {} in it",
        "{}, seen from nearby",
        "{}, seen from far away",
    ),
}


def resolve_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The templates that are meant, checked.

    Args:
        templates: The name of a set in `TEMPLATES`, one template, or several.

    Returns:
        The templates; each holds exactly one `{}`, where the name goes. Any other brace stays as it is.

    Raises:
        ValueError: An unknown set, no template at all, the same one twice, or one without exactly one `{}`.
    """
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]
        if "{}" not in templates:
            raise ValueError(
                f"{templates!r} is neither a named template set nor a template. "
                f"The sets are {', '.join(map(repr, TEMPLATES))}; a template holds exactly one '{{}}', "
                f"as {DEFAULT_TEMPLATE!r} does."
            )
        templates = (templates,)
    if not isinstance(templates, Iterable):
        raise ValueError(f"Templates are of type {type(templates).__name__}; expected a string or a list of strings.")
    templates = tuple(templates)
    if not templates:
        raise ValueError("Got no template; expected at least one. Use 'none' for the bare name.")
    for i, template in enumerate(templates):
        if not isinstance(template, str):
            raise ValueError(f"Template {i} is {template!r} of type {type(template).__name__}; expected a string.")
        if (count := template.count("{}")) != 1:
            raise ValueError(
                f"Template {i}, {template!r}, holds '{{}}' {count} times; expected exactly once, where the name goes, "
                f"as in {DEFAULT_TEMPLATE!r}."
            )
        if template in templates[:i]:
            raise ValueError(f"Template {template!r} is given twice, which would only weigh it double. Remove one.")
    return templates


def fill_templates(names: Sequence[str], templates: str | Sequence[str] = DEFAULT_TEMPLATE) -> list[str]:
    """Every name in every template: all templates of the first name, then of the second.

    Args:
        names: Words or phrases, put in as they are (braces in a name are plain characters).
        templates: As in `resolve_templates`.

    Returns:
        `len(names) * len(templates)` prompts.

    Raises:
        ValueError: A bad template, or names that are no list of strings.
    """
    templates = resolve_templates(templates)
    if isinstance(names, str):
        raise ValueError(f"Got one string, {names!r}, in place of a list of names. Write [{names!r}].")
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"The name {name!r} is of type {type(name).__name__}; expected a string.")
    # not str.format: it would read other braces as fields
    return [template.replace("{}", name) for name in names for template in templates]
