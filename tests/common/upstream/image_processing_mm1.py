"""Our image processor under transformers' own tests.

As `tests/models/mm1/test_image_processing_mm1.py`: the name of the folder is the kind of model they
look up.
"""

import unittest

from transformers.models.auto import image_processing_auto as auto

from mm1_hf import MM1ImageProcessor
from mm1_hf.model.image_processing_mm1 import MM1ImageProcessorPil

from ...test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin
from . import tiny


class MM1ImageProcessingTester(ImageProcessingTester):
    def __init__(self, parent: unittest.TestCase, **kwargs):
        kwargs.setdefault("size", {"height": tiny.SIDE, "width": tiny.SIDE})
        super().__init__(parent, **kwargs)

    def _get_image_processing_classes(self) -> dict[str, type]:
        """Both back ends by their registered names; they compute the same."""
        return {"pil": MM1ImageProcessorPil, "torchvision": MM1ImageProcessor}


class MM1ImageProcessingTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = MM1ImageProcessingTester

    def test_auto_knows_both(self):
        from mm1_hf import MM1Config

        self.assertEqual(
            dict(auto.IMAGE_PROCESSOR_MAPPING[MM1Config]),
            {"pil": MM1ImageProcessorPil, "torchvision": MM1ImageProcessor},
        )

    def test_call_numpy_4_channels(self):
        self.skipTest("RGB only: transparency is laid on white")
