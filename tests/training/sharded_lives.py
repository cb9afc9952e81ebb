"""Training and inference on two processes, spread in several ways; started by `test_distributed`.

`python sharded_lives.py FOLDER CASES`: CASES are names of functions of `CASES`, with commas between
them. The ranks of a case are forked from this process, which has only imported things. What a rank
saw goes to `FOLDER/CASE-RANK.json`.
"""

import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import lives
import torch
from transformers import TrainingArguments
from transformers.utils import logging

from mm1_hf import MM1ForConditionalGeneration
from mm1_hf.training.checkpoints import last_complete_checkpoint

LAST_STEP = lives.STEPS
SAVED_STEP = 2
SPARSE = {"num_experts": 4, "moe_every_n_layers": 1}

# What `accelerate launch` makes of a configuration file with FSDP2.
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def pretend_accelerators() -> None:
    """Let accelerate take CPUs for devices that it would shard a model over."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_XPU)
    PartialState.set_device = lambda self: None


def shard_on_cpu() -> None:
    """Make FSDP2 of FSDP2, of which accelerate would quietly make DDP on CPUs."""
    os.environ.update(FSDP2)
    pretend_accelerators()
    torch.distributed.init_process_group("gloo")


def describe(model: torch.nn.Module) -> dict[str, Any]:
    """How the model is spread: wrapped modules, and whose parameters are pieces."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor
    from torch.nn.parallel import DistributedDataParallel

    return {
        "kind": type(model).__name__,
        "is_ddp": isinstance(model, DistributedDataParallel),
        "sharded_modules": [n for n, m in model.named_modules() if isinstance(m, FSDPModule)],
        "whole": [
            name
            for name, one in model.named_parameters()
            if not isinstance(one, DTensor) and not hasattr(one, "ds_id")  # DeepSpeed's pieces
        ],
        "pieces": {
            name: [one.to_local().numel(), one.numel()]
            for name, one in model.named_parameters()
            if isinstance(one, DTensor)
        },
    }


def train(folder: Path, rank: int, *, run: str, resume: bool = False, **changes) -> dict[str, Any]:
    """Train under `MM1Trainer` or the stock `Trainer`; one sequence at a time on each rank."""
    life = lives.Life(run=run, **{"trainer": "stock", "ranks": 2, "accumulation": 2, **changes})
    (folder / run).mkdir(exist_ok=True)
    witness = lives.Witness(life, folder / run / f"seen-{rank}.json", rank)
    witness.on_pre_optimizer_step = lambda *_, **__: None
    trainer = lives.make_trainer(life, folder, witness)
    last = last_complete_checkpoint(folder / run) if resume else None
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    spread = describe(trainer.model_wrapped)
    if trainer.is_fsdp_enabled:
        # With sharded checkpoints, `save_model` alone would write no weights.
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(folder / run / "final"))
    losses = {step: logs["loss"] for step, logs in witness.seen["logs"].items()}
    return {"losses": losses, "tiles": witness.seen["tiles"], **spread}


def alone(folder: Path, rank: int) -> dict[str, Any]:
    """One process, all sequences of a step at once."""
    once = {"ranks": 1, "accumulation": 1, "arguments": {"save_strategy": "no"}}
    return train(folder, rank, run="alone", **once)


def ddp(folder: Path, rank: int) -> dict[str, Any]:
    return train(folder, rank, run="ddp", arguments={"save_strategy": "no"})


def fsdp2(folder: Path, rank: int) -> dict[str, Any]:
    shard_on_cpu()
    return train(folder, rank, run="fsdp2", arguments={"save_steps": SAVED_STEP})


def forget_later_checkpoints(folder: Path, run: str, rank: int) -> None:
    for later in (folder / run).glob("checkpoint-*"):
        if int(later.name.rpartition("-")[2]) > SAVED_STEP:
            later.rename(folder / f"later-{run}-{later.name}") if rank == 0 else None


def fsdp2_resumed(folder: Path, rank: int) -> dict[str, Any]:
    """Go on from the middle."""
    shard_on_cpu()
    forget_later_checkpoints(folder, "fsdp2", rank)
    return train(folder, rank, run="fsdp2", resume=True, arguments={"save_strategy": "no"})


def fsdp2_mm1_trainer(folder: Path, rank: int) -> dict[str, Any]:
    """Our trainer, whose optimizer has groups for each tower."""
    shard_on_cpu()
    arguments = {"save_strategy": "no"}
    return train(folder, rank, run="fsdp2-mm1", trainer="mm1", arguments=arguments)


def alone_sparse(folder: Path, rank: int) -> dict[str, Any]:
    once = {"ranks": 1, "accumulation": 1, "arguments": {"save_strategy": "no"}}
    return train(folder, rank, run="alone-sparse", decoder=SPARSE, **once)


def fsdp2_sparse(folder: Path, rank: int) -> dict[str, Any]:
    """Experts and routers in pieces."""
    shard_on_cpu()
    saving = {"save_steps": SAVED_STEP}
    return train(folder, rank, run="fsdp2-sparse", decoder=SPARSE, arguments=saving)


def fsdp2_sparse_resumed(folder: Path, rank: int) -> dict[str, Any]:
    """Go on from the middle."""
    shard_on_cpu()
    forget_later_checkpoints(folder, "fsdp2-sparse", rank)
    changes = {"decoder": SPARSE, "arguments": {"save_strategy": "no"}}
    return train(folder, rank, run="fsdp2-sparse", resume=True, **changes)


def fsdp2_sparse_mm1_trainer(folder: Path, rank: int) -> dict[str, Any]:
    """Our trainer, which counts the tokens of each expert."""
    shard_on_cpu()
    changes = {"decoder": SPARSE, "arguments": {"save_strategy": "no"}}
    return train(folder, rank, run="fsdp2-sparse-mm1", trainer="mm1", **changes)


def infer(folder: Path, *, run: str, checkpoint: str, **sizes: int) -> dict[str, Any]:
    """Logits, loss, gradients and answer of the batch that the test wrote down; then save."""
    from transformers.distributed import DistributedConfig

    model = MM1ForConditionalGeneration.from_pretrained(
        folder / checkpoint, distributed_config=DistributedConfig(**sizes)
    )
    inputs = torch.load(folder / "inputs.pt")
    labels = inputs.pop("labels")
    spread = describe(model)
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    model.train()
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    gradients = {name: _whole(one.grad) for name, one in model.named_parameters()}
    model.zero_grad()
    words = labels.clamp(min=0, max=50)
    model(input_ids=words, labels=words).loss.backward()
    missing = [name for name, one in model.named_parameters() if one.grad is None]
    answer = model.eval().generate(**inputs, max_new_tokens=3, do_sample=False)
    model.save_pretrained(folder / run)
    torch.save({"logits": logits, "gradients": gradients, "answer": answer}, folder / f"{run}.pt")
    return {"loss": loss.item(), "missing": missing, **spread}


def _whole(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def zero3(folder: Path, rank: int) -> dict[str, Any]:
    """DeepSpeed, with the configuration of the examples."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    pretend_accelerators()
    configuration = Path(__file__).parents[2] / "examples/distributed/deepspeed_zero3.json"

    def arguments(**fields: Any) -> TrainingArguments:
        ours = {"use_cpu": False, "deepspeed": str(configuration)}
        return TrainingArguments(**{**fields, **ours})

    # The lives' own arguments say use_cpu, with which accelerate would not start DeepSpeed.
    lives.TrainingArguments = arguments
    return train(folder, rank, run="zero3", arguments={"save_strategy": "no"})


def native_fsdp(folder: Path, rank: int) -> dict[str, Any]:
    return infer(folder, run="native_fsdp", checkpoint="whole", fsdp_size=2)


def native_fsdp_tied(folder: Path, rank: int) -> dict[str, Any]:
    return infer(folder, run="native_fsdp_tied", checkpoint="tied", fsdp_size=2)


def native_tp(folder: Path, rank: int) -> dict[str, Any]:
    return infer(folder, run="native_tp", checkpoint="whole", tp_size=2)


def native_tp_tied(folder: Path, rank: int) -> dict[str, Any]:
    return infer(folder, run="native_tp_tied", checkpoint="tied", tp_size=2)


def native_fsdp_sparse(folder: Path, rank: int) -> dict[str, Any]:
    return infer(folder, run="native_fsdp_sparse", checkpoint="sparse", fsdp_size=2)


def native_tp_sparse(folder: Path, rank: int) -> dict[str, Any]:
    return infer(folder, run="native_tp_sparse", checkpoint="sparse", tp_size=2)


def native_ep(folder: Path, rank: int) -> dict[str, Any]:
    """Each rank holds half of the experts; both read the same batch."""
    return infer(folder, run="native_ep", checkpoint="sparse", tp_size=2, ep_size=2)


CASES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    one.__name__: one
    for one in (
        alone,
        ddp,
        fsdp2,
        fsdp2_resumed,
        fsdp2_mm1_trainer,
        alone_sparse,
        fsdp2_sparse,
        fsdp2_sparse_resumed,
        fsdp2_sparse_mm1_trainer,
        zero3,
        native_fsdp,
        native_fsdp_tied,
        native_tp,
        native_tp_tied,
        native_fsdp_sparse,
        native_tp_sparse,
        native_ep,
    )
}


def run_rank(case: str, folder: Path, rank: int) -> None:
    """One rank of a case, in a process of its own; leaves it."""
    code = 1
    try:
        torch.set_num_threads(1)
        logging.disable_progress_bar()
        seen = CASES[case](folder, rank)
        (folder / f"{case}-{rank}.json").write_text(json.dumps(seen))
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_case(case: str, folder: Path) -> bool:
    """Fork the ranks and wait for them; whether all ended well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = 1 if case.startswith("alone") else 2
    together = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    together |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            if ranks > 1:
                os.environ.update(together, RANK=str(rank), LOCAL_RANK=str(rank))
            run_rank(case, folder, rank)
        children.append(child)
    return all([os.waitpid(child, 0)[1] == 0 for child in children])


def main() -> None:
    """Run all cases, one after the other."""
    folder = Path(sys.argv[1])
    if "RANK" in os.environ:  # started by torchrun, for what does not bear to be forked
        run_rank(sys.argv[2], folder, int(os.environ["RANK"]))
    ended = {case: run_case(case, folder) for case in sys.argv[2].split(",")}
    failed = [case for case, good in ended.items() if not good]
    sys.exit(f"failed: {failed}" if failed else 0)


if __name__ == "__main__":
    main()
