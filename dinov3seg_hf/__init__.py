# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Open-vocabulary semantic segmentation with dinov3.seg (arXiv 2603.19531): masks for any class names.

Importing the package registers its classes with transformers: in `AutoConfig`, `AutoModel`, `AutoImageProcessor`,
`AutoProcessor`, `AutoModelForSemanticSegmentation` and `pipeline("open-vocabulary-segmentation")`, also under the name
"zero-shot-image-segmentation".
"""

import sys
from typing import TYPE_CHECKING

from .about import TINY, __version__
from .lazy_names import lazy_names

if TYPE_CHECKING:
    from .annotations import AnnotatedImage, export_annotations
    from .large import LargeResult, segment_large
    from .model.configuration_dinov3seg import Dinov3SegConfig
    from .model.image_processing_dinov3seg import Dinov3SegImageProcessor
    from .model.image_processing_pil_dinov3seg import Dinov3SegImageProcessorPil
    from .model.image_stages import EncodedImage
    from .model.inference_settings import InferenceSettings
    from .model.modeling_dinov3seg import (
        Dinov3SegForSemanticSegmentation,
        Dinov3SegImageFeatures,
        Dinov3SegOutput,
        Dinov3SegPreTrainedModel,
    )
    from .model.pipeline import TASK, OpenVocabularySegmentationPipeline
    from .model.processing_dinov3seg import Dinov3SegProcessor
    from .model.prompts import TEMPLATES
    from .model.text_embeddings import TextEmbeddings
    from .model.vocabulary import Vocabulary
    from .video import segment_video
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".annotations": ("AnnotatedImage", "export_annotations"),
            ".large": ("LargeResult", "segment_large"),
            ".model.configuration_dinov3seg": ("Dinov3SegConfig",),
            ".model.image_processing_dinov3seg": ("Dinov3SegImageProcessor",),
            ".model.image_processing_pil_dinov3seg": ("Dinov3SegImageProcessorPil",),
            ".model.image_stages": ("EncodedImage",),
            ".model.inference_settings": ("InferenceSettings",),
            ".model.modeling_dinov3seg": (
                "Dinov3SegForSemanticSegmentation",
                "Dinov3SegImageFeatures",
                "Dinov3SegOutput",
                "Dinov3SegPreTrainedModel",
            ),
            ".model.pipeline": ("TASK", "OpenVocabularySegmentationPipeline"),
            ".model.processing_dinov3seg": ("Dinov3SegProcessor",),
            ".model.prompts": ("TEMPLATES",),
            ".model.text_embeddings": ("TextEmbeddings",),
            ".model.vocabulary": ("Vocabulary",),
            ".video": ("segment_video",),
        },
    )

# Whoever writes `import dinov3seg_hf; AutoModel.from_pretrained(...)` uses none of the names above. The installed
# command registers the classes when it loads a checkpoint, and so does `python -m dinov3seg_hf`, whose name in
# `sys.argv` is "-m" as long as this file is imported.
_as_module = (
    sys.argv[:1] == ["-m"] and "-m" in sys.orig_argv[:-1] and (sys.orig_argv[sys.orig_argv.index("-m") + 1] == __name__)
)
if not (_as_module or getattr(sys.modules.get("dinov3seg_command"), "running", False)):
    from .model.pipeline_results import ShownInNotebooks
    from .registration import register
    from .visualization.notebook import result_as_html

    ShownInNotebooks.to_html = staticmethod(result_as_html)
    register()

__all__ = [
    "TASK",
    "TEMPLATES",
    "TINY",
    "AnnotatedImage",
    "Dinov3SegConfig",
    "Dinov3SegForSemanticSegmentation",
    "Dinov3SegImageFeatures",
    "Dinov3SegImageProcessor",
    "Dinov3SegImageProcessorPil",
    "Dinov3SegOutput",
    "Dinov3SegPreTrainedModel",
    "Dinov3SegProcessor",
    "EncodedImage",
    "InferenceSettings",
    "LargeResult",
    "OpenVocabularySegmentationPipeline",
    "TextEmbeddings",
    "Vocabulary",
    "__version__",
    "export_annotations",
    "segment_large",
    "segment_video",
]
