"""What a table of checks is, and all of them.

A table maps each check of one of transformers' test mixins, by its name there, to the test of ours
that makes it, or to the reason why there is nothing to check.
"""

from typing import NamedTuple

from . import generation_checks, model_checks, other_checks
from .reasons import Reason


class Table(NamedTuple):
    """The checks of one mixin.

    Attributes:
        mixin: Its class in transformers' tests.
        file: Where it stands in the source distribution; None if it is not in there.
        prefixes: What the names of its checks begin with.
        checks: Name to one of our tests, `file::test` under `tests/`, or to a reason.
    """

    mixin: str
    file: str | None
    prefixes: tuple[str, ...]
    checks: dict[str, str | Reason]


TABLES = (
    Table("ModelTesterMixin", "test_modeling_common.py", ("test_",), model_checks.CHECKS),
    Table("GenerationTesterMixin", None, ("test_",), generation_checks.CHECKS),
    Table("ProcessorTesterMixin", "test_processing_common.py", ("test_",), other_checks.PROCESSOR),
    Table(
        "ImageProcessingTestMixin",
        "test_image_processing_common.py",
        ("test_",),
        other_checks.IMAGE_PROCESSOR,
    ),
    Table(
        "ConfigTester",
        "test_configuration_common.py",
        ("create_and_test_", "check_"),
        other_checks.CONFIGURATION,
    ),
    Table("PipelineTesterMixin", "test_pipeline_mixin.py", ("test_",), other_checks.PIPELINE),
)
