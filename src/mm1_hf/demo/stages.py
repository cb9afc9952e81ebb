"""The three stages of training, each with transformers' stock `Trainer`.

1. `train_encoder`: `CLIPModel` on pictures and captions; its tower becomes an `MM1VisionModel`.
2. `pretrain`: everything unfrozen, on captions, interleaved documents and text.
3. `finetune`: everything unfrozen, on conversations about large canvases.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    CLIPModel,
    PreTrainedTokenizerFast,
    ProgressCallback,
    Trainer,
    TrainingArguments,
)

from mm1_hf.conversion import ConversionOptions, convert_model
from mm1_hf.demo.architecture import FEATURE_LAYER, TILE_SIDE, clip_config
from mm1_hf.demo.canvases import Painter
from mm1_hf.demo.collators import ContrastiveCollator, ConversationCollator, DocumentCollator
from mm1_hf.demo.documents import Conversations, Generated, PretrainingDocuments, caption_document
from mm1_hf.model.image_processing_mm1 import MM1ImageProcessor
from mm1_hf.model.modeling_mm1 import MM1ForConditionalGeneration
from mm1_hf.model.processing_mm1 import MM1Processor
from mm1_hf.model.vision_mm1 import MM1VisionModel
from mm1_hf.training.laws import learning_rate, weight_decay
from mm1_hf.training.parameters import non_embedding_parameters, parameter_groups

# Share of the learning rate that the encoder gets inside the composed model (our choice). At the
# full rate the noise of the first steps wiped out what it had learned.
ENCODER_SHARE_OF_RATE = 0.3


@dataclass(frozen=True)
class Schedule:
    """Length and learning rate of one stage.

    Attributes:
        steps: Optimizer steps.
        batch_size: Examples per step.
        learning_rate: Peak; in pre-training `None` means the paper's law.
        final_share: The learning rate at the end, as a share of the peak.
    """

    steps: int
    batch_size: int
    learning_rate: float | None
    final_share: float


# The rates of the first and the last stage are our choice; MM1's rate of fine-tuning, 1e-5, is for
# a model a thousand times larger.
ENCODER_SCHEDULE = Schedule(400, 128, learning_rate=1.2e-3, final_share=0.0)
PRETRAINING_SCHEDULE = Schedule(600, 64, learning_rate=None, final_share=0.1)
FINETUNING_SCHEDULE = Schedule(320, 16, learning_rate=1e-3, final_share=0.0)

LossCurve = list[tuple[float, float]]


class TrainedEncoder(NamedTuple):
    """The encoder, and the (step, loss) pairs of its training."""

    model: MM1VisionModel
    losses: LossCurve


class ProgressBar(ProgressCallback):
    """A progress bar with the loss beside it, instead of a line for each log."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Show the newest loss."""
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.2f}")


def train_encoder(
    painter: Painter, tokenizer: PreTrainedTokenizerFast, schedule: Schedule, *, seed: int
) -> TrainedEncoder:
    """Train a CLIP model on pictures and captions, and convert its tower."""
    clip = CLIPModel(clip_config(tokenizer))
    losses = train_stage(
        clip,
        _dataset(lambda rng: caption_document(painter, rng), schedule, seed=seed),
        ContrastiveCollator(
            tokenizer, MM1ImageProcessor(size={"height": TILE_SIDE, "width": TILE_SIDE})
        ),
        schedule,
        seed=seed,
    )
    tower = convert_model(clip, options=ConversionOptions(feature_layer=FEATURE_LAYER)).model
    return TrainedEncoder(cast(MM1VisionModel, tower), losses)


def pretrain(
    model: MM1ForConditionalGeneration,
    painter: Painter,
    processor: MM1Processor,
    schedule: Schedule,
    *,
    seed: int,
) -> LossCurve:
    """Pre-train on MM1's mixture of captions, interleaved documents and text."""
    rate = schedule.learning_rate
    if rate is None:
        rate = learning_rate(non_embedding_parameters(model))
    return train_stage(
        model,
        _dataset(PretrainingDocuments(painter), schedule, seed=seed),
        DocumentCollator(processor),
        schedule,
        rate=rate,
        seed=seed,
    )


def finetune(
    model: MM1ForConditionalGeneration,
    painter: Painter,
    processor: MM1Processor,
    schedule: Schedule,
    *,
    seed: int,
) -> LossCurve:
    """Fine-tune on conversations; only the assistant's words are learned."""
    return train_stage(
        model,
        _dataset(Conversations(painter), schedule, seed=seed),
        ConversationCollator(processor),
        schedule,
        seed=seed,
    )


def _dataset(make: Callable, schedule: Schedule, *, seed: int) -> Dataset:
    return Generated(make, length=schedule.steps * schedule.batch_size, seed=seed)


def train_stage(
    model: nn.Module,
    dataset: Dataset,
    collator: Callable,
    schedule: Schedule,
    *,
    rate: float | None = None,
    seed: int,
) -> LossCurve:
    """Run the stock Trainer once over `dataset`, in order; returns the logged losses."""
    rate = rate or schedule.learning_rate
    assert rate is not None
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=schedule.steps,
            per_device_train_batch_size=schedule.batch_size,
            learning_rate=rate,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": schedule.final_share},
            warmup_steps=0.08,
            max_grad_norm=1.0,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            use_cpu=True,
            dataloader_pin_memory=False,
            disable_tqdm=False,
            logging_steps=max(1, schedule.steps // 40),
            save_strategy="no",
            report_to=[],
            seed=seed,
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=dataset,
            data_collator=collator,
            optimizers=(_optimizer(model, rate), None),
        )
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(ProgressBar())
        trainer.train()
    return [(log["step"], log["loss"]) for log in trainer.state.log_history if "loss" in log]


def _optimizer(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """AdamW with MM1's settings; an encoder inside a composed model learns at a lower rate.

    Source: MM1, arXiv 2403.09611, section 3.3. That everything decays is our choice.
    """
    groups = parameter_groups(
        model,
        learning_rate=rate,
        weight_decay=weight_decay(rate),
        rate_scales={"vision_tower": ENCODER_SHARE_OF_RATE},
        decay="all",
    )
    return torch.optim.AdamW(cast(list[dict[str, Any]], groups), lr=rate, betas=(0.9, 0.95))
