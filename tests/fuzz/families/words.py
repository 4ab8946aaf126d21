# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Vocabularies and their files, text embeddings and their files, training configurations and their files."""

import dataclasses
import json

import numpy as np
import torch
import yaml

from dinov3seg_hf import TextEmbeddings, Vocabulary
from dinov3seg_hf.training.config import TrainingConfig, config_from_flags

from ..outcomes import Case
from ..values import Draw, as_json, described
from ..world import WORDS, World
from .model import some_words

# --- vocabularies -----------------------------------------------------------------------------------------------------


def vocabulary(draw: Draw, world: World) -> Case:
    names = some_words(draw)
    options = draw.some(
        {
            "synonyms": lambda: [[f"{word} {i}" for i in range(draw.randint(1, 2))] for word in WORDS],
            "templates": lambda: draw.choice(("scene", "none", ["{}", "a {}"])),
            "ignore_label": lambda: draw.choice((255, 9, -1)),
            "raw_ids": lambda: {5: 0, 7: 1, 9: 1},
            "background_from": lambda: draw.choice((1, 2)),
            "shared_synonyms": lambda: draw.chance(0.5),
            "calibration": lambda: {"head": "full", "model_fingerprint": "ab", "thresholds": [0.1] * len(WORDS)},
        },
        given=draw.choice((0.1, 0.3)),
    )
    use, argument, annotation = draw.randrange(6), draw.anything(), draw.array()
    path = world.folder / draw.choice(("a.json", "a.tsv"))
    of_list = {key: value for key, value in options.items() if key in ("templates", "ignore_label")}

    def call():
        made = Vocabulary.from_list(names, **of_list) if use == 0 else Vocabulary(names, **options)
        if use == 1:
            made.index(argument)
        elif use == 2:
            made.labels_from_raw(annotation)
        elif use == 3:
            Vocabulary.from_preset(argument)
        elif use == 4:
            Vocabulary.from_class_label(argument)
        elif use == 5:
            made.save(path)
            return made, Vocabulary.from_file(path)
        return made, made

    def check(result) -> str | None:
        made, read = result
        if made != read:
            return f"read back as {read}, saved as {made}"
        if isinstance(names, (list, tuple)) and len(made) != len(names):
            return f"{len(made)} classes of {len(names)} names"
        return None

    return Case(
        f"Vocabulary({described({'names': names, **options})}), use {use}, {described([argument])}", call, check
    )


def vocabulary_file(draw: Draw, world: World) -> Case:
    calibration = {"head": "full", "model_fingerprint": "ab", "thresholds": [0.1, 0.2, 0.3, 0.4]}
    good = Vocabulary(
        WORDS,
        [[word, f"{word}s"] for word in WORDS],
        raw_ids={5: 0, 7: 1, 9: 2, 11: 3} if draw.chance(0.5) else None,
        background_from=draw.choice((None, None, 3)),
        calibration=calibration if draw.chance(0.3) else None,
    )
    ending = draw.choice((".txt", ".tsv", ".json"))
    path = world.folder / f"classes{ending}"
    if ending == ".txt":
        text = "# words\n" + "".join(f"{'|'.join(words)}\n" for words in good.synonyms)
    else:
        good.save(path)
        text = path.read_text()
    if ending == ".json" and draw.chance(0.5):
        content = as_json(draw.mutated_json(json.loads(text), 0.3)).encode()
    elif ending == ".tsv" and draw.chance(0.3):
        lines = [line.split("\t") for line in text.splitlines()]
        row = draw.choice(lines)
        row[draw.randrange(len(row))] = draw.choice(("", "-1", "a", "1e999", "nan", "٣", "9" * 5000, "#: templates ["))
        content = "\n".join("\t".join(line) for line in lines).encode()
    else:
        content = draw.mutated_text(text)
    path.write_bytes(content)
    templates = draw.choice((None, None, "none", draw.anything()))

    def check(result) -> str | None:
        return None if len(result) and all(result.names) else "a class has no name"

    return Case(
        f"Vocabulary.from_file({path.name}: {content[:300]!r}, templates={described([templates])})",
        lambda: Vocabulary.from_file(path, templates=templates),
        check,
    )


# --- embeddings -------------------------------------------------------------------------------------------------------


def embeddings(draw: Draw, world: World) -> Case:
    good, way = world.embeddings, draw.randrange(5)
    path = world.folder / "words.safetensors"
    good.save(path)
    content = path.read_bytes()
    header_size = int.from_bytes(content[:8], "little")
    if way == 0:  # the header
        header = json.loads(content[8 : 8 + header_size])
        changed = as_json(draw.mutated_json(header, 0.3)).encode()
        content = len(changed).to_bytes(8, "little") + changed + content[8 + header_size :]
    elif way == 1:
        content = draw.mutated_text(content.decode("latin-1"))[:100_000]
    elif way == 2:
        content = draw.mutated_bytes(content)
    path.write_bytes(content)
    fields = {field.name: getattr(good, field.name) for field in dataclasses.fields(good)}
    fields[draw.choice(list(fields))] = draw.anything()
    arguments = draw.some({"batch_size": lambda: 2, "device": lambda: "cpu", "progress": lambda: False})
    image = draw.image(9, 9)

    def call():
        if way == 3:
            return world.pipe(image, candidate_labels=TextEmbeddings(**fields))
        if way == 4:
            return Vocabulary(WORDS).encode(world.model, world.processor, **arguments)
        return TextEmbeddings.load(path)

    def check(result) -> str | None:
        if way < 3 and not (result.names == good.names and torch.equal(result.tensor, good.tensor)):
            return "a changed file was read as other embeddings"
        if way == 4 and not torch.allclose(result.tensor, good.tensor, atol=1e-5):
            return "other embeddings"
        return None

    what = described(fields) if way == 3 else described(arguments) if way == 4 else repr(content[:300])
    return Case(f"TextEmbeddings way {way}: {what}", call, check)


# --- training configuration -------------------------------------------------------------------------------------------

TAGS = ("!!python/object/apply:os.system ['true']", "&a [*a]", "!!binary aGk=", "2026-01-01", "? x")


def training(draw: Draw, world: World) -> Case:
    values = {"init": "embedded", "dataset": "drawn-world", "output": str(world.folder / "run")}
    fields = [field.name for field in dataclasses.fields(TrainingConfig)]
    for _ in range(draw.choice((1, 1, 2, 3))):
        values[draw.choice(fields)] = draw.number() if draw.chance(0.4) else draw.anything()
    if draw.chance(0.1):
        values[draw.misspelt(draw.choice(fields))] = 1
    way = draw.randrange(4)
    path = world.folder / "recipe.yaml"
    try:
        simple = {key: value for key, value in values.items() if isinstance(value, (str, int, float, list))}
        text = yaml.safe_dump(simple)
    except (yaml.YAMLError, RecursionError):
        text = "steps: 1\n"
    content = draw.mutated_text(text) if draw.chance(0.6) else f"{text}split: {draw.choice(TAGS)}\n".encode()
    path.write_bytes(content)
    flags = [part for key, value in values.items() for part in (f"--{key}", draw.choice((described([value]), "")))]

    def call():
        if way == 0:
            return TrainingConfig.from_yaml(path, output="x", init="embedded", dataset="drawn-world")
        if way == 1:
            return config_from_flags(flags)[0]
        return TrainingConfig.from_dict(values) if way == 2 else TrainingConfig(**values)

    def check(result) -> str | None:
        for name, value in result.to_dict().items():
            if isinstance(value, float) and not np.isfinite(value):
                return f"{name} is {value}"
        if result != TrainingConfig.from_dict(result.to_dict()):
            return "a configuration differs from itself, read back"
        return None

    return Case(f"TrainingConfig way {way}: {described(values)} {content[:200] if way == 0 else ''!r}", call, check)


FAMILIES = {
    "vocabulary": vocabulary,
    "vocabulary-file": vocabulary_file,
    "embeddings": embeddings,
    "training": training,
}
