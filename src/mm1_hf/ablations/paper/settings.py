"""What a cell of the small-scale study is made of. All sizes are our choice: two cores, minutes."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Encoder:
    """A ViT, trained contrastively on pictures and captions before everything else.

    Attributes:
        width: Width of a patch.
        layers: Blocks; even, as CLIP's text side gets half as many.
        steps: Optimizer steps of the contrastive stage.
        batch_size: Pictures of a step.
        learning_rate: Peak rate of the contrastive stage.
    """

    width: int = 64
    layers: int = 4
    steps: int = 800
    batch_size: int = 128
    learning_rate: float = 2e-3


@dataclass(frozen=True)
class Decoder:
    """A language model, trained on prose before it sees pictures.

    Attributes:
        width: Width of a token.
        layers: Blocks.
        experts: Experts of every second block, or none.
        text_steps: Optimizer steps on prose alone, before pre-training.
    """

    width: int = 96
    layers: int = 4
    experts: int | None = None
    text_steps: int = 100


@dataclass(frozen=True)
class Shares:
    """Weights of the kinds of documents, by document."""

    caption: float
    interleaved: float
    text: float


@dataclass(frozen=True)
class Tuning:
    """Supervised fine-tuning on questions about pages.

    Attributes:
        tiling: `"none"`: a page becomes one tile, so its digits shrink. `"static"`: an overview and
            four tiles.
        steps: Optimizer steps.
        batch_size: Conversations of a step.
        learning_rate: Peak rate.
    """

    tiling: Literal["none", "static"] = "static"
    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 2e-3


@dataclass(frozen=True)
class Albums:
    """How many pictures there are of each kind.

    Attributes:
        captioned: Pictures of one to four digits, with captions, of the training writers.
        singles: Pictures of one digit, for interleaved documents, of the training writers.
        pages: Large pictures for fine-tuning, of the training writers.
        tested: Questions of each kind in the tests, with a picture of a test writer each.
    """

    captioned: int = 6000
    singles: int = 4000
    pages: int = 2000
    tested: int = 400


@dataclass(frozen=True)
class Settings:
    """One point of the study.

    Attributes:
        image_side: Side of a tile in pixels; a canvas holds 2x2 digits.
        encoder: The encoder, frozen after its own stage.
        connector: Type of the connector.
        num_image_tokens: Visual tokens of a tile.
        decoder: The language model.
        mixture: Weights of captions, interleaved documents and text. Source of 5:5:1: MM1, arXiv
            2403.09611, section 3.2.
        full_captions: Share of captions that name all places in any order: they tell more than
            plain captions do, as MM1's synthetic captions tell more than the web's.
        learning_rate: Peak rate of pre-training; None means the paper's law.
        steps: Optimizer steps of pre-training.
        batch_size: Documents of a step.
        tuning: Fine-tuning after pre-training, or none.
        albums: Numbers of pictures.
    """

    image_side: int = 16
    encoder: Encoder = field(default_factory=Encoder)
    connector: Literal["c_abstractor", "attention_pool", "average_pool", "mlp"] = "c_abstractor"
    num_image_tokens: int = 4
    decoder: Decoder = field(default_factory=Decoder)
    mixture: Shares = Shares(5, 5, 1)
    full_captions: float = 0.4
    learning_rate: float | None = None
    steps: int = 600
    batch_size: int = 32
    tuning: Tuning | None = None
    albums: Albums = field(default_factory=Albums)
