"""Why a check of transformers has no test of ours."""

from enum import Enum


class Reason(Enum):
    """There is nothing to check, or nothing to check it with."""

    NO_AUDIO = "MM1 takes no sound"
    NO_VIDEO = "MM1 takes no videos; mm1_hf.video makes pictures of them"
    NO_ENCODER_DECODER = "MM1 is decoder-only"
    NO_SUCH_LAYER = "MM1 has no such layer or option"
    NO_TEXT_FEATURES = "MM1 has no text tower"
    NO_FP32_MODULES = "MM1 keeps no module in fp32; the router computes in fp32 by itself"
    NO_RENAMING = "MM1's checkpoints need no renaming; conversions are mm1_hf.conversion"
    NO_TASK = "MM1 has no head for this task"
    NEEDS_GPU = "needs an accelerator; run by the mixin itself where there is one"
    NEEDS_KERNELS = "needs flash attention or the kernels library"
    NEEDS_DEEPSPEED = "needs DeepSpeed"
    ABOUT_TESTS = "about the tests of transformers, not about a model"
