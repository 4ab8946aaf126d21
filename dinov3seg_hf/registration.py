# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""Makes the classes known to transformers: to its Auto classes and to `pipeline`."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY

from .about import TINY
from .model.configuration_dinov3seg import Dinov3SegConfig
from .model.image_processing_dinov3seg import Dinov3SegImageProcessor
from .model.image_processing_pil_dinov3seg import Dinov3SegImageProcessorPil
from .model.modeling_dinov3seg import Dinov3SegForSemanticSegmentation
from .model.pipeline import TASK, OpenVocabularySegmentationPipeline
from .model.processing_dinov3seg import Dinov3SegProcessor

TASK_ALIAS = "zero-shot-image-segmentation"


def register() -> None:
    """Registers the classes. Calling it again changes nothing."""
    AutoConfig.register(Dinov3SegConfig.model_type, Dinov3SegConfig, exist_ok=True)
    AutoModel.register(Dinov3SegConfig, Dinov3SegForSemanticSegmentation, exist_ok=True)
    AutoModelForSemanticSegmentation.register(Dinov3SegConfig, Dinov3SegForSemanticSegmentation, exist_ok=True)
    # The stock pipeline for images looks here, and logs an error about models that are missing although they work.
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[Dinov3SegConfig.model_type] = (
        Dinov3SegForSemanticSegmentation.__name__
    )
    AutoImageProcessor.register(Dinov3SegConfig, image_processor_classes=_image_processors(), exist_ok=True)
    AutoProcessor.register(Dinov3SegConfig, Dinov3SegProcessor, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=OpenVocabularySegmentationPipeline,
            pt_model=AutoModelForSemanticSegmentation,
            default={"model": (TINY, "main")},
            type="multimodal",
        )
    PIPELINE_REGISTRY.task_aliases[TASK_ALIAS] = TASK


def _image_processors() -> dict[str, type]:
    backends: dict[str, type] = {"pil": Dinov3SegImageProcessorPil}
    try:
        import torchvision  # noqa: F401  # checks whether the import works
    except Exception:  # not installed, or built for another torch (raises OSError or RuntimeError)
        return backends
    return {**backends, "torchvision": Dinov3SegImageProcessor}
