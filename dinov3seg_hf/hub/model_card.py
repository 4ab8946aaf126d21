# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Writes the model card of a checkpoint: fills the template, only with facts from files and with measured results.

Scores come only from `results.json` files. Facts that only the authors of a checkpoint know (license, base model, data
sets, training, limits) come from the `README.md` in the checkpoint folder, if it exists: from its front matter, the
text before the first section, and the sections "Training" and "Limits".
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..model.checks import load_json
from ..model.files import read_text_up_to
from .upload import PublishingError

TAGS = ("open-vocabulary-segmentation", "semantic-segmentation", "zero-shot", "dinov3", "dino.txt", "dinov3seg")

PIPELINE_TAG = "image-segmentation"

FRONT_MATTER_FIELDS = ("license", "license_name", "license_link", "base_model", "datasets", "language", "tags")

DINOV3_LICENSE = {
    "license": "other",
    "license_name": "dinov3-license",
    "license_link": "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
}

SCORES = {
    "mean_iou": "mIoU",
    "mean_accuracy": "mean accuracy",
    "overall_accuracy": "pixel accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "seen_mean_iou": "mIoU, classes seen in training",
    "unseen_mean_iou": "mIoU, unseen classes",
    "harmonic_mean": "harmonic mean of the two",
}


# The metric of the Hub that a score is one of; the name of the score says which.
METRIC_IDS = {
    **dict.fromkeys(SCORES, "mean_iou"),
    "mean_accuracy": "accuracy",
    "overall_accuracy": "accuracy",
}

# The data sets of benchmarks on the Hub; results on a data set of the Hub carry its id already.
HUB_DATASETS = {"A-150": "zhoubolei/scene_parse_150", "ade20k-150": "zhoubolei/scene_parse_150"}


@dataclass(frozen=True)
class AuthorsNotes:
    """The content of the `README.md` in a checkpoint folder."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    introduction: str = ""
    training: str = ""
    limits: str = ""

    @classmethod
    def read(cls, path: str | os.PathLike) -> "AuthorsNotes":
        """Reads a README; if the file does not exist, the notes are empty.

        Raises:
            PublishingError: If the front matter is not valid YAML.
        """
        if not Path(path).is_file():
            return cls()
        try:
            card = ModelCard.load(Path(path), ignore_metadata_errors=True)
        except Exception as error:  # from YAML, or from the checks of huggingface_hub
            raise PublishingError(
                f"The front matter of {str(path)!r} cannot be read ({error}); expected YAML. Correct the front matter."
            ) from error
        metadata = card.data.to_dict()
        text = without_relative_links(card.text)
        introduction, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
        by_title = {title.strip().lower(): body.strip() for title, _, body in (s.partition("\n") for s in sections)}
        introduction = re.sub(r"^# .*$", "", introduction, flags=re.MULTILINE)
        return cls(
            {key: metadata[key] for key in FRONT_MATTER_FIELDS if metadata.get(key)},
            introduction.partition("```")[0].strip(),
            by_title.get("training", ""),
            by_title.get("limits", ""),
        )


def without_relative_links(text: str) -> str:
    """Replaces relative links by their text, because their targets do not exist on the Hub. Keeps images."""
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?://|#)[^)]*\)", r"\1", text)


def as_plain_markdown(text: Any) -> str:
    """Escapes what Markdown and HTML would take for more than text. Labels and names come from other people's files."""
    return re.sub(r"([\\`*_\[\]<>|&~#!$])", r"\\\1", " ".join(str(text).split()))


def as_code(text: Any) -> str:
    """Returns a value as code in a table of Markdown, in one line."""
    text = " ".join(str(text).split()).replace("`", "'").replace("|", "\\|")
    return f"`{text}`"


@dataclass(frozen=True)
class MeasuredResult:
    """The scores on one data set, in percent.

    Attributes:
        name: Name of the data set.
        scores: Scores in percent, by the names in `SCORES`; results of `dinov3seg evaluate` are rounded to hundredths.
        interval: The 95% interval of the mIoU in percent, if it was measured.
        num_images: Number of evaluated images.
        inference: Inference mode.
        protocol: Fingerprint of everything that determines the measurement, or "".
        weights: Fingerprint of the measured weights, or "".
    """

    name: str
    scores: Mapping[str, float]
    interval: tuple[float, float] | None
    num_images: int
    inference: str
    protocol: str
    weights: str


def read_results(path: str | os.PathLike) -> list[MeasuredResult]:
    """Reads a `results.json` of `dinov3seg evaluate`, or of `scripts/drawn_world/evaluate_tiny.py`.

    Raises:
        PublishingError: If the file cannot be read or does not contain results.
    """
    try:
        content = load_json(read_text_up_to(path))
        splits = [split for split in ("unseen", "seen") if split in content]
        return [_of_drawn_world(content, split) for split in splits] or [_of_evaluation(content)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PublishingError(
            f"{str(path)!r} does not contain results ({type(error).__name__}: {error}); expected a file written by "
            "scripts/evaluate.py. Check the path."
        ) from error


def _of_evaluation(content: dict[str, Any]) -> MeasuredResult:
    scores = content["scores"]
    low, high = scores.get("mean_iou_low"), scores.get("mean_iou_high")
    protocol = content["protocol"]
    return MeasuredResult(
        content.get("benchmark") or "data set",
        {name: round(100 * scores[name], 2) for name in SCORES if scores.get(name) is not None},
        None if low is None or high is None else (round(100 * low, 2), round(100 * high, 2)),
        int(content["num_images"]),
        str(protocol.get("inference", {}).get("inference") or ""),
        content["protocol_fingerprint"],
        str(content["model"].get("fingerprint", "")),
    )


def _of_drawn_world(content: dict[str, Any], split: str) -> MeasuredResult:
    scores = content[split]["full model"]
    names = {"mean_iou": "miou", "overall_accuracy": "pixel_accuracy"}
    return MeasuredResult(
        f"drawn world, {split} combinations",
        {name: float(scores[key]) for name, key in names.items() if key in scores},
        None,
        int(content["scenes"]),
        "whole",
        "",
        str(content.get("weights", "")),
    )


def widget_of(repo_id: str, image: str, labels: str) -> dict[str, Any]:
    """Returns the front matter of the example that the page of the model offers: an image in its repository."""
    return {"widget": [{"src": f"https://huggingface.co/{repo_id}/resolve/main/{image}", "example_title": labels}]}


def model_index(results: Sequence[MeasuredResult]) -> list[EvalResult]:
    """Converts results to the format of the Hub, which shows them next to the card and uses them in searches."""
    return [
        EvalResult(
            task_type=PIPELINE_TAG,
            task_name="Open-vocabulary semantic segmentation",
            dataset_type=HUB_DATASETS.get(result.name) or _dataset_id(result.name),
            dataset_name=result.name,
            metric_type=METRIC_IDS[name],
            metric_name=SCORES[name],
            metric_value=value,
            metric_args={"protocol": result.protocol} if result.protocol else None,
        )
        for result in results
        for name, value in result.scores.items()
    ]


def _dataset_id(name: str) -> str:
    """Returns the Hub id of a data set; for one that is not on the Hub, its name in the form of an id."""
    return name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def make_card(
    template: str | os.PathLike,
    repo_id: str,
    facts: Mapping[str, Any],
    notes: AuthorsNotes,
    results: Sequence[MeasuredResult],
    metadata: Mapping[str, Any],
) -> str:
    """Fills the template of the model card.

    Args:
        template: A Jinja file; see `model_card.md`.
        repo_id: The repository of the model, "owner/name".
        facts: Additional values for the template.
        notes: The notes of the authors.
        results: The measured results.
        metadata: Fields of the front matter; these fields replace those of the notes.

    Raises:
        PublishingError: If the license is unknown, or the template cannot be filled.
    """
    fields = {**notes.metadata, **{key: value for key, value in metadata.items() if value}}
    if "license" not in fields:
        raise PublishingError(
            "The license of the weights is unknown. Pass --license (for example apache-2.0), or set `license` in the "
            "front matter of README.md in the model's folder."
        )
    name = repo_id.rpartition("/")[2]
    fields.setdefault("language", "en")
    tags = [*TAGS, *(tag for tag in fields.pop("tags", None) or () if tag not in TAGS)]
    data = ModelCardData(
        **fields,
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        tags=tags,
        metrics=sorted({METRIC_IDS[name] for result in results for name in result.scores}, reverse=True) or None,
        model_name=name if results else None,
        eval_results=model_index(results) or None,
    )
    try:
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        environment.filters |= {"plain": as_plain_markdown, "code": as_code, "shell": shlex.quote}
        compiled = environment.from_string(Path(template).read_text(encoding="utf-8"))
        text = compiled.render(
            card_data=data.to_yaml(),
            repo_id=repo_id,
            name=name,
            notes=notes,
            results=results,
            score_names=SCORES,
            shown_scores=[key for key in SCORES if any(key in result.scores for result in results)],
            **{**{key: None for key in FRONT_MATTER_FIELDS}, **data.to_dict()},
            **facts,
        )
    except (OSError, jinja2.TemplateError) as error:
        raise PublishingError(
            f"The card's template {str(template)!r} cannot be filled: {error}. Correct the template."
        ) from error
    return re.sub(r"\n{3,}", "\n\n", text)


__all__ = ["AuthorsNotes", "MeasuredResult", "make_card", "model_index", "read_results", "without_relative_links"]
