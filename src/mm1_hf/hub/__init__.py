"""Bringing a model to the Hugging Face Hub, or into a folder laid out like one."""

from mm1_hf.hub.publish import publish_to_folder
from mm1_hf.hub.travellers import travelling_files

__all__ = ["publish_to_folder", "travelling_files"]
