"""The ablation laboratory: a baseline, and named axes along which one field of it changes."""

from mm1_hf.ablations.axis import Axis, Point
from mm1_hf.ablations.cache import StageCache
from mm1_hf.ablations.study import Context, Study

__all__ = ["Axis", "Context", "Point", "StageCache", "Study"]
