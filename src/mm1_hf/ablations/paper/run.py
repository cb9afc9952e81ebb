"""One cell of the study: from settings and a seed to figures."""

from mm1_hf.ablations.paper.evaluation import evaluate_pretrained, evaluate_tuned
from mm1_hf.ablations.paper.settings import Settings
from mm1_hf.ablations.paper.stages import Shared, finetune
from mm1_hf.ablations.study import Context
from mm1_hf.training.parameters import non_embedding_parameters


def run_cell(settings: Settings, context: Context) -> dict[str, float]:
    """Pre-train and test; with `settings.tuning`, fine-tune as well and test that instead.

    `parameters` counts the decoder's without embeddings, beside what the tests say.
    """
    shared = Shared(settings, seed=context.seed, cache=context.cache)
    model = shared.pretrained()
    figures = {"parameters": float(non_embedding_parameters(model))}
    if settings.tuning is None:
        collator = shared.padded(shared.pretraining_features())
        tested = evaluate_pretrained(model, collator, shared.library, seed=context.seed)
    else:
        finetune(model, settings.tuning, shared)
        collator = shared.padded(shared.tuning_features())
        tested = evaluate_tuned(model, collator, shared.library, seed=context.seed)
    return figures | tested
