# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Prompt templates, from the name of a class to the sentences that the text tower encodes.

Handles strings only; uses no tokenizer and no model.
"""

from collections.abc import Sequence

from .checks import items_of, quoted

# The prompt of the paper, used literally: it contains "a" before every name, also before "apple" and "stairs". A
# grammatical article would give an embedding that differs from that of the paper's prompt.
DEFAULT_TEMPLATE = "A photo of a {} in the scene"

# "simple" has no article, because plurals, uncountable words and phrases ("striped circle") then read naturally.
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
    """Looks up a template set or checks the given templates.

    Args:
        templates: The name of a set in `TEMPLATES`, one template, or several.

    Returns:
        The templates. Each contains exactly one `{}`, in place of the class name; other braces stay unchanged.

    Raises:
        ValueError: If the set is unknown, there is no template, a template is given twice, or a template does not
            contain exactly one `{}`.
    """
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]
        if "{}" not in templates:
            raise ValueError(
                f"templates is {templates!r}; expected a template set ({', '.join(map(repr, TEMPLATES))}) or a "
                f"template with exactly one '{{}}', as in {DEFAULT_TEMPLATE!r}."
            )
        templates = (templates,)
    listed = None if isinstance(templates, (set, frozenset)) else items_of(templates)
    if listed is None:
        raise ValueError(f"Templates are of type {type(templates).__name__}; expected a string or a list of strings.")
    templates = tuple(listed)
    if not templates:
        raise ValueError("Got no template; expected at least one. Use 'none' for names without a template.")
    seen: set[str] = set()
    for i, template in enumerate(templates):
        if not isinstance(template, str):
            raise ValueError(
                f"Template {i} is {quoted(template)} of type {type(template).__name__}; expected a string."
            )
        if (count := template.count("{}")) != 1:
            raise ValueError(
                f"Template {i}, {template!r}, contains '{{}}' {count} times; expected it exactly once, in place of the "
                f"class name, as in {DEFAULT_TEMPLATE!r}."
            )
        if template in seen:
            raise ValueError(f"Template {template!r} is given twice, so its weight would double. Remove one of them.")
        seen.add(template)
    return templates


def fill_templates(names: Sequence[str], templates: str | Sequence[str] = DEFAULT_TEMPLATE) -> list[str]:
    """Inserts every name into every template: all templates with the first name, then with the second.

    Args:
        names: Words or phrases, inserted unchanged (braces in a name are plain characters).
        templates: See `resolve_templates`.

    Returns:
        `len(names) * len(templates)` prompts.

    Raises:
        ValueError: If a template is invalid or `names` is not a list of strings.
    """
    templates = resolve_templates(templates)
    if isinstance(names, str):
        raise ValueError(f"names is the string {names!r}; expected a list of strings. Pass [{names!r}].")
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"The name {quoted(name)} is of type {type(name).__name__}; expected a string.")
    # not str.format, which would treat other braces as fields
    return [template.replace("{}", name) for name in names for template in templates]
