# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Draws arguments: good ones, and everything that a caller could pass by mistake or on purpose."""

import datetime
import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


class Draw(random.Random):
    """The random source of one case."""

    def __init__(self, family: str, number: int):
        super().__init__(f"{family} {number}")
        self.arrays = np.random.default_rng(self.getrandbits(64))

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def one_of(self, *makers: Any) -> Any:
        """One of the values; a function is called."""
        chosen = self.choice(makers)
        return chosen() if callable(chosen) else chosen

    # --- hostile values ----------------------------------------------------------------------------------------------

    def number(self) -> Any:
        """A number that is probably out of range."""
        return self.choice(
            (
                *(0, -1, -7, 1, 2, 3, 255, 256, 65535, 65536, 2**31, 2**63, 10**25, 0.5, -0.0, 1.5, 1e-300, 1e300),
                *(float("nan"), float("inf"), -float("inf"), True, False, 2 + 1j),
                *(np.int64(3), np.float32(0.5), np.float64("nan"), np.bool_(True), np.uint8(7)),
            )
        )

    def text(self) -> str:
        """A string that nobody expects."""
        return self.choice(
            (
                *(
                    "",
                    " ",
                    "a",
                    "cat",
                    "none",
                    "None",
                    "nan",
                    "1",
                    "-1",
                    "0.5",
                    "\x00",
                    "\ud800",
                    "\u200b",
                    "a\nb",
                    "a,b",
                ),
                *(
                    "a|b",
                    "{}",
                    "{0}",
                    "%s",
                    "../x",
                    "/",
                    "/dev/null",
                    "~",
                    "C:\\x",
                    "<script>alert(1)</script>",
                    "=1+1",
                ),
                *("é" * 50, "x" * 5000, "\u202egnp.exe", "👩‍👩‍👧", "..", "'; drop table", "embedded", "http://"),
                *("data:image/png;base64,AA",),
            )
        )

    def anything(self) -> Any:
        """A value of any type."""
        return self.one_of(
            None,
            self.number,
            self.number,
            self.text,
            self.text,
            b"bytes",
            lambda: [],
            lambda: {},
            lambda: (),
            lambda: {1, 2},
            lambda: [self.text() for _ in range(3)],
            lambda: [self.number() for _ in range(self.randint(1, 4))],
            lambda: [None],
            lambda: [[]],
            lambda: {"a": 1},
            lambda: {self.text(): self.number()},
            lambda: nested(3),
            lambda: nested(2000),
            object,
            lambda: object,
            lambda: len,
            lambda: (x for x in "ab"),
            lambda: datetime.date(2026, 1, 1),
            lambda: Path("nothing/here.png"),
            lambda: Path("."),
            lambda: io.BytesIO(b"abc"),
            self.array,
            self.tensor,
            lambda: Image.new("RGB", (5, 4)),
        )

    def shape(self, most: int = 4) -> tuple[int, ...]:
        return tuple(self.choice((0, 1, 1, 2, 3, 4, 5, 8)) for _ in range(self.randint(0, most)))

    def array(self, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """An array of any type and, if not given, of any shape."""
        shape = self.shape() if shape is None else shape
        kind = self.choice(
            (
                *(
                    "uint8",
                    "uint8",
                    "int8",
                    "int16",
                    "uint16",
                    "int32",
                    "int64",
                    "uint64",
                    "float16",
                    "float32",
                    "float64",
                ),
                *("bool", "complex64", "object", "str", "datetime64[s]", ">i4", ">f8"),
            )
        )
        if kind == "object":
            return np.full(shape, None, dtype=object)
        if kind == "str":
            return np.full(shape, "a")
        values = self.arrays.integers(0, 3, shape)
        if kind in ("float16", "float32", "float64", ">f8"):
            values = np.asarray(self.arrays.normal(size=shape) * self.choice((0.3, 1, 300)))
            if values.size and self.chance(0.3):
                values.flat[self.randrange(values.size)] = self.choice((np.nan, np.inf, -np.inf))
        elif self.chance(0.4) and not kind.startswith(("bool", "datetime")):
            values = self.arrays.integers(-300 if kind[0] in "i>" else 0, 70000, shape)
        with np.errstate(all="ignore"):
            return np.asarray(values).astype(kind)

    def tensor(self, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """A tensor of any type and, if not given, of any shape."""
        shape = self.shape(5) if shape is None else shape
        dtype = self.choice(
            (
                *(torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32),
                *(torch.uint8, torch.bool, torch.complex64),
            )
        )
        values = torch.from_numpy(np.asarray(self.arrays.normal(size=shape) * self.choice((0.5, 3, 100))))
        if values.numel() and self.chance(0.2):
            values.view(-1)[self.randrange(values.numel())] = self.choice((float("nan"), float("inf")))
        return values.nan_to_num().to(dtype) if not dtype.is_floating_point else values.to(dtype)

    # --- good values with a few mistakes -----------------------------------------------------------------------------

    def some(self, good: Mapping[str, Callable[[], Any]], hostile: float = 0.25, given: float = 0.4) -> dict[str, Any]:
        """Options by name: some are given, some of these are not what they should be, some names are misspelt."""
        options: dict[str, Any] = {}
        for name, make in good.items():
            if self.chance(given):
                options[name] = self.anything() if self.chance(hostile) else make()
        if self.chance(0.03):
            options[self.misspelt(self.choice(list(good)))] = 1
        return options

    def misspelt(self, name: str) -> str:
        place = self.randrange(len(name))
        return name[:place] + self.choice("xyz_") + name[place + 1 :]

    def mutated_bytes(self, content: bytes) -> bytes:
        """A file after a bad disk, a broken download or an attack."""
        data = bytearray(content)
        for _ in range(self.choice((1, 1, 2, 5, 30))):
            if not data:
                break
            place = self.randrange(len(data)) if self.chance(0.6) else self.randrange(min(len(data), 64))
            match self.randrange(6):
                case 0:
                    data[place] = self.randrange(256)
                case 1:
                    data[place] ^= 1 << self.randrange(8)
                case 2:
                    del data[place:]
                case 3:
                    del data[place : place + self.randint(1, 20)]
                case 4:
                    data[place:place] = bytes(self.randrange(256) for _ in range(self.randint(1, 8)))
                case 5:
                    data[place : place + 4] = self.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
        return bytes(data)

    def mutated_text(self, text: str) -> bytes:
        """A text file that somebody edited: lines and words in the wrong place, other encodings, too much nesting."""
        match self.randrange(9):
            case 0:
                return self.mutated_bytes(text.encode())
            case 1:
                lines = text.splitlines(keepends=True) or [""]
                self.shuffle(lines)
                return "".join(lines).encode()
            case 2:
                return text.encode(self.choice(("utf-16", "utf-8-sig", "utf-32")))
            case 3:
                place = self.randrange(len(text) + 1)
                return (text[:place] + self.text() + text[place:]).encode("utf-8", "surrogatepass")
            case 4:
                place = self.randrange(len(text) + 1)
                return (text[:place] + self.choice("[]{}\"':,\t\n#!&*|>-%@`") + text[place:]).encode()
            case 5:
                return (text + self.choice(("[" * 100_000, '{"a":' * 100_000, "- " * 3000, "\t" * 1000))).encode()
            case 6:
                return self.choice(("[" * 100_000, '{"a":' * 50_000, "[" * 3000 + "]" * 3000, "- " * 3000)).encode()
            case 7:
                return b"".join(line + self.choice((b"\n", b"\r", b"\r\n")) for line in text.encode().split(b"\n"))
            case _:
                return b""

    def mutated_json(self, value: Any, hostile: float = 0.15) -> Any:
        """A JSON value in which some parts are something else."""
        if self.chance(hostile):
            return self.json_value()
        if isinstance(value, dict):
            kept = {key: self.mutated_json(item, hostile / 3) for key, item in value.items() if not self.chance(0.03)}
            return {**kept, **({self.text(): self.json_value()} if self.chance(0.05) else {})}
        if isinstance(value, list):
            return [self.mutated_json(item, hostile / 3) for item in value]
        return value

    def json_value(self) -> Any:
        return self.one_of(
            None, True, 0, -1, 1, 3, 2**70, 0.5, float("nan"), "", "a", "1", lambda: [], lambda: {}, lambda: [1, 2],
            lambda: ["a", None], lambda: {"a": 1}, lambda: nested(50), lambda: {"0": "a", "1": "b"},
        )  # fmt: skip

    def image(self, height: int = 24, width: int = 32) -> Image.Image:
        """A good image in any mode of PIL."""
        pixels = self.arrays.integers(0, 256, (height, width, 3), dtype=np.uint8)
        mode = self.choice(("RGB", "RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"))
        image = Image.fromarray(pixels)
        if mode == "F":
            return Image.fromarray(pixels[..., 0].astype(np.float32) / 255)
        if mode == "I;16":
            return Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
        return image.convert("L").convert("I") if mode == "I" else image.convert(mode)

    def label_map(self, num_labels: int, height: int = 24, width: int = 32) -> np.ndarray:
        """A good label map, int32; -1 is no label."""
        blocks = self.arrays.integers(-1, num_labels, (-(-height // 4), -(-width // 4)))
        return blocks.repeat(4, axis=0).repeat(4, axis=1)[:height, :width].astype(np.int32)


def described(values: Mapping[str, Any] | Sequence[Any]) -> str:
    """Arguments as text, shortened."""
    items = values.items() if isinstance(values, Mapping) else [("", value) for value in values]
    return ", ".join(f"{name}={_shown(value)}" if name else _shown(value) for name, value in items)


def _shown(value: Any) -> str:
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return f"<{type(value).__name__} {value.dtype} {tuple(value.shape)}>"
    try:
        text = repr(value)
    except RecursionError:
        text = "<nested>"
    return text if len(text) <= 200 else f"{text[:150]}... ({len(text)})"


def as_json(value: Any) -> str:
    try:
        return json.dumps(value)
    except (RecursionError, ValueError, TypeError):
        return "null"
