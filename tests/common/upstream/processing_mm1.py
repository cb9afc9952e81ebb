"""Our processor under transformers' own tests, as `tests/models/mm1/test_processing_mm1.py`."""

import unittest

from mm1_hf import MM1Processor

from ...test_processing_common import ProcessorTesterMixin
from . import tiny
from .small_tokenizers import SmallTokenizers


class MM1ProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = MM1Processor
    # The small tokenizer makes more tokens of the same sentence.
    images_text_kwargs_max_length = 217
    images_text_kwargs_override_max_length = 212
    images_unstructured_max_length = 176
    chat_template_max_length = 300

    @classmethod
    def _setup_from_components(cls) -> MM1Processor:
        config = tiny.config(text_config=tiny.text_config(vocab_size=512), image_token_id=None)
        return MM1Processor.from_parts(tokenizer=SmallTokenizers()("byte_level"), config=config)

    @staticmethod
    def prepare_processor_dict() -> dict:
        return {"num_image_tokens": 4}

    def prepare_videos_inputs(self, batch_size: int | None = None) -> None:
        """None: our processor refuses what it cannot take, where others ignore it."""

    def prepare_audio_inputs(self, batch_size: int | None = None) -> None:
        """None, likewise."""

    def test_if_input_has_mismatching_tokens_and_mm_data(self):
        """As theirs, with our words: they name the sample."""
        processor = self.get_processor()
        images = [[image] for image in self.prepare_images_inputs(batch_size=4)]
        text = self.prepare_text_inputs(batch_size=3, modalities=["image"])
        with self.assertRaisesRegex(ValueError, "4 samples, but text has 3"):
            processor(images=images, text=text, return_tensors="pt", padding=True)
