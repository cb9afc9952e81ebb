"""The launch lines of the examples name programs, options, files and recipes that exist."""

import argparse
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from mm1_hf import MM1ForConditionalGeneration, MM1TextModel, MM1VisionModel
from mm1_hf.cli import pretrain
from mm1_hf.training.recipe_files import load_recipe

from ..model import tiny

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples/distributed"
SCRIPTS = sorted([*FOLDER.glob("*.sh"), *FOLDER.glob("*.slurm")])
PAGES = [FOLDER / "README.md", ROOT / "docs/guides/scale-out.md"]
PROGRAMS = ("torchrun", "accelerate", "mm1")


def commands_of(path: Path) -> list[list[str]]:
    """Commands of the programs that we launch with, cut into words, variables filled in."""
    text = path.read_text()
    if path.suffix == ".md":
        text = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    text = text.replace("\\\n", " ").replace('"${@:4}"', "").replace('"${@:5}"', "")
    lines = (line.strip() for line in text.splitlines())
    commands = [line for line in lines if line.split(" ")[0] in PROGRAMS]
    filled = (re.sub(r"\$\(\(.*?\)\)|\$\w+", "1", line) for line in commands)
    return [shlex.split(line, comments=True) for line in filled]


COMMANDS = [
    pytest.param(command, id=f"{path.name}-{number}")
    for path in (*PAGES, *SCRIPTS)
    for number, command in enumerate(commands_of(path))
]


def require_accepted_by_mm1(words: list[str]) -> None:
    program, verb, *arguments = words
    assert (program, verb) == ("mm1", "pretrain")
    parser = argparse.ArgumentParser(exit_on_error=False)
    pretrain.add_arguments(parser)
    load_recipe(parser.parse_args(arguments).recipe)


def test_there_are_lines_for_one_gpu_eight_gpus_and_several_nodes():
    lines = [" ".join(words) for words in commands_of(FOLDER / "README.md")]
    assert lines[0].startswith("mm1 pretrain")
    for option in ("--nproc-per-node 8", "--nnodes 4", "--num_machines 4", "fsdp2.yaml", "zero3"):
        assert any(option in line for line in lines), option


@pytest.mark.parametrize("words", COMMANDS)
def test_every_option_of_a_launch_line_exists(words):
    if words[0] == "mm1":
        require_accepted_by_mm1(words)
    elif words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        options = get_args_parser().parse_args(words[1:])
        assert options.no_python
        require_accepted_by_mm1([options.training_script, *options.training_script_args])
    elif words[1] == "launch":
        from accelerate.commands.launch import launch_command_parser

        options = launch_command_parser().parse_args(words[2:])
        assert options.no_python
        assert "zero3.yaml fsdp2.yaml 1.yaml".count(Path(options.config_file).name)
        require_accepted_by_mm1([options.training_script, *options.training_script_args])
    else:
        from accelerate.commands.merge import merge_command_parser

        assert words[1] == "merge-weights"
        merge_command_parser().parse_args(words[2:])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_good_shell_and_may_be_run(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert path.stat().st_mode & 0o111


@pytest.mark.parametrize("path", [FOLDER / "README.md", *SCRIPTS], ids=lambda path: path.name)
def test_every_file_that_is_named_exists(path):
    text = path.read_text().replace("$1", "fsdp2")
    named = re.findall(r"examples/distributed/([\w.]+\w)", text)
    assert all((FOLDER / name).exists() for name in named)
    links = re.findall(r"\]\((\.\./[^)]+)\)", text)
    assert all((FOLDER / link).resolve().exists() for link in links)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_accelerate_reads_every_configuration(path):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    assert load_config_from_file(str(path)).num_processes == 8
    text = yaml.safe_load(path.read_text())
    settings = text.get("fsdp_config", {})
    assert set(settings) <= set(vars(launch_command_parser().parse_args(["mm1"])))
    # Named layers would not fit every composition.
    assert "fsdp_transformer_layer_cls_to_wrap" not in settings
    deepspeed = text.get("deepspeed_config", {}).get("deepspeed_config_file")
    if deepspeed is not None:
        assert json.loads((ROOT / deepspeed).read_text())["zero_optimization"]["stage"] == 3


def test_the_model_names_the_layers_that_the_configurations_leave_out():
    model = MM1ForConditionalGeneration(tiny.config())
    named = set(model._no_split_modules)
    assert named == {"MM1TextLayer", "MM1VisionLayer"}
    for part in (MM1TextModel, MM1VisionModel):
        assert set(part._no_split_modules) <= named
    kinds = {type(module).__name__ for module in model.modules()}
    assert named <= kinds
    foreign = tiny.config(
        vision_config=tiny.vision_configs()["clip"], text_config=tiny.text_configs()["llama"]
    )
    model = MM1ForConditionalGeneration(foreign)
    kinds = {type(module).__name__ for module in model.modules()}
    assert "LlamaDecoderLayer" in model._no_split_modules
    assert set(model._no_split_modules) & kinds >= {"LlamaDecoderLayer", "CLIPEncoderLayer"}
