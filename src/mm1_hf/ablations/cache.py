"""A cache on disk of what several cells share: each thing is made once, by whoever comes first."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from mm1_hf.ablations.fingerprints import fingerprint, plain

_KEY_FILE = "key.json"


class StageCache:
    """Folders by kind and key.

    Args:
        folder: Where they lie. Processes, also on several machines with a common file system, may
            share it: while one makes a thing, the others that need it wait.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, kind: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder of a thing, made first if it is not there.

        Args:
            kind: What sort of thing it is: the beginning of the folder's name.
            key: Everything that decides what the thing is.
            make: Writes the thing into an empty folder. What it leaves behind when it is
                interrupted is never taken for the whole.

        Raises:
            ValueError: If the key holds what cannot be compared between runs.
        """
        name = f"{kind}-{fingerprint(key)}"
        folder = self.folder / name
        if folder.is_dir():
            return folder
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(os.fspath(self.folder / f"{name}.lock")):
            if not folder.is_dir():
                for left_behind in self.folder.glob(f"{name}.*/"):
                    shutil.rmtree(left_behind, ignore_errors=True)
                unfinished = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=self.folder))
                try:
                    make(unfinished)
                    text = json.dumps(plain(key), indent=2) + "\n"
                    (unfinished / _KEY_FILE).write_text(text, encoding="utf-8")
                    unfinished.rename(folder)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
        return folder
