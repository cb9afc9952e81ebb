"""Lives of training jobs, ended at will; a process of its own, started by tests.

`python lives.py FOLDER LIVES`: LIVES is JSON, a list of `Life` as dictionaries, lived one after the
other. A run is a folder `FOLDER/RUN`; a life with `resume` goes on from its last whole checkpoint.
The ranks of a life are forked from this process, which has only imported things. What a rank saw
goes to `FOLDER/RUN/life-NUMBER-RANK.json`, how it ended to `FOLDER/ends.json`.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.update(TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

import small_corpus as corpus
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from mm1_hf.data import MM1Collator, PackedDataset
from mm1_hf.training.callbacks import survival_callbacks
from mm1_hf.training.checkpoints import last_complete_checkpoint
from mm1_hf.training.trainer import MM1Trainer

SEQUENCES_PER_STEP = 4
STEPS = 5
LIFE_SECONDS = 60


@dataclass
class Life:
    """One life of a job.

    `end` is what happens in `end_step` on rank `end_rank`: `"term"` and `"term_all"` signal the
    process or its whole group (data workers too), `"kill_saving"` kills it in the midst of its
    optimizer's file, `"nan"` makes a loss of it.
    """

    run: str
    trainer: str = "mm1"
    ranks: int = 1
    accumulation: int = 1
    workers: int = 0
    resume: bool = False
    end: str | None = None
    end_step: int = 2
    end_rank: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    decoder: dict[str, Any] = field(default_factory=dict)


class Numbered(torch.utils.data.Dataset):
    """Packs that know their index."""

    def __init__(self, packs: PackedDataset):
        self.packs = packs

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> dict:
        return {**self.packs[index], "index": index}


class Witness(TrainerCallback):
    """Writes down losses, targets and gradients, and ends the life."""

    def __init__(self, life: Life, path: Path, rank: int):
        self.life, self.path, self.step = life, path, 0
        self.is_mine = life.end is not None and rank == life.end_rank
        self.seen: dict[str, Any] = {"logs": {}, "targets": [], "tiles": [], "error": None}

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.step = state.global_step

    def on_pre_optimizer_step(self, args, state, control, *, model, **kwargs) -> None:
        if state.global_step == 0:
            grads = {name: one.grad for name, one in model.named_parameters()}
            torch.save(grads, self.path.with_suffix(".grads"))

    def on_log(self, args, state, control, *, logs, **kwargs) -> None:
        if "loss" in logs:
            self.seen["logs"][state.global_step] = dict(logs)
            self.write()

    def see(self, model, args, inputs, outputs) -> Any:
        """A forward hook."""
        self.seen["targets"].append(int((inputs["labels"][:, 1:] != -100).sum()))
        self.seen["tiles"].append(len(inputs.get("pixel_values", ())))
        if not self.is_mine or self.step != self.life.end_step:
            return None
        if self.life.end == "nan":
            outputs.loss = outputs.loss * float("nan")
        elif self.life.end == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.life.end == "term_all":
            _signal_group_from_outside()
            time.sleep(0.5)  # for workers to die of it
        return outputs

    def write(self) -> None:
        self.path.write_text(json.dumps(self.seen))


def _signal_group_from_outside() -> None:
    """As a scheduler does; data workers obey their parent, which this process is."""
    group = os.getpgid(0)
    if os.fork() == 0:
        os.setpgid(0, 0)
        os.killpg(group, signal.SIGTERM)
        os._exit(0)


def die_while_saving(step: int) -> None:
    """Let the process be killed within the optimizer's file of a checkpoint."""
    save = torch.save

    def save_or_die(thing, path, *args, **kwargs):
        save(thing, path, *args, **kwargs)
        if str(path).endswith(f"checkpoint-{step}/optimizer.pt"):
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save_or_die


def make_trainer(life: Life, folder: Path, witness: Witness) -> Trainer:
    processor = corpus.make_processor()
    dataset = PackedDataset(
        corpus.open_mixture(folder / "corpus"),
        processor,
        num_sequences=STEPS * SEQUENCES_PER_STEP,
        cache_folder=folder / "cache",
        sequence_length=corpus.SEQUENCE_LENGTH,
        max_images=8,
    )
    model = corpus.make_model(processor, **life.decoder)
    model.register_forward_hook(witness.see, with_kwargs=True)
    arguments = TrainingArguments(
        output_dir=str(folder / life.run),
        max_steps=STEPS,
        per_device_train_batch_size=SEQUENCES_PER_STEP // life.ranks // life.accumulation,
        gradient_accumulation_steps=life.accumulation,
        dataloader_num_workers=life.workers,
        learning_rate=1e-2,
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        **{"save_steps": 2, **life.arguments},
    )
    settings: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "train_dataset": Numbered(dataset),
        "data_collator": MM1Collator(
            processor, pad_to="sequence_length", sequence_length=corpus.SEQUENCE_LENGTH
        ),
        "processing_class": processor,
    }
    if life.trainer == "mm1":
        return MM1Trainer(**settings, callbacks=[witness])
    return Trainer(**settings, callbacks=[witness, *survival_callbacks()])


def live(life: Life, folder: Path, number: int, rank: int) -> None:
    """One rank of one life."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()  # its thread does not always start in a forked process
    witness = Witness(life, folder / life.run / f"life-{number}-{rank}.json", rank)
    trainer = make_trainer(life, folder, witness)
    if life.end == "kill_saving":
        die_while_saving(life.end_step)
    resume = last_complete_checkpoint(folder / life.run) if life.resume else None
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except FloatingPointError as error:
        witness.seen["error"] = str(error)
        raise
    finally:
        witness.write()


def fork_ranks(life: Life, folder: Path, number: int) -> list[int]:
    """Live on as many ranks as asked for; their exit codes, by rank."""
    environment = {"WORLD_SIZE": str(life.ranks), "MASTER_ADDR": "127.0.0.1"}
    environment["MASTER_PORT"] = str(_free_port())
    children = []
    for rank in range(life.ranks):
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            if life.ranks > 1:
                os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
            _live_and_leave(life, folder, number, rank)
        children.append(child)
    codes: dict[int, int] = {}
    deadline = time.monotonic() + LIFE_SECONDS
    while len(codes) < len(children) and time.monotonic() < deadline:
        for child in set(children) - set(codes):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    for child in set(children) - set(codes):
        os.kill(child, signal.SIGKILL)
    return [codes.get(child, -999) for child in children]


def _live_and_leave(life: Life, folder: Path, number: int, rank: int) -> None:
    code = 1
    try:
        live(life, folder, number, rank)
        code = 0
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        # Nobody leaves while others still talk: the first rank keeps the group's addresses.
        (folder / life.run / f"done-{number}-{rank}").touch()
        deadline = time.monotonic() + 5
        while len(list((folder / life.run).glob(f"done-{number}-*"))) < life.ranks:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        os._exit(code)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    """Live all lives."""
    folder = Path(sys.argv[1])
    ends = []
    for number, fields in enumerate(json.loads(sys.argv[2])):
        life = Life(**fields)
        (folder / life.run).mkdir(exist_ok=True)
        start = time.perf_counter()
        ends.append(fork_ranks(life, folder, number))
        print(f"{life}: {ends[-1]}, {time.perf_counter() - start:.1f} s", flush=True)
    (folder / "ends.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main()
