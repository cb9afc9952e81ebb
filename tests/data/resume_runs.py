"""Trains through the stock `Trainer`, killed at will; a process of its own, started by tests.

`python resume_runs.py FOLDER RUNS`: RUNS is JSON, `{run: [phase, …]}`. A phase is one life of a
job: `{"ranks": 2, "workers": 0, "kill_at": 3}`; every phase but a run's first resumes from the last
checkpoint. Ranks are forked from this process, which has only imported things, because importing
takes longer than training. What the model was given goes to `FOLDER/RUN/seen-PHASE-RANK.jsonl`.
"""

import hashlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

os.environ.update(TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
sys.path.insert(0, str(Path(__file__).parent))

import small_corpus as corpus
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from mm1_hf.data import MM1Collator, PackedDataset

STEPS = 8
SEQUENCES_PER_STEP = 4
SAVE_STEPS = 2
PHASE_SECONDS = 60


class Witness(TrainerCallback):
    """Writes what the model is given, and kills the process where it is told to."""

    def __init__(self, path: Path, *, kill_at: int | None):
        self.path, self.kill_at, self.step = path, kill_at, -1

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Remember the step."""
        self.step = state.global_step

    def see(self, model, args, inputs, outputs) -> None:
        """A forward hook."""
        if self.step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        names = ("input_ids", "labels", "position_ids")
        rows = [
            _hash(*(inputs[name][row] for name in names)) for row in range(len(inputs["labels"]))
        ]
        assert "attention_mask" not in inputs
        tiles = [_hash(tile) for tile in inputs.get("pixel_values", ())]
        record = {"step": self.step, "rows": rows, "tiles": tiles, "loss": outputs.loss.item()}
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def train(folder: Path, run: str, phase: int, *, ranks: int, workers: int, kill_at=None) -> None:
    """One rank of one phase."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()  # its thread does not always start in a forked process
    processor = corpus.make_processor()
    dataset = PackedDataset(
        corpus.open_mixture(folder / "corpus"),
        processor,
        num_sequences=STEPS * SEQUENCES_PER_STEP,
        cache_folder=folder / "cache",
        sequence_length=corpus.SEQUENCE_LENGTH,
        max_images=8,
    )
    rank = int(os.environ.get("RANK", 0))
    witness = Witness(folder / run / f"seen-{phase}-{rank}.jsonl", kill_at=kill_at)
    model = corpus.make_model(processor)
    model.register_forward_hook(witness.see, with_kwargs=True)
    arguments = TrainingArguments(
        output_dir=str(folder / run),
        max_steps=STEPS,
        per_device_train_batch_size=SEQUENCES_PER_STEP // ranks,
        save_steps=SAVE_STEPS,
        learning_rate=1e-2,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataloader_num_workers=workers,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=MM1Collator(
            processor, pad_to="sequence_length", sequence_length=corpus.SEQUENCE_LENGTH
        ),
        callbacks=[witness],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder / run))
    # Nobody leaves while others still talk: the first rank keeps the group's addresses.
    (folder / run / f"done-{phase}-{rank}").touch()
    while len(list((folder / run).glob(f"done-{phase}-*"))) < ranks:
        time.sleep(0.01)


def live(folder: Path, run: str, phase: int, settings: dict) -> None:
    """Fork the ranks of one phase and wait; if one is killed, kill the others."""
    ranks = settings["ranks"]
    environment = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    environment["MASTER_PORT"] = str(_free_port())
    children = set()
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            if ranks > 1:
                os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
            _live_and_leave(folder, run, phase, settings)
        children.add(child)
    expected = -signal.SIGKILL if settings.get("kill_at") is not None else 0
    deadline = time.monotonic() + PHASE_SECONDS
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
            continue
        if child == 0:
            for other in children:
                os.kill(other, signal.SIGKILL)
            raise SystemExit(f"Phase {phase} of run {run!r} took over {PHASE_SECONDS} seconds.")
        children.discard(child)
        code = os.waitstatus_to_exitcode(status)
        if code != 0:
            for other in children:
                os.kill(other, signal.SIGKILL)
        if code not in (expected, -signal.SIGKILL):
            raise SystemExit(f"A rank of phase {phase} of run {run!r} ended with {code}.")


def _live_and_leave(folder: Path, run: str, phase: int, settings: dict) -> None:
    code = 1
    try:
        train(folder, run, phase, **settings)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _hash(*tensors: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr((tensor.dtype, tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def main() -> None:
    """Run all phases of all runs."""
    folder = Path(sys.argv[1])
    for run, phases in json.loads(sys.argv[2]).items():
        (folder / run).mkdir()
        for phase, settings in enumerate(phases):
            start = time.perf_counter()
            live(folder, run, phase, settings)
            print(f"{run} {phase}: {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
