# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""What a training run is told: one dataclass, from a YAML file, from flags, or from both (flags win).

Knows names and numbers, and nothing of models or data: what only these can tell is checked where they are opened.
"""

import argparse
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_type_hints

import yaml
from huggingface_hub.dataclasses import type_validator
from transformers import HfArgumentParser
from transformers.hf_argparser import DataClassType

from ..compat import actions_of

# The switches of `Dinov3SegConfig`: the paper's contributions, each of which can be left out.
SWITCHES = (
    "use_global_text",
    "use_early_refinement",
    "use_spatial_refinement",
    "use_class_refinement",
    "use_guidance",
)

ENCODERS = ("vision", "text")

# What may change when a run goes on: none of it changes a weight.
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
    """A field with a help text; `help` in the metadata is where `HfArgumentParser` looks for it."""
    metadata = {"help": help.replace("%", "%%")}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainingConfig:
    """A run. Every field is a key of the YAML file and a flag of `scripts/train.py`, whose `--help` lists them.

    Raises:
        ValueError: A value of another type, out of its range, or at odds with another.
    """

    # fmt: off
    init: str = _option(help="what to start from: a converted folder, an earlier run's output, a Hub id, or embedded")
    dataset: str = _option(help="a Hub id, a folder (parquet, imagefolder, saved to disk), or drawn-world")
    output: str = _option(help="folder of the run: checkpoints, logs, overlays, at last the trained model")

    # model
    head: Literal["keep", "fresh"] = _option("keep", "the head of --init, or one that starts anew")
    ablate: list[str] = _option([], f"contributions to leave out: {', '.join(SWITCHES)}")
    trainable_encoders: list[str] = _option([], "encoders whose queries and values train as well: vision, text")
    encoder_learning_rate_multiplier: float = _option(0.01, "of what trains in the encoders")
    lora_rank: int = _option(0, "train adapters of this rank on queries and values in their place (needs peft); 0: off")
    ema_decay: float = _option(0.0, "keep a moving average of the weights, evaluate and export it; 0: off")

    # data
    dataset_config: str | None = _option(None, "the data set's configuration on the Hub")
    split: str = _option("train", "the split to train on")
    image_column: str | None = _option(None, "its name, if it cannot be found")
    mask_column: str | None = _option(None, "its name, if it cannot be found")
    vocabulary: str | None = _option(None, "a preset, or a file of class names; default: what the data set says")
    mask_values: Literal["labels", "raw_ids"] | None = _option(
        None, "what masks hold; default: raw ids where the vocabulary has them, unless the data set was prepared"
    )
    mask_coding: Literal["integers", "ade20k-rgb"] = _option("integers", "how masks write numbers")
    templates: str | None = _option(None, "what names are wrapped in: a set of prompts.TEMPLATES or a text with {}")
    skip_bad: bool = _option(False, "skip and count rows that cannot be read, instead of stopping at them")
    streaming: bool = _option(False, "read rows as they are needed, without downloading all of them first")
    shuffle_buffer: int = _option(1000, "streamed rows that are held to be shuffled, in each process and worker")
    num_workers: int = _option(2, "processes that read and augment images, for each process that trains")

    # augmentation
    crop_size: int = _option(384, "side of the square crops, in pixels")
    scale_range: list[float] = _option([0.5, 2.0], "least and most of the random scale; 1 1: none")
    flip_probability: float = _option(0.5, "of a mirrored image")
    color_jitter: float = _option(0.25, "strength of the photometric augmentation, 0 to 1")
    feature_noise: float = _option(
        0.0,
        "strength of Gaussian noise on dino.txt's patch features while the head trains, in units of their norm; "
        "0: off",
    )

    # optimization
    steps: int = _option(80_000, "of the optimizer")
    batch_size: int = _option(16, "images a step, over all processes and accumulated batches together")
    gradient_accumulation: int = _option(1, "batches that a step's images are cut into, on every process")
    learning_rate: float = _option(2e-4, "of the head, at its highest")
    warmup_steps: int = _option(500, "steps until then; a cosine leads down to 0 afterwards")
    weight_decay: float = _option(1e-4, "of matrices and kernels; norms, biases and tables have none")
    max_grad_norm: float = _option(1.0, "gradients are scaled down to this norm; 0: never")
    sampled_classes: list[int] = _option(
        [], "classes a step: those in the images and random others. Several numbers: one is drawn a step. None: all"
    )
    mixed_precision: Literal["no", "bf16", "fp16"] | None = _option(None, "default: what accelerate launch says")
    gradient_checkpointing: bool = _option(False, "compute activations twice to save memory")
    seed: int = _option(0, "of the fresh head, the order of the data, augmentation, noise and sampled classes")

    # evaluation
    eval_dataset: str | None = _option(None, "default: --dataset")
    eval_split: str | None = _option(None, "split to evaluate on; none: no evaluation")
    eval_vocabulary: str | None = _option(None, "default: that of training, or what --eval-dataset says")
    eval_every: int = _option(0, "steps between evaluations; 0: only at the end")
    eval_images: int | None = _option(None, "evaluate on this many images only, the first ones")
    eval_batch_size: int = _option(1, "images that are evaluated at once, on every process")
    inference: Literal["whole", "local-global", "slide"] = _option("whole", "how images are evaluated")
    num_overlays: int = _option(4, "evaluated images that are drawn, with truth and prediction")

    # the run
    checkpoint_every: int = _option(1000, "steps between checkpoints")
    keep_checkpoints: int = _option(2, "the newest so many are kept")
    log_every: int = _option(10, "steps between lines of log.jsonl")
    trackers: list[str] = _option(["tensorboard"], "of Accelerate, such as tensorboard, wandb; none: no tracker")
    # fmt: on

    def __post_init__(self):
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _coerced(getattr(self, field.name), hints[field.name])
            try:
                type_validator(field.name, value, hints[field.name])
            except TypeError as error:
                cause = error.__cause__ or error
                raise ValueError(f"{field.name} is {value!r}. {cause}. {_flag_help(field)}") from None
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
            (("flip_probability", "color_jitter"), 0, 1),
            (("ema_decay",), 0, 0.999999),
            (("eval_images",), 1, None),
        ):
            for name in names:
                value = getattr(self, name)
                if value is not None and not (least <= value and (most is None or value <= most)):
                    bounds = f"at least {least}" if most is None else f"between {least} and {most}"
                    raise ValueError(f"{name} is {value}; expected {bounds}. Change it.")
        if len(self.scale_range) != 2 or not 0 < self.scale_range[0] <= self.scale_range[1]:
            raise ValueError(
                f"scale_range is {self.scale_range}; expected the least and the most scale, such as 0.5 2."
            )
        if any(number < 1 for number in self.sampled_classes):
            raise ValueError(f"sampled_classes is {self.sampled_classes}; expected numbers of at least 1.")
        for name, known in (("ablate", SWITCHES), ("trainable_encoders", ENCODERS)):
            if unknown := sorted(set(getattr(self, name)) - set(known)):
                raise ValueError(f"{name} holds {unknown[0]!r}; expected some of {', '.join(known)}.")

    def _check_together(self) -> None:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be cut into {self.gradient_accumulation} equal batches "
                "(gradient_accumulation); choose a multiple of it."
            )
        if self.lora_rank and not self.trainable_encoders:
            raise ValueError(
                f"lora_rank is {self.lora_rank}, but no encoder is to be trained; name some in trainable_encoders: "
                f"{', '.join(ENCODERS)}."
            )
        if self.eval_every and self.eval_split is None:
            raise ValueError(f"eval_every is {self.eval_every}, but there is no eval_split to evaluate on; name one.")
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} and steps only {self.steps}; choose a shorter warmup."
            )

    # --- to and from files and flags ---------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Every field, defaults included."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "The configuration") -> "TrainingConfig":
        """
        Raises:
            ValueError: A key that is no field, a field that is missing, a bad value.
        """
        _refuse_unknown(values, source)
        required = [field.name for field in dataclasses.fields(cls) if _is_required(field)]
        if missing := [name for name in required if name not in values]:
            flags = " ".join(f"--{name} ..." for name in missing)
            raise ValueError(f"{source} lacks {', '.join(missing)}. Add to it, or pass {flags}")
        return cls(**values)

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides: Any) -> "TrainingConfig":
        """
        Args:
            path: A file of `key: value` lines.
            overrides: Fields that win over the file.

        Raises:
            ValueError: The file cannot be read, or as `from_dict`.
        """
        return cls.from_dict({**read_yaml(path), **overrides}, f"Configuration {str(path)!r}")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        ValueError: It cannot be read, or holds something else than fields of `TrainingConfig`.
    """
    where = f"Configuration {str(path)!r}"
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror}. Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds {type(content).__name__}; expected lines such as 'steps: 1000'.")
    _refuse_unknown(content, where)
    return content


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message[:1].upper()}{message[1:]} (see {self.prog} --help)")


def make_parser(**options: Any) -> HfArgumentParser:
    """A parser with a flag for every field, `--config FILE.yaml` and `--resume`; see `config_from_flags`."""
    options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
    parser = _Parser(DataClassType(TrainingConfig), allow_abbrev=False, **options)
    for action in actions_of(parser):
        action.required = False  # the file may have it; `from_dict` says what is missing in the end
        if action.dest in _FIELDS:
            # what was not said on the command line must not win over the file
            default, action.default = action.default, argparse.SUPPRESS
            if default is not None and default != [] and action.nargs != 0:
                action.help = (
                    f"{action.help} (default: {' '.join(map(str, default)) if isinstance(default, list) else default})"
                )
    parser.add_argument("--config", metavar="FILE.yaml", default=argparse.SUPPRESS, help="fields from a file")
    parser.add_argument(
        "--resume",
        action="store_true",
        default=argparse.SUPPRESS,
        help="go on from the newest checkpoint in --output; start if there is none",
    )
    return parser


def config_from_flags(arguments: Sequence[str] | None = None, **options: Any) -> tuple[TrainingConfig, bool]:
    """The command line -> the configuration, and whether to resume. A flag wins over the file, the file over defaults.

    Args:
        arguments: Those of the command line unless given.
        options: For the parser: `prog`, `description`, `epilog`.

    Raises:
        ValueError: An unknown flag or key, a bad value, something missing.
    """
    return config_from_options(make_parser(**options).parse_args(arguments))


def config_from_options(options: argparse.Namespace) -> tuple[TrainingConfig, bool]:
    """What `make_parser` has parsed -> the configuration, and whether to resume.

    Raises:
        ValueError: An unknown key of the file, a bad value, something missing.
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
        hint = f" Did you mean {close[0]!r}?" if close else " scripts/train.py --help lists what there is."
        raise ValueError(f"{source} sets {unknown[0]!r}, which is no option.{hint}")


def _flag_help(field: dataclasses.Field) -> str:
    return f"It is: {field.metadata['help'].replace('%%', '%')}."


def _coerced(value: Any, hint: Any) -> Any:
    """Whole numbers where fractions are wanted, and the `2e-4` that YAML takes for a text."""
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
    if hint == (str | None) and value == "none":  # a flag that takes back what the file says
        return None
    if hint == list[float] and isinstance(value, list):
        return [_coerced(item, float) for item in value]
    return value
