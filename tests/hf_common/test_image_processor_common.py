"""transformers' common tests of the image processor, on every registered backend: PIL, torchvision where it imports."""

import unittest

from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

from dinov3seg_hf import Dinov3SegConfig

from skipping import skip
from tests.test_image_processing_common import (
    ImageProcessingTester,
    ImageProcessingTestMixin,
    PostProcessSemanticSegmentationTestMixin,
)

BACKENDS: dict[str, type] = IMAGE_PROCESSOR_MAPPING[Dinov3SegConfig]
SKIPS = {"test_pil_can_run_without_torchvision": "a new process, which imports transformers only and not this package"}
if "torchvision" not in BACKENDS:
    SKIPS["test_new_models_require_torchvision_backend"] = "torchvision cannot be imported here"


class ImageTester(ImageProcessingTester):
    def __init__(self, parent: unittest.TestCase):
        super().__init__(
            parent,
            max_resolution=80,
            num_labels=4,
            do_resize=True,
            size={"height": 32, "width": 32},
            do_windows=True,
            window_size=24,
            window_stride=8,
            do_normalize=True,
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        )

    def _get_image_processing_classes(self) -> dict[str, type]:
        return dict(BACKENDS)


@skip(SKIPS)
class Dinov3SegImageProcessingTest(
    ImageProcessingTestMixin, PostProcessSemanticSegmentationTestMixin, unittest.TestCase
):
    image_processor_tester_class = ImageTester
    test_cast_dtype = True
