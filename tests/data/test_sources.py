import json
import os
import pickle
import tarfile
from functools import partial
from io import BytesIO
from pathlib import Path

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from mm1_hf.data.converters import from_obelics, from_text
from mm1_hf.data.documents import DOCUMENT_SCHEMA, Document, DocumentError
from mm1_hf.data.sources import (
    DatasetSource,
    JsonlSource,
    MemorySource,
    ParquetSource,
    Source,
    TarSource,
)

from . import odd_documents as odd

DOCUMENTS = [odd.web(f"text {n} <image>", f"image {n}".encode(), key=f"k{n}") for n in range(23)]


def write_tar(path: Path, files: dict[str, bytes], **options) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    return path


def _parquet(folder: Path) -> ParquetSource:
    table = pa.Table.from_pylist([d.to_row() for d in DOCUMENTS], schema=DOCUMENT_SCHEMA)
    pq.write_table(table.slice(0, 9), folder / "a.parquet", row_group_size=4)
    pq.write_table(table.slice(9), folder / "b.parquet", row_group_size=3)
    return ParquetSource(folder, name="web", open_files=1)


def _tar(folder: Path) -> TarSource:
    for shard, documents in (("a", DOCUMENTS[:9]), ("b", DOCUMENTS[9:])):
        files = {}
        for document in documents:
            record = {"texts": [document.text, None], "images": [None, "0.jpg"]}
            files[f"d/{document.key}.json"] = json.dumps(record).encode()
            files[f"d/{document.key}.0.jpg"] = document.images[0]["bytes"]
        write_tar(folder / f"{shard}.tar", files)
    return TarSource(folder / "*.tar", name="web", open_files=1, converter=_strip_folder)


def _strip_folder(row, *, source, key, images) -> Document:
    record = {**row["json"], "key": row["__key__"].rpartition("/")[2]}
    return from_obelics(record, source=source, images={"0.jpg": row["0.jpg"]})


def _jsonl(folder: Path) -> JsonlSource:
    for shard, documents in (("a", DOCUMENTS[:9]), ("b", DOCUMENTS[9:])):
        lines = [{"key": d.key, "texts": [d.text, None], "n": n} for n, d in enumerate(documents)]
        (folder / f"{shard}.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    return JsonlSource(folder, name="web", open_files=1, converter=_image_of_key)


def _image_of_key(row, *, source, key, images) -> Document:
    content = f"image {row['key'][1:]}".encode()
    return from_obelics({**row, "images": [None, content]}, source=source, key=key)


def _dataset(folder: Path) -> DatasetSource:
    _parquet(folder)
    dataset = datasets.Dataset.from_parquet(
        [str(folder / "a.parquet"), str(folder / "b.parquet")], cache_dir=str(folder / "cache")
    )
    return DatasetSource(dataset, name="web")


def _memory(folder: Path) -> MemorySource:
    return MemorySource(DOCUMENTS, name="web")


KINDS = {
    "parquet": _parquet,
    "tar": _tar,
    "jsonl": _jsonl,
    "dataset": _dataset,
    "memory": _memory,
}


@pytest.fixture(params=KINDS)
def source(request, tmp_path) -> Source:
    return KINDS[request.param](tmp_path)


# Every source.


def test_documents_are_read_by_index_in_any_order(source):
    assert isinstance(source, Source) and source.name == "web" and len(source) == len(DOCUMENTS)
    for index in (22, 0, 9, 8, 9, 21, 3):
        assert source[index] == DOCUMENTS[index]
    assert source[-1] == DOCUMENTS[-1]
    for index in (23, -24):
        with pytest.raises(IndexError, match="'web' has 23 documents"):
            source[index]


def test_pickles_are_small_hold_no_handles_and_read_the_same(source):
    assert source[5] == DOCUMENTS[5]
    content = pickle.dumps(source)
    assert len(content) < 6000
    again = pickle.loads(content)
    assert again.fingerprint == source.fingerprint
    assert [again[i] for i in range(len(again))] == DOCUMENTS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers_read_what_the_parent_reads(source):
    assert source[0] == DOCUMENTS[0]  # the parent holds a file open
    loader = DataLoader(source, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert list(loader) == DOCUMENTS
    assert source[1] == DOCUMENTS[1]


@pytest.mark.parametrize("kind", ["parquet", "tar", "jsonl"])
def test_the_fingerprint_follows_the_files_and_not_their_folder(kind, tmp_path):
    first, second = tmp_path / "one", tmp_path / "two"
    first.mkdir(), second.mkdir()
    source = KINDS[kind](first)
    for path in first.iterdir():
        status = path.stat()
        (second / path.name).write_bytes(path.read_bytes())
        os.utime(second / path.name, ns=(status.st_atime_ns, status.st_mtime_ns))
    pattern = {"parquet": "*.parquet", "tar": "*.tar", "jsonl": "*.jsonl"}[kind]
    options = {"name": "other", "converter": source._converter}
    moved = type(source)(second / pattern, **options)
    assert moved.fingerprint == source.fingerprint
    touched = next(iter(sorted(second.glob(pattern))))
    os.utime(touched, ns=(1, 1))
    assert type(source)(second / pattern, **options).fingerprint != source.fingerprint
    with pytest.raises(ValueError, match="has changed since"):
        moved[0]


def test_the_fingerprint_follows_the_converter_and_its_options(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "other": "b"}\n')

    def custom(row, **_):
        return from_text(row, source="s", key="k")

    def changed(row, **_):
        return from_text({"text": "x"}, source="s", key="k")

    changed.__qualname__ = custom.__qualname__
    converters = [from_text, partial(from_text, text_field="other"), custom, changed]
    prints = [JsonlSource(path, name="s", converter=c).fingerprint for c in converters]
    assert len(set(prints)) == 4
    assert prints[0] == JsonlSource(path, name="t", converter=from_text).fingerprint


def test_a_converter_may_not_bind_what_the_source_passes(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="Give images= to the source"):
        JsonlSource(tmp_path, name="s", converter=partial(from_obelics, images="x"))


@pytest.mark.parametrize("kind", [ParquetSource, TarSource, JsonlSource])
def test_no_files_is_an_error(kind, tmp_path):
    for pattern in (tmp_path, tmp_path / "*.x", "memory://none/*.x"):
        with pytest.raises(ValueError, match="No file is found"):
            kind(pattern, name="s")


def test_a_file_given_twice_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="given twice"):
        JsonlSource([tmp_path, tmp_path / "a.jsonl"], name="s")


def test_remote_files_are_read_by_index(tmp_path):
    _parquet(tmp_path), _tar(tmp_path), _jsonl(tmp_path)
    memory = fsspec.filesystem("memory")
    for path in tmp_path.glob("*.*"):
        memory.pipe_file(f"/remote/{path.name}", path.read_bytes())
    kept = tmp_path / "kept"
    sources = [
        ParquetSource("memory://remote/**/*.parquet", name="web"),
        ParquetSource("memory://remote", name="web", index_folder=kept),
        TarSource("memory://remote", name="web", index_folder=kept, converter=_strip_folder),
        JsonlSource("memory://remote", name="web", index_folder=kept, converter=_image_of_key),
    ]
    for source in sources:
        assert [source[i] for i in range(len(source))] == DOCUMENTS
    with pytest.raises(ValueError, match="index_folder="):
        TarSource("memory://remote", name="web")


# Indices.


def test_an_index_is_made_once_and_again_when_the_file_changes(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n')
    assert len(JsonlSource(path, name="s")) == 1
    (index,) = tmp_path.glob("*.npz")
    before = index.stat().st_mtime_ns
    assert JsonlSource(path, name="s")[0].text == "a"
    assert index.stat().st_mtime_ns == before
    path.write_text('{"text": "b"}\n{"text": "c"}\n')
    assert [d.text for d in map(JsonlSource(path, name="s").__getitem__, (0, 1))] == ["b", "c"]


def test_a_damaged_index_is_made_again(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n')
    JsonlSource(path, name="s")
    (index,) = tmp_path.glob("*.npz")
    for content in (b"", index.read_bytes()[:60], b"PK\x03\x04"):
        index.write_bytes(content)
        assert JsonlSource(path, name="s")[0].text == "a"


def test_indices_of_equal_names_do_not_mix_in_one_folder(tmp_path):
    for name, text in (("x", ["xxx"]), ("y", ["y", ""])):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "a.jsonl"
        path.write_text("".join(json.dumps({"text": t}) + "\n" for t in text).ljust(30))
        os.utime(path, ns=(1, 1))
    source = JsonlSource([tmp_path / "x", tmp_path / "y"], name="s", index_folder=tmp_path / "kept")
    assert [source[i].text for i in range(len(source))] == ["xxx", "y", ""]


@pytest.mark.slow
def test_indices_made_by_several_processes_are_the_same(tmp_path):
    source = _jsonl(tmp_path)
    options = {"name": "web", "converter": _image_of_key, "index_folder": tmp_path / "kept"}
    assert JsonlSource(tmp_path, index_workers=2, **options).fingerprint == source.fingerprint


# Tar shards.


def test_webdataset_names_make_samples(tmp_path):
    files = {
        "./d.x/1.jpg": b"1",
        "./d.x/1.TXT": b"one",
        "__meta__/1.json": b"{}",
        "d.x/.hidden.txt": b"no",
        "README": b"no extension",
        "2.a.jpg": b"2",
        "2.txt": "zwei \u00e4".encode(),
    }
    source = TarSource(write_tar(tmp_path / "a.tar", files), name="s")
    assert [(d.key, d.text) for d in map(source.__getitem__, range(len(source)))] == [
        ("./d.x/1", "one"),
        ("2", "zwei ä"),
    ]


def test_files_of_a_sample_need_not_follow_each_other(tmp_path):
    files = {f"{n}.jpg": bytes([n]) * 100_000 for n in range(3)}
    files |= {f"{n}.txt": f"text {n}".encode() for n in range(3)}
    source = TarSource(write_tar(tmp_path / "a.tar", files), name="s")
    assert len(source) == 3
    assert source[1].text == "text 1" and source[1].images[0]["bytes"] == b"\x01" * 100_000


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_found(form, tmp_path):
    name = "é" * 40 if form == tarfile.USTAR_FORMAT else "文" * 150
    path = write_tar(tmp_path / "a.tar", {f"{name}.txt": b"found"}, format=form)
    source = TarSource(path, name="s")
    assert source[0].key == name and source[0].text == "found"


def test_a_file_twice_in_a_shard_is_an_error(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("1.txt"))
    with pytest.raises(ValueError, match=r"has '1.txt' twice"):
        TarSource(path, name="s")


def test_a_compressed_shard_is_an_error(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("1.txt"))
    with pytest.raises(ValueError, match="must be unpacked first"):
        TarSource(tmp_path / "a.tar", name="s")


def test_a_link_in_a_shard_is_an_error(tmp_path):
    link = tarfile.TarInfo("1.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "2.jpg"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(link)
    with pytest.raises(ValueError, match=r"link or special file '1.jpg'"):
        TarSource(tmp_path / "a.tar", name="s")


def test_a_shard_that_was_cut_short_or_damaged_is_an_error_and_not_a_smaller_shard(tmp_path):
    content = write_tar(
        tmp_path / "a.tar", {f"{n}.txt": b"x" * 2000 for n in range(5)}
    ).read_bytes()
    path = tmp_path / "b.tar"
    path.write_bytes(content[: 2560 + 700])  # within the second file's content
    with pytest.raises(ValueError, match=r"ends within '1.txt'"):
        TarSource(path, name="s")
    path.write_bytes(content[: 2560 + 100])  # within the second file's header
    with pytest.raises(ValueError, match="damaged at byte 2560"):
        TarSource(path, name="s")
    damaged = bytearray(content)
    damaged[2560 + 148 : 2560 + 156] = b"\xff" * 8  # the checksum of the second header
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged at byte 2560"):
        TarSource(path, name="s")


def test_an_unreadable_text_names_the_sample(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"d/1.txt": b"\xff\xfe", "d/2.json": b"{"})
    source = TarSource(path, name="s")
    for index, named in enumerate(("'d/1'.*'txt'", "'d/2'.*'json'")):
        with pytest.raises(DocumentError, match=named):
            source[index]


def test_an_empty_image_stays_an_empty_image(tmp_path):
    source = TarSource(write_tar(tmp_path / "a.tar", {"1.jpg": b"", "1.txt": b""}), name="s")
    assert source[0].images == ({"bytes": b"", "path": "1.jpg"},)


# The others.


def test_images_of_json_lines_lie_beside_the_file_or_where_they_are_said_to(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"file_name": "p/1.jpg", "text": "a"}\n')
    beside = JsonlSource(tmp_path, name="s")[0].images[0]["path"]
    assert beside == str(tmp_path / "p" / "1.jpg")
    elsewhere = JsonlSource(tmp_path, name="s", images="https://host/x/")[0].images[0]["path"]
    assert elsewhere == "https://host/x/p/1.jpg"


def test_rows_of_the_schema_in_json_lines_find_their_images_too(tmp_path):
    row = odd.web("a", {"bytes": None, "path": "1.jpg"}).to_row()
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert JsonlSource(tmp_path, name="s")[0].images[0]["path"] == str(tmp_path / "1.jpg")


def test_a_line_that_is_no_json_names_file_and_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n')
    source = JsonlSource(tmp_path, name="s")
    assert source[0].key == "a.jsonl#0"
    with pytest.raises(DocumentError, match=r"Document 1 of '.*a.jsonl' \(bytes 14 to 24\)"):
        source[1]


def test_a_compressed_file_of_lines_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(ValueError, match="compressed"):
        JsonlSource(tmp_path, name="s")


def test_an_unknown_column_or_a_file_that_is_no_parquet_is_an_error(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    source = ParquetSource(tmp_path / "a.parquet", name="s", columns=["txt"])
    with pytest.raises(ValueError, match="no columns txt, but text"):
        source[0]
    (tmp_path / "b.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"b.parquet' cannot be read as parquet"):
        ParquetSource(tmp_path, name="s")


def test_images_of_a_dataset_stay_encoded_wherever_they_are_nested():
    rows = {"images": [[{"bytes": b"no picture", "path": None}, None]], "texts": [[None, "a"]]}
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "texts": datasets.List(datasets.Value("string")),
        }
    )
    dataset = datasets.Dataset.from_dict(rows, features=features)
    source = DatasetSource(dataset.with_format("numpy"), name="s")
    assert source[0].images[0]["bytes"] == b"no picture" and source[0].text == "a"


def test_the_fingerprint_of_a_dataset_follows_its_rows():
    dataset = datasets.Dataset.from_dict({"text": ["a", "b", "c"]})
    same = datasets.Dataset.from_dict({"text": ["a", "b", "c"]})
    part = dataset.select([2, 0])
    prints = [DatasetSource(d, name="s").fingerprint for d in (dataset, same, part)]
    assert prints[0] == prints[1] != prints[2]
    assert DatasetSource(part, name="s")[0].text == "c"


def test_a_dataset_without_an_index_is_refused_with_the_way_out():
    dataset = datasets.Dataset.from_dict({"text": ["a"]})
    for unsuitable in (dataset.to_iterable_dataset(), datasets.DatasetDict(train=dataset), [1]):
        with pytest.raises(ValueError, match=r"Source 's' is given"):
            DatasetSource(unsuitable, name="s")
