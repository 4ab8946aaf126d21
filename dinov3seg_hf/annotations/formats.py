# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The formats of annotations by name."""

# The module and the class of each format. A module is imported when its format is used.
FORMATS = {
    "png": ("png_masks", "PngWriter"),
    "coco": ("coco", "CocoWriter"),
    "coco-panoptic": ("panoptic", "PanopticWriter"),
    "yolo": ("yolo", "YoloWriter"),
    "labelme": ("labelme", "LabelmeWriter"),
    "cvat": ("cvat", "CvatWriter"),
    "label-studio": ("label_studio", "LabelStudioWriter"),
    "cutouts": ("cutouts", "CutoutWriter"),
    "scores": ("scores", "ScoreWriter"),
    "parquet": ("parquet", "ParquetWriter"),
    "geotiff": ("geotiff", "GeotiffWriter"),
    "geopackage": ("geopackage", "GeopackageWriter"),
}

# The formats with polygons, and those with names of images that are stored elsewhere, by the option of `ExportOptions`
# that is for them alone.
FORMATS_WITH = {
    "tolerance": ("coco", "yolo", "labelme", "geopackage"),
    "image_prefix": ("coco", "coco-panoptic", "cvat", "label-studio"),
}
