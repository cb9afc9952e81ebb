"""Puts our classes into a copy of transformers' own tests, which its source distribution carries.

The distribution lacks some modules that its tests import; what is needed of them is written here.
"""

import shutil
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
# Ours under the names transformers gives such files.
OURS = {
    "test_modeling_mm1.py": HERE / "modeling_mm1.py",
    "test_processing_mm1.py": HERE / "processing_mm1.py",
    "test_image_processing_mm1.py": HERE / "image_processing_mm1.py",
    "tiny.py": HERE.parent.parent / "model" / "tiny.py",
    "small_tokenizers.py": HERE.parent.parent / "small_tokenizers.py",
}
STAND_INS = {
    "tests/generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "tests/exporters/test_export.py": "class ExportTesterMixin: pass\n",
    "tests/utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "tests/utils/tiny_model_summary.json": "{}\n",
    "utils/test_module/__init__.py": "",
    "utils/fetch_hub_objects_for_ci.py": (
        "from pathlib import Path\n\n\n"
        "def url_to_local_path(url, *args, **kwargs):\n"
        "    return str(Path(__file__).parent.parent / 'picture.png')\n"
    ),
}


def build_workspace(distribution: Path, *, workspace: Path) -> None:
    """Copy the tests of an unpacked source distribution, complete them and add ours."""
    shutil.copytree(distribution / "tests", workspace / "tests")
    for name, text in STAND_INS.items():
        path = workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():  # a checkout has the real one
            path.write_text(text, encoding="utf-8")
    Image.new("RGB", (64, 48), (200, 30, 90)).save(workspace / "picture.png")
    folder = workspace / "tests" / "models" / "mm1"
    folder.mkdir(parents=True)
    for name, path in OURS.items():
        shutil.copy(path, folder / name)
    for package in (path.parent for path in list((workspace / "tests").rglob("*.py"))):
        (package / "__init__.py").touch()
    (workspace / "tests" / "models" / "__init__.py").touch()
