"""The stages of a cell. What cells share, encoder, features, decoder, comes from the cache."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from transformers import CLIPModel, PreTrainedTokenizerFast, set_seed

from mm1_hf.ablations.cache import StageCache
from mm1_hf.ablations.paper.batches import FeatureCollator, PackedCollator
from mm1_hf.ablations.paper.documents import (
    Pretraining,
    conversation,
    split_prose,
    text_document,
)
from mm1_hf.ablations.paper.features import Features, tiles_of, write_features
from mm1_hf.ablations.paper.models import PATCH_SIZE, FeatureReader, compose, text_config
from mm1_hf.ablations.paper.pictures import Library
from mm1_hf.ablations.paper.settings import Encoder, Settings, Tuning
from mm1_hf.conversion import ConversionOptions, convert_model
from mm1_hf.demo.architecture import FEATURE_LAYER, clip_config
from mm1_hf.demo.canvases import Canvas, Painter
from mm1_hf.demo.digits import load_split
from mm1_hf.demo.documents import Generated
from mm1_hf.demo.stages import Schedule, train_stage
from mm1_hf.demo.vocabulary import build_tokenizer
from mm1_hf.model.decoder_mm1 import MM1ForCausalLM
from mm1_hf.model.modeling_mm1 import MM1ForConditionalGeneration
from mm1_hf.model.packed_attention_mm1 import PACKED_SDPA
from mm1_hf.model.vision_mm1 import MM1VisionModel
from mm1_hf.training.freezing import freeze
from mm1_hf.training.laws import learning_rate
from mm1_hf.training.parameters import non_embedding_parameters

PRETRAINING_ALBUMS = ("captioned", "singles")
TUNING_ALBUMS = ("pages",)
_TEXT_BATCH = 32
# Of prose alone: higher than the law's, as these steps are few (our choice).
_TEXT_RATE = 4e-3
_FINAL_SHARE = 0.1  # Source: MM1, arXiv 2403.09611, section 3.3.


class Shared:
    """What cells of one seed share, by the settings that decide it.

    Args:
        settings: Of the cell.
        seed: Of the cell.
        cache: Of the study.
    """

    def __init__(self, settings: Settings, *, seed: int, cache: StageCache):
        self.settings = settings
        self.seed = seed
        self.cache = cache
        self.library = Library(settings.albums, seed=seed)
        folder = cache.get("tokenizer", {}, _make_tokenizer)
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

    def encoder(self) -> MM1VisionModel:
        """The contrastively trained encoder of this size and resolution."""
        return MM1VisionModel.from_pretrained(
            self.cache.get("encoder", self._encoder_key(), self._make_encoder)
        )

    def features(self, albums: Sequence[str], *, tiling: str = "none") -> Features:
        """The encoder's patches of the pictures of albums, and of those for tests beside them."""
        key = {**self._encoder_key(), "of": albums, "tiling": tiling}
        folder = self.cache.get(
            "features", key, lambda folder: self._make_features(folder, albums, tiling)
        )
        return Features(folder)

    def decoder(self) -> MM1ForCausalLM:
        """The decoder, trained on prose."""
        key = {"decoder": self.settings.decoder, "seed": self.seed}
        return MM1ForCausalLM.from_pretrained(self.cache.get("decoder", key, self._make_decoder))

    def pretrained(self) -> MM1ForConditionalGeneration:
        """The model after pre-training on the mixture, whatever fine-tuning follows."""
        key = {"settings": replace(self.settings, tuning=None), "seed": self.seed}
        model = MM1ForConditionalGeneration.from_pretrained(
            self.cache.get("pretrained", key, self._pretrain)
        )
        model.set_attn_implementation({"text_config": PACKED_SDPA})
        return model

    def pretraining_features(self) -> Features:
        """Of what documents are made of."""
        return self.features(PRETRAINING_ALBUMS)

    def tuning_features(self) -> Features:
        """Of what is asked about, in the tiles of the cell's fine-tuning."""
        tuning = self.settings.tuning
        assert tuning is not None
        return self.features(TUNING_ALBUMS, tiling=tuning.tiling)

    def packed(self, features: Features) -> PackedCollator:
        """Batches to train on."""
        return PackedCollator(
            self.tokenizer, features, tokens_per_tile=self.settings.num_image_tokens
        )

    def padded(self, features: Features) -> FeatureCollator:
        """Batches to be tested on, a document in each row."""
        return FeatureCollator(
            self.tokenizer, features, tokens_per_tile=self.settings.num_image_tokens
        )

    def _encoder_key(self) -> dict[str, Any]:
        return {
            "encoder": self.settings.encoder,
            "side": self.settings.image_side,
            "albums": self.settings.albums,
            "seed": self.seed,
        }

    def _make_encoder(self, folder: Path) -> None:
        encoder, side = self.settings.encoder, self.settings.image_side
        set_seed(self.seed)
        clip = CLIPModel(
            clip_config(
                self.tokenizer,
                width=encoder.width,
                layers=encoder.layers,
                tile_side=side,
                patch_size=PATCH_SIZE,
            )
        )
        canvases = self.library["captioned"]
        train_stage(
            clip,
            _dataset(
                lambda rng: int(rng.integers(len(canvases))), _schedule(encoder), seed=self.seed
            ),
            CaptionedCollator(self.tokenizer, canvases, side=side),
            _schedule(encoder),
            seed=self.seed,
        )
        options = ConversionOptions(feature_layer=FEATURE_LAYER)
        convert_model(clip, options=options).model.save_pretrained(folder)

    def _make_features(self, folder: Path, names: Sequence[str], tiling: str) -> None:
        tower = self.encoder()
        for name in names:
            for album in (name, f"{name}_test"):
                path = folder / f"{album}.npy"
                write_features(tower, self.library[album], path, tiling=tiling)

    def _make_decoder(self, folder: Path) -> None:
        decoder = self.settings.decoder
        set_seed(self.seed)
        model = MM1ForCausalLM(text_config(decoder, self.tokenizer))
        model.set_attn_implementation(PACKED_SDPA)
        if decoder.text_steps:
            prose = split_prose().train
            schedule = Schedule(decoder.text_steps, _TEXT_BATCH, _TEXT_RATE, _FINAL_SHARE)
            train_stage(
                model,
                _dataset(lambda rng: text_document(prose, rng), schedule, seed=self.seed),
                TextCollator(self.tokenizer),
                schedule,
                seed=self.seed,
            )
        model.save_pretrained(folder)

    def _pretrain(self, folder: Path) -> None:
        """Encoder frozen, connector new, decoder trained on prose."""
        settings = self.settings
        set_seed(self.seed)
        model = compose(
            settings, vision=self.encoder(), text=self.decoder(), tokenizer=self.tokenizer
        )
        model.set_attn_implementation({"text_config": PACKED_SDPA})
        rate = settings.learning_rate or learning_rate(dense_parameters(model))
        schedule = Schedule(settings.steps, settings.batch_size, rate, _FINAL_SHARE)
        make = Pretraining(self.library, settings.mixture, full_captions=settings.full_captions)
        train_stage(
            FeatureReader(model),
            _dataset(make, schedule, seed=self.seed + 1),
            self.packed(self.pretraining_features()),
            schedule,
            seed=self.seed + 1,
        )
        model.save_pretrained(folder)


class CaptionedCollator:
    """Pictures and captions for CLIP's loss; the pictures are made ready once."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, canvases: Sequence[Canvas], *, side: int
    ):
        self.tokenizer = tokenizer
        self.captions = [canvas.caption + str(tokenizer.eos_token) for canvas in canvases]
        self.pixels = tiles_of(canvases, side=side)[:, 0]

    def __call__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Batch the pictures at these indices."""
        tokens = self.tokenizer(
            [self.captions[index] for index in indices],
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        return {
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "pixel_values": self.pixels[list(indices)],
            "return_loss": True,
        }


class TextCollator(PackedCollator):
    """Documents without pictures, for a decoder alone."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        super().__init__(tokenizer, Features(Path("/nonexistent")), tokens_per_tile=0)

    def __call__(self, documents: Sequence) -> dict[str, Any]:
        """As `PackedCollator`, without features."""
        batch = super().__call__(documents)
        del batch["features"]
        return batch


def finetune(model: MM1ForConditionalGeneration, tuning: Tuning, shared: Shared) -> None:
    """Fine-tune on questions about pages; the encoder stays frozen."""
    pages = shared.library["pages"]
    freeze(model, "vision_tower")

    def make(rng: np.random.Generator):
        index = int(rng.integers(len(pages)))
        return conversation("pages", index, pages[index], rng)

    train_stage(
        FeatureReader(model),
        _dataset(make, _schedule(tuning), seed=shared.seed + 2),
        shared.packed(shared.tuning_features()),
        _schedule(tuning),
        seed=shared.seed + 2,
    )


def dense_parameters(model: MM1ForConditionalGeneration) -> int:
    """The law's N; a sparse decoder takes that of its dense parent, as the paper reports."""
    text = model.config.get_text_config()
    total = non_embedding_parameters(model)
    if text.num_experts is None:
        return total
    experts = [
        parameter.numel()
        for name, parameter in model.model.language_model.named_parameters()
        if ".experts." in name
    ]
    return total - sum(experts) * (text.num_experts - 1) // text.num_experts


def _schedule(stage: Encoder | Tuning) -> Schedule:
    return Schedule(stage.steps, stage.batch_size, stage.learning_rate, final_share=0.0)


def _dataset(make: Callable, schedule: Schedule, *, seed: int) -> Dataset:
    return Generated(make, length=schedule.steps * schedule.batch_size, seed=seed)


def _make_tokenizer(folder: Path) -> None:
    build_tokenizer(Painter(load_split().train), seed=0).save_pretrained(folder)
