"""Reading and writing of safetensors, tensor by tensor."""

import json
import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mm1_hf.conversion.checkpoints import FileCheckpoint
from mm1_hf.conversion.renaming import TensorInfo
from mm1_hf.conversion.writing import (
    Entry,
    plan_shards,
    whole_folder,
    write_checkpoint,
    write_file,
    write_tensor,
)

TENSORS = {
    "half": torch.randn(3, 5).to(torch.bfloat16),
    "long": torch.arange(7),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 4),
    "byte": torch.arange(3, dtype=torch.uint8),
    "wide": torch.randn(1_000, 300),
}


def entry(name: str, tensor: torch.Tensor) -> Entry:
    info = TensorInfo(tuple(tensor.shape), tensor.dtype)
    return Entry(name, info, partial(write_tensor, tensor))


def entries() -> list[Entry]:
    return [entry(name, tensor) for name, tensor in TENSORS.items()]


def assert_all(found) -> None:
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_safetensors_reads_what_is_written(tmp_path):
    write_file(tmp_path / "x.safetensors", entries())
    assert_all(load_file(tmp_path / "x.safetensors"))
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_what_safetensors_writes_is_read(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors")
    checkpoint = FileCheckpoint([tmp_path / "x.safetensors"])
    assert_all({name: checkpoint.read(name) for name in checkpoint.tensors})


def test_copied_bytes_are_the_tensor(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors")
    checkpoint = FileCheckpoint([tmp_path / "x.safetensors"])
    write_file(
        tmp_path / "y.safetensors",
        [
            Entry(
                name,
                info,
                partial(checkpoint.copy, name, start=0, length=math.prod(info.shape)),
            )
            for name, info in checkpoint.tensors.items()
        ],
    )
    assert_all(load_file(tmp_path / "y.safetensors"))


def test_shards_and_their_index_hold_every_tensor_once(tmp_path):
    write_checkpoint(tmp_path, entries(), max_shard_bytes=100)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(tmp_path.glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == [file.name for file in files]
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in TENSORS.values())
    found = {}
    for file in files:
        for name, tensor in load_file(file).items():
            assert index["weight_map"][name] == file.name
            found[name] = tensor
    assert_all(found)


@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=20),
    limit=st.integers(1, 100),
)
def test_shards_keep_the_order_and_the_limit(sizes, limit):
    planned = [Entry(str(i), TensorInfo((n,), torch.uint8), print) for i, n in enumerate(sizes)]
    shards = plan_shards(planned, max_shard_bytes=limit)
    assert [entry for shard in shards for entry in shard] == planned
    for shard in shards:
        assert len(shard) == 1 or sum(entry.info.shape[0] for entry in shard) <= limit
    for before, after in pairwise(shards):
        assert sum(entry.info.shape[0] for entry in before) + after[0].info.shape[0] > limit


def test_a_tensor_of_another_size_than_planned_is_an_error(tmp_path):
    wrong = Entry("x", TensorInfo((3,), torch.float32), partial(write_tensor, torch.zeros(2)))
    with pytest.raises(ValueError, match="x took 8 bytes, but 12 were planned"):
        write_file(tmp_path / "x.safetensors", [wrong])


def test_a_folder_appears_only_when_all_went_well(tmp_path):
    target = tmp_path / "deep" / "target"
    with pytest.raises(KeyboardInterrupt), whole_folder(target) as folder:
        (folder / "a").write_text("a")
        raise KeyboardInterrupt
    assert not list((tmp_path / "deep").iterdir())
    with whole_folder(target) as folder:
        (folder / "a").write_text("a")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["target"]


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(ValueError, match="exists already"), whole_folder(tmp_path):
        raise AssertionError("unreachable")
    assert (tmp_path / "a").read_text() == "mine"


def test_a_cut_off_file_is_an_error_before_anything_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    data = path.read_bytes()
    for length in (0, 5, 100, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"x\.safetensors is"):
            FileCheckpoint([path])


def test_a_name_in_two_files_is_an_error(tmp_path):
    for name in ("a", "b"):
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"x stands in a\.safetensors and in b\.safetensors"):
        FileCheckpoint(sorted(tmp_path.iterdir()))


def test_a_quantised_tensor_is_an_error_that_names_it(tmp_path):
    save_file({"x": torch.zeros(4).to(torch.float8_e4m3fn)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x in .* has dtype F8_E4M3"):
        FileCheckpoint([tmp_path / "x.safetensors"])
