# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The configuration of a training run: one dataclass, read from a YAML file, from flags, or from both (flags win).

Handles names and numbers, not models or data. Checks that need models or data run when models and data are loaded.
"""

import argparse
import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_type_hints

from huggingface_hub.dataclasses import type_validator
from transformers import HfArgumentParser
from transformers.hf_argparser import DataClassType

from ..compat import actions_of
from ..model.checks import checked_path, quoted
from ..model.files import read_text_up_to
from ..model.strict_values import reason_of
from ..model.yaml_text import load_yaml
from ..resources import recipe_path

# The switches of `Dinov3SegConfig`: the contributions of the paper, then two additions of ours.
SWITCHES = (
    "use_global_text",
    "use_early_refinement",
    "use_spatial_refinement",
    "use_class_refinement",
    "use_guidance",
    "use_text_threshold",
    "use_correlation_residual",
)

ENCODERS = ("vision", "text", "all")

# Options that may change when a run is resumed, because they do not affect the weights.
RUN_OPTIONS = frozenset(
    {
        "output",
        "num_workers",
        "gradient_accumulation",
        "checkpoint_every",
        "keep_checkpoints",
        "log_every",
        "eval_dataset",
        "eval_split",
        "eval_vocabulary",
        "eval_every",
        "eval_images",
        "eval_batch_size",
        "inference",
        "num_overlays",
        "trackers",
    }
)


def _option(default: Any = dataclasses.MISSING, help: str = "") -> Any:
    """Makes a field with a help text, which `HfArgumentParser` reads from `help` in the metadata."""
    metadata = {"help": help.replace("%", "%%")}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainingConfig:
    """The configuration of a run.

    Each field is a key of the YAML file and a flag of `scripts/train.py`; `scripts/train.py --help` lists all flags.

    Raises:
        ValueError: If a value has another type, is out of its range, or contradicts another value.
    """

    # fmt: off
    init: str = _option(help="initial weights: a converted folder, the output of an earlier run, a Hub id, or embedded")
    dataset: str = _option(help="data set: a Hub id, a folder (images and masks, or parquet), or drawn-world")
    output: str = _option(help="folder of the run: checkpoints, logs, overlays and, at the end, the trained model")

    # model
    head: Literal["keep", "fresh"] = _option("keep", "keep the head of --init, or initialize a fresh head")
    ablate: list[str] = _option([], f"parts to turn off: {', '.join(SWITCHES)}")
    config_overrides: list[str] = _option(
        [], "values of Dinov3SegConfig for a fresh head, such as early_refinement_scale=2"
    )
    trainable_encoders: list[str] = _option(
        [], "vision, text: train the query and value projections of this encoder; all: train the whole of dino.txt"
    )
    encoder_learning_rate_multiplier: float = _option(0.01, "multiplier of the learning rate in the encoders")
    encoder_layer_decay: float = _option(
        1.0, "learning rate of a layer of an encoder, divided by that of the layer after it; 1: all the same"
    )
    lora_rank: int = _option(0, "rank of adapters to train instead of query and value projections (needs peft); 0: off")
    ema_decay: float = _option(0.0, "decay of a moving average of the weights, evaluated and exported; 0: off")

    # data
    dataset_config: str | None = _option(None, "configuration name of the data set on the Hub")
    split: str = _option("train", "split for training")
    image_column: str | None = _option(None, "name of the image column; needed if it cannot be detected")
    mask_column: str | None = _option(None, "name of the mask column; needed if it cannot be detected")
    vocabulary: str | None = _option(None, "preset or file of class names; default: the class names of the data set")
    mask_values: Literal["labels", "raw_ids"] | None = _option(
        None,
        "content of the masks; default: raw_ids if the vocabulary has raw ids and the data set was not prepared, else "
        "labels",
    )
    mask_coding: Literal["integers", "ade20k-rgb"] = _option("integers", "encoding of the mask values")
    templates: str | None = _option(None, "templates of the prompts: a set of prompts.TEMPLATES, or a text with {}")
    skip_bad: bool = _option(False, "skip and count rows that cannot be read, instead of raising an error")
    streaming: bool = _option(False, "read rows on demand, without downloading the whole data set first")
    shuffle_buffer: int = _option(1000, "number of streamed rows in the shuffle buffer of each process and worker")
    num_workers: int = _option(2, "number of data loading processes for each training process")

    # augmentation
    crop_size: int = _option(384, "side length of the square crops, in pixels")
    shortest_edge: int | None = _option(
        None,
        "shorter side of an image at scale 1, in pixels, in training, evaluation and the trained processor; default: "
        "crop_size in training, and the size of the processor elsewhere",
    )
    scale_range: list[float] = _option(
        [0.5, 2.0], "smallest and largest random scale, relative to the shortest edge; 1 1: no random scaling"
    )
    flip_probability: float = _option(0.5, "probability of a horizontal flip")
    color_jitter: float = _option(0.25, "strength of the color augmentation, from 0 to below 1")
    feature_noise: float = _option(
        0.0,
        "maximum Gaussian noise on dino.txt's patch features during training, in units of the features' norm; 0: off",
    )

    # optimization
    steps: int = _option(80_000, "number of optimizer steps")
    batch_size: int = _option(16, "images per step, over all processes and accumulated batches")
    gradient_accumulation: int = _option(1, "number of batches per step, in each process")
    learning_rate: float = _option(2e-4, "peak learning rate of the head")
    warmup_steps: int = _option(500, "steps of linear warmup to the peak rate, followed by a cosine decay to 0")
    weight_decay: float = _option(1e-4, "weight decay of matrices and kernels, not of norms, biases, scales and tables")
    max_grad_norm: float = _option(1.0, "maximum gradient norm, enforced by clipping; 0: no clipping")
    sampled_classes: list[int] = _option(
        [], "classes per step (in the images, then negatives); several numbers: one is drawn per step; default: all"
    )
    negatives: Literal["near", "random"] = _option(
        "near", "sampled classes that are not in the images: random, or half of them near in text space to one that is"
    )
    left_out_classes: float = _option(
        0.3, "probability that a class in the images is left out of a step, so that its pixels show none of the classes"
    )
    mixed_precision: Literal["no", "bf16", "fp16"] | None = _option(
        None, "dtype of mixed precision; default: the setting of accelerate launch"
    )
    gradient_checkpointing: bool = _option(False, "recompute activations in the backward pass to save memory")
    seed: int = _option(0, "seed of the fresh head, data order, augmentation, noise and sampled classes")

    # evaluation
    eval_dataset: str | None = _option(None, "data set for evaluation; default: --dataset")
    eval_split: str | None = _option(None, "split for evaluation; none: no evaluation")
    eval_vocabulary: str | None = _option(None, "evaluated class names; default: of training, or of --eval-dataset")
    eval_every: int = _option(0, "steps between evaluations; 0: only at the end")
    eval_images: int | None = _option(None, "number of images to evaluate, from the start of the split; default: all")
    eval_batch_size: int = _option(1, "images per evaluation batch, in each process")
    inference: Literal["whole", "local-global", "slide"] | None = _option(
        None, "inference mode for evaluation; default: that of the checkpoint"
    )
    num_overlays: int = _option(4, "number of evaluated images to draw, with ground truth and prediction")

    # the run
    checkpoint_every: int = _option(1000, "steps between checkpoints")
    keep_checkpoints: int = _option(2, "number of newest checkpoints to keep")
    log_every: int = _option(10, "steps between lines of log.jsonl")
    trackers: list[str] = _option(["tensorboard"], "Accelerate trackers, such as tensorboard, wandb; none: no tracker")
    # fmt: on

    def __post_init__(self):
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _coerced(getattr(self, field.name), hints[field.name])
            try:
                type_validator(field.name, value, hints[field.name])
            except TypeError as error:
                raise ValueError(f"{reason_of(error)} {_flag_help(field)}") from None
            except RecursionError:
                raise ValueError(f"{field.name} is nested too deeply; expected a plain value. Change it.") from None
            except (ValueError, RuntimeError):  # numpy's and torch's, of an array that is compared with a choice
                raise ValueError(f"{field.name} is {quoted(value)}; expected a plain value. Change it.") from None
            numbers = value if isinstance(value, list) else [value]
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                raise ValueError(f"{field.name} is {quoted(value)}; expected finite numbers. {_flag_help(field)}")
            object.__setattr__(self, field.name, value)
        self._check_ranges()
        self._check_together()

    def _check_ranges(self) -> None:
        for names, least, most in (
            (("steps", "batch_size", "gradient_accumulation", "checkpoint_every", "keep_checkpoints"), 1, None),
            (("log_every", "eval_batch_size", "crop_size", "shuffle_buffer"), 1, None),
            (("lora_rank", "num_workers", "warmup_steps", "eval_every", "num_overlays", "seed"), 0, None),
            (("learning_rate", "weight_decay", "max_grad_norm", "feature_noise"), 0, None),
            (("encoder_learning_rate_multiplier",), 0, None),
            (("flip_probability", "left_out_classes"), 0, 1),
            (("color_jitter",), 0, 0.999999),
            (("ema_decay",), 0, 0.999999),
            (("encoder_layer_decay",), 0.000001, 1),
            (("eval_images", "shortest_edge"), 1, None),
        ):
            for name in names:
                value = getattr(self, name)
                if value is not None and not (least <= value and (most is None or value <= most)):
                    bounds = f"at least {least}" if most is None else f"between {least} and {most}"
                    raise ValueError(f"{name} is {value}; expected {bounds}. Change {name}.")
        if len(self.scale_range) != 2 or not 0 < self.scale_range[0] <= self.scale_range[1]:
            raise ValueError(
                f"scale_range is {self.scale_range}; expected the smallest and the largest scale, for example 0.5 2."
            )
        if any(number < 1 for number in self.sampled_classes):
            raise ValueError(f"sampled_classes is {self.sampled_classes}; expected numbers of at least 1.")
        for name, known in (("ablate", SWITCHES), ("trainable_encoders", ENCODERS)):
            if unknown := sorted(set(getattr(self, name)) - set(known)):
                raise ValueError(f"{name} contains {unknown[0]!r}; expected only values from {', '.join(known)}.")

    def _check_together(self) -> None:
        if "all" in self.trainable_encoders and (len(self.trainable_encoders) > 1 or self.lora_rank):
            raise ValueError(
                f"trainable_encoders is {self.trainable_encoders} and lora_rank is {self.lora_rank}; expected all "
                "alone and no adapters, because all trains every weight of dino.txt. Remove the rest."
            )
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size is {self.batch_size}; expected a multiple of gradient_accumulation, "
                f"{self.gradient_accumulation}. Change batch_size or gradient_accumulation."
            )
        if self.config_overrides and self.head != "fresh":
            raise ValueError(
                f"config_overrides is {self.config_overrides}, but head is {self.head!r}; expected head fresh, because "
                "a trained head has the sizes that it was trained with. Set head to fresh, or remove config_overrides."
            )
        if self.encoder_layer_decay != 1 and not self.trainable_encoders:
            raise ValueError(
                f"encoder_layer_decay is {self.encoder_layer_decay}, but trainable_encoders is empty. Set "
                "trainable_encoders to vision, text, both or all, or set encoder_layer_decay to 1."
            )
        if self.lora_rank and not self.trainable_encoders:
            raise ValueError(
                f"lora_rank is {self.lora_rank}, but trainable_encoders is empty. Set trainable_encoders to vision, "
                "text or both, or set lora_rank to 0."
            )
        if self.eval_every and self.eval_split is None:
            raise ValueError(
                f"eval_every is {self.eval_every}, but eval_split is not set. Set eval_split, or set eval_every to 0."
            )
        for name in ("eval_dataset", "eval_vocabulary"):
            if getattr(self, name) is not None and self.eval_split is None:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, but eval_split is not set, so nothing would be evaluated. Set "
                    f"eval_split, or remove {name}."
                )
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}; expected less than steps, {self.steps}. Choose a shorter warmup."
            )

    # --- files and flags ---------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields with their values, including defaults."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "The configuration") -> "TrainingConfig":
        """Makes a configuration from field names and values.

        Args:
            values: The value of each field; fields with a default may be missing.
            source: The name of the source in errors.

        Raises:
            ValueError: If a key is not a field, a required field is missing, or a value is invalid.
        """
        _refuse_unknown(values, source)
        required = [field.name for field in dataclasses.fields(cls) if _is_required(field)]
        if missing := [name for name in required if name not in values]:
            flags = " ".join(f"--{name} VALUE" for name in missing)
            raise ValueError(
                f"{source} does not set {', '.join(missing)}; expected a value for each required option. Add the "
                f"missing options to the configuration file, or pass {flags}."
            )
        return cls(**values)

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides: Any) -> "TrainingConfig":
        """Reads a configuration from a YAML file.

        Args:
            path: A file with one `key: value` per line, or the name of a recipe of the package, such as `own_masks`.
            overrides: Fields that replace the values of the file.

        Raises:
            ValueError: If the file cannot be read, or for the reasons in `from_dict`.
        """
        return cls.from_dict({**read_yaml(path), **overrides}, f"Configuration {str(path)!r}")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads the keys and values of a YAML file, or of a recipe of the package.

    Raises:
        ValueError: If the file cannot be read, or contains anything other than fields of `TrainingConfig`.
    """
    where = f"Configuration {str(path)!r}"
    path = recipe_path(checked_path(path, "The path of the configuration"))
    text = read_text_up_to(path, "Configuration")
    try:
        content = load_yaml(text)
    except ValueError as error:
        raise ValueError(f"{where} is not valid YAML ({' '.join(str(error).split())}). Correct the file.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where} contains {type(content).__name__}; expected lines such as 'steps: 1000'.")
    _refuse_unknown(content, where)
    return content


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message[:1].upper()}{message[1:]}. Run `{self.prog} --help` for a list of all options.")


def make_parser(**options: Any) -> HfArgumentParser:
    """Makes a parser with a flag for each field, `--config FILE.yaml` and `--resume`; see `config_from_flags`."""
    options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
    parser = _Parser(DataClassType(TrainingConfig), allow_abbrev=False, **options)
    for action in actions_of(parser):
        action.required = False  # the file may set the field; `from_dict` checks for missing fields
        if action.dest in _FIELDS:
            # the default of a missing flag must not replace the value of the file
            default, action.default = action.default, argparse.SUPPRESS
            if default is not None and default != [] and action.nargs != 0:
                action.help = (
                    f"{action.help} (default: {' '.join(map(str, default)) if isinstance(default, list) else default})"
                )
    parser.add_argument(
        "--config",
        metavar="FILE.yaml",
        default=argparse.SUPPRESS,
        help="YAML file with options, or the name of a recipe of the package, such as own_masks",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        default=argparse.SUPPRESS,
        help="resume from the newest checkpoint in --output; start a new run if no checkpoint exists",
    )
    return parser


def config_from_flags(arguments: Sequence[str] | None = None, **options: Any) -> tuple[TrainingConfig, bool]:
    """Reads the configuration from the command line. Flags win over the file, and the file wins over the defaults.

    Args:
        arguments: Command-line arguments. Default: those of this process.
        options: Passed to the parser: `prog`, `description`, `epilog`.

    Returns:
        The configuration, and whether to resume.

    Raises:
        ValueError: If a flag or key is unknown, a value is invalid, or a required option is missing.
    """
    return config_from_options(make_parser(**options).parse_args(arguments))


def config_from_options(options: argparse.Namespace) -> tuple[TrainingConfig, bool]:
    """Makes the configuration from the parsed options of `make_parser`.

    Returns:
        The configuration, and whether to resume.

    Raises:
        ValueError: If a key of the file is unknown, a value is invalid, or a required option is missing.
    """
    flags = dict(vars(options))
    resume, path = flags.pop("resume", False), flags.pop("config", None)
    source = "The command line" if path is None else f"Configuration {path!r}"
    values = {} if path is None else read_yaml(path)
    return TrainingConfig.from_dict({**values, **flags}, source), resume


_FIELDS = {field.name: field for field in dataclasses.fields(TrainingConfig)}


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _refuse_unknown(values: Mapping[str, Any], source: str) -> None:
    if unknown := [key for key in values if key not in _FIELDS]:
        close = difflib.get_close_matches(str(unknown[0]), _FIELDS, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else "Run scripts/train.py --help for a list of all options."
        raise ValueError(f"{source} sets the unknown option {unknown[0]!r}. {hint}")


def _flag_help(field: dataclasses.Field) -> str:
    return f"Description of {field.name}: {field.metadata['help'].replace('%%', '%')}."


def _coerced(value: Any, hint: Any) -> Any:
    """Converts a value to the type of its field.

    Integers and strings become floats in fields of floats (YAML reads `2e-4` as a string), tuples become lists, and
    `"none"` becomes `None` in optional strings.
    """
    if hint is float and not isinstance(value, bool):
        if isinstance(value, int):
            return float(value)
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                return value
    if isinstance(value, tuple):
        value = list(value)
    if hint == (str | None) and isinstance(value, str) and value == "none":  # lets a flag remove a value of the file
        return None
    if hint == list[float] and isinstance(value, list):
        return [_coerced(item, float) for item in value]
    return value
