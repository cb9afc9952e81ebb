"""Loads a folder as a stranger would, and tells what came of it.

The text of this file is run in a process of its own (`python -c`), with a request and the place of
the answer as arguments; so it stands alone, and where the request says so, `mm1_hf` cannot be
imported. See `clean_process`, which asks.
"""

import json
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any


class _Absent:
    """Makes packages that are installed look as if they were not."""

    def __init__(self, names: list[str]):
        self.names = names

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def main(request_file: str, answer_file: str) -> None:
    """Do what the request says, and write an answer for each thing loaded."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    if request["absent"]:
        finder: Any = _Absent(request["absent"])
        sys.meta_path.insert(0, finder)
    for name in request["imports"]:
        import_module(name)
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if request["threads"]:
        torch.set_num_threads(request["threads"])
    stranger = Stranger(request)
    loaded = {name: stranger.load(name) for name in request["load"]}
    answer = {
        "loaded": loaded,
        "outcome": stranger.attempt(stranger.answer) if request["prompt"] else None,
        "strays": [name for name in request["absent"] if name in sys.modules],
    }
    Path(answer_file).write_text(json.dumps(answer), encoding="utf-8")


class Stranger:
    """Loads through Auto classes, answers with what was loaded."""

    def __init__(self, request: dict[str, Any]):
        self.request = request
        self.kept: dict[str, Any] = {}

    def load(self, name: str) -> dict[str, Any]:
        """Load by the name of an Auto class, or a pipeline by its task."""
        return self.attempt(lambda: {"class": self._load(name)})

    def _load(self, name: str) -> str:
        import transformers

        folder, trust = self.request["folder"], self.request["trust_remote_code"]
        if name.startswith("Auto"):
            made = getattr(transformers, name).from_pretrained(folder, trust_remote_code=trust)
        else:
            pipeline: Any = transformers.pipeline
            made = pipeline(name, model=folder, trust_remote_code=trust, device="cpu")
            self._ask_pipeline(made)
        if name == self.request["model"]:
            self.kept["model"] = made.eval()
        if name in ("AutoProcessor", "AutoTokenizer"):
            self.kept[name] = made
        return type(made).__name__

    def _ask_pipeline(self, pipe: Any) -> None:
        prompt = self.request["prompt"]
        if prompt["pictures"]:
            pipe(text=prompt["text"], images=self._pictures(), max_new_tokens=1)
        else:
            pipe(prompt["text"], max_new_tokens=1)

    def answer(self) -> dict[str, Any]:
        """Inputs, logits and greedy tokens of the request's prompt."""
        import torch
        from safetensors.torch import save_file

        prompt, model = self.request["prompt"], self.kept["model"]
        if prompt["input_ids"] is None:
            reader = self.kept.get("AutoProcessor") or self.kept["AutoTokenizer"]
            pictures = {"images": self._pictures()} if prompt["pictures"] else {}
            inputs = reader(text=prompt["text"], return_tensors="pt", **pictures)
        else:
            ids = torch.tensor([prompt["input_ids"]])
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        tensors = {f"input.{name}": value for name, value in inputs.items()}
        tensors |= answer_tensors(model, inputs, prompt["logits_to_keep"], prompt["new_tokens"])
        save_file(
            {name: value.contiguous() for name, value in tensors.items()}, self.request["tensors"]
        )
        return {}

    def _pictures(self) -> list[Any]:
        from PIL import Image

        return [Image.open(path) for path in self.request["prompt"]["pictures"]]

    @staticmethod
    def attempt(action: Any) -> dict[str, Any]:
        """What the action returns, or its error as `error`, with the trace as `trace`."""
        try:
            return action()
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            return {"error": said, "trace": traceback.format_exc()[-4000:]}


def answer_tensors(model: Any, inputs: Any, logits_to_keep: int, new_tokens: int) -> dict[str, Any]:
    """The last logits and the greedy continuation of a model."""
    import torch

    floats = {
        name: value.to(model.dtype) if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    with torch.no_grad():
        logits = model(**floats, logits_to_keep=logits_to_keep).logits
        tokens = model.generate(**floats, max_new_tokens=new_tokens, do_sample=False, num_beams=1)
    return {"logits": logits.float(), "tokens": tokens}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
