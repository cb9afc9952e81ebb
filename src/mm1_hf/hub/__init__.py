"""Bringing a model to the Hugging Face Hub, and finding out whether it works for others."""

from mm1_hf.hub.inspection import Problem, inspect_folder
from mm1_hf.hub.publish import Published, publish, publish_to_folder
from mm1_hf.hub.travellers import travelling_files

__all__ = [
    "Problem",
    "Published",
    "inspect_folder",
    "publish",
    "publish_to_folder",
    "travelling_files",
]
