# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What a conversion did, key by key: a table to read and JSON to keep."""

import re
from dataclasses import dataclass, field
from typing import Any

from .layouts import Action


@dataclass(frozen=True)
class ConvertedKey:
    """What became of one tensor of a file; or, with an empty `key`, where tensors come from that no file holds."""

    source: str  # "backbone", "dinotxt" or "prior"
    key: str
    action: Action
    targets: tuple[str, ...] = ()
    reason: str = ""


@dataclass
class ConversionReport:
    """Key by key, what a conversion did; `str(report)` is a table, `to_dict()` is JSON.

    Attributes:
        output: The folder that was written.
        files: Role ("backbone", "dinotxt", "prior", "tokenizer") -> what was given for it.
        keys: One entry for every tensor of every file.
        new: Part of the model -> its tensors that no file holds: newly initialized, to be trained.
        missing: Tensors of the model without an origin. Empty, or there would be an error in place of a report.
        sizes: What was inferred from the tensors.
        num_parameters: Numbers that the folder holds.
        dtype: Their format.
        notes: What a user should know.
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
        rows: dict[tuple[str, ...], int] = {}  # the layers of one kind share a row
        for entry in self.keys:
            key, targets = _any_layer(entry.key), _any_layer(_brief(entry.targets))
            row = (entry.action, entry.source, key, targets, entry.reason)
            rows[row] = rows.get(row, 0) + 1
        for part, names in self.new.items():
            rows["new", "", "", part, "to be trained; no published file holds it"] = len(names)

        lines = [f"Converted to {self.output}: {self.num_parameters / 1e6:.1f} M parameters in {self.dtype}"]
        lines += [f"  {role:10}{given}" for role, given in self.files.items()]
        lines += [f"  {'sizes':10}{', '.join(f'{name} {size:g}' for name, size in self.sizes.items())}"]
        lines += ["", f"{'count':>5}  {'action':9}{'file':10}key -> parameter (remark)"]
        for (action, source, key, targets, reason), count in rows.items():
            remark = f" ({reason})" if reason else ""
            lines.append(f"{count:5d}  {action:9}{source:10}{key or '-'} -> {targets or '-'}{remark}")
        totals = [f"{self.count(action)} {action}" for action in ("taken", "split", "resized", "dropped", "zeros")]
        totals += [f"{sum(map(len, self.new.values()))} new", f"{len(self.missing)} missing"]
        return "\n".join([*lines, "", ", ".join(totals), *(f"- {note}" for note in self.notes)])


def _any_layer(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", name)


def _brief(names: tuple[str, ...]) -> str:
    """The first in full, of the others the end."""
    return ", ".join([*names[:1], *(".".join(name.split(".")[-2:]) for name in names[1:])])


__all__ = ["ConversionReport", "ConvertedKey"]
