# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The families of cases: one for each public entry point.

A family is a function that draws one case. It draws its arguments first, so that the same number is the same call.
"""

from collections.abc import Callable

from ..outcomes import Case
from ..values import Draw
from ..world import World
from . import applications, files, labels, measures, model, streams, whole, words

Family = Callable[[Draw, World], Case]

FAMILIES: dict[str, Family] = {
    name: family
    for module in (model, words, files, applications, streams, measures, labels, whole)
    for name, family in module.FAMILIES.items()
}


def make_case(family: str, number: int, world: World) -> Case:
    """The case of a family and a number."""
    world.fresh_folder()
    return FAMILIES[family](Draw(family, number), world)
