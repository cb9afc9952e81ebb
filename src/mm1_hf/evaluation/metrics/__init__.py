"""How answers are scored: one metric per kind of benchmark, each with its source."""

from mm1_hf.evaluation.metrics.choices import ChoiceAccuracy, direct_choice, mmmu_choice
from mm1_hf.evaluation.metrics.cider import Cider, cider, tokenise, tokenise_ptb
from mm1_hf.evaluation.metrics.figures import MeanMetric
from mm1_hf.evaluation.metrics.mathvista import mathvista
from mm1_hf.evaluation.metrics.mmmu import mmmu, mmmu_open_match
from mm1_hf.evaluation.metrics.short_answers import (
    ANLS,
    EXACT_MATCH,
    RELAXED_ACCURACY,
    anls,
    edit_distance,
    exact_match,
    relaxed_accuracy,
)
from mm1_hf.evaluation.metrics.vqa import (
    VQA_ACCURACY,
    VQA_ACCURACY_EVALAI,
    normalise_answer,
    normalise_answer_evalai,
    vqa_accuracy,
)
from mm1_hf.evaluation.metrics.yes_no import mme, mme_answer, pope, pope_answer

__all__ = [
    "ANLS",
    "EXACT_MATCH",
    "RELAXED_ACCURACY",
    "VQA_ACCURACY",
    "VQA_ACCURACY_EVALAI",
    "ChoiceAccuracy",
    "Cider",
    "MeanMetric",
    "anls",
    "cider",
    "direct_choice",
    "edit_distance",
    "exact_match",
    "mathvista",
    "mme",
    "mme_answer",
    "mmmu",
    "mmmu_choice",
    "mmmu_open_match",
    "normalise_answer",
    "normalise_answer_evalai",
    "pope",
    "pope_answer",
    "relaxed_accuracy",
    "tokenise",
    "tokenise_ptb",
    "vqa_accuracy",
]
