# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Cleans text like CLIP's reference tokenizer, with the standard library only: an export contains this file."""

import html
import unicodedata

_SINGLE_QUOTES, _DOUBLE_QUOTES = "\u02bc\u2018\u2019\u201a\u201b", "\u201c\u201d\u201e\u201f"
_LIGATURES = {"\u0132": "IJ", "\u0133": "ij", "\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl"}
_LIGATURES |= {"\ufb03": "ffi", "\ufb04": "ffl", "\ufb05": "\u017ft", "\ufb06": "st"}
_PLAIN = {
    **{ord(quote): "'" for quote in _SINGLE_QUOTES},
    **{ord(quote): '"' for quote in _DOUBLE_QUOTES},
    **{ord(ligature): letters for ligature, letters in _LIGATURES.items()},
    # letters of full and half width, and the ideographic space
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in (0x3000, *range(0xFF01, 0xFFF0))},
}


def clean_text(text: str) -> str:
    """Returns a text as CLIP's reference tokenizer reads it: with plain quotes, letters and HTML entities.

    The reference calls ftfy and then `html.unescape` twice. This does the same to quotes, ligatures, letters of other
    width, control characters and entities; it does not repair text that was decoded with a wrong encoding.
    """
    if "<" not in text:
        text = html.unescape(text)
    text = unicodedata.normalize("NFC", text.translate(_PLAIN))
    text = "".join(letter for letter in text if letter in "\t\n\r" or unicodedata.category(letter) != "Cc")
    return html.unescape(html.unescape(text)).strip()
