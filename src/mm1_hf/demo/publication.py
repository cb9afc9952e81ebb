"""Publication to a folder, and the proof that a fresh process gets the same answers from it.

Run as a module (`python -m mm1_hf.demo.publication MODEL QUESTIONS`) it is that fresh process.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

import mm1_hf  # noqa: F401 - registers MM1 with the Auto classes of a fresh process
from mm1_hf.demo.evaluation import Answered, chat


def save_questions(answered: Sequence[Answered], folder: Path) -> Path:
    """Save pictures as PNG files, and a JSON file with their questions, truths and answers."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for index, one in enumerate(answered):
        picture = folder / f"{index:02d}.png"
        Image.fromarray(one.canvas.pixels).save(picture)
        entries.append(
            {
                "picture": picture.name,
                "question": one.question.text,
                "truth": one.question.answer,
                "answer": one.answer,
            }
        )
    path = folder / "questions.json"
    path.write_text(json.dumps(entries, indent=2), encoding="utf-8")
    return path


def answer_in_fresh_process(model_folder: Path, questions: Path) -> list[str]:
    """Load the published model in a new Python process and answer the saved questions there."""
    command = [sys.executable, "-m", "mm1_hf.demo.publication", str(model_folder), str(questions)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"The fresh process failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _answer_saved_questions(model_folder: str, questions: Path) -> list[str]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model: Any = AutoModelForImageTextToText.from_pretrained(model_folder)
    processor = AutoProcessor.from_pretrained(model_folder)
    conversations = []
    for entry in json.loads(questions.read_text(encoding="utf-8")):
        content = [
            {"type": "image", "image": str(questions.parent / entry["picture"])},
            {"type": "text", "text": entry["question"]},
        ]
        conversations.append([{"role": "user", "content": content}])
    return chat(model, processor, conversations)


if __name__ == "__main__":
    print(json.dumps(_answer_saved_questions(sys.argv[1], Path(sys.argv[2]))))
