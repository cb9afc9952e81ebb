"""What holds for every test: no network, no traces in the user's caches, one thread, one seed."""

import atexit
import os
import shutil
import tempfile

# Read by huggingface_hub and transformers at import, hence before anything else.
_HOME = tempfile.mkdtemp(prefix="mm1-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ.update(
    HF_HOME=_HOME,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    MPLBACKEND="agg",
)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

torch.set_num_threads(1)

# derandomize: a red run is red again. No deadline: two processes share the cores.
settings.register_profile(
    "mm1",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("mm1")


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def make_tokenizer():
    """`make_tokenizer(kind)` makes a new small tokenizer; see `small_tokenizers`."""
    from .small_tokenizers import SmallTokenizers  # imports transformers, which few tests need

    return SmallTokenizers()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs an accelerator"))
