# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
# ruff: noqa: RUF001  # letters that look like others are what this is about
"""Compares the tokens of odd class names with those of the reference, CLIP's tokenizer as open_clip has it.

    pip install --no-deps open_clip_torch ftfy regex wcwidth    # the reference; dinov3seg_hf itself needs neither
    python scripts/measure/odd_names.py                       # with CLIP's vocabulary, the file in open_clip_torch
    python scripts/measure/odd_names.py --bpe FILE            # with another copy of the file
    python scripts/measure/odd_names.py --write tests/fixtures/odd_names.json    # the reference's answers, for tests

Each name is compared alone and in the default prompt. Prints a table by kind of name, and the names that differ. The
answers in JSON are the cleaned text and the token ids with the merges of the embedded checkpoint.
"""

import argparse
import gzip
import importlib.util
import json
import tempfile
from pathlib import Path
from types import ModuleType

from transformers import CLIPTextConfig

from dinov3seg_hf import TINY
from dinov3seg_hf.conversion.paths import installed_file
from dinov3seg_hf.conversion.tokenizer import find_tokenizer
from dinov3seg_hf.model.prompts import DEFAULT_TEMPLATE
from dinov3seg_hf.model.tokenization import tokenize_prompts
from dinov3seg_hf.model.vocabulary import Vocabulary

VOCAB_SIZE = 49408  # of CLIP


def wrongly_decoded(text: str, encoding: str = "cp1252") -> str:
    """Returns the UTF-8 bytes of a text, read as another encoding; like browsers, bytes that it lacks as Latin-1."""
    single = (bytes([byte]) for byte in text.encode())
    return "".join(byte.decode(encoding, errors="ignore") or byte.decode("latin-1") for byte in single)


def odd_names() -> dict[str, list[str]]:
    """Returns lists of names, by what is odd about them."""
    emoji = ("😀", "✈\ufe0f", "👨\u200d👩\u200d👧", "🇩🇪", "1\ufe0f\u20e3", "❤", "👍🏽")
    accented = ("café", "naïve", "São Paulo", "über", "Åre", "jalapeño", "à la carte", "½", "5 €", "°C", "…", "—")
    foreign = ("空", "交通信号", "небо", "ουρανός", "신호등", "إشارة", "רמזור", "ไฟ", "हिन्दी")
    entities = "amp lt gt quot nbsp eacute EACUTE copy hellip rsquo frac12 deg #39 #x27 #8217 #233 #128 #0 notone"
    return {
        "curly quotes": [f"cafe{quote}s {quote}x{quote}" for quote in "‘’‚‛\u02bc“”„‟«»′″´`＇"],
        "HTML entities": [
            *(f"salt &{name}; pepper" for name in entities.split()),
            *("salt &amp;amp; pepper", "&amp;amp;amp;amp; x", "a&ampb", "&eacute", "&amp;lt;b", "&#xfb01;sh"),
            *("<b>bold</b>", "<br>&amp;", "a<b &amp; c", "&CounterClockwiseContourIntegral;", "CAF&EACUTE;", "AT&T;"),
        ],
        "accents": [*accented, "cafe\u0301", "a\u030a\u0323", "ệ", "Łódź", "İstanbul", "Straße", "STRASSE ẞ", "Œuvre"],
        "letters that stand for several": [f"o{letter}ce" for letter in "ﬀﬁﬂﬃﬄﬅﬆĲĳŉǄǅǆǇǈǉǊǋǌǱǲǳœæ™№"],
        "emoji": [*emoji, *(f"Potted Plant {sign}" for sign in emoji)],
        "invisible": [f"traffic{sign}light" for sign in map(chr, (*range(0x200B, 0x2010), 0x202E, 0x2060, 0x2066))]
        + [f"traffic{sign}light" for sign in "\u206a\u00ad\ufeff\ufffc\ufff9\u034f\u180e"]
        + ["کتاب\u200cها"],
        "full and half width": ["ＴＶ set", "１２３", "ｶﾞﾗｽ", "＆", "＜b＞", "￥", "￠", "～", "Ａ\u3000Ｂ"],
        "other scripts": [*foreign, "信号 light", "светофор", "ΟΔΟΣ", "ΣΚΥΛΟΣ ΣΑΣ", "Σ", "絵文字"],
        "spaces and line breaks": ["  two  spaces "]
        + [f"traffic{space}light" for space in "\u00a0\u2002\u2003\u2009\u202f\u205f\u3000\u1680\u2028\u2029"]
        + [f"traffic{space}light" for space in "\t\n\r\v\f\x1c\x1f\x85"],
        "control characters": [
            "bell\x07tower",
            "\x1b[31mred\x1b[0m wall",
            "del\x7fta",
            "nul\0l",
            "wind\x92s",
            "\x9c\x9d",
        ],
        "special tokens": [
            *("<|endoftext|>", "<|startoftext|> sky", "red <|endoftext|> circle", "<|ENDOFTEXT|>", "<unk>"),
            *("&lt;|endoftext|&gt;", "<end_of_text>", "<start_of_text> sky", "</w>", "sky</w>", "Ġsky"),
        ],
        "long": ["a" * 60, "very " * 12 + "long name", "pneumonoultramicroscopic", "-" * 40, "donau" * 6, "空" * 20],
        "digits": ["7", "1984", "4x4", "no. 12", "10³", "H₂O", "1,000", "3.14", "-5", "50%", "①", "Ⅳ", "٤٢", "𝟙"],
        "underscores, slashes, marks": (
            "traffic_light __init__ sofa/couch a\\b C++ C# rock&roll #1 @home [x] {} a*b ^ ~ $5 ... a-b a--b !? :) a.b"
        ).split(),
        "apostrophes": "child's CHILD'S dogs' don't we'll I'm rock'n'roll 's ' o'clock it’s L'Oréal they're".split(),
        "read with a wrong encoding": [
            *map(wrongly_decoded, (*accented, *foreign, *emoji, "ladies’ room", "“stop”")),
            *(wrongly_decoded(name, "latin-1") for name in (*accented, *foreign, "ladies’ room", "“stop”")),
        ],
    }


def load_reference() -> ModuleType:
    """Returns the module of the reference tokenizer, without importing the rest of its package."""
    path = installed_file("open_clip").with_name("tokenizer.py")
    spec = importlib.util.spec_from_file_location("reference_tokenizer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Pair:
    """The tokenizers of the reference and of this package, of one file of merges."""

    def __init__(self, reference: ModuleType, bpe: Path, vocab_size: int):
        self.reference = reference.SimpleTokenizer(str(bpe))
        self.own = find_tokenizer(str(bpe))(CLIPTextConfig(vocab_size=vocab_size))

    def tokens(self, name: str, template: str) -> tuple[list[int], list[int]]:
        """Returns the token ids of this package and of the reference. Raises ValueError if the name is refused."""
        ((ids,),) = tokenize_prompts(self.own, Vocabulary([name], templates=template).prompts())
        return ids[1:-1], self.reference.encode(template.replace("{}", name))


def compare(pair: Pair) -> None:
    """Prints a row per kind of name, and each name that differs."""
    table, differing = {}, []
    for kind, names in odd_names().items():
        counts = {"names": len(names), "refused": 0, "same": 0, "different": 0}
        for name in names:
            try:
                own, theirs = zip(*(pair.tokens(name, template) for template in ("{}", DEFAULT_TEMPLATE)))
            except ValueError:
                counts["refused"] += 1
                continue
            counts["same" if own == theirs else "different"] += 1
            if own != theirs:
                differing.append(f"{name!a}: {pair.own.decode(own[0])!a}, reference {pair.own.decode(theirs[0])!a}")
        table[kind] = counts
    table["all"] = {column: sum(counts[column] for counts in table.values()) for column in counts}
    print(f"{'':32}", *(f"{column:>10}" for column in counts))
    for kind, counts in table.items():
        print(f"{kind:32}", *(f"{count:10}" for count in counts.values()))
    print(*differing, sep="\n")


def write_answers(reference: ModuleType, path: Path) -> None:
    """Writes the answers of the reference, with the merges of the embedded checkpoint: no vocabulary but our own."""
    merges = json.loads(Path(TINY, "tokenizer.json").read_text())["model"]["merges"]
    with tempfile.TemporaryDirectory() as folder:
        bpe = Path(folder) / "merges.txt.gz"
        bpe.write_bytes(gzip.compress("\n".join(["header", *map(" ".join, merges)]).encode()))
        tokenizer = reference.SimpleTokenizer(str(bpe))
    rows = [
        {"kind": kind, "name": name, "cleaned": tokenizer.clean_fn(name), "ids": tokenizer.encode(name)}
        for kind, names in odd_names().items()
        for name in names
    ]
    path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bpe", type=Path, help="CLIP's file of merges (default: the one in open_clip_torch)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the answers of the reference, and no table")
    arguments = parser.parse_args()
    reference = load_reference()
    if arguments.write is not None:
        write_answers(reference, arguments.write)
    else:
        compare(Pair(reference, arguments.bpe or installed_file("open_clip"), VOCAB_SIZE))


if __name__ == "__main__":
    main()
