# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Vocabularies: which classes there are, which words stand for them, and their text embeddings.

A `Vocabulary` knows names, synonyms, templates and label numbers, and nothing of a model until `encode`.
`TextEmbeddings` are what a model made of a vocabulary; they carry the fingerprints of both and refuse to be used with
another. The seven benchmark vocabularies lie beside this module, in the TSV form that `Vocabulary.from_file` reads; a
checkpoint on the Hub, which carries this file along, has none of them.
"""

import difflib
import hashlib
import json
import os
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import parse_local_safetensors_file_metadata, save_torch_state_dict
from huggingface_hub.errors import SafetensorsParsingError
from huggingface_hub.utils import tqdm
from torch import nn

from .files import write_whole
from .prompts import fill_templates, resolve_templates

# Label maps are stored in 8 bits where they fit, in 16 otherwise; the highest value of each is the ignore label.
IGNORE_8_BIT, IGNORE_16_BIT = 255, 65535
MAX_RAW_ID = 65535

TSV_COLUMNS = ("label", "raw_id", "names", "display")
TSV_DIRECTIVES = ("ignore_label", "background_from", "shared_synonyms", "templates")
JSON_KEYS = ("names", "synonyms", "templates", "ignore_label", "raw_ids", "background_from", "shared_synonyms")

# What decides the output of a CLIP text tower and cannot be seen in the names and shapes of its weights.
TEXT_CONFIG_FIELDS = ("hidden_act", "layer_norm_eps", "num_attention_heads", "eos_token_id")


@dataclass(frozen=True)
class Vocabulary:
    """An ordered list of classes. Class `i` has label `i`.

    Every string is brought to one form (Unicode NFC, runs of white space become one space). Two words are the same if
    they differ in letter case only.

    Args:
        names: The display name of each class, C of them, all different.
        synonyms: For each class, every word that is prompted, the name included where wanted. `None`: the name alone.
        templates: The name of a set in `prompts.TEMPLATES`, one template, or several.
        ignore_label: The value of pixels that belong to no class. `None`: 255 for up to 255 classes, 65535 above.
        raw_ids: Values in the original annotation -> labels; other values are ignored. `None`: it holds labels.
        background_from: Where set, classes from this one on are predicted and then all count as one, the background.
        shared_synonyms: Lets several classes share a word, as published vocabularies do. Their names, and their words
            taken together, must differ all the same.

    Raises:
        ValueError: Nothing there, empty or repeated names, anything that is no string, numbers out of range.
    """

    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...] | None = None
    templates: str | tuple[str, ...] = "scene"
    ignore_label: int | None = None
    raw_ids: Mapping[int, int] | None = field(default=None, hash=False)
    background_from: int | None = None
    shared_synonyms: bool = False

    def __post_init__(self):
        names = tuple(_clean(name, f"Label {i}") for i, name in enumerate(_sequence(self.names, "Labels")))
        if not names:
            raise ValueError("No labels came; expected at least one class name. Pass for example ['cat', 'grass'].")
        if len(names) > IGNORE_16_BIT:
            raise ValueError(
                f"{len(names)} labels came, but a 16-bit label map holds {IGNORE_16_BIT} beside the ignore label. "
                "Split the vocabulary."
            )
        if self.synonyms is None:
            synonyms = tuple((name,) for name in names)
        else:
            synonyms = _clean_synonyms(self.synonyms, names)
        _refuse_repeated(names, synonyms, _flag(self.shared_synonyms, "shared_synonyms"))

        ignore_label = self.ignore_label
        if ignore_label is None:
            ignore_label = IGNORE_8_BIT if len(names) <= IGNORE_8_BIT else IGNORE_16_BIT
        if 0 <= _integer(ignore_label, "ignore_label") < len(names):
            raise ValueError(
                f"ignore_label is {ignore_label}, which is the label of {names[ignore_label]!r}. "
                f"Choose a value outside 0..{len(names) - 1}, or None."
            )
        background_from = self.background_from
        if background_from is not None and not 0 < _integer(background_from, "background_from") < len(names):
            raise ValueError(
                f"background_from is {background_from}; expected a label between 1 and {len(names) - 1}, "
                "so that something is left on both sides, or None."
            )
        raw_ids = None
        if self.raw_ids is not None:
            raw_ids = _checked_raw_ids(self.raw_ids, len(names) if background_from is None else background_from + 1)

        for key, value in {
            "names": names,
            "synonyms": synonyms,
            "templates": resolve_templates(self.templates),
            "ignore_label": int(ignore_label),
            "raw_ids": raw_ids,
            "background_from": None if background_from is None else int(background_from),
        }.items():
            object.__setattr__(self, key, value)

    # From the places where class names are kept

    @classmethod
    def from_list(
        cls, items: Iterable[str], *, templates: str | Sequence[str] = "scene", ignore_label: int | None = None
    ) -> "Vocabulary":
        """From class names, each "word" or "word|synonym|synonym"; the first word is the one displayed.

        Raises:
            ValueError: As the class itself; a word that stands for two classes counts as repeated.
        """
        synonyms = []
        for i, item in enumerate(_sequence(items, "Labels")):
            if not isinstance(item, str):
                raise ValueError(f"Label {i} is {_shown(item)} of type {type(item).__name__}; expected a string.")
            synonyms.append(item.split("|"))
        return cls([words[0] for words in synonyms], synonyms, templates=templates, ignore_label=ignore_label)

    @classmethod
    def from_class_label(
        cls, class_label: Any, *, templates: str | Sequence[str] = "scene", ignore_label: int | None = None
    ) -> "Vocabulary":
        """From a `datasets.ClassLabel`, or anything else whose `.names` are the class names in label order.

        Raises:
            ValueError: No `.names` there, or names that the class refuses.
        """
        names = getattr(class_label, "names", None)
        if names is None:
            raise ValueError(
                f"{_shown(class_label)} has no class names; expected a datasets.ClassLabel, for example "
                "dataset.features['label']. Use Vocabulary.from_list for plain names."
            )
        return cls(names, templates=templates, ignore_label=ignore_label)

    @classmethod
    def from_preset(cls, name: str, *, templates: str | Sequence[str] = "scene") -> "Vocabulary":
        """One of the benchmark vocabularies that `Vocabulary.presets` lists, with its label numbers.

        Raises:
            ValueError: There is no such preset.
        """
        if name not in cls.presets():
            known = ", ".join(cls.presets()) or "none without the package dinov3seg_hf, which brings them"
            raise ValueError(
                f"There is no preset {_shown(name)}. Known are {known}. "
                "Use Vocabulary.from_file for a file of your own."
            )
        return _parse_tsv((_preset_folder() / f"{name}.tsv").read_text(encoding="utf-8"), templates)

    @staticmethod
    def presets() -> tuple[str, ...]:
        """The names that `Vocabulary.from_preset` knows, sorted."""
        folder = _preset_folder()
        files = folder.iterdir() if folder.is_dir() else ()
        return tuple(sorted(f.name[: -len(".tsv")] for f in files if f.name.endswith(".tsv")))

    @classmethod
    def from_file(cls, path: str | os.PathLike, *, templates: str | Sequence[str] | None = None) -> "Vocabulary":
        """From a UTF-8 file; its suffix says how to read it.

        - `.txt`: a class a line, synonyms separated by `|`. Empty lines and lines that begin with `#` are skipped.
        - `.tsv`: a header with the column `names` (words separated by commas) and, where wanted, `label` (0, 1, ...),
          `raw_id` (values in the original annotation, separated by commas, or empty) and `display` (the name to show,
          where it is not the first word). Lines that begin with `#` are skipped, but `#: ignore_label 65535` sets what
          the class calls so; `background_from`, `shared_synonyms` and `templates` likewise, values written as JSON.
        - `.json`: a list as for `from_list`, or an object with the arguments of the class, as `save` writes it.

        Args:
            path: The file.
            templates: In place of what the file says, or of the default.

        Raises:
            ValueError: The file cannot be read, is of another kind, or holds what the class refuses; says where.
        """
        path = Path(path)
        if path.suffix.lower() not in _PARSERS:
            raise ValueError(
                f"Vocabulary file {str(path)!r} ends in {path.suffix!r}; expected {', '.join(_PARSERS)}. Rename it."
            )
        try:
            text = path.read_text(encoding="utf-8-sig")  # a byte order mark is no part of the first name
        except OSError as error:
            raise ValueError(
                f"Vocabulary file {str(path)!r} cannot be read: {error.strerror}. Check the path."
            ) from error
        except UnicodeDecodeError as error:
            raise ValueError(f"Vocabulary file {str(path)!r} is not UTF-8 text ({error}). Save it as UTF-8.") from error
        try:
            return _PARSERS[path.suffix.lower()](text, templates)
        except ValueError as error:
            raise ValueError(f"Vocabulary file {str(path)!r}: {error}") from error

    def save(self, path: str | os.PathLike) -> None:
        """Writes a `.json` or `.tsv` file from which `from_file` makes an equal vocabulary, whole or not at all.

        Raises:
            ValueError: Another suffix, a path that cannot be written, or a comma in a word, which TSV cannot hold.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in (".json", ".tsv"):
            raise ValueError(
                f"{str(path)!r} ends in {suffix!r}; expected .json or .tsv, which keep templates and labels."
            )
        write_whole(path, (self._to_json() if suffix == ".json" else self._to_tsv()).encode())

    def _to_json(self) -> str:
        content = {key: getattr(self, key) for key in JSON_KEYS}
        return json.dumps({k: v for k, v in content.items() if v is not None}, ensure_ascii=False, indent=1) + "\n"

    def _to_tsv(self) -> str:
        for words in self.synonyms:
            for word in words:
                if "," in word:
                    raise ValueError(
                        f"The word {_shown(word)} holds a comma, which separates words in TSV. Save as .json."
                    )
        directives = {key: getattr(self, key) for key in TSV_DIRECTIVES if getattr(self, key) not in (None, False)}
        raw_ids_of = defaultdict(list)
        for raw_id, label in (self.raw_ids or {}).items():
            raw_ids_of[label].append(str(raw_id))

        columns = {"label": [str(i) for i in range(len(self))]}
        if self.raw_ids is not None:
            columns["raw_id"] = [",".join(raw_ids_of[i]) for i in range(len(self))]
        columns["names"] = [", ".join(words) for words in self.synonyms]
        if any(name != words[0] for name, words in zip(self.names, self.synonyms)):
            columns["display"] = self.names
        lines = [f"#: {key} {json.dumps(value)}" for key, value in directives.items()]
        lines += ["\t".join(columns), *("\t".join(row) for row in zip(*columns.values()))]
        return "\n".join(lines) + "\n"

    # Names and labels

    def __len__(self) -> int:
        """Number of classes that are prompted and predicted, C."""
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        """Label -> display name, as configurations of transformers hold it."""
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        """Display name -> label."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def _index(self) -> dict[str, int]:
        return {_key(name): i for i, name in enumerate(self.names)}

    def index(self, name: str) -> int:
        """The label of a display name, whatever its letter case.

        Raises:
            ValueError: No class has that name; says which come close.
        """
        key = _key(_clean(name, "The name"))
        if key not in self._index:
            close = [self.names[self._index[k]] for k in difflib.get_close_matches(key, self._index)]
            hint = f" Close to it: {', '.join(map(repr, close))}." if close else ""
            raise ValueError(f"None of the {len(self)} classes is named {_shown(name)}.{hint}")
        return self._index[key]

    def prompts(self) -> list[list[str]]:
        """C lists of prompts: every word of the class in every template."""
        return [fill_templates(words, self.templates) for words in self.synonyms]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over what decides the text embeddings: names, synonyms, templates."""
        return _sha256_of([self.names, self.synonyms, self.templates])

    # Annotations and scores

    @property
    def scored_names(self) -> tuple[str, ...]:
        """The names of what is scored: all of them, or those before `background_from` and "background"."""
        return self.names if self.background_from is None else (*self.names[: self.background_from], "background")

    def to_scored(self, label_map: np.ndarray) -> np.ndarray:
        """A map of predicted labels, any shape -> one of scored labels; ignored pixels stay so."""
        if self.background_from is None:
            return label_map
        is_background = (label_map >= self.background_from) & (label_map != self.ignore_label)
        return np.where(is_background, np.asarray(self.background_from, label_map.dtype), label_map)

    def labels_from_raw(self, annotation: np.ndarray) -> np.ndarray:
        """The values of an original annotation, integers of any shape -> scored labels, int32.

        Where the vocabulary has `raw_ids`, values that they do not name become `ignore_label`; otherwise values that
        are no label do.

        Raises:
            ValueError: The annotation holds no integers.
        """
        if not np.issubdtype(annotation.dtype, np.integer):
            raise ValueError(f"The annotation is {annotation.dtype}; expected integers, one a pixel. Convert it.")
        table = self._raw_table
        in_table = (annotation >= 0) & (annotation < len(table))
        return np.where(in_table, table[np.where(in_table, annotation, 0)], np.int32(self.ignore_label))

    @cached_property
    def _raw_table(self) -> np.ndarray:
        raw_ids = self.raw_ids
        if raw_ids is None:
            raw_ids = {label: label for label in range(len(self.scored_names))}
        table = np.full(max(raw_ids, default=0) + 1, self.ignore_label, np.int32)
        table[list(raw_ids)] = list(raw_ids.values())
        return table

    # Text embeddings

    def encode(
        self,
        model: nn.Module,
        processor: Any,
        batch_size: int = 256,
        device: str | torch.device | None = None,
        progress: bool = False,
    ) -> "TextEmbeddings":
        """Encodes every class once (paper section 3.2).

        Classes with the same number of prompts and similar lengths go together, so that next to nothing is padded.

        Args:
            model: Has `text_model` and `get_text_features(input_ids (C, P, L), attention_mask (C, P, L)) -> (C, 2, D)`.
            processor: `processor(text=...)` tokenizes lists of prompts; has the `tokenizer`.
            batch_size: Prompts at once, at most; a class that has more goes alone.
            device: Where the token ids go. `None`: where the text tower is.
            progress: Shows a bar.

        Returns:
            The embeddings, on the CPU, with the fingerprints of this vocabulary and of the model.

        Raises:
            ValueError: A prompt longer than the text tower reads (none is cut short), no tokenizer, results not finite.
        """
        if _integer(batch_size, "batch_size") < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None:
            raise ValueError(
                f"The processor, {type(processor).__name__}, has no tokenizer, which words need. "
                "Load or convert the model with its tokenizer."
            )
        text_model = model.text_model
        if device is None:
            device = next(text_model.parameters()).device
        prompts = self.prompts()
        lengths = self._checked_lengths(prompts, tokenizer, text_model.config.max_position_embeddings)

        batches, order = [], sorted(range(len(self)), key=lambda i: (len(prompts[i]), lengths[i]))
        for i in order:
            num_prompts = len(prompts[i])
            fits = batches and len(prompts[batches[-1][0]]) == num_prompts
            if fits and (len(batches[-1]) + 1) * num_prompts <= batch_size:
                batches[-1].append(i)
            else:
                batches.append([i])

        was_training = text_model.training
        text_model.eval()  # dropout would make embeddings of chance
        try:
            features = []
            for batch in tqdm(batches, desc="Encoding the vocabulary", unit="batch", disable=not progress):
                inputs = processor(text=[prompts[i] for i in batch])
                with torch.inference_mode():
                    batch_features = model.get_text_features(
                        torch.as_tensor(inputs["input_ids"], device=device),  # (C', P, L)
                        torch.as_tensor(inputs["attention_mask"], device=device),
                    )
                features.append(batch_features.float().cpu())  # (C', 2, D)
        finally:
            text_model.train(was_training)
        # made outside of inference mode, so that training may use it
        features = torch.cat(features)
        tensor = torch.empty_like(features)
        tensor[order] = features
        if not (finite := tensor.isfinite().flatten(1).all(1)).all():
            raise ValueError(
                f"The embedding of {self.names[int(finite.int().argmin())]!r} is not finite; "
                "encode with the model in float32 or bfloat16."
            )
        return TextEmbeddings(tensor, self.names, self.fingerprint, model_fingerprint(model))

    def _checked_lengths(self, prompts: list[list[str]], tokenizer: Any, max_positions: int) -> list[int]:
        """Tokens of each class's longest prompt; refuses what the tower could not read to its end."""
        limit = min(tokenizer.model_max_length, max_positions)
        token_ids = iter(tokenizer([p for c in prompts for p in c], truncation=False, verbose=False)["input_ids"])
        lengths = []
        for i, class_prompts in enumerate(prompts):
            counts = [len(next(token_ids)) for _ in class_prompts]
            length = max(counts)
            if length > limit:
                raise ValueError(
                    f"A prompt of label {i}, {_shown(self.names[i])}, has {length} tokens, but the text tower reads at "
                    f"most {limit}: {_shown(class_prompts[counts.index(length)])}. Shorten the name or its template."
                )
            lengths.append(length)
        return lengths


@dataclass(frozen=True, eq=False)
class TextEmbeddings:
    """A vocabulary as a model reads it.

    Args:
        tensor: `(C, 2, D)`, float32, normalized: [global, local] of each class; `text_embeds` of the model's forward.
        names: The C display names.
        vocabulary_fingerprint: Of the vocabulary that was encoded.
        model_fingerprint: Of the model that encoded it.

    Raises:
        ValueError: The tensor does not fit.
    """

    tensor: torch.Tensor
    names: tuple[str, ...]
    vocabulary_fingerprint: str
    model_fingerprint: str

    def __post_init__(self):
        if self.tensor.ndim != 3 or self.tensor.shape[:2] != (len(self.names), 2) or self.tensor.dtype != torch.float32:
            raise ValueError(
                f"Text embeddings are {tuple(self.tensor.shape)}, {self.tensor.dtype}; expected "
                f"({len(self.names)}, 2, D), float32, for {len(self.names)} names. Encode the vocabulary again."
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over vocabulary and model."""
        return _sha256_of([self.vocabulary_fingerprint, self.model_fingerprint])

    def _checksum(self) -> str:
        """Over all of the content: the fingerprints say what was encoded, not what lies in a file."""
        values = self.tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        return _sha256_of([self.names, self.fingerprint, hashlib.sha256(values).hexdigest()])

    def check(self, model: nn.Module, vocabulary: Vocabulary | None = None) -> None:
        """Refuses another model than the one that encoded, or another vocabulary where one is given.

        Reads all weights of the text tower (about a second a gigabyte): call it once, not for every image.

        Raises:
            ValueError: They are of another model or another vocabulary; says which.
        """
        if vocabulary is not None and vocabulary.fingerprint != self.vocabulary_fingerprint:
            raise ValueError(
                "These text embeddings are of another vocabulary: "
                f"{_difference(self.names, vocabulary.names)}. "
                "Encode this one with vocabulary.encode(model, processor)."
            )
        if (other := model_fingerprint(model)) != self.model_fingerprint:
            raise ValueError(
                "These text embeddings were made by another model: its text tower has fingerprint "
                f"{self.model_fingerprint[:12]}, this one {other[:12]}. Encode the vocabulary with this model; "
                "the same weights in another dtype count as another model."
            )

    def save(self, path: str | os.PathLike) -> None:
        """Writes a safetensors file, whole or not at all: tensor `text_embeds`, names and fingerprints as metadata.

        Raises:
            ValueError: The path cannot be written.
        """
        metadata = {
            "format": "pt",
            "content": "dinov3seg text embeddings",
            "names": json.dumps(self.names, ensure_ascii=False),
            "vocabulary_fingerprint": self.vocabulary_fingerprint,
            "model_fingerprint": self.model_fingerprint,
            "fingerprint": self.fingerprint,
            "checksum": self._checksum(),
        }
        with tempfile.TemporaryDirectory() as folder:
            save_torch_state_dict({"text_embeds": self.tensor.detach().cpu()}, folder, metadata=metadata)
            (file,) = Path(folder).iterdir()
            write_whole(path, file.read_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "TextEmbeddings":
        """Reads what `save` wrote. `check` says whether it belongs to a model.

        Raises:
            ValueError: The file cannot be read, holds something else, or was changed.
        """
        where = f"Text embeddings {str(path)!r}"
        try:
            header = parse_local_safetensors_file_metadata(path)
            content = Path(path).read_bytes()
        except (OSError, SafetensorsParsingError) as error:
            raise ValueError(
                f"{where} cannot be read as safetensors: {error}. Check the path, or encode again."
            ) from error
        metadata = header.metadata
        if metadata.get("content") != "dinov3seg text embeddings" or set(header.tensors) != {"text_embeds"}:
            raise ValueError(f"{where}: the file holds something else. Expected what TextEmbeddings.save wrote.")
        info = header.tensors["text_embeds"]
        # the file is the length of its header in 8 bytes, the header, and the numbers of the one tensor
        values = content[8 + int.from_bytes(content[:8], "little") :]
        if info.dtype != "F32" or len(values) != 4 * info.parameter_count:
            raise ValueError(
                f"{where} cannot be read as safetensors: {len(values)} bytes for {info.parameter_count} numbers of "
                f"type {info.dtype}. Check the path, or encode again."
            )
        try:
            embeddings = cls(
                torch.from_numpy(np.frombuffer(values, np.dtype("<f4")).reshape(info.shape).astype(np.float32)),
                tuple(json.loads(metadata["names"])),
                metadata["vocabulary_fingerprint"],
                metadata["model_fingerprint"],
            )
        except (KeyError, ValueError) as error:
            raise ValueError(f"{where}: the metadata is incomplete or wrong ({error}). Encode again.") from error
        if metadata.get("checksum") != embeddings._checksum():
            raise ValueError(f"{where}: the checksum is wrong, so the file was changed or damaged. Encode again.")
        return embeddings


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 (hex) over all of a model that text embeddings depend on: `model.text_model`, weights and configuration.

    Independent of the device, the attention implementation and the order of the weights; the dtype counts.

    Raises:
        ValueError: The weights are not in memory (`meta` device).
    """
    text_model = model.text_model
    config = {key: getattr(text_model.config, key) for key in TEXT_CONFIG_FIELDS}
    digest = hashlib.sha256(_sha256_of(config).encode())
    for name, tensor in sorted(text_model.state_dict().items()):
        if tensor.is_meta:
            raise ValueError(
                f"The weight {name!r} of the text tower is on the meta device, without values. Load the weights first."
            )
        digest.update(_sha256_of([name, list(tensor.shape), str(tensor.dtype)]).encode())
        values = tensor.detach().cpu().contiguous().flatten()
        digest.update(values.view(torch.uint8).numpy())
    return digest.hexdigest()


# Checks of what comes in


def _sequence(values: Any, what: str) -> list:
    if isinstance(values, str):
        raise ValueError(
            f"{what} came as one string, {_shown(values)}; expected a list of strings. Write [{_shown(values)}]."
        )
    if isinstance(values, (bytes, Mapping, set, frozenset)) or not isinstance(values, Iterable):
        raise ValueError(
            f"{what} came as {type(values).__name__}; expected a list of strings, in the order of the labels."
        )
    return list(values)


def _clean(word: Any, what: str) -> str:
    if not isinstance(word, str):
        raise ValueError(f"{what} is {_shown(word)} of type {type(word).__name__}; expected a string.")
    cleaned = " ".join(unicodedata.normalize("NFC", word).split())
    if not any(c.isprintable() and c != " " for c in cleaned):
        raise ValueError(
            f"{what} is {_shown(word)}, which shows nothing; expected a word. Remove it or give it a name."
        )
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in cleaned):
        raise ValueError(f"{what}, {_shown(word)}, holds control characters or broken Unicode. Remove them.")
    return cleaned


def _key(word: str) -> str:
    """What two spellings of the same word have in common."""
    return unicodedata.normalize("NFC", word.casefold())


def _clean_synonyms(synonyms: Any, names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    synonyms = _sequence(synonyms, "Synonyms")
    if len(synonyms) != len(names):
        raise ValueError(f"{len(names)} names came with {len(synonyms)} lists of synonyms; expected one list a name.")
    cleaned = []
    for i, (name, words) in enumerate(zip(names, synonyms)):
        words = tuple(
            _clean(word, f"A word of label {i} ({_shown(name)})") for word in _sequence(words, f"Synonyms of label {i}")
        )
        if not words:
            raise ValueError(f"Label {i} ({_shown(name)}) has no words to prompt; expected its name at least.")
        cleaned.append(words)
    return tuple(cleaned)


def _refuse_repeated(names: tuple[str, ...], synonyms: tuple[tuple[str, ...], ...], shared_synonyms: bool) -> None:
    label_of_name = {}
    for i, name in enumerate(names):
        if (first := label_of_name.setdefault(_key(name), i)) != i:
            raise ValueError(
                f"Labels {first} and {i} have the same name, {_shown(names[first])} and {_shown(name)}; "
                "expected different ones. Remove one, or rename it."
            )
    label_of_word, label_of_words = {}, {}
    for i, words in enumerate(synonyms):
        keys = [_key(word) for word in words]
        for j, key in enumerate(keys):
            if key in keys[:j]:
                raise ValueError(f"Label {i} ({_shown(names[i])}) has the word {_shown(words[j])} twice. Remove one.")
            if (first := label_of_word.setdefault(key, i)) != i and not shared_synonyms:
                raise ValueError(
                    f"The word {_shown(words[j])} stands for two classes, label {first} ({_shown(names[first])}) "
                    f"and label {i} ({_shown(names[i])}). Remove it from one, or set shared_synonyms."
                )
        if (first := label_of_words.setdefault(frozenset(keys), i)) != i:
            raise ValueError(
                f"Labels {first} ({_shown(names[first])}) and {i} ({_shown(names[i])}) have the same words, so "
                "nothing could tell them apart. Remove one, or give it words of its own."
            )


def _checked_raw_ids(raw_ids: Any, num_labels: int) -> dict[int, int]:
    if not isinstance(raw_ids, Mapping):
        raise ValueError(
            f"raw_ids came as {type(raw_ids).__name__}; expected a mapping from annotation values to labels."
        )
    for raw_id, label in raw_ids.items():
        if not 0 <= _integer(raw_id, "A raw id") <= MAX_RAW_ID:
            raise ValueError(
                f"The raw id {raw_id} is not within 0..{MAX_RAW_ID}, the values of an annotation of 8 or 16 bits."
            )
        if not 0 <= _integer(label, f"The label of raw id {raw_id}") < num_labels:
            raise ValueError(f"The raw id {raw_id} stands for label {label}; expected one within 0..{num_labels - 1}.")
    return {int(raw_id): int(raw_ids[raw_id]) for raw_id in sorted(raw_ids)}


def _integer(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{what} is {_shown(value)} of type {type(value).__name__}; expected an integer.")
    return value


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{what} is {_shown(value)}; expected true or false.")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:70]}...{text[-7:]}"


def _difference(had: Sequence[str], came: Sequence[str]) -> str:
    if len(had) != len(came):
        return f"it had {len(had)} classes, this one has {len(came)}"
    for i, (one, other) in enumerate(zip(had, came)):
        if one != other:
            return f"its label {i} was {_shown(one)}, here it is {_shown(other)}"
    return "the names are the same, but synonyms or templates differ"


# Files


def _preset_folder():
    return resources.files(__package__) / "vocabularies"


def _parse_txt(text: str, templates: str | Sequence[str] | None) -> Vocabulary:
    items = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if "," in line:
            # "cat, dog" would silently be one class
            raise ValueError(
                f"line {number}, {_shown(line)}, holds a comma; expected one class a line, its synonyms "
                "separated by '|'. Names with commas can be kept in .json."
            )
        items.append(line)
    return Vocabulary.from_list(items, **_given(templates))


def _parse_json(text: str, templates: str | Sequence[str] | None) -> Vocabulary:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error}).") from error
    if isinstance(content, list):
        return Vocabulary.from_list(content, **_given(templates))
    if not isinstance(content, dict) or "names" not in content or not set(content) <= set(JSON_KEYS):
        came = f"an object with {_shown(list(content))}" if isinstance(content, dict) else f"{_shown(content)}"
        raise ValueError(
            f"holds {came}; expected a list of names, or an object with 'names', of {', '.join(JSON_KEYS)}."
        )
    if isinstance(content.get("raw_ids"), dict):
        # keys of JSON objects are strings
        content["raw_ids"] = {_number(key, "raw_ids"): label for key, label in content["raw_ids"].items()}
    return Vocabulary(**{**content, **_given(templates)})


def _parse_tsv(text: str, templates: str | Sequence[str] | None) -> Vocabulary:
    options: dict[str, Any] = {}
    header: list[str] | None = None
    names, synonyms, raw_id_cells = [], [], []
    for number, line in enumerate(text.splitlines(), start=1):
        at = f"line {number}"
        if line.startswith("#:"):
            key, _, value = line[2:].strip().partition(" ")
            if key not in TSV_DIRECTIVES:
                raise ValueError(f"{at} sets {_shown(key)}; expected one of {', '.join(TSV_DIRECTIVES)}.")
            try:
                options[key] = json.loads(value)
            except json.JSONDecodeError as error:
                raise ValueError(f"{at} sets {key} to {_shown(value)}; expected a JSON value ({error}).") from error
            continue
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.split("\t")
        if header is None:
            header = [cell.strip() for cell in cells]
            if "names" not in header or not set(header) <= set(TSV_COLUMNS) or len(set(header)) < len(header):
                raise ValueError(
                    f"{at}, the header, has the columns {_shown(header)}; expected 'names' and, where wanted, "
                    "'label', 'raw_id', 'display', separated by tabs."
                )
            continue
        if len(cells) != len(header):
            raise ValueError(
                f"{at}, {_shown(line)}, has {len(cells)} columns; expected {len(header)}: {', '.join(header)}."
            )
        row = dict(zip(header, cells))
        if "label" in row and _number(row["label"], at) != len(names):
            raise ValueError(f"{at} has label {row['label']}; expected {len(names)}, because labels count from 0.")
        words = row["names"].split(",")
        synonyms.append(words)
        names.append(row["display"] if row.get("display", "").strip() else words[0])
        raw_id_cells.append(row.get("raw_id", ""))
    if header is not None and "raw_id" in header:
        options["raw_ids"] = _raw_ids_of(raw_id_cells, options.get("background_from"))
    return Vocabulary(names, synonyms, **{**options, **_given(templates)})


def _raw_ids_of(cells: list[str], background_from: Any) -> dict[int, int]:
    if background_from is not None:
        _integer(background_from, "background_from")
    raw_ids = {}
    for label, cell in enumerate(cells):
        if background_from is not None:
            label = min(label, background_from)  # all classes of the background share its raw ids
        for part in cell.split(","):
            if part.strip():
                raw_id = _number(part, f"the raw_id of label {label}")
                if raw_ids.setdefault(raw_id, label) != label:
                    raise ValueError(
                        f"raw_id {raw_id} stands for the labels {raw_ids[raw_id]} and {label}; expected one."
                    )
    return raw_ids


_PARSERS = {".txt": _parse_txt, ".tsv": _parse_tsv, ".json": _parse_json}


def _given(templates: str | Sequence[str] | None) -> dict[str, Any]:
    return {} if templates is None else {"templates": templates}


def _number(text: str, what: str) -> int:
    if not (text.strip().isascii() and text.strip().isdecimal()):
        raise ValueError(f"{what}: {_shown(text)} came; expected a whole number.")
    return int(text)


def _sha256_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
