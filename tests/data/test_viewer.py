"""The page of packs shows what training sees, runs nothing, loads nothing, and can be read."""

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image as Pictures
from tokenizers import decoders

from mm1_hf.data import Document, ErrorPolicy, Image, MemorySource, Mixture, PackedDataset, Text
from mm1_hf.data.collators import IGNORED
from mm1_hf.data.viewer import read_runs, render_page, tile_pictures
from mm1_hf.model.sample_plan_mm1 import MARKER_TOKENS

from . import small_corpus as corpus

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)> & <image> \x00 \u202etxt"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """The elements of a page, and the text of those of one class."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, dict, str]] = []
        self.feed(html)
        assert not self.open, f"elements are left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.texts.append((*self.open[-1], data))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def text_of(self, tag: str, kind: str | None = None) -> list[str]:
        return [
            text for name, attrs, text in self.texts if (name, attrs.get("class")) == (tag, kind)
        ]


@pytest.fixture(scope="module")
def processor():
    processor = corpus.make_processor()
    processor.tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    return processor


def web(*segments: str | bytes, key: str, source: str = "web") -> Document:
    parts = tuple(Text(s) if isinstance(s, str) else Image(s) for s in segments)
    return Document(segments=parts, key=key, source=source, kind="interleaved")


def chat(*turns: tuple[str, str], key: str) -> Document:
    segments = tuple(Text(text, role, n) for n, (role, text) in enumerate(turns))
    return Document(segments=segments, key=key, source="chat", kind="conversation")


def pack(folder, processor, documents, *, name="web", **settings) -> PackedDataset:
    """All documents in as many packs as one pass needs, in one window."""
    arguments = {"num_sequences": 1, "sequence_length": 400, "max_images": 8, **settings}
    mixture = Mixture({MemorySource(documents, name=name): 1})
    return PackedDataset(mixture, processor, cache_folder=folder, **arguments)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, processor):
    documents = [
        web("before ", corpus.picture(1), corpus.picture(2), " after", key="first"),
        web(EVIL, corpus.picture(3), key="<b>second</b>"),
        web("שלום עולם", key="third"),
        web("👩‍👩‍👧‍👦 family " + "x" * 80, key="fourth"),
    ]
    return pack(tmp_path_factory.mktemp("packs"), processor, documents)


@pytest.fixture(scope="module")
def html(dataset):
    return render_page(dataset, [0], title="Packs <of> a test")


def test_every_document_has_a_card_with_source_and_key(dataset, html):
    page = Page(html)
    item = dataset[0]
    assert page.count("article") == len(item["document_keys"]) == 4
    assert page.text_of("code") == item["document_keys"]
    assert page.text_of("span", "source") == item["sources"]


def test_text_of_the_web_stays_text(html):
    page = Page(html)
    tags = {tag for tag, _ in page.elements}
    assert "script" not in tags and "b" in tags
    assert page.count("img") == 3
    names = {name for _, attrs in page.elements for name in attrs}
    assert not any(name.startswith("on") for name in names)
    shown = "".join(page.text_of("mark", "loss"))
    assert EVIL[1:].replace("\x00", "\u2400") in shown
    assert "<b>second</b>" in page.text_of("code")
    assert page.text_of("h1") == ["Packs <of> a test"]


def test_the_page_needs_nothing_but_itself(html):
    page = Page(html)
    policies = [a["content"] for _, a in page.elements if "http-equiv" in a]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    links = [a[n] for _, a in page.elements for n in ("src", "href") if n in a]
    assert links and all(link.startswith("data:image/") for link in links)
    assert "url(" not in html and "http:" not in html and "https:" not in html


def test_marked_is_exactly_what_carries_loss(dataset, html, processor):
    item = dataset[0]
    marked, plain = Page(html).text_of("mark", "loss"), Page(html).text_of("span", "free")
    special = {processor.image_token_id, *processor.tokenizer.all_special_ids}
    with_loss = [
        int(token)
        for token, label in zip(item["input_ids"], item["labels"], strict=True)
        if label != IGNORED and int(token) not in special
    ]
    # A character that begins before the loss and ends in it is shown where it ends.
    expected = processor.tokenizer.decode(with_loss).replace("\ufffd", "")
    found = "".join(marked).replace("\u2400", "\x00")
    assert [c for c in found if c not in "ש👩"] == [c for c in expected if c not in "ש👩"]
    assert "b" in plain and "<" in plain


def test_a_conversation_is_marked_where_the_assistant_speaks(tmp_path, processor):
    turns = (("user", "Which colour?"), ("assistant", "Green."), ("user", "Sure?"))
    page = Page(render_page(pack(tmp_path, processor, [chat(*turns, key="c")]), [0]))
    assert [text.strip() for text in page.text_of("mark", "loss")] == ["Green."]
    assert page.text_of("mark", "chip") == ["</s>"]
    assert "Sure?" in "".join(page.text_of("span", "free"))


def test_counts_are_those_of_the_pack(dataset, html):
    item, text = dataset[0], re.sub(r"<[^>]*>", "", html)
    size, tiles = len(item["input_ids"]), len(item["pixel_values"])
    assert f"{size} of 400 tokens" in text and f"{400 - size} unused slots" in text
    assert f"3 of 8 images planned · {tiles} tiles" in text
    assert f"{int((item['labels'] != IGNORED).sum())} tokens with loss" in text


def test_the_strip_covers_every_used_slot_once(dataset, html):
    bars = [a for tag, a in Page(html).elements if tag == "rect"]
    spans = [(int(a["x"]), int(a["x"]) + int(a["width"])) for a in bars]
    ends = [stop for _, stop in spans]
    assert [start for start, _ in spans] == [0, *ends[:-1]]
    assert ends[-1] == len(dataset[0]["input_ids"])


def test_tiles_are_the_pixels_of_the_pack(dataset, html):
    tiles = dataset[0]["pixel_values"]
    sources = [attrs["src"] for tag, attrs in Page(html).elements if tag == "img"]
    for tile, source in zip(tiles, sources, strict=True):
        content = base64.b64decode(source.partition(",")[2])
        assert np.array_equal(
            np.asarray(Pictures.open(io.BytesIO(content))), tile.transpose(1, 2, 0)
        )


def test_neighbouring_images_are_shown_one_by_one(tmp_path):
    processor = corpus.make_processor(tiling="static")
    documents = [web("a", corpus.picture(1), corpus.picture(2), key="one")]
    dataset = pack(tmp_path, processor, documents)
    assert dataset[0]["tiles_per_image"].tolist() == [5, 5]
    page = Page(render_page(dataset, [0]))
    assert page.text_of("figcaption") == [
        "image 1: 5 tiles, ⟨20 image tokens⟩",
        "image 2: 5 tiles, ⟨20 image tokens⟩",
    ]
    names = [attrs["alt"] for tag, attrs in page.elements if tag == "img"]
    assert names == [f"tile {n} of 5 of image {image}" for image in (1, 2) for n in range(1, 6)]


def test_normalised_tiles_look_as_bytes_do(tmp_path, processor):
    documents = [web("x", corpus.picture(5), key="one")]
    as_bytes = pack(tmp_path, processor, documents)[0]["pixel_values"]
    as_floats = pack(tmp_path, processor, documents, pixels="float")[0]["pixel_values"]
    assert as_floats.dtype == np.float32
    pictures = [tile_pictures(tiles, processor.image_processor) for tiles in (as_bytes, as_floats)]
    assert pictures[0] == pictures[1]


def test_large_tiles_are_jpeg(processor):
    (uri,) = tile_pictures(np.zeros((1, 3, 80, 80), np.uint8), processor.image_processor)
    assert uri.startswith("data:image/jpeg")


def test_what_was_left_out_is_listed(tmp_path, processor):
    broken = corpus.picture(7)[:400]
    documents = [web("a ", broken, " b", key="<i>bad</i>"), web("fine", key="good")]
    policy = ErrorPolicy(mode="skip", budget_per_source=1.0)
    page = Page(render_page(pack(tmp_path, processor, documents, errors=policy), [0]))
    assert any("image 0 of document" in text for text in page.text_of("li"))
    assert page.text_of("code").count("<i>bad</i>") == 2, "in the list and on the card"
    assert page.count("img") == 0 and page.count("article") == 2


def test_a_pack_without_anything_says_so(tmp_path, processor):
    policy = ErrorPolicy(mode="skip", budget_per_source=1.0)
    source = MemorySource([web("gone", key="k")], name="web")
    settings = {"cache_folder": tmp_path, "num_sequences": 1, "sequence_length": 9}
    dataset = PackedDataset(Mixture({source: 1}), processor, errors=policy, **settings)
    dataset._sources = {"web": _Unreadable()}
    page = Page(render_page(dataset, [0]))
    assert page.count("article") == 0 and "Nothing is left of this pack." in page.text_of(
        "p", "note"
    )


class _Unreadable:
    def __getitem__(self, index):
        raise OSError("the disk is gone")


def test_tiles_and_placeholders_must_agree(dataset, tmp_path, processor, monkeypatch):
    monkeypatch.setattr(processor, "num_image_tokens", 5)
    with pytest.raises(ValueError, match="12 image placeholders and 3 tiles"):
        render_page(dataset, [0])


def test_keys_that_utf8_cannot_hold_are_shown(tmp_path, processor):
    page = render_page(pack(tmp_path, processor, [web("x", key="caf\udce9")]), [0])
    assert "caf?" in page.encode().decode()


def test_runs_cover_the_tokens_and_text_joins(processor):
    text = "caf\u00e9 \u05e9 👩 end"
    ids = np.array(processor.tokenizer(text)["input_ids"])
    for first in range(1, len(ids)):
        labels = np.where(np.arange(len(ids)) < first, IGNORED, ids)
        runs = list(read_runs(ids, labels, processor))
        assert [(run.start, run.stop) for run in runs] == [(0, first), (first, len(ids))]
        assert [run.loss for run in runs] == [False, True]
        assert "".join(run.text for run in runs) == text
    assert list(read_runs(ids[:0], ids[:0], processor)) == []


def test_repeated_special_tokens_are_one_run(processor):
    end = processor.tokenizer.eos_token_id
    ids = np.array([end, end, end, processor.image_token_id, 70])
    runs = list(read_runs(ids, ids, processor))
    assert [(run.kind, run.start, run.stop) for run in runs] == [
        ("special", 0, 3),
        ("image", 3, 4),
        ("text", 4, 5),
    ]


@pytest.mark.parametrize("tiling", ["static", "dynamic"])
@pytest.mark.parametrize("markers", ["index", "separators"])
def test_markers_stand_between_the_tiles_of_their_image(tmp_path, tiling, markers):
    processor = corpus.make_processor(tiling=tiling, markers=markers)
    processor.tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    images = [corpus.picture(1), corpus.picture(2)]
    documents = [web("before ", *images, " after", key="first"), web("no image", key="second")]
    dataset = pack(tmp_path, processor, documents)
    html = render_page(dataset, [0])
    page = Page(html)
    item = dataset[0]
    names = [processor.tokenizer.convert_ids_to_tokens(int(n)) for n in item["input_ids"]]
    marked = [name for name in names if name in MARKER_TOKENS[markers]]
    assert page.count("img") == item["tiles_per_image"].sum() == len(item["pixel_values"])
    captions = page.text_of("figcaption")
    assert [text.split(":")[0] for text in captions] == ["image 1", "image 2"]
    tiles = item["tiles_per_image"].tolist()
    for caption, count in zip(captions, tiles, strict=True):
        own = 3 * count if markers == "index" else count - 1
        assert f"{count} tiles, ⟨{4 * count} image tokens and {own} markers⟩" in caption
    shown = "".join(page.text_of("span", "chip"))
    assert all(name in shown for name in marked)
    figures = re.findall(r"<figure>(.*?)</figure>", html, re.S)
    starts_with_marker = [figure.index("<span") < figure.index("<img") for figure in figures]
    assert starts_with_marker == [markers == "index" or tiling == "static"] * 2
    assert html.index("efore ") < html.index("<figure>") < html.rindex("</figure>")


def in_chromium(folder, page, *options) -> tuple[str, str]:
    """The document after the browser has opened it, and what it wrote to its console."""
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"]
    command += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", *options]
    result = subprocess.run([*command, page.as_uri()], capture_output=True, timeout=100, text=True)
    console = [line for line in result.stderr.splitlines() if ":CONSOLE" in line]
    return result.stdout, "\n".join(console)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_opens_the_page_from_disk_without_complaint(html, tmp_path):
    path = tmp_path / "packs.html"
    path.write_text(html, encoding="utf-8")
    document, console = in_chromium(tmp_path, path, "--dump-dom")
    assert console == ""
    page = Page(document)
    assert page.count("article") == 4 and page.count("img") == 3 and page.count("script") == 0


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_the_width_of_a_phone_and_of_a_desk(html, tmp_path, width):
    measure = """<script>onload = () => {
        const root = document.documentElement;
        const cut = [...document.querySelectorAll("article, .text, figure")];
        const broken = [...document.images].filter(image => !image.naturalWidth);
        document.body.innerText = `${root.scrollWidth} of ${root.clientWidth}, cut ${
            cut.filter(box => box.scrollWidth > box.clientWidth).length}, broken ${broken.length}`;
    }</script>"""
    opened = re.sub(r"<meta http-equiv[^>]*>", measure, html)
    (tmp_path / "packs.html").write_text(opened, encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id=f src="packs.html" style="width:{width}px;height:800px;border:0"></iframe>'
        "<script>onload = () => { document.title = f.contentDocument.body.innerText; }</script>"
    )
    # Files may not look into each other without the option.
    options = ("--dump-dom", "--allow-file-access-from-files", "--hide-scrollbars")
    document, _ = in_chromium(tmp_path, frame, *options)
    assert f"<title>{width} of {width}, cut 0, broken 0<" in document
