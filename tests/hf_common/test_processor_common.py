"""transformers' common tests of the processor."""

import unittest
from typing import Any

from dinov3seg_hf import Dinov3SegImageProcessorPil, Dinov3SegProcessor
from dinov3seg_hf.drawn_world.tokenizer import make_tokenizer

from skipping import skip
from tests.test_processing_common import ProcessorTesterMixin


@skip(
    {
        "test_subprocessor_defaults_0_text": "names are wrapped in templates and become (C, P, L), so the processor "
        "gives other tensors than its tokenizer by design",
    }
)
class Dinov3SegProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = Dinov3SegProcessor

    @classmethod
    def _setup_image_processor(cls):
        return Dinov3SegImageProcessorPil()

    @classmethod
    def _setup_tokenizer(cls):
        return make_tokenizer()

    # The next two are the common tests with the length of a prompt read from (C, P, L) instead of (B, L).

    def _test_modality_processor_defaults_preserved_by_modality_kwargs(self, modality):
        self.maybe_skip_typed_test_for_modality(modality, self.processor_class.get_attributes())
        components = {
            "image_processor": self.get_component("image_processor", do_rescale=True, rescale_factor=-1.0),
            "tokenizer": self.get_component("tokenizer", max_length=117, padding="max_length"),
        }
        self._check_prompt_length_and_scale(components, modality, return_tensors="pt")

    def _test_kwargs_overrides_default_modality_processor_kwargs(self, modality):
        self.maybe_skip_typed_test_for_modality(modality, self.processor_class.get_attributes())
        components = {
            "image_processor": self.get_component("image_processor"),
            "tokenizer": self.get_component("tokenizer", padding=False),
        }
        options = {"max_length": 117, "padding": "max_length", "do_rescale": True, "rescale_factor": -1.0}
        self._check_prompt_length_and_scale(components, modality, return_tensors="pt", **options)

    def _check_prompt_length_and_scale(self, components: dict[str, Any], modality: str, **options: Any) -> None:
        text, images = self.prepare_text_inputs(modalities=modality), self.prepare_images_inputs()
        inputs = self.processor_class(**components)(text=text, images=images, **options)
        self._check_modality_outputs(inputs, modality)
        self.assertEqual(inputs["input_ids"].shape, (1, 1, 117))
