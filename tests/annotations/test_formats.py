# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Each format is read back by its own reader, or by a decoder written after its documentation.

Readers that only these tests need are not installed with the package; their tests are skipped without them. They passed
with supervision 0.31.2, datumaro 1.13.12, labelme 6.3.1, cvat-sdk 2.80.0, label-studio-sdk 2.1.2 and fiftyone 1.22.1.
"""

import io
import json
import xml.etree.ElementTree as ElementTree
from contextlib import redirect_stdout

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage

from dinov3seg_hf import Vocabulary, export_annotations
from dinov3seg_hf.annotations import AnnotatedImage, to_detections, to_fiftyone
from dinov3seg_hf.annotations.image import Part
from dinov3seg_hf.annotations.label_studio import brush_bytes
from dinov3seg_hf.data import SegmentationDataset, find_vocabulary, open_dataset
from dinov3seg_hf.model.image_input import read_label_map
from dinov3seg_hf.training.config import TrainingConfig
from dinov3seg_hf.training.data import open_training_data

from .conftest import NAMES

label_maps = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(-1, 3))
repeated = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def num_parts(labels):
    return sum(ndimage.label(labels == label)[1] for label in range(len(NAMES)))


def painted(shape, masks):
    """A label map from (label, mask) pairs, which must not overlap."""
    labels = np.full(shape, -1, np.int32)
    for label, mask in masks:
        assert (labels[mask] == -1).all()
        labels[mask] = label
    return labels


def read_coco(path):
    with redirect_stdout(io.StringIO()):
        return COCO(str(path))


def read_panoptic(path):
    """(file name, label map) of each image, by the rule of the documentation: id = R + 256 G + 65536 B."""
    content = json.loads(path.read_text(encoding="utf-8"))
    images = {image["id"]: image for image in content["images"]}
    for annotation in content["annotations"]:
        color = np.asarray(Image.open(path.with_suffix("") / annotation["file_name"])).astype(int)
        ids = color @ [1, 256, 65536]
        assert set(np.unique(ids)) - {0} == {segment["id"] for segment in annotation["segments_info"]}
        masks = [(segment["category_id"] - 1, ids == segment["id"]) for segment in annotation["segments_info"]]
        for segment, (_, mask) in zip(annotation["segments_info"], masks):
            left, top, width, height = segment["bbox"]
            assert segment["area"] == mask.sum() == mask[top : top + height, left : left + width].sum()
        yield images[annotation["image_id"]]["file_name"], painted(ids.shape, masks)


def read_cvat(path):
    for image in ElementTree.parse(path).getroot().iter("image"):
        shape = int(image.get("height")), int(image.get("width"))
        masks = []
        for element in image.iter("mask"):
            left, top, width, height = (int(element.get(key)) for key in ("left", "top", "width", "height"))
            runs = [int(run) for run in element.get("rle").split(",")]
            mask = np.zeros(shape, bool)
            inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
            mask[top : top + height, left : left + width] = inside.reshape(height, width)
            masks.append((NAMES.index(element.get("label")), mask))
        yield image.get("name"), painted(shape, masks)


def decode_brush(data):
    """A decoder of rle-pack, after its documentation."""
    text, place = "".join(f"{byte:08b}" for byte in data), 0

    def take(count):
        nonlocal place
        place += count
        return int(text[place - count : place], 2)

    size, word = take(32), take(5) + 1
    run_bits = [take(4) + 1 for _ in range(4)]
    values = []
    while len(values) < size:
        is_run, count = take(1), take(run_bits[take(2)]) + 1
        values += [take(word)] * count if is_run else [take(word) for _ in range(count)]
    return np.array(values, np.uint8)


# --- exact formats: masks -> annotations -> masks is the identity -----------------------------------------------------


@repeated
@given(labels=label_maps)
def test_coco_keeps_every_label_map(tmp_path, labels):
    path = tmp_path / "coco.json"
    assert export_annotations([AnnotatedImage("a.png", labels)], NAMES, path, "coco", tolerance=0) == 1
    coco = read_coco(path)
    annotations = coco.loadAnns(coco.getAnnIds())
    masks = [(entry["category_id"] - 1, coco.annToMask(entry).astype(bool)) for entry in annotations]
    np.testing.assert_array_equal(painted(labels.shape, masks), labels)
    assert len(annotations) == num_parts(labels)
    for entry, (_, mask) in zip(annotations, masks):
        left, top, width, height = entry["bbox"]
        assert entry["area"] == mask.sum() == mask[top : top + height, left : left + width].sum()
        # without a tolerance, the polygons are exact too
        polygons = coco.annToMask({**entry, "segmentation": entry["polygons"]})
        np.testing.assert_array_equal(polygons.astype(bool), mask)


@repeated
@given(labels=label_maps)
def test_panoptic_and_cvat_keep_every_label_map(tmp_path, labels):
    for name, read in (("coco-panoptic", read_panoptic), ("cvat", read_cvat)):
        path = tmp_path / ("cvat.xml" if name == "cvat" else "panoptic.json")
        export_annotations([AnnotatedImage("a.png", labels)], NAMES, path, name)
        ((file_name, read_back),) = read(path)
        assert file_name == "a.png"
        np.testing.assert_array_equal(read_back, labels)


@settings(deadline=None, max_examples=100)
@given(
    mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40)), top=st.integers(0, 3), left=st.integers(0, 3)
)
def test_run_lengths_keep_every_mask_at_every_place(mask, top, left):
    part = Part(0, top, left, mask, int(mask.sum()), None)
    height, width = top + mask.shape[0] + left % 2, left + mask.shape[1] + top % 2
    expected = part.full_mask(height, width)
    for by_column in (False, True):
        runs = part.run_lengths(height, width, by_column)
        read_back = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        np.testing.assert_array_equal(read_back, expected.ravel(order="F" if by_column else "C"))
        assert all(run > 0 for run in runs[1:])
    decoded = decode_brush(brush_bytes(part.run_lengths(height, width))).reshape(height, width, 4)
    np.testing.assert_array_equal(decoded == 255, np.repeat(expected[..., None], 4, axis=-1))


def test_a_brush_mask_longer_than_the_longest_run():
    runs = [150 * 300, 150 * 300]
    np.testing.assert_array_equal(decode_brush(brush_bytes(runs)), np.repeat([0, 255], 4 * np.array(runs)))


@repeated
@given(labels=label_maps)
def test_png_masks_keep_every_label_map(tmp_path, labels):
    options = {"copy_images": False, "overwrite": True}
    export_annotations([AnnotatedImage("a.png", labels)], NAMES, tmp_path / "png", "png", **options)
    stored = read_label_map(tmp_path / "png" / "masks" / "a.png").numpy()
    np.testing.assert_array_equal(stored, np.where(labels < 0, 255, labels))


# --- what training reads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["png", "parquet"])
@pytest.mark.parametrize("many", [False, True])
def test_training_reads_masks_and_names(annotated, tmp_path, name, many):
    names = (*NAMES, *(f"thing {number}" for number in range(300))) if many else NAMES
    for image in annotated:
        object.__setattr__(image, "file_name", image.file_name.replace("more/", ""))
    # the numbers of an original annotation are not those of the masks
    vocabulary = Vocabulary(names, raw_ids={7: 0, 9: 1})
    export_annotations(annotated, vocabulary, tmp_path / "data", name)
    rows = open_dataset(tmp_path / "data", "train")
    found = find_vocabulary(rows, card=tmp_path / "data")
    assert found.names == names and found.ignore_label == (65535 if many else 255)
    data = SegmentationDataset(rows, found)
    assert len(data) == 2
    for row, image in enumerate(annotated):
        np.testing.assert_array_equal(data[row]["labels"], image.label_map)
        np.testing.assert_array_equal(data[row]["image"], np.asarray(image.pixels()))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_training_run_opens_the_parquet(annotated, tmp_path, streaming):
    export_annotations(annotated, NAMES, tmp_path / "data", "parquet")
    config = TrainingConfig(
        init="embedded",
        output=str(tmp_path / "run"),
        dataset=str(tmp_path / "data"),
        split="train",
        eval_split=None,
        crop_size=32,
        batch_size=1,
        streaming=streaming,
    )
    data = open_training_data(config)
    assert data.vocabulary.names == NAMES


def test_parquet_is_split_into_files(annotated, tmp_path, monkeypatch):
    monkeypatch.setattr("dinov3seg_hf.annotations.parquet.ROWS_PER_FILE", 1)
    export_annotations(annotated, NAMES, tmp_path / "data", "parquet")
    files = sorted(path.name for path in (tmp_path / "data" / "data").iterdir())
    assert files == ["train-00000.parquet", "train-00001.parquet"]
    rows = open_dataset(tmp_path / "data", "train")
    assert [row["classes"] for row in rows] == [[0, 1, 2], [0, 1, 2]] and rows["name"][1] == "more/second"
    with pytest.raises(ValueError, match="contains parquet files"):
        export_annotations(annotated, NAMES, tmp_path / "data", "parquet")


def test_a_parquet_file_of_many_large_images_is_made_of_several_arrays(monkeypatch):
    """Arrow has at most 2 GiB in an array of images, so a shard of large images could not be written."""
    from datasets import Dataset

    from dinov3seg_hf.annotations import parquet

    make, limit = Dataset.from_dict, 1000

    def limited(columns, **options):
        assert sum(len(image["bytes"]) for image in columns["image"]) < 2 * limit, "offset overflow"
        return make(columns, **options)

    monkeypatch.setattr(Dataset, "from_dict", limited)
    monkeypatch.setattr(parquet, "BYTES_PER_FILE", limit)
    image, mask = {"bytes": bytes(300), "path": "a.png"}, {"bytes": b"mask", "path": "m.png"}
    rows = [{"image": image, "mask": mask, "classes": [0], "name": f"{number}"} for number in range(11)]
    rows[4]["image"] = {"bytes": bytes(1500), "path": "large.png"}
    content = parquet.rows_to_parquet(rows, parquet.parquet_features(NAMES))
    found = pq.read_table(io.BytesIO(content)).to_pylist()
    assert [{**row, "classes": list(row["classes"])} for row in found] == rows


# --- formats with polygons --------------------------------------------------------------------------------------------


def near_borders(labels, distance):
    """The pixels that are near another label."""
    near = np.zeros(labels.shape, bool)
    for label in np.unique(labels):
        mask = labels == label
        near |= ndimage.distance_transform_edt(mask) <= distance
    return near


def test_yolo_lines_are_outlines(annotated, tmp_path):
    export_annotations(annotated, NAMES, tmp_path / "yolo", "yolo", tolerance=1)
    folder = tmp_path / "yolo"
    for image in annotated:
        assert (folder / "images" / image.file_name).read_bytes() == image.source.read_bytes()
        labels = np.full(image.label_map.shape, -1)
        y, x = np.mgrid[: image.height, : image.width] + 0.5
        lines = (folder / "labels" / f"{image.stem}.txt").read_text().splitlines()
        for line in lines:
            label, *numbers = line.split()
            ring = np.array(numbers, float).reshape(-1, 2) * (image.width, image.height)
            polygon = shapely.make_valid(shapely.Polygon(ring))  # cuts have no width
            labels[shapely.contains_xy(polygon, x, y)] = int(label)
        assert len(lines) == num_parts(image.label_map)
        wrong = labels != image.label_map
        assert not (wrong & ~near_borders(image.label_map, 2.5)).any() and wrong.mean() < 0.05


def test_labelme_shapes_follow_the_documented_form(annotated, tmp_path):
    export_annotations(annotated, NAMES, tmp_path / "labelme", "labelme", tolerance=0)
    for image in annotated:
        file = (tmp_path / "labelme" / image.file_name).with_suffix(".json")
        content = json.loads(file.read_text(encoding="utf-8"))
        assert (content["imageHeight"], content["imageWidth"]) == image.label_map.shape
        assert (file.parent / content["imagePath"]).read_bytes() == image.source.read_bytes()
        kinds = {shape["shape_type"] for shape in content["shapes"]}
        assert kinds == {"polygon", "mask"} and len(content["shapes"]) == num_parts(image.label_map)


def test_labelme_without_copies_names_the_image_where_it_is(annotated, tmp_path):
    export_annotations(annotated, NAMES, tmp_path / "labelme", "labelme", copy_images=False)
    file = tmp_path / "labelme" / "more" / "second.json"
    path = json.loads(file.read_text())["imagePath"]
    assert (file.parent / path).resolve() == annotated[1].source.resolve()
    assert sorted(path.name for path in (tmp_path / "labelme").rglob("*.*")) == [
        "first.json",
        "labels.txt",
        "second.json",
    ]


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_cutouts_are_the_pixels_of_a_part(annotated, tmp_path):
    for _ in range(2):  # a second run leaves nothing of the first
        export_annotations(annotated, NAMES, tmp_path / "cut", "cutouts", min_area=2)
    image = annotated[0]
    folder = tmp_path / "cut" / "first"
    records = json.loads((folder / "cutouts.json").read_text(encoding="utf-8"))["cutouts"]
    assert sorted([record["file"] for record in records] + ["cutouts.json"]) == sorted(p.name for p in folder.iterdir())
    pixels, labels = np.asarray(image.pixels()), np.full(image.label_map.shape, -1)
    for record in records:
        rgba = np.asarray(Image.open(folder / record["file"]))
        left, top, width, height = record["box"]
        assert rgba.shape == (height, width, 4) and set(np.unique(rgba[..., 3])) <= {0, 255}
        mask = rgba[..., 3] == 255
        np.testing.assert_array_equal(rgba[..., :3][mask], pixels[top : top + height, left : left + width][mask])
        assert not rgba[~mask].any() and NAMES[record["index"]] == record["label"]
        labels[top : top + height, left : left + width][mask] = record["index"]
    expected = image.label_map.copy()
    expected[-1, -1] = -1  # smaller than min_area
    np.testing.assert_array_equal(labels, expected)


def test_score_maps(annotated, tmp_path):
    export_annotations(annotated, NAMES, tmp_path / "scores", "scores")
    for image in annotated:
        stored = np.asarray(Image.open(tmp_path / "scores" / f"{image.stem}.png"))
        np.testing.assert_allclose(stored / 65535, image.score_map, atol=1e-5)
    with pytest.raises(ValueError, match="has no score map"):
        export_annotations([AnnotatedImage("a.png", annotated[0].label_map)], NAMES, tmp_path / "other", "scores")


# --- readers of other projects, where they are installed --------------------------------------------------------------


def test_supervision_reads_coco_and_yolo(annotated, tmp_path):
    supervision = pytest.importorskip("supervision")
    photos = str(tmp_path / "photos")
    export_annotations(annotated, NAMES, tmp_path / "coco.json", "coco")
    found = supervision.DetectionDataset.from_coco(photos, str(tmp_path / "coco.json"), force_masks=True)
    assert tuple(found.classes) == NAMES and len(found) == 2
    for path, _, detections in found:
        (image,) = [image for image in annotated if path.endswith(image.file_name)]
        masks = zip(detections.class_id, detections.mask)
        np.testing.assert_array_equal(painted(image.label_map.shape, masks), image.label_map)

    # its reader looks at one folder only
    export_annotations(annotated[:1], NAMES, tmp_path / "yolo", "yolo", tolerance=0, min_area=2)
    folder = tmp_path / "yolo"
    found = supervision.DetectionDataset.from_yolo(
        str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml"), force_masks=True
    )
    assert tuple(found.classes) == NAMES and len(found) == 1
    ((_, _, detections),) = found
    labels = annotated[0].label_map
    assert len(detections) == num_parts(labels) - 1  # without the part of one pixel
    for label, mask in zip(detections.class_id, detections.mask):
        # it draws the right and lower edges, too
        part = np.zeros_like(mask)
        part[1:, 1:] = mask[1:, 1:] & mask[:-1, 1:] & mask[1:, :-1] & mask[:-1, :-1]
        inside = np.roll(part, (-1, -1), (0, 1))
        assert inside.any() and (labels[inside] == label).mean() > 0.95


def test_supervision_detections(annotated):
    supervision = pytest.importorskip("supervision")
    image = annotated[0]
    detections = to_detections(image, NAMES)
    assert isinstance(detections, supervision.Detections)
    masks = zip(detections.class_id, detections.mask)
    np.testing.assert_array_equal(painted(image.label_map.shape, masks), image.label_map)
    expected = [image.score_map[mask].mean() for mask in detections.mask]
    np.testing.assert_allclose(detections.confidence, expected, rtol=1e-4)
    np.testing.assert_allclose(detections.area, [mask.sum() for mask in detections.mask])
    assert set(detections.data["class_name"]) == set(NAMES[:3])
    assert len(to_detections(AnnotatedImage("a.png", np.full((3, 3), -1)), NAMES)) == 0


@pytest.mark.parametrize("many", [False, True])
def test_fiftyone_segmentation(annotated, many):
    fiftyone = pytest.importorskip("fiftyone")
    names = (*NAMES, *(f"thing {number}" for number in range(300))) if many else NAMES
    segmentation = to_fiftyone(annotated[0], names, min_area=2)
    assert isinstance(segmentation, fiftyone.Segmentation)
    mask = fiftyone.Segmentation.from_dict(segmentation.to_dict()).mask  # as it is stored
    assert mask.dtype == (np.uint16 if many else np.uint8) and mask[-1, -1] == 0
    kept = mask > 0
    np.testing.assert_array_equal(mask[kept].astype(int) - 1, annotated[0].label_map[kept])


@pytest.mark.parametrize("name", ["cvat", "coco_instances", "coco_panoptic"])
def test_datumaro_reads(annotated, tmp_path, name):
    datumaro = pytest.importorskip("datumaro")
    images, folder = annotated[:1], tmp_path / "set"
    labels = images[0].label_map
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    (folder / "images" / images[0].file_name).write_bytes(images[0].source.read_bytes())
    path, format_name = {
        "cvat": (folder / "annotations.xml", "cvat"),
        "coco_instances": (folder / "annotations" / "instances_a.json", "coco"),
        "coco_panoptic": (folder / "annotations" / "panoptic_a.json", "coco-panoptic"),
    }[name]
    export_annotations(images, NAMES, path, format_name)
    dataset = datumaro.Dataset.import_from(str(folder), name)
    (item,) = dataset
    names = dataset.categories()[datumaro.AnnotationType.label]
    masks = []
    for annotation in item.annotations:
        label = NAMES.index(names[annotation.label].name)
        if annotation.type == datumaro.AnnotationType.mask:
            masks.append((label, np.asarray(annotation.image).astype(bool)))
    np.testing.assert_array_equal(painted(labels.shape, masks), labels)


def test_cvat_sdk_reads_the_masks(annotated, tmp_path):
    decode = pytest.importorskip("cvat_sdk.masks").decode_mask
    export_annotations(annotated, NAMES, tmp_path / "cvat.xml", "cvat")
    for image, element in zip(annotated, ElementTree.parse(tmp_path / "cvat.xml").getroot().iter("image")):
        masks = []
        for mask in element.iter("mask"):
            left, top, width, height = (int(mask.get(key)) for key in ("left", "top", "width", "height"))
            points = [*map(int, mask.get("rle").split(",")), left, top, left + width - 1, top + height - 1]
            decoded = decode(points, image_width=image.width, image_height=image.height)
            masks.append((NAMES.index(mask.get("label")), decoded))
        np.testing.assert_array_equal(painted(image.label_map.shape, masks), image.label_map)


def test_label_studio_reads_the_tasks(annotated, tmp_path):
    export_annotations(annotated, NAMES, tmp_path / "tasks.json", "label-studio", image_prefix="/data/")
    config = ElementTree.parse(tmp_path / "tasks.config.xml").getroot()
    assert [label.get("value") for label in config.iter("Label")] == list(NAMES)
    tasks = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    assert [task["data"]["image"] for task in tasks] == ["/data/first.jpg", "/data/more/second.png"]
    try:
        from label_studio_sdk.converter.brush import decode_rle
    except ImportError:
        decode_rle = decode_brush
    for image, task in zip(annotated, tasks):
        masks = []
        for result in task["predictions"][0]["result"]:
            assert (result["original_height"], result["original_width"]) == image.label_map.shape
            decoded = decode_rle(result["value"]["rle"]).reshape(*image.label_map.shape, 4)
            masks.append((NAMES.index(result["value"]["brushlabels"][0]), decoded[..., 3] == 255))
        np.testing.assert_array_equal(painted(image.label_map.shape, masks), image.label_map)


@pytest.mark.filterwarnings("ignore:Skipped unsupported LabelMe")
def test_supervision_reads_labelme(annotated, tmp_path):
    supervision = pytest.importorskip("supervision")
    folder = tmp_path / "labelme"
    export_annotations(annotated[:1], NAMES, folder, "labelme", tolerance=0)
    found = supervision.DetectionDataset.from_labelme(str(folder), str(folder))
    ((_, _, detections),) = found
    # it leaves out masks: the part with a hole
    assert len(detections) == num_parts(annotated[0].label_map) - 1


def test_labelme_reads_its_files(annotated, tmp_path):
    try:
        from labelme._label_file import read_label_file
        from labelme.utils import shapes_to_label
    except ImportError:
        pytest.skip("labelme is not installed")
    export_annotations(annotated, NAMES, tmp_path / "labelme", "labelme", tolerance=0)
    values = {name: number for number, name in enumerate(("_background_", *NAMES))}
    for image in annotated:
        data = read_label_file(str((tmp_path / "labelme" / image.file_name).with_suffix(".json")))
        labels, _ = shapes_to_label((image.height, image.width), data.shapes, values)
        # polygons are drawn with their right and lower edges
        assert (labels - 1 == image.label_map).mean() > 0.9
