# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Cleans text like CLIP's reference tokenizer, with the standard library only: an export contains this file."""

import html
import re
import unicodedata
from html.entities import html5

_SINGLE_QUOTES, _DOUBLE_QUOTES = "\u02bc\u2018\u2019\u201a\u201b", "\u201c\u201d\u201e\u201f"
# letters that stand for two or three, such as IJ, DZ and ffi; the last one keeps its long s
_LIGATURES = (0x132, 0x133, *range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4), *range(0xFB00, 0xFB05), 0xFB06)
_IN_ONE = {0x149: "'n", 0xFB05: "\u017ft"}
# marks of annotations, of the order of bytes and of embedded objects, and Arabic marks that Unicode advises against
_INVISIBLE = (*range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD))
# letters of full and half width, and the ideographic space
_OTHER_WIDTHS = (0x3000, *range(0xFF01, 0xFFF0))
_PLAIN = {
    **{ord(quote): "'" for quote in _SINGLE_QUOTES},
    **{ord(quote): '"' for quote in _DOUBLE_QUOTES},
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in (*_LIGATURES, *_OTHER_WIDTHS)},
    **_IN_ONE,
    **dict.fromkeys(_INVISIBLE),
}

# How deep entities may be nested. Without a limit, the time would grow with the square of the length of a name.
MAX_ROUNDS = 8


def clean_text(text: str) -> str:
    """Returns a text as CLIP's reference tokenizer reads it: with plain quotes, letters, spaces and HTML entities.

    The reference calls ftfy, then `html.unescape` twice, and writes all in lower case. This does the same to quotes,
    ligatures, letters of other width, control characters and entities. The tokenizer writes in lower case, except for
    the sigma at the end of a word. Text that was decoded with a wrong encoding is not repaired.
    """
    is_html = "<" in text
    for _ in range(MAX_ROUNDS):  # "&amp;amp;" is "&amp;" first
        before = text
        if not is_html:
            text = html.unescape(re.sub(r"&([A-Z\d]{1,24};)", _of_capitals, text))
        text = unicodedata.normalize("NFC", text.translate(_PLAIN))
        text = "".join(letter for letter in text if letter in "\t\n\f\r" or unicodedata.category(letter) != "Cc")
        if text == before:
            break
    words = html.unescape(html.unescape(text)).split()
    # tokenizers know one small sigma, U+03C3; Python writes the other one at the end of a word
    return " ".join(word.lower() if "\u03a3" in word else word for word in words)


def _of_capitals(entity: re.Match[str]) -> str:
    """&EACUTE; stands for the capital of &eacute; in texts that were written in capitals."""
    name = entity[1]
    return entity[0] if name in html5 or name.lower() not in html5 else html5[name.lower()].upper()
