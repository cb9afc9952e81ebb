"""What `MM1Trainer` cannot work without, refused before a run and not after it."""

from typing import Any

from transformers import TrainingArguments


def require_processor(processing_class: Any) -> None:
    """Go on if every checkpoint will hold all that the model is used with.

    Raises:
        ValueError: If there is no processor, or only a part of one.
    """
    missing = [
        part
        for part in ("tokenizer", "image_processor")
        if getattr(processing_class, part, None) is None
    ]
    if missing:
        found = "None" if processing_class is None else f"a {type(processing_class).__name__}"
        raise ValueError(
            f"processing_class is {found}, which has no {' and no '.join(missing)}: checkpoints "
            "would load without tiling and normalisation. Pass the whole MM1Processor."
        )


def require_arguments(args: TrainingArguments) -> None:
    """Go on if packs can be trained on under these arguments.

    Raises:
        ValueError: If they would lose entries of packs, compare logits with the wrong labels, or
            scatter a batch over devices.
    """
    if args.remove_unused_columns:
        raise ValueError(
            "remove_unused_columns is True, which takes from packs what the collator reads. Pass "
            "TrainingArguments(remove_unused_columns=False)."
        )
    if args.label_smoothing_factor:
        raise ValueError(
            f"label_smoothing_factor is {args.label_smoothing_factor}, but Trainer's smoothing "
            "shifts labels only for the classes of transformers' own causal decoders: here each "
            "position would learn to repeat itself. Set it to 0."
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"This process drives {args.n_gpu} GPUs, and DataParallel would cut a batch into rows "
            "without their tiles. Start one process per GPU (torchrun --nproc-per-node "
            f"{args.n_gpu} …), or leave one visible with CUDA_VISIBLE_DEVICES=0."
        )
