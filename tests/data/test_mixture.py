"""Laws of the mixture: shares, epochs, and an order that depends on the seed and position only."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1_hf.data.mixture import BLOCK, Mixture, TokenOrder
from mm1_hf.data.permutation import derive_key, shuffled_epochs

weight_lists = st.lists(st.floats(0.001, 1000), min_size=1, max_size=9)


def mixture_of(weights, **kwargs) -> Mixture:
    return Mixture({f"source {n}": weight for n, weight in enumerate(weights)}, **kwargs)


def shares_of(mixture) -> np.ndarray:
    return np.array([leaf.share for leaf in mixture.leaves])


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1), st.integers(0, 5))
def test_every_epoch_is_a_permutation(size, key, epoch):
    positions = np.arange(epoch * size, (epoch + 1) * size)
    elements = shuffled_epochs(positions, size=size, key=key)
    assert sorted(elements.tolist()) == list(range(size))


def test_epochs_and_seeds_differ():
    first, second = shuffled_epochs(np.arange(2000), size=1000, key=1).reshape(2, 1000)
    assert (first == second).mean() < 0.02
    assert (first == shuffled_epochs(np.arange(1000), size=1000, key=2)).mean() < 0.02


def test_every_element_is_as_likely_at_every_place():
    size, draws = 7, 3000
    counts = np.zeros((size, size))
    for seed in range(draws):
        permuted = shuffled_epochs(np.arange(size), size=size, key=derive_key(seed))
        counts[np.arange(size), permuted] += 1
    assert np.abs(counts / draws - 1 / size).max() < 0.03


def test_neighbours_do_not_stay_neighbours():
    elements = shuffled_epochs(np.arange(100_000), size=100_000, key=3)
    assert abs(np.corrcoef(elements[:-1], elements[1:])[0, 1]) < 0.02


@given(st.integers(2**31, 2**60), st.integers(0, 2**61))
def test_an_element_of_a_huge_epoch_is_found_alone(size, position):
    one = shuffled_epochs(np.array([position]), size=size, key=1)
    many = shuffled_epochs(np.array([0, position, 5]), size=size, key=1)
    assert 0 <= one[0] < size
    assert one[0] == many[1]


@given(weight_lists, st.integers(0, 2000))
def test_shares_are_exact_within_a_unit_or_so_at_every_block_end(weights, block):
    mixture = mixture_of(weights)
    counts = mixture.counts(block * BLOCK)
    assert counts.sum() == block * BLOCK
    assert np.abs(counts - block * BLOCK * shares_of(mixture)).max() < 2


@given(weight_lists)
def test_counts_never_shrink(weights):
    counts = mixture_of(weights).counts(np.arange(3000))
    assert (np.diff(counts, axis=0) >= 0).all()


@settings(max_examples=40)
@given(weight_lists, st.integers(0, 5000), st.integers(0, 700), st.integers(0, 10))
def test_any_stretch_equals_the_walk_from_the_beginning(weights, start, length, seed):
    mixture = mixture_of(weights, seed=seed)
    walk = mixture.order(0, start + length)
    alone = mixture.order(start, start + length)
    assert alone.leaf.tolist() == walk.leaf[start:].tolist()
    assert alone.ordinal.tolist() == walk.ordinal[start:].tolist()


@given(weight_lists, st.integers(1, 4000))
def test_each_source_is_read_in_its_own_order_without_gaps(weights, stop):
    order = mixture_of(weights).order(0, stop)
    for leaf in range(len(weights)):
        read = order.ordinal[order.leaf == leaf]
        assert read.tolist() == list(range(len(read)))


def test_no_document_comes_twice_before_its_source_is_exhausted():
    mixture = mixture_of([3, 1], unit="document")
    order = mixture.order(0, 4000)
    for leaf, size in enumerate([700, 450]):
        documents = mixture.documents(leaf, order.ordinal[order.leaf == leaf], size=size)
        for epoch in range(0, len(documents) - size, size):
            assert len(set(documents[epoch : epoch + size].tolist())) == size


def test_realised_shares_are_within_one_percent_over_ten_thousand():
    weights = {"web": 41.85, "vecap": 3.15, "interleaved": 45, "text": 10}
    mixture = Mixture(weights)
    realised = np.bincount(mixture.order(0, 10_000).leaf) / 10_000
    assert np.abs(realised / shares_of(mixture) - 1).max() < 0.01


def test_a_block_is_shuffled():
    leaf = mixture_of([1, 1]).order(0, 40 * BLOCK).leaf
    changes = (leaf[1:] != leaf[:-1]).mean()
    assert 0.45 < changes < 0.55


def test_nested_weights_are_products():
    captions = Mixture({"web": 93, "vecap": 7}, seed=5)
    mixture = Mixture({captions: 45, "interleaved": 45, "text": 10})
    assert [leaf.name for leaf in mixture.leaves] == ["web", "vecap", "interleaved", "text"]
    assert shares_of(mixture) == pytest.approx([0.4185, 0.0315, 0.45, 0.1])


def test_the_seed_changes_the_order_and_nothing_else_does():
    first, again, other = (mixture_of([2, 1], seed=seed).order(0, 2000) for seed in (0, 0, 1))
    assert first.leaf.tolist() == again.leaf.tolist()
    assert first.leaf.tolist() != other.leaf.tolist()
    copied = pickle.loads(pickle.dumps(mixture_of([2, 1]))).order(0, 2000)
    assert first.leaf.tolist() == copied.leaf.tolist()


def test_another_source_leaves_the_epochs_of_the_first_alone():
    index = np.arange(50)
    alone = Mixture({"a": 1}).documents(0, index, size=40)
    together = Mixture({"b": 2, "a": 1}).documents(1, index, size=40)
    assert alone.tolist() == together.tolist()


def test_the_order_is_the_one_of_every_machine_and_version():
    order = Mixture({"a": 45, "b": 45, "c": 10}, seed=1).order(1_000_000, 1_000_012)
    assert order.leaf.tolist() == [2, 1, 2, 1, 0, 1, 0, 2, 0, 1, 1, 1]
    documents = Mixture({"a": 1}, seed=1).documents(0, np.arange(8), size=1000)
    assert documents.tolist() == [993, 605, 111, 369, 296, 730, 595, 516]


lengths = st.lists(st.integers(0, 5000), min_size=1, max_size=40).filter(any)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0.05, 20), lengths), min_size=1, max_size=4),
    st.lists(st.integers(1, 300), min_size=1, max_size=5),
)
def test_token_shares_follow_the_weights_within_a_document(sources, steps):
    mixture = mixture_of([weight for weight, _ in sources], unit="token")
    tokens = [np.array(own) for _, own in sources]
    order = TokenOrder(mixture, tokens)
    taken = [order.take(step) for step in steps]
    leaf = np.concatenate([part.leaf for part in taken])
    index = np.concatenate([part.ordinal for part in taken])
    once = TokenOrder(mixture, tokens).take(sum(steps))
    assert (leaf.tolist(), index.tolist()) == (once.leaf.tolist(), once.ordinal.tolist())
    spent = np.zeros(len(sources))
    for number, own in enumerate(tokens):
        read = index[leaf == number]
        assert read.tolist() == list(range(len(read)))
        spent[number] = own[mixture.documents(number, read, size=len(own))].sum()
    moments = spent / shares_of(mixture)
    largest = np.array([own.max() for own in tokens]) / shares_of(mixture)
    assert moments.max() - moments.min() <= 2 * largest.max()


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_how_far_tokens_are_read_ahead_changes_nothing(chunk, monkeypatch):
    # Documents without tokens share their moments with their neighbours.
    tokens = [np.array([0, 3, 0, 0, 2]), np.array([0, 0, 5]), np.array([1])]
    mixture = mixture_of([2, 1, 1], unit="token")
    expected = TokenOrder(mixture, tokens).take(200)
    monkeypatch.setattr(TokenOrder, "_CHUNK", chunk)
    order = TokenOrder(mixture, tokens).take(200)
    assert order.leaf.tolist() == expected.leaf.tolist()
    assert order.ordinal.tolist() == expected.ordinal.tolist()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "at least one source"),
        ({"a": 0}, "'a' is 0"),
        ({"a": -1.0}, "positive"),
        ({"a": float("nan")}, "positive"),
        ({"a": float("inf")}, "positive"),
        ({"a": "1"}, "positive"),
        ({3: 1}, "has no name"),
        ({"a": 1, Mixture({"a": 1}): 2}, "more than once"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        Mixture(weights)


def test_an_unknown_unit_is_refused():
    with pytest.raises(ValueError, match="'sequence', 'document', 'token'"):
        Mixture({"a": 1}, unit="batch")
