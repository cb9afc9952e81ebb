"""Laws of the pack plan: nothing lost, nothing twice, no budget broken, no image cut."""

import pickle
import runpy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_hf.data import best_fit as best_fit_module
from mm1_hf.data.best_fit import (
    best_fit,
    cut_document,
    cut_text,
    fewest_packs,
    paced_fit,
    pack_window,
)
from mm1_hf.data.lengths import DocumentLengths, DocumentRuns
from mm1_hf.data.mixture import UNITS, Mixture
from mm1_hf.data.packing import PackPlan, plan_packs

# A run is its tokens and, for an image, its tiles.
runs = st.tuples(st.integers(1, 60), st.just(0)) | st.tuples(st.integers(0, 60), st.just(1))
documents = st.lists(runs, max_size=12)
sources = st.lists(documents, min_size=1, max_size=40).filter(
    lambda listed: any(tokens for runs in listed for tokens, _ in runs)
)
budgets = st.fixed_dictionaries(
    {"sequence_length": st.integers(4, 120), "max_images": st.integers(0, 5)}
)
policies = st.sampled_from(["split", "truncate", "drop"])


def lengths_of(*listed) -> dict[str, DocumentLengths]:
    return {f"s{n}": DocumentLengths.from_runs(own) for n, own in enumerate(listed)}


def plan_or_none(*args, **kwargs) -> PackPlan | None:
    """None where the laws have nothing to say: no document fits at all."""
    try:
        return plan_packs(*args, **kwargs)
    except ValueError as error:
        assert "none fits" in str(error)
        return None


def pieces_by_document(plan) -> dict[tuple[str, int], list[tuple[int, int]]]:
    found = {}
    for pack in plan:
        for piece in pack.pieces:
            found.setdefault(piece[:2], []).append(piece[2:])
    return {key: sorted(spans) for key, spans in found.items()}


def image_spans(runs) -> list[tuple[int, int]]:
    ends = np.cumsum([tokens for tokens, _ in runs])
    return [(end - t, end) for end, (t, tiles) in zip(ends, runs, strict=True) if tiles and t]


def listing(plan) -> list:
    return [tuple(pack) for pack in plan]


@settings(max_examples=150)
@given(sources, budgets, policies, st.integers(1, 16))
def test_every_document_is_in_one_place_or_counted(source, budgets, policy, window):
    plan = plan_or_none(
        Mixture({"s0": 1}),
        lengths_of(source),
        num_documents=len(source),
        over_budget=policy,
        window=window,
        **budgets,
    )
    if plan is None:
        return
    report = plan.report["s0"]
    placed = pieces_by_document(plan)
    assert len(placed) == report.documents
    assert report.documents + report.dropped + report.unusable == len(source)
    length, max_images = budgets["sequence_length"], budgets["max_images"]
    dropped_images = 0
    for number, runs in enumerate(source):
        total = sum(tokens for tokens, _ in runs)
        spans = placed.get(("s0", number), [])
        covered = sum(stop - start for start, stop in spans)
        assert all(a[1] <= b[0] for a, b in pairwise(spans)), "overlap"
        unplaceable = [
            stop - start
            for start, stop in image_spans(runs)
            if stop - start > length or max_images < 1
        ]
        if policy == "split":
            assert covered == total - sum(unplaceable)
            fits = total <= length and len(image_spans(runs)) <= max_images
            dropped_images += 0 if fits else len(unplaceable)
        elif policy == "drop" and spans:
            assert spans == [(0, total)]
        else:
            assert len(spans) <= 1
    if policy == "split":
        assert report.dropped_images == dropped_images


@settings(max_examples=60)
@given(sources, sources, budgets, policies, st.sampled_from(UNITS), st.integers(1, 30))
def test_no_pack_is_over_a_budget_and_no_image_is_cut(
    first, second, budgets, policy, unit, num_packs
):
    plan = plan_or_none(
        Mixture({"s0": 2, "s1": 1}, unit=unit),
        lengths_of(first, second),
        num_packs=num_packs,
        over_budget=policy,
        window=8,
        **budgets,
    )
    if plan is None:
        return
    assert len(plan) == num_packs
    for pack in plan:
        assert 0 < pack.tokens <= budgets["sequence_length"]
        assert pack.images <= budgets["max_images"]
        images = 0
        for piece in pack.pieces:
            source = first if piece.source == "s0" else second
            for start, stop in image_spans(source[piece.document]):
                inside = piece.start <= start and stop <= piece.stop
                assert inside or stop <= piece.start or piece.stop <= start
                images += inside
        assert pack.images == images
        assert pack.tokens == sum(piece.stop - piece.start for piece in pack.pieces)


@settings(max_examples=30)
@given(sources, sources, st.sampled_from(UNITS), st.integers(0, 40), st.integers(0, 40))
def test_a_longer_plan_begins_with_the_shorter_one(first, second, unit, fewer, more):
    mixture = Mixture({"s0": 3, "s1": 1}, unit=unit, seed=4)
    arguments = {"sequence_length": 64, "max_images": 3, "window": 8}
    short = plan_or_none(mixture, lengths_of(first, second), num_packs=fewer, **arguments)
    long = plan_or_none(mixture, lengths_of(first, second), num_packs=fewer + more, **arguments)
    if short is not None and long is not None:
        assert listing(long)[:fewer] == listing(short)


def synthetic(kind: str, count: int) -> DocumentLengths:
    random = np.random.default_rng(len(kind))
    words = np.clip(random.lognormal(5 if kind == "text" else 3.5, 0.8, count), 2, 9000)
    if kind == "text":
        runs = DocumentRuns(words.astype(int), np.zeros(count, bool), np.zeros(count, int))
        return DocumentLengths.from_arrays(runs, np.ones(count, int))
    per_document = np.ones(count, int) if kind == "caption" else random.integers(1, 6, count)
    is_image = np.tile([True, False], per_document.sum())
    tokens = np.where(is_image, 144, 0)
    tokens[1::2] = np.repeat(words, per_document)
    return DocumentLengths.from_arrays(DocumentRuns(tokens, is_image, is_image), 2 * per_document)


MIX = {"caption": 45, "interleaved": 45, "text": 10}


@pytest.fixture(scope="module")
def mix_lengths():
    return {kind: synthetic(kind, 20_000) for kind in MIX}


@pytest.mark.parametrize("unit", UNITS)
def test_realised_shares_are_within_one_percent_over_ten_thousand_sequences(mix_lengths, unit):
    plan = plan_packs(Mixture(MIX, unit=unit), mix_lengths, num_packs=10_000)
    shares = plan.shares(f"{unit}s")
    for name, weight in MIX.items():
        assert shares[name] * 100 == pytest.approx(weight, rel=0.01), unit


def test_a_sequence_has_one_source_where_sequences_are_mixed(mix_lengths):
    plan = plan_packs(Mixture(MIX), mix_lengths, num_packs=500)
    assert all(len({piece.source for piece in pack.pieces}) == 1 for pack in plan)
    mixed = plan_packs(Mixture(MIX, unit="document"), mix_lengths, num_packs=500)
    assert any(len({piece.source for piece in pack.pieces}) == 3 for pack in mixed)


def test_an_epoch_of_sequences_holds_every_document_once_before_the_next_begins():
    source = [[(7 + n % 13, 0)] for n in range(100)]
    mixture, lengths = Mixture({"s0": 1}), lengths_of(source)
    arguments = {"sequence_length": 40, "window": 16}
    epoch = plan_packs(mixture, lengths, num_documents=100, **arguments)
    three = plan_packs(mixture, lengths, num_documents=300, **arguments)
    size = len(epoch)
    seen = [piece.document for pack in listing(three)[:size] for piece in pack[0]]
    assert sorted(seen) == list(range(100))
    rest = [piece.document for pack in listing(three)[size:] for piece in pack[0]]
    assert sorted(rest) == sorted(2 * list(range(100)))


def load_benchmark(monkeypatch) -> dict:
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    return runpy.run_path(str(folder / "packing.py"))


def test_a_mix_with_an_image_budget_fills_99_percent_of_its_slots(tmp_path, monkeypatch):
    benchmark = load_benchmark(monkeypatch)
    lengths = benchmark["write_lengths"](tmp_path, 20_000)
    mixture = Mixture(benchmark["MIX_A"], unit="document")
    assert plan_packs(mixture, lengths, num_documents=20_000).efficiency > 0.99


@pytest.mark.parametrize("unit", ["token", "sequence"])
def test_packs_are_within_two_percent_of_what_any_packing_needs(tmp_path, unit, monkeypatch):
    benchmark = load_benchmark(monkeypatch)
    lengths = benchmark["write_lengths"](tmp_path, 20_000)
    used, needed = [], []

    def watched(tokens, images, **budgets):
        packs = pack_window(tokens, images, **budgets)
        used.append(max(packs) + 1)
        needed.append(fewest_packs(tokens, images, **budgets))
        return packs

    monkeypatch.setattr("mm1_hf.data.planner.pack_window", watched)
    plan_packs(Mixture(benchmark["MIX_A"], unit=unit), lengths, num_packs=1500)
    assert sum(used) < 1.02 * sum(needed)


def test_short_items_with_images_do_not_come_last(monkeypatch):
    # 40 captions and 40 texts that fit two and two, if not all captions meet.
    tokens, images = [20] * 40 + [30] * 40, [1] * 40 + [0] * 40
    arguments = {"sequence_length": 100, "max_images": 2}
    assert max(pack_window(tokens, images, **arguments)) + 1 == 20
    monkeypatch.setattr(best_fit_module, "_BOTH_SCARCE", (2, 2))
    assert max(pack_window(tokens, images, **arguments)) + 1 == 20
    monkeypatch.setattr(best_fit_module, "_IMAGE_WEIGHTS", (0,))
    assert max(pack_window(tokens, images, **arguments)) + 1 > 20


items = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 4)), min_size=1, max_size=60)


@given(items)
def test_an_item_goes_to_the_fullest_pack_that_has_room(items):
    items.sort(reverse=True)
    tokens, images = zip(*items, strict=True)
    packs = best_fit(tokens, images, sequence_length=50, max_images=4)
    loads: list[list[int]] = []
    for size, count, pack in zip(tokens, images, packs, strict=True):
        room = [n for n, (t, i) in enumerate(loads) if t + size <= 50 and i + count <= 4]
        if room:
            assert loads[pack][0] == max(loads[n][0] for n in room)
            assert pack in room
        else:
            assert pack == len(loads)
            loads.append([0, 0])
        loads[pack][0] += size
        loads[pack][1] += count


@given(items)
def test_paced_packs_hold_every_item_once_and_keep_both_budgets(items):
    tokens, images = zip(*items, strict=True)
    packs = paced_fit(tokens, images, sequence_length=50, max_images=4)
    assert set(packs) == set(range(max(packs) + 1))
    for sizes in (tokens, images):
        loads = np.bincount(packs, weights=sizes)
        assert loads.max() <= (50 if sizes is tokens else 4)


@settings(max_examples=60)
@given(items.filter(lambda items: len(items) <= 9))
def test_no_packing_needs_less_than_the_bound(items):
    tokens, images = zip(*items, strict=True)
    budgets = {"sequence_length": 50, "max_images": 4}

    def fewest(left, packs, limit):
        """Packs of the best packing, by trying all."""
        if not left or len(packs) >= limit:
            return min(len(packs), limit)
        (size, count), *rest = left
        for number, (free, room) in enumerate(packs):
            if size <= free and count <= room:
                changed = [*packs]
                changed[number] = (free - size, room - count)
                limit = fewest(rest, changed, limit)
        return fewest(rest, [*packs, (50 - size, 4 - count)], limit)

    best = fewest(sorted(items, reverse=True), [], len(items))
    assert fewest_packs(tokens, images, **budgets) <= best
    assert best <= max(pack_window(tokens, images, **budgets)) + 1


def test_a_pack_of_captions_only_has_all_its_images():
    tokens, images = [*range(150, 214)], [1] * 64
    packs = pack_window(tokens, images, sequence_length=4096, max_images=16)
    assert np.bincount(packs).tolist() == [16, 16, 16, 16]


# Pages as they are: every image has text behind it, and can share a sequence with some of it.
page_of = st.tuples(
    st.lists(st.integers(2, 90), max_size=1),
    st.lists(st.tuples(st.integers(1, 38), st.integers(1, 90)), max_size=8),
)


@settings(max_examples=300)
@given(page_of, st.integers(1, 4))
def test_every_fragment_has_a_token_to_predict(page, max_images):
    first, pairs = page
    runs = [(tokens, False) for tokens in first]
    runs += [run for image, text in pairs for run in ((image, True), (text, False))]
    is_text = [not is_image for tokens, is_image in runs for _ in range(tokens)]
    cut = cut_document(
        [tokens for tokens, _ in runs],
        [is_image for _, is_image in runs],
        sequence_length=40,
        max_images=max_images,
        over_budget="split",
    )
    assert [start for start, _, _ in cut.fragments[1:]] == [f.stop for f in cut.fragments[:-1]]
    for fragment in cut.fragments:
        # Behind the first token, which nothing in the sequence comes before.
        assert any(is_text[fragment.start + 1 : fragment.stop]), cut.fragments


@given(st.integers(1, 500), st.integers(0, 40), st.integers(4, 40))
def test_parts_of_a_text_fit_and_none_is_a_token_alone(tokens, room, length):
    room = min(room, length)
    parts = cut_text(tokens, room=room, sequence_length=length)
    assert sum(parts) == tokens
    assert all(0 < part <= length for part in parts)
    assert parts[0] <= room or room == 0
    if len(parts) > 1 and room != 1:
        assert parts[-1] >= 2


def test_a_text_one_token_over_the_budget_is_not_cut_before_its_last_token():
    lengths = DocumentLengths.from_runs([[(4097, 0)]])
    plan = plan_packs(Mixture({"s0": 1}), {"s0": lengths}, num_documents=1)
    assert sorted(plan.pack_tokens.tolist()) == [2048, 2049]


def test_images_stay_with_the_text_behind_them():
    def cut(*runs):
        columns = zip(*runs, strict=True)
        made = cut_document(*columns, sequence_length=70, max_images=9, over_budget="split")
        return [fragment[:2] for fragment in made.fragments]

    assert cut((20, False), (30, True), (30, False)) == [(0, 20), (20, 80)]
    assert cut((60, True), (30, False)) == [(0, 70), (70, 90)]


def test_a_document_is_cut_between_runs_before_a_text_is():
    cut = cut_document(
        [30, 30, 30, 30],
        [True, False, True, False],
        sequence_length=70,
        max_images=9,
        over_budget="split",
    )
    assert [fragment[:2] for fragment in cut.fragments] == [(0, 60), (60, 120)]


def test_truncation_keeps_the_beginning_and_whole_images():
    arguments = {"sequence_length": 70, "max_images": 9, "over_budget": "truncate"}
    images = [False, True, True]
    assert cut_document([30, 30, 30], images, **arguments).fragments == [(0, 60, 1)]
    texts = [True, False, False]
    assert cut_document([30, 30, 30], texts, **arguments).fragments == [(0, 70, 1)]


@pytest.mark.parametrize("unit", UNITS)
def test_plans_in_files_and_in_memory_are_equal(mix_lengths, unit, tmp_path):
    mixture = Mixture(MIX, unit=unit, seed=3)
    memory = plan_packs(mixture, mix_lengths, num_packs=700)
    filed = plan_packs(mixture, mix_lengths, num_packs=700, folder=tmp_path / "plan")
    again = plan_packs(mixture, mix_lengths, num_packs=700, folder=tmp_path / "plan")
    carried = pickle.loads(pickle.dumps(filed))
    for plan in (filed, again, carried, pickle.loads(pickle.dumps(memory))):
        assert listing(plan) == listing(memory)
        assert plan.report == memory.report
        assert plan.fingerprint == memory.fingerprint
    assert isinstance(carried.piece_document, np.memmap)
    assert memory[-1] == memory[699]
    with pytest.raises(IndexError, match="700"):
        memory[700]


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"sequence_length": 2048}, {"max_images": 8}, {"window": 64}, {"num_packs": 11}],
)
def test_a_plan_of_other_arguments_is_refused(mix_lengths, tmp_path, change):
    def plan(seed=0, num_packs=10, **kwargs):
        mixture = Mixture(MIX, seed=seed)
        return plan_packs(
            mixture, mix_lengths, num_packs=num_packs, folder=tmp_path / "plan", **kwargs
        )

    plan()
    with pytest.raises(ValueError, match="Choose another folder"):
        plan(**change)


def test_a_failed_plan_leaves_nothing_behind(mix_lengths, tmp_path, monkeypatch):
    monkeypatch.setattr("mm1_hf.data.planner._WINDOWS_AT_ONCE", "broken")
    with pytest.raises(TypeError):
        plan_packs(Mixture(MIX), mix_lengths, num_packs=10, folder=tmp_path / "plan")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_packs": None}, "exactly one"),
        ({"num_documents": 4}, "exactly one"),
        ({"num_packs": None, "num_documents": 4}, "single source"),
        ({"num_packs": -1}, "cannot be made"),
        ({"over_budget": "cut"}, "'split', 'truncate', 'drop'"),
        ({"sequence_length": 0}, "sequence_length is 0"),
        ({"lengths": {}}, "no lengths for source 'caption'"),
        ({"sequence_length": 4, "over_budget": "drop"}, "none fits into a pack of 4 tokens"),
    ],
)
def test_impossible_plans_are_refused(mix_lengths, change, message):
    arguments = {"lengths": mix_lengths, "num_packs": 5, **change}
    with pytest.raises(ValueError, match=message):
        plan_packs(Mixture(MIX), **arguments)


def chat_lengths(*documents) -> DocumentLengths:
    """Documents as lists of runs `(tokens, is_image, targets)`."""
    flat = np.array([run for runs in documents for run in runs])
    tokens, is_image, targets = flat.T
    runs = DocumentRuns(tokens, is_image == 1, is_image, targets)
    return DocumentLengths.from_arrays(runs, np.array([len(runs) for runs in documents]))


chat_runs = st.lists(
    st.tuples(st.integers(1, 90), st.integers(0, 90)).map(lambda run: (run[0], 0, min(run)))
    | st.just((9, 1, 0)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60)
@given(st.lists(chat_runs, min_size=1, max_size=6), st.sampled_from(["split", "truncate"]))
def test_no_piece_of_a_cut_chat_is_without_a_target(documents, over_budget):
    lengths = chat_lengths([(20, 0, 10)], *documents)
    plan = plan_packs(
        Mixture({"chat": 1}),
        {"chat": lengths},
        num_documents=len(lengths),
        sequence_length=64,
        max_images=3,
        window=8,
        over_budget=over_budget,
    )
    lost = plan.report["chat"].unanswered
    placed = {piece.document for pack in plan for piece in pack.pieces}
    for number, runs in enumerate([[(20, 0, 10)], *documents]):
        tokens, is_image, targets = (np.array(column) for column in zip(*runs, strict=True))
        is_chat = (tokens - targets)[is_image == 0].sum() > 1
        ends = np.cumsum(tokens)
        is_target = np.zeros(ends[-1], dtype=bool)
        for end, count in zip(ends, targets, strict=True):
            is_target[end - count : end] = True
        is_over = ends[-1] > 64 or is_image.sum() > 3
        for piece in (p for pack in plan for p in pack.pieces if p.document == number):
            assert not (is_chat and is_over) or is_target[piece.start + 1 : piece.stop].any()
        lost -= number not in placed
    assert lost == 0


def test_a_window_of_documents_that_fill_a_pack_each_is_packed():
    packs = pack_window([10] * 200, [0] * 200, sequence_length=10, max_images=4)
    assert sorted(packs) == list(range(200))
