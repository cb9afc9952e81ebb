"""The main job: encoder, pre-training, fine-tuning, tests, publication, pictures, table."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import set_seed

from mm1_hf.demo.architecture import compose
from mm1_hf.demo.canvases import LARGE_CELL, Painter
from mm1_hf.demo.digits import DigitSplit, load_split
from mm1_hf.demo.documents import THEMES
from mm1_hf.demo.evaluation import (
    KINDS,
    Answered,
    answer_questions,
    caption_exactness,
    few_shot_accuracy,
    share,
)
from mm1_hf.demo.pictures import draw_answers, draw_losses
from mm1_hf.demo.publication import answer_in_fresh_process, save_questions
from mm1_hf.demo.report import Report
from mm1_hf.demo.stages import (
    ENCODER_SCHEDULE,
    FINETUNING_SCHEDULE,
    PRETRAINING_SCHEDULE,
    Schedule,
    finetune,
    pretrain,
    train_encoder,
)
from mm1_hf.demo.vocabulary import build_tokenizer
from mm1_hf.hub.publish import publish_to_folder
from mm1_hf.model.modeling_mm1 import MM1ForConditionalGeneration
from mm1_hf.model.processing_mm1 import MM1Processor

NUM_THREADS = 2
NUM_VARIANTS = 8  # of each training digit
ENCODER = "1. encoder, contrastive"
PRETRAINING = "2. pre-training"
FINETUNING = "3. fine-tuning"


@dataclass(frozen=True)
class Settings:
    """Sizes of a run; the defaults fit five minutes of two cores (our choice).

    Attributes:
        encoder, pretraining, finetuning: Schedules of the three stages.
        num_questions: Questions of each kind, and captions, in the tests.
        num_shown: Questions of each kind in the picture grid, which the fresh process answers too.
    """

    encoder: Schedule = ENCODER_SCHEDULE
    pretraining: Schedule = PRETRAINING_SCHEDULE
    finetuning: Schedule = FINETUNING_SCHEDULE
    num_questions: int = 400
    num_shown: int = 6


def run_demo(output: Path, *, seed: int = 0, settings: Settings | None = None) -> Report:
    """Train a small MM1 to read handwritten digits, test it on new writers, and publish it.

    Writes `model/`, `questions/`, `metrics.json`, `losses.png` and `answers.png` into `output`.

    Args:
        output: Folder to write into.
        seed: Decides everything that is random.
        settings: Sizes of the stages and of the tests.

    Raises:
        RuntimeError: If the published model does not answer as the trained one did.
    """
    settings = settings or Settings()
    output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(min(NUM_THREADS, torch.get_num_threads()))
    set_seed(seed)
    report = Report(seed=seed)
    digits = load_split()

    model, processor = _pretrain(digits, settings, report)
    with report.stage("   tests: captions, examples in context"):
        _test_pretrained(model, processor, digits, settings, report)
    processor = _finetune(model, processor, digits, settings, report)
    with report.stage("   tests: questions"):
        shown = _test_finetuned(model, processor, digits, settings, report)
    with report.stage("4. publication, read back by a fresh process"):
        _publish(model, processor, shown, output)
    draw_losses(report.losses, output / "losses.png")
    draw_answers(shown, output / "answers.png")
    report.finish()
    report.save(output / "metrics.json")
    _conclude(report, output)
    return report


def _pretrain(
    digits: DigitSplit, settings: Settings, report: Report
) -> tuple[MM1ForConditionalGeneration, MM1Processor]:
    painter = Painter(digits.train, num_variants=NUM_VARIANTS)
    tokenizer = build_tokenizer(painter, seed=report.seed)
    with report.stage(ENCODER):
        encoder = train_encoder(painter, tokenizer, settings.encoder, seed=report.seed)
    model = compose(encoder.model, tokenizer)
    processor = MM1Processor.from_parts(tokenizer=tokenizer, config=model.config)
    with report.stage(PRETRAINING):
        losses = pretrain(model, painter, processor, settings.pretraining, seed=report.seed + 1)
    report.losses |= {ENCODER: encoder.losses, PRETRAINING: losses}
    return model, processor


def _finetune(
    model: MM1ForConditionalGeneration,
    processor: MM1Processor,
    digits: DigitSplit,
    settings: Settings,
    report: Report,
) -> MM1Processor:
    """Fine-tune on pictures of twice the side; returns the processor that tiles them."""
    processor = MM1Processor.from_parts(
        tokenizer=processor.tokenizer, config=model.config, tiling="static"
    )
    painter = Painter(digits.train, cell=LARGE_CELL, num_variants=NUM_VARIANTS)
    with report.stage(FINETUNING):
        report.losses[FINETUNING] = finetune(
            model, painter, processor, settings.finetuning, seed=report.seed + 2
        )
    return processor


def _test_pretrained(
    model: MM1ForConditionalGeneration,
    processor: MM1Processor,
    digits: DigitSplit,
    settings: Settings,
    report: Report,
) -> None:
    known, new = Painter(digits.train), Painter(digits.test)
    seed = report.seed + 100
    report.figures["caption_exact"] = caption_exactness(
        model, processor, new, num_pictures=settings.num_questions, seed=seed
    )
    for theme in THEMES:
        for num_shots in (0, 1, 4):
            report.figures[f"shots_{num_shots}_{theme}"] = few_shot_accuracy(
                model,
                processor,
                shots=known,
                queries=new,
                num_shots=num_shots,
                theme=theme,
                num_questions=settings.num_questions,
                seed=seed + num_shots,
            )


def _test_finetuned(
    model: MM1ForConditionalGeneration,
    processor: MM1Processor,
    digits: DigitSplit,
    settings: Settings,
    report: Report,
) -> list[Answered]:
    """Test every kind of question; returns some answers of every kind, to be shown."""
    new = Painter(digits.test, cell=LARGE_CELL)
    shown: list[Answered] = []
    for number, kind in enumerate(KINDS):
        for suffix, wrong_pictures in (("", False), ("_wrong_picture", True)):
            answered = answer_questions(
                model,
                processor,
                new,
                kind=kind,
                num_questions=settings.num_questions,
                seed=report.seed + 200 + number,
                wrong_pictures=wrong_pictures,
            )
            report.figures[kind + suffix] = share(one.is_right for one in answered)
            if not wrong_pictures:
                shown += answered[: settings.num_shown]
    report.figures["questions"] = sum(report.figures[kind] for kind in KINDS) / len(KINDS)
    return shown


def _publish(
    model: MM1ForConditionalGeneration,
    processor: MM1Processor,
    shown: list[Answered],
    output: Path,
) -> None:
    publish_to_folder(model=model, processor=processor, folder=output / "model")
    questions = save_questions(shown, output / "questions")
    answers = answer_in_fresh_process(output / "model", questions)
    expected = [one.answer for one in shown]
    if answers != expected:
        raise RuntimeError(
            f"The model in {output / 'model'} answers {answers} in a fresh process, but before "
            f"publication it answered {expected}. Saving or loading loses something."
        )


def _conclude(report: Report, output: Path) -> None:
    print(f"\n{report.table()}\n")
    print(
        f"Pictures: {output / 'answers.png'} and {output / 'losses.png'}; all figures: "
        f"{output / 'metrics.json'}."
    )
    print("Ask it yourself:")
    print(
        f"  mm1 generate --model {output / 'model'} --image {output / 'questions' / '00.png'} "
        "--prompt 'Which digit is top left?'"
    )
