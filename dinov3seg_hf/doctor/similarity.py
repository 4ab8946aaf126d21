# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Finds classes whose text embeddings are nearly the same, so that a model cannot tell them apart by their words."""

import torch

from ..model.checks import is_number, quoted
from ..model.text_embeddings import TextEmbeddings, checked_embeddings
from ..model.vocabulary import Vocabulary
from .bounds import SIMILARITY
from .findings import Finding


def find_similar(vocabulary: Vocabulary, text: TextEmbeddings, similarity: float = SIMILARITY) -> list[Finding]:
    """Finds pairs of classes whose local text embeddings have at least this cosine similarity, the most similar first.

    Args:
        vocabulary: The vocabulary.
        text: Its embeddings, `(C, 2, D)`; the local half decides what a patch is called.
        similarity: Smallest cosine similarity of a finding, between -1 and 1.

    Raises:
        ValueError: If the embeddings are those of other classes, or the similarity is out of range.
    """
    if checked_embeddings(text).names != vocabulary.names:
        raise ValueError(
            f"The embeddings are those of {len(text)} other classes; expected those of the vocabulary. Encode it again."
        )
    if not is_number(similarity, -1, 1):
        raise ValueError(f"similarity is {quoted(similarity)}; expected a number between -1 and 1, such as 0.95.")
    local = torch.nn.functional.normalize(text.tensor[:, 1].float(), dim=-1)
    cosines = (local @ local.T).triu(diagonal=1)
    pairs = (cosines >= similarity).nonzero().tolist()
    findings = []
    for first, second in sorted(pairs, key=lambda pair: -cosines[pair[0], pair[1]].item()):
        one, other = vocabulary.names[first], vocabulary.names[second]
        findings.append(
            Finding(
                "similar",
                (first, second),
                f"{one!r} and {other!r} have nearly the same text embedding (cosine {cosines[first, second]:.3f}).",
                merge=(first, second),
            )
        )
    return findings
