"""What pages take for granted: small models, pictures, folders under the names that they use."""

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from mm1_hf import (
    MM1ConnectorConfig,
    MM1ForConditionalGeneration,
    MM1Processor,
    MM1TextConfig,
    MM1VisionConfig,
)
from mm1_hf.data import MM1Collator, PackedDataset
from mm1_hf.evaluation.tasks import get_task
from mm1_hf.training import pretrain

from ..data.small_corpus import open_mixture, write_corpus
from ..evaluation.tasks.published import docvqa_rows, save_parquet, vqav2_rows

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
NUM_QUESTIONS = 6
TOWER, DECODER = "apple/DFN5B-CLIP-ViT-H-14-378", "HuggingFaceTB/SmolLM2-135M"

ROUTER_LOG = {
    "step": 1,
    "router/busiest": 1.2,
    "router/layer_1/busiest": 1.2,
    "router/layer_1/entropy": 0.9,
    "router/layer_1/dropped": 0.0,
}


class Scene:
    """Makes the names and files that a page uses without making them itself.

    A Hub id on a page is a folder of that name here, so that it loads without a network.
    """

    def __init__(self, folder: Path, make_tokenizer: Callable):
        self.folder = folder
        self.make_tokenizer = make_tokenizer
        self.names: dict[str, Callable] = {
            "tokenizer": make_tokenizer,
            "model": self.model,
            "base": self.model,
            "processor": self.processor,
            "folder": lambda: str(self.checkpoint()),
            "torch": lambda: torch,
            "output_dir": lambda: "run",
            "text": lambda: "<image> and <image>",
            "images": lambda: [[picture(1), picture(2)]],
            "image": picture,
            "photo": picture,
            "first": picture,
            "another": lambda: picture(3),
            "your_callbacks": list,
            "MM1ForConditionalGeneration": lambda: MM1ForConditionalGeneration,
            "MM1Processor": lambda: MM1Processor,
            "examples": lambda: [shot(number) for number in range(4)],
            "query": lambda: {"images": picture(9), "question": "How many?"},
            "queries": lambda: [{"images": picture(n), "question": "Which?"} for n in (7, 8)],
            "picture": picture,
            "tower": lambda: MM1VisionConfig(image_size=28, patch_size=7, **SIZES),
            "decoder": lambda: MM1TextConfig(num_key_value_heads=2, **SIZES),
            "arguments": self.arguments,
            "collator": lambda: MM1Collator(self.processor()),
            "trainer": self.trainer,
            "few_examples": lambda: get_task("vqav2").read(vqav2_rows(4)),
            "answers": lambda: ["a"] * NUM_QUESTIONS,
            "tiles": lambda: torch.zeros(3, 3, 28, 28),
            "inputs": lambda: self.processor()(
                text="<image> A photo of", images=picture(), return_tensors="pt"
            ),
            "recipe": pretrain,
            "dataset": self.dataset,
        }
        self.files: dict[str, Callable[[Path], object]] = {
            TOWER: self.clip,
            DECODER: self.llama,
            '"clip"': lambda folder: self.clip(folder / "clip"),
            "photo.jpg": lambda folder: picture().save(folder / "photo.jpg"),
            "second.png": lambda folder: picture(2).save(folder / "second.png"),
            "clip.mp4": write_video,
            "data/vqav2": lambda folder: write_benchmark(folder / "data/vqav2", vqav2_rows),
            "data/docvqa": lambda folder: write_benchmark(folder / "data/docvqa", docvqa_rows),
            "ada/my-mm1": lambda folder: shutil.copytree(self.checkpoint(), folder / "ada/my-mm1"),
        }

    def knows(self, name: str) -> bool:
        return name in self.names

    def make(self, name: str) -> object:
        return self.names[name]()

    def place_files(self, code: str, folder: Path) -> None:
        """Write the files that the code names."""
        for name, write in self.files.items():
            path = folder / name.strip('"')
            if name in code and not path.exists():
                write(path if name in (TOWER, DECODER) else folder)

    def model(self) -> MM1ForConditionalGeneration:
        torch.manual_seed(0)
        tokenizer = self.make_tokenizer()
        return MM1ForConditionalGeneration.from_parts(
            vision=MM1VisionConfig(image_size=28, patch_size=7, **SIZES),
            connector=MM1ConnectorConfig(connector_type="average_pool", num_image_tokens=4),
            text=MM1TextConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **SIZES),
            tokenizer=tokenizer,
        )

    def processor(self) -> MM1Processor:
        return MM1Processor.from_parts(
            tokenizer=self.make_tokenizer(), config=self.model().config, tiling="static"
        )

    def checkpoint(self) -> Path:
        """A folder with a model and its processor."""
        folder = self.folder / "checkpoint"
        if not folder.exists():
            self.model().save_pretrained(folder)
            self.processor().save_pretrained(folder)
        return folder

    def clip(self, folder: Path) -> None:
        vision = {**SIZES, "image_size": 28, "patch_size": 7}
        text = {**SIZES, "vocab_size": 50}
        CLIPModel(CLIPConfig(vision_config=vision, text_config=text)).save_pretrained(folder)

    def llama(self, folder: Path) -> None:
        tokenizer = self.make_tokenizer()
        tokenizer.save_pretrained(folder)
        config = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **SIZES)
        LlamaForCausalLM(config).save_pretrained(folder)

    def dataset(self) -> PackedDataset:
        """Packs of three small sources."""
        folder = self.folder / "corpus"
        if not folder.exists():
            write_corpus(folder)
        return PackedDataset(
            open_mixture(folder),
            self.processor(),
            num_sequences=8,
            cache_folder=self.folder / "cache",
            sequence_length=256,
        )

    def arguments(self) -> TrainingArguments:
        return TrainingArguments(
            "run",
            max_steps=2,
            per_device_train_batch_size=2,
            remove_unused_columns=False,
            use_cpu=True,
            report_to="none",
        )

    def trainer(self) -> Trainer:
        trainer = Trainer(
            self.model(),
            self.arguments(),
            train_dataset=self.dataset(),
            data_collator=MM1Collator(self.processor()),
            processing_class=self.processor(),
        )
        trainer.state.log_history.append(ROUTER_LOG)
        return trainer


def picture(seed: int = 0, *, height: int = 60, width: int = 80) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def shot(seed: int) -> dict:
    return {"images": picture(seed), "question": "How many dots?", "answer": "Three."}


def write_benchmark(folder: Path, rows: Callable[[int], list[dict]]) -> None:
    """Both splits of a benchmark, as parquet files of the Hub's layout."""
    folder.mkdir(parents=True)
    for split in ("train", "val", "validation"):
        save_parquet(folder / f"{split}-00000-of-00001.parquet", rows(NUM_QUESTIONS))


def write_video(folder: Path) -> None:
    """Three seconds, of as many frames as a video of MM1.5 has, and more."""
    import av

    with av.open(str(folder / "clip.mp4"), "w") as output:
        stream = output.add_stream("mpeg4", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            frame = av.VideoFrame.from_image(picture(number, height=48, width=64))
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
