# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The report of a conversion, key by key: as a text table and as JSON."""

import re
from dataclasses import dataclass, field
from typing import Any

from .layouts import Action


@dataclass(frozen=True)
class ConvertedKey:
    """The result for one tensor of a file or, with an empty `key`, the origin of tensors that are not in any file."""

    source: str  # "backbone", "dinotxt", "prior" or "anyup"
    key: str
    action: Action
    targets: tuple[str, ...] = ()
    reason: str = ""


@dataclass
class ConversionReport:
    """The report of a conversion, key by key; `str(report)` is a table, `to_dict()` is JSON.

    Attributes:
        output: The folder that was written.
        files: The source that was passed or found for each role ("backbone", "dinotxt", "prior", "anyup", "tokenizer",
            "license" and, for parts that were passed, "license of prior" and "license of anyup"); "none" without one.
        keys: One entry per tensor of each file, and one entry per layer for tensors that are set to a constant.
        new: The newly initialized tensors, which are not in any file and are to be trained, by part of the model.
        missing: Tensors of the model without an origin. Always empty, because missing tensors raise an error.
        sizes: The sizes of the model, as inferred from the files.
        num_parameters: Number of parameters in the folder.
        dtype: Dtype of the parameters.
        notes: Remarks for the user.
    """

    output: str
    files: dict[str, str] = field(default_factory=dict)
    keys: list[ConvertedKey] = field(default_factory=list)
    new: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    sizes: dict[str, int | float] = field(default_factory=dict)
    num_parameters: int = 0
    dtype: str = "float32"
    notes: list[str] = field(default_factory=list)

    def count(self, action: Action) -> int:
        return sum(key.action == action for key in self.keys)

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "keys": [{**vars(key), "targets": list(key.targets)} for key in self.keys]}

    def __str__(self) -> str:
        rows: dict[tuple[str, ...], int] = {}  # equal entries of different layers share a row
        for entry in self.keys:
            key, targets = _any_layer(entry.key), _any_layer(_brief(entry.targets))
            row = (entry.action, entry.source, key, targets, entry.reason)
            rows[row] = rows.get(row, 0) + 1
        for part, names in self.new.items():
            rows["new", "", "", part, "to be trained; not in any published file"] = len(names)

        lines = [f"Converted to {self.output}: {self.num_parameters / 1e6:.1f} M parameters in {self.dtype}"]
        width = max(10, *(len(role) + 2 for role in self.files)) if self.files else 10
        lines += [f"  {role:{width}}{given}" for role, given in self.files.items()]
        lines += [f"  {'sizes':{width}}{', '.join(f'{name} {size:g}' for name, size in self.sizes.items())}"]
        lines += ["", f"{'count':>5}  {'action':9}{'file':10}key -> parameter (remark)"]
        for (action, source, key, targets, reason), count in rows.items():
            remark = f" ({reason})" if reason else ""
            lines.append(f"{count:5d}  {action:9}{source:10}{key or '-'} -> {targets or '-'}{remark}")
        actions: tuple[Action, ...] = ("taken", "split", "resized", "dropped", "zeros", "constant")
        totals = [f"{self.count(action)} {action}" for action in actions]
        totals += [f"{sum(map(len, self.new.values()))} new", f"{len(self.missing)} missing"]
        return "\n".join([*lines, "", ", ".join(totals), *(f"- {note}" for note in self.notes)])


def _any_layer(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", name)


def _brief(names: tuple[str, ...]) -> str:
    """The first name in full, and the last two components of the other names."""
    return ", ".join([*names[:1], *(".".join(name.split(".")[-2:]) for name in names[1:])])


__all__ = ["ConversionReport", "ConvertedKey"]
