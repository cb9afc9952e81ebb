"""Recipes by name, and in files: a file says which recipe it starts from, and what differs.

{"base": "mm1-pretrain", "steps": 1000, "batch_size": 32}
"""

import json
import os
from pathlib import Path
from typing import Any

from mm1_hf.training.names import require_known
from mm1_hf.training.recipe import CHANGEABLE, Recipe
from mm1_hf.training.recipes import RECIPES


def load_recipe(name_or_path: str | os.PathLike) -> Recipe:
    """The recipe of a name, or of a JSON file.

    Raises:
        ValueError: If there is neither, the file is no such JSON, or it has a key that recipes do
            not have; names the file and the closest key.
    """
    text = os.fspath(name_or_path)
    if text in RECIPES:
        return RECIPES[text]
    path = Path(text)
    if not path.is_file():
        raise ValueError(
            f"{text!r} is no recipe and no file. Recipes are {', '.join(RECIPES)}; a file is JSON, "
            'such as {"base": "mm1-pretrain", "steps": 1000}.'
        )
    content = read_json_object(path)
    require_known(content, ("base", *CHANGEABLE), where=f"The recipe file {text!r}")
    base = content.pop("base", None)
    if base not in RECIPES:
        raise ValueError(
            f"The recipe file {text!r} has the base {base!r}, but it must start from one of: "
            f"{', '.join(RECIPES)}."
        )
    try:
        return RECIPES[base].change(**content)
    except ValueError as error:
        raise ValueError(f"The recipe file {text!r}: {error}") from error


def save_recipe(recipe: Recipe, path: str | os.PathLike) -> None:
    """Write a recipe as what differs from the one of its name; `load_recipe` gives it back.

    Raises:
        ValueError: If there is no recipe of its name.
    """
    if recipe.name not in RECIPES:
        raise ValueError(
            f"The recipe {recipe.name!r} was not made from one of: {', '.join(RECIPES)}. Start "
            "from one of them with change()."
        )
    base = RECIPES[recipe.name]
    differs = {
        name: getattr(recipe, name)
        for name in CHANGEABLE
        if getattr(recipe, name) != getattr(base, name)
    }
    text = json.dumps({"base": recipe.name, **differs}, indent=2)
    Path(path).write_text(text + "\n", encoding="utf-8")


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: If the file is no JSON, or holds something else; says where.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"The file {str(path)!r} is no JSON: {error}. Correct it.") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"The file {str(path)!r} holds a {type(content).__name__}, but a JSON object, as in "
            '{"key": value}, is expected.'
        )
    return content
