"""`mm1 view` writes a page from paths alone, and leaves nothing beside the data."""

import json

import pytest

from mm1_hf.cli import main
from mm1_hf.cli.view import _parse_data as parse_data

from ..data import small_corpus as corpus


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("view")
    corpus.write_corpus(folder / "data", documents=12)
    corpus.make_processor().save_pretrained(folder / "processor")
    return folder


@pytest.fixture
def view(folder, tmp_path, capsys):
    """Runs the verb; gives its status, the page if there is one, and its standard error."""

    def run(*data, **options):
        arguments = ["view", "--data", *map(str, data)]
        defaults = {
            "processor": folder / "processor",
            "packs": "0:2",
            "sequence_length": 96,
            "output": tmp_path / "pages" / "packs.html",
        }
        for name, value in {**defaults, **options}.items():
            arguments += [f"--{name.replace('_', '-')}", str(value)]
        status = main(arguments)
        output = tmp_path / "pages" / "packs.html"
        page = output.read_text(encoding="utf-8") if output.exists() else ""
        return status, page, capsys.readouterr().err

    return run


def test_every_kind_of_file_makes_packs(folder, view):
    data = folder / "data"
    before = sorted(path.name for path in data.iterdir())
    names = ["captions.tar", "pages.jsonl", "texts.parquet"]
    status, page, error = view(
        *(data / name for name in names), packs="0:12", images=data / "pages"
    )
    assert (status, error) == (0, "")
    assert page.count("<section") == 12
    assert all(f'class="source">{name}' in page for name in ("captions", "pages", "texts"))
    assert sorted(path.name for path in data.iterdir()) == before


def test_a_folder_of_one_kind_and_a_saved_dataset_are_sources(folder, view, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.jsonl").write_text(json.dumps({"text": "line of a folder"}) + "\n")
    datasets.Dataset.from_list([{"text": "saved row"}]).save_to_disk(str(tmp_path / "saved"))
    status, page, error = view(tmp_path / "shards", f"kept={tmp_path / 'saved'}", packs="0:4")
    assert (status, error) == (0, "")
    assert 'class="source">shards' in page and 'class="source">kept' in page


def test_weights_and_seed_decide_the_packs(folder, view):
    captions, texts = folder / "data" / "captions.tar", folder / "data" / "texts.parquet"
    pages = {}
    for weight in (1, 9):
        _, page, _ = view(f"c={captions}:{weight}", f"t={texts}:1", packs="0:20")
        pages[weight] = page.count('class="source">c<')
    assert pages[9] > 1.5 * pages[1]
    assert view(captions, seed=1)[1] != view(captions, seed=2)[1] == view(captions, seed=2)[1]


def test_one_pack_may_be_asked_for(folder, view):
    _, page, _ = view(folder / "data" / "captions.tar", packs="3")
    assert page.count("<section") == 1 and 'id="pack-3"' in page


def test_a_kept_cache_gives_the_same_page(folder, view, tmp_path):
    captions = folder / "data" / "captions.tar"
    first = view(captions, cache=tmp_path / "cache")
    assert (tmp_path / "cache" / "lengths").is_dir()
    assert view(captions, cache=tmp_path / "cache") == first == view(captions)


def test_a_damaged_picture_is_shown_as_left_out(view, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(corpus.picture(1)[:400])
    row = {"texts": ["before ", None], "images": [None, "bad.jpg"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    status, page, _ = view(tmp_path / "rows.jsonl", packs="0")
    assert status == 0 and "Left out" in page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b.tar", ("b", "a/b.tar", 1.0)),
        ("web=a/b.tar:0.45", ("web", "a/b.tar", 0.45)),
        ("a/*.tar:3", ("a", "a/*.tar", 3.0)),
        ("hf://datasets/o/n/*.parquet", ("n", "hf://datasets/o/n/*.parquet", 1.0)),
        ("x=s3://b:80/c.tar", ("x", "s3://b:80/c.tar", 1.0)),
    ],
)
def test_names_and_weights_are_read_around_the_path(text, expected):
    assert tuple(parse_data(text)) == expected


def test_a_path_that_exists_is_taken_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b:2").mkdir()
    assert tuple(parse_data("a=b:2")) == ("a=b:2", "a=b:2", 1.0)
    assert tuple(parse_data("n=a=b:2")) == ("n", "a=b:2", 1.0)


def test_wrong_input_is_one_line_that_says_what_to_do(folder, view, tmp_path):
    data = folder / "data"
    cases = [
        ((data,), {}, "one is expected"),
        ((data / "nowhere.tar",), {}, "No file is found"),
        ((data / "pages",), {}, "of 0 of the kinds"),
        ((tmp_path / "x.zip",), {}, "does not end in"),
        ((data / "captions.tar", data / "captions.tar"), {}, "NAME=PATH"),
        ((data / "captions.tar",), {"processor": tmp_path}, "processor_config.json"),
        ((data / "captions.tar",), {"processor": "./nowhere"}, "no folder"),
    ]
    for paths, options, words in cases:
        status, page, error = view(*paths, **options)
        assert (status, page) == (2, "")
        assert words in error and error.count("\n") == 1, error


@pytest.mark.parametrize("packs", ["4:4", "5:2", "x", "1:2:3", "-1"])
def test_packs_that_are_none_are_refused(folder, view, packs):
    with pytest.raises(SystemExit):
        view(folder / "data" / "captions.tar", packs=packs)
