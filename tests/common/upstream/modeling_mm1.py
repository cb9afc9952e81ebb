"""Our models under transformers' own model tests, as `tests/models/mm1/test_modeling_mm1.py`.

Not collected here: `test_upstream.py` copies this file into an unpacked source distribution of
transformers, whose names and types these classes follow.
"""

import copy
import unittest
from collections.abc import Callable
from typing import ClassVar

import torch
import transformers.models.auto.modeling_auto as auto

from mm1_hf import (
    MM1Config,
    MM1ForCausalLM,
    MM1ForConditionalGeneration,
    MM1Model,
    MM1TextConfig,
    MM1TextModel,
    MM1VisionConfig,
    MM1VisionModel,
)

# Read by transformers' tests when they are imported. Without them labels are never tested.
auto.MODEL_MAPPING_NAMES.update(mm1="MM1Model", mm1_text="MM1TextModel")
auto.MODEL_MAPPING_NAMES.update(mm1_vision="MM1VisionModel")
auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["mm1"] = "MM1ForConditionalGeneration"
auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["mm1_text"] = "MM1ForCausalLM"

from ... import test_modeling_common as common  # noqa: E402
from ...generation.test_utils import GenerationTesterMixin  # noqa: E402
from ...test_configuration_common import ConfigTester  # noqa: E402
from ...test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor  # noqa: E402
from . import tiny  # noqa: E402

SPARSE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_every_n_layers": 2}
# Smaller batches are filled up to seven rows with random ids, placeholders among them.
BATCH, TILES_PER_ROW = 7, 1
# The tests make the vocabulary smaller and clamp the ids.
IMAGE = 3


def _keep_image_std(zero_init: Callable) -> Callable:
    """The tests set every number whose name contains `_std` to almost zero, lists included."""

    def zeroed(config):
        pixels = getattr(config, "image_std", None)
        if pixels is not None:
            config = copy.deepcopy(config)
            config.__dict__.pop("image_std")
        changed = zero_init(config)
        if pixels is not None:
            changed.image_std = pixels
        return changed

    return zeroed


common._config_zero_init = _keep_image_std(common._config_zero_init)


class _Tester:
    """What transformers asks about a model: its configuration and a batch."""

    is_training = True
    batch_size = BATCH
    num_hidden_layers = 2
    hidden_size = tiny.TEXT_SIZES["hidden_size"]
    num_attention_heads = tiny.TEXT_SIZES["num_attention_heads"]

    def __init__(self, parent: unittest.TestCase, *, connector: str, text: dict):
        self.parent = parent
        self.connector = connector
        self.text_config = tiny.text_config(**text)
        self.vision_config = tiny.vision_config()
        self.tokens_per_tile = 16 if connector == "mlp" else 4
        self.seq_length = 7 + TILES_PER_ROW * self.tokens_per_tile

    def text_ids(self) -> torch.Tensor:
        """Neither special nor a placeholder."""
        return ids_tensor([BATCH, 7], tiny.VOCABULARY - IMAGE - 21) + IMAGE + 1


class WholeTester(_Tester):
    image_token_id: int | None = IMAGE

    def get_config(self) -> MM1Config:
        return tiny.config(
            image_token_id=self.image_token_id,
            connector_config=tiny.connector_config(self.connector),
            text_config=self.text_config,
            vision_config=self.vision_config,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[MM1Config, dict]:
        places = torch.full((BATCH, TILES_PER_ROW * self.tokens_per_tile), IMAGE)
        ids = torch.cat([places, self.text_ids()], dim=1)
        pixels = floats_tensor([BATCH * TILES_PER_ROW, 3, tiny.SIDE, tiny.SIDE])
        return self.get_config(), {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": pixels,
        }


class TextTester(_Tester):
    seq_length = 7

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seq_length = 7

    def get_config(self) -> MM1TextConfig:
        return self.text_config

    def prepare_config_and_inputs_for_common(self) -> tuple[MM1TextConfig, dict]:
        ids = self.text_ids()
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class VisionTester(_Tester):
    hidden_size = tiny.VISION_SIZES["hidden_size"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seq_length = 17

    def get_config(self) -> MM1VisionConfig:
        return self.vision_config

    def prepare_config_and_inputs_for_common(self) -> tuple[MM1VisionConfig, dict]:
        return self.get_config(), {"pixel_values": floats_tensor([BATCH, 3, tiny.SIDE, tiny.SIDE])}


class _Common(ModelTesterMixin):
    model_tester_class = WholeTester
    config_class: type = MM1Config
    connector = "c_abstractor"
    text: ClassVar[dict] = {}
    # Otherwise models without a copyright year count as older.
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = self.model_tester_class(self, connector=self.connector, text=self.text)
        sizes = {} if self._is_composite else self.model_tester.get_config().to_diff_dict()
        for name in ("model_type", "transformers_version", "layer_types", "mlp_layer_types"):
            sizes.pop(name, None)
        self.config_tester = ConfigTester(
            self,
            config_class=self.config_class,
            has_text_modality=self.config_class is MM1TextConfig,
            common_properties=[],
            **sizes,
        )

        about_experts = ("test_eager_matches_batched", "test_output_router_logits")
        if not self.text and self._testMethodName.startswith(about_experts):
            self.skipTest("a dense model has no experts")

    def test_config(self):
        self.config_tester.run_common_tests()


class _Whole(_Common, GenerationTesterMixin):
    all_model_classes = (MM1Model, MM1ForConditionalGeneration)
    pipeline_model_mapping: ClassVar[dict] = {}
    additional_model_inputs = ("pixel_values",)
    _is_composite = True

    def setUp(self):
        super().setUp()
        if self._testMethodName.startswith("test_model_rope_scaling_from_config"):
            self.model_tester.image_token_id = None  # its random ids come without tiles


class CAbstractorTest(_Whole, unittest.TestCase):
    pass


class AveragePoolTest(_Whole, unittest.TestCase):
    connector = "average_pool"


class AttentionPoolTest(_Whole, unittest.TestCase):
    connector = "attention_pool"


class MLPTest(_Whole, unittest.TestCase):
    connector = "mlp"


class _Sparse:
    text = SPARSE

    def test_moe_models_record_router_logits(self):
        """As theirs, which looks for experts in the model's own file; ours stand in another."""
        for model_class in self.all_model_classes:
            modules = model_class(self.model_tester.get_config()).modules()
            recorded = [getattr(module, "_can_record_outputs", None) or () for module in modules]
            self.assertTrue(any("router_logits" in names for names in recorded))
            if model_class.can_generate():
                output = model_class.forward.__annotations__["return"]
                self.assertIn("router_logits", output.__dataclass_fields__)

    def test_training_gradient_checkpointing_use_reentrant_true(self):
        self.skipTest("refused: it would cut the router losses off from the routers")


class SparseTest(_Sparse, _Whole, unittest.TestCase):
    pass


class TextTest(_Common, GenerationTesterMixin, unittest.TestCase):
    model_tester_class = TextTester
    config_class = MM1TextConfig
    all_model_classes = (MM1TextModel, MM1ForCausalLM)


class SparseTextTest(_Sparse, TextTest):
    pass


class VisionTest(_Common, unittest.TestCase):
    model_tester_class = VisionTester
    config_class = MM1VisionConfig
    all_model_classes = (MM1VisionModel,)
    test_resize_embeddings = False

    def test_model_get_set_embeddings(self):
        """A vision tower embeds patches: a convolution and not a table."""
        model = MM1VisionModel(self.model_tester.get_config())
        self.assertIsInstance(model.get_input_embeddings(), torch.nn.Conv2d)
        self.assertIsNone(model.get_output_embeddings())
