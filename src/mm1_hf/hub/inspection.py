"""What must not be published: secrets, paths of one machine, training state, pickles.

A folder is read file by file; weights in safetensors hold numbers only and are passed over.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Tokens and keys that services hand out, by their published prefixes.
_SECRETS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{50,})",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "an AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a Google key": r"\bAIza[A-Za-z0-9_-]{35}",
    "an API key": r"\bsk-(?:[a-z]+-)*[A-Za-z0-9_]{32,}",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{20,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password in a URL": r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"']+:[^\s/:@\"']+@",
}
_SECRET = re.compile("|".join(f"(?P<s{i}>{one})" for i, one in enumerate(_SECRETS.values())))
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:api_?key|secret|password|passwd|access_token|auth_token|hf_token|hub_token)$", re.I
)

# At least two names, so that "/answer" and "</s>" are no paths.
_LOCAL_PATH = re.compile(
    r"(?:file://)?(?:/|~/|\\\\|[A-Za-z]:[\\/])(?!/)[^\s/\\]+[\\/][^\n]*|~/[^\n]+"
)
# Their strings are pieces of text that anybody may have written.
_VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json")

_TRAINING_FILES = re.compile(
    r"(?:optimizer|scheduler|scaler)(?:_\d+)?\.(?:pt|bin|pth|safetensors)"
    r"|rng_state(?:_\d+)?\.pth|training_args\.(?:bin|json)|trainer_state\.json"
    r"|pytorch_model_fsdp(?:_\d+)?|optimizer_\d+|global_step\d+|checkpoint-\d+|zero_to_fp32\.py"
)
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
_TEXT_LIMIT = 64 * 2**20


class Problem(NamedTuple):
    """Something in a folder that must not be published.

    Attributes:
        file: Its path within the folder.
        found: What it is; a secret is not repeated.
        remedy: What to do.
    """

    file: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.found}. {self.remedy}"


def inspect_folder(folder: str | Path) -> list[Problem]:
    """Everything in a folder that must not be published, in the order of its files.

    Looks for tokens and keys in text files, for entries of JSON files that are named like secrets
    or hold absolute paths, for state of a training (optimizer, schedule, random numbers), for
    pickles, which run code when they are loaded, and for symbolic links, which lead elsewhere.
    """
    folder = Path(folder)
    problems: list[Problem] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        problems += _kind_problems(path, name)
        if path.is_file() and path.suffix != ".safetensors":
            problems += _text_problems(path, name)
    return problems


def require_publishable(folder: str | Path) -> None:
    """Go on if nothing in a folder must stay private.

    Raises:
        ValueError: If something must; names each file, what was found, and the remedy.
    """
    problems = inspect_folder(folder)
    if problems:
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise ValueError(f"Nothing was published, because of {len(problems)} problems:\n{listed}")


def is_training_state(name: str) -> bool:
    """Whether a file or folder of this name belongs to a run: optimizer, schedule, checkpoints."""
    return _TRAINING_FILES.fullmatch(name) is not None


def _kind_problems(path: Path, name: str) -> Iterator[Problem]:
    if path.is_symlink():
        yield Problem(name, "a symbolic link", "Put the file itself there.")
    if is_training_state(path.name):
        yield Problem(
            name,
            "state of a training, which readers cannot use and which may name your machines",
            "Keep it with the run: publish model and processor only.",
        )
    elif path.is_file() and (path.suffix in _PICKLE_SUFFIXES or _looks_pickled(path)):
        yield Problem(
            name,
            "a pickle, or a file that may hold one: loading it can run any code",
            "Save tensors as safetensors (model.save_pretrained does) and other data as JSON.",
        )


def _looks_pickled(path: Path) -> bool:
    """Whether a file begins and ends as pickles of protocol 2 or later do, whatever its name."""
    if path.stat().st_size < 4:
        return False
    with path.open("rb") as stream:
        begin = stream.read(2)
        stream.seek(-1, 2)
        return begin[0] == 0x80 and 2 <= begin[1] <= 5 and stream.read(1) == b"."


def _text_problems(path: Path, name: str) -> Iterator[Problem]:
    if path.stat().st_size > _TEXT_LIMIT:
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    for number, line in enumerate(text.splitlines(), start=1):
        for match in _SECRET.finditer(line):
            kind = list(_SECRETS)[int((match.lastgroup or "s0")[1:])]
            yield Problem(
                f"{name}:{number}",
                f"{kind}, which begins with {match.group()[:6]!r}",
                "Remove it, and revoke it where it was issued: it may have been seen already.",
            )
    if path.suffix == ".json" and path.name not in _VOCABULARIES:
        yield from _entry_problems(text, name)


def _entry_problems(text: str, name: str) -> Iterator[Problem]:
    try:
        content = json.loads(text)
    except ValueError as error:
        yield Problem(name, f"no JSON ({error})", "Write the file again.")
        return
    for where, key, value in _strings(content, ""):
        if _SECRET_NAME.search(key) and value:
            yield Problem(name, f"{where} is named like a secret, and is not empty", "Remove it.")
        elif _LOCAL_PATH.fullmatch(value):
            yield Problem(
                name,
                f"{where} is {value!r}, a path of one machine",
                "Remove the entry, or make it relative to the folder or the id of a repository.",
            )


def _strings(content: Any, where: str, key: str = "") -> Iterator[tuple[str, str, str]]:
    """Place, key and value of every string in a JSON document."""
    if isinstance(content, str):
        yield where or "the document", key, content
    elif isinstance(content, dict):
        for name, value in content.items():
            yield from _strings(value, f"{where}.{name}" if where else str(name), str(name))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _strings(value, f"{where}[{index}]", key)
