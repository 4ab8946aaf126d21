# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Segments an image by words with the graphs in the folder of this file, on ONNX Runtime or OpenVINO.

    pip install numpy onnxruntime pillow tokenizers    # for .onnx
    pip install numpy openvino pillow tokenizers       # for .xml
    python run.py photo.jpg --labels "dog, grass, sky|clouds" --output labels.png

Needs nothing else, in particular neither torch nor transformers. An export contains this file, `text_cleaning.py`,
`image_formats.py` and the settings in `export.json`.
"""

import argparse
import colorsys
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from image_formats import safe_formats
from PIL import Image, ImageOps
from text_cleaning import clean_text
from tokenizers import Tokenizer

MAX_LABELS = 256  # of a PNG with a palette

# Takes the arrays of a graph by name and returns its results by name.
Graph = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class Segmenter:
    """The three graphs of an export, loaded once for any number of images.

    Args:
        folder: The folder of the export.
        device: Where the graphs run: a name of OpenVINO's, such as "CPU" or "GPU", or of a provider of ONNX Runtime,
            such as "CPU" or "CUDA".
    """

    def __init__(self, folder: Path, device: str = "CPU"):
        self.settings: dict[str, Any] = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # "<|endoftext|>" in a label is text, not the end of the prompt
        files = self.settings["files"]
        self.image, self.text, self.head = (
            load_graph(folder / files[name], device) for name in ("image", "text", "head")
        )

    def encode_words(self, labels: Sequence[str]) -> np.ndarray:
        """Computes the text embeddings `(C, 2, D)` of labels, each "word" or "word|synonym|synonym".

        Raises:
            ValueError: If there are no labels, a word is empty or repeated, or a prompt has too many tokens.
        """
        check_labels(labels)
        prompts = [
            [clean_text(template.replace("{}", word.strip())) for word in label.split("|") for template in templates]
            for templates in [self.settings["templates"]]
            for label in labels
        ]
        ids = [[self.tokenizer.encode(prompt).ids for prompt in of_label] for of_label in prompts]
        length = max(len(tokens) for of_label in ids for tokens in of_label)
        if length > self.settings["max_tokens"]:
            raise ValueError(
                f"A prompt has {length} tokens; expected at most {self.settings['max_tokens']}. Shorten the labels."
            )
        shape = (len(labels), max(map(len, ids)), length)
        input_ids = np.full(shape, self.settings["pad_token_id"], np.int64)
        attention_mask = np.zeros(shape, np.int64)
        for row, of_label in enumerate(ids):
            for column, tokens in enumerate(of_label):
                input_ids[row, column, : len(tokens)] = tokens
                attention_mask[row, column, : len(tokens)] = 1
        return self.text({"input_ids": input_ids, "attention_mask": attention_mask})["text_embeds"]

    def prepare(self, image: Image.Image) -> np.ndarray:
        """Resizes and normalizes an RGB image: float32 `(1, 3, H, W)`, H and W multiples of the patch size."""
        height, width = resized_size((image.height, image.width), self.settings)
        image = image.resize((width, height), Image.Resampling(self.settings["resample"]))
        pixels = np.asarray(image, np.float32) * np.float32(self.settings["rescale_factor"])
        pixels = (pixels - np.float32(self.settings["image_mean"])) / np.float32(self.settings["image_std"])
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])

    def segment(self, image: Image.Image, text_embeds: np.ndarray) -> np.ndarray:
        """Returns the index of the label of each pixel of an RGB image, int32 `(H, W)`.

        Raises:
            ValueError: If the graphs give logits with NaN or infinity.
        """
        features = self.image({"pixel_values": self.prepare(image)})
        del features["cls_embeds"]  # for retrieval; the head does not take it
        logits = self.head({"text_embeds": text_embeds, **features})["logits"]  # (1, C, h, w)
        if not np.isfinite([logits.min(), logits.max()]).all():  # NaN is the minimum of all that it is among
            raise ValueError(
                "The logits contain NaN or infinity; expected finite numbers. Run the graphs on the device CPU; if "
                "they give the same there, export the checkpoint again."
            )
        labels = np.zeros((image.height, image.width), np.int32)
        best = np.full(labels.shape, -np.inf, np.float32)
        for label, logit_map in enumerate(logits[0]):  # one at a time, to save memory
            logit_map = resize(logit_map, labels.shape)
            wins = logit_map > best
            labels[wins], best[wins] = label, logit_map[wins]
        return labels


def check_labels(labels: Sequence[str]) -> None:
    """Checks that every label has a name of its own, its first word. Labels can share other words.

    Raises:
        ValueError: If there are no labels, a word is empty or twice in a label, or two labels have the same name.
    """
    words = [[" ".join(word.split()).casefold() for word in label.split("|")] for label in labels]
    names = {of_label[0] for of_label in words}
    if not words or len(names) < len(words) or any("" in row or len(set(row)) < len(row) for row in words):
        raise ValueError(f"The labels are {list(labels)}; expected different words, and none of them empty.")


def load_graph(path: Path, device: str) -> Graph:
    """Loads a graph of ONNX or OpenVINO; the ending of the file tells which."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=[f"{device}ExecutionProvider"])
        outputs = [output.name for output in session.get_outputs()]
        return lambda feeds: dict(zip(outputs, session.run(None, dict(feeds))))
    import openvino

    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if device == "CPU":  # its cache makes wrong logits of many classes after those of a single one
        options["CPU_RUNTIME_CACHE_CAPACITY"] = 0
    compiled = openvino.Core().compile_model(path, device, options)
    names = {output: output.any_name for output in compiled.outputs}
    return lambda feeds: {names[output]: value.copy() for output, value in compiled(dict(feeds)).items()}


def resized_size(size: tuple[int, int], settings: dict[str, Any]) -> tuple[int, int]:
    """Returns the (height, width) to which an image of this size is resized."""
    target, divisor = settings["size"], settings["size_divisor"]
    if "height" in target:
        return target["height"], target["width"]
    scale = target["shortest_edge"] / min(size)
    longest = target.get("longest_edge")
    if longest:
        scale = min(scale, longest / max(size))
    patches = [max(1, int(side * scale / divisor + 0.5)) for side in size]
    if longest:
        patches = [min(count, max(1, longest // divisor)) for count in patches]
    return patches[0] * divisor, patches[1] * divisor


def resize(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a map bilinearly; the centers of border cells are extended outwards."""
    for axis, length in enumerate(size):
        place = (np.arange(length, dtype=np.float32) + 0.5) * np.float32(values.shape[axis] / length) - 0.5
        place = place.clip(0, values.shape[axis] - 1)
        lower = place.astype(np.int64)
        weight = np.expand_dims(place - lower, 1 - axis).astype(np.float32)
        upper = np.minimum(lower + 1, values.shape[axis] - 1)
        values = values.take(lower, axis) * (1 - weight) + values.take(upper, axis) * weight
    return values


def open_image(path: Path) -> Image.Image:
    """Reads an image upright and in RGB; transparent images are placed on white, and 16 bits are divided by 257.

    Raises:
        ValueError: If the values have neither 8 nor 16 bits.
    """
    with Image.open(path, formats=safe_formats()) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode == "F" or image.mode.startswith("I"):  # PIL would clip the values at 255
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(f"{str(path)!r} has the mode {image.mode}; expected 8 or 16 bits. Rescale the image.")
        image = Image.fromarray(((values.astype(np.int32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def save_labels(labels: np.ndarray, path: Path) -> None:
    """Saves labels as a PNG with a palette: the values are the labels."""
    picture = Image.fromarray(labels.astype(np.uint8))
    colors = [colorsys.hsv_to_rgb(index * 0.618 % 1, 0.55 + 0.4 * (index % 2), 0.9) for index in range(MAX_LABELS)]
    picture.putpalette([round(255 * value) for color in colors for value in color])
    picture.save(path, format="PNG")


def main() -> None:
    """Segments an image, writes the label map and prints the share of each label."""
    parser = argparse.ArgumentParser(description="Segments an image by words.")
    parser.add_argument("image", type=Path)
    parser.add_argument("--labels", required=True, help='separated by commas, each "word" or "word|synonym"')
    parser.add_argument("--output", type=Path, required=True, metavar="PNG", help="label map; values are indices")
    options = parser.parse_args()
    labels = [label.strip() for label in options.labels.split(",") if label.strip()]
    if not 0 < len(labels) <= MAX_LABELS:
        parser.error(f"got {len(labels)} labels; expected 1 to {MAX_LABELS}")
    try:
        image = open_image(options.image)
        segmenter = Segmenter(Path(__file__).resolve().parent)
        label_map = segmenter.segment(image, segmenter.encode_words(labels))
        save_labels(label_map, options.output)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        parser.error(str(error))
    counts = np.bincount(label_map.ravel(), minlength=len(labels))
    for index, (label, count) in enumerate(zip(labels, counts)):
        print(f"{index:3}  {count / label_map.size:6.1%}  {label.split('|')[0]}")


if __name__ == "__main__":
    main()
