"""The order: every sample exactly as often as said, on any number of ranks, resumed anywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.stream.order import (
    OrderSpec,
    Samples,
    epoch_order,
    even_split,
    rank_slice,
    shuffled,
    steps_per_epoch,
)

sizes = st.integers(1, 300)
seeds = st.integers(0, 2**32)
epochs = st.integers(0, 1000)


def made(num: int, seed: int, *, classes: int = 3, sources: int = 1) -> Samples:
    rng = np.random.default_rng(seed)
    source = np.sort(rng.integers(0, sources, num)).astype(np.int16)
    source[:sources] = np.arange(sources)[: len(source)]
    return Samples(
        label=rng.integers(0, classes, num).astype(np.int16),
        neuron_id=rng.integers(1, 2 + num // 5, num),
        shard=np.sort(rng.integers(0, 1 + num // 20, num)).astype(np.int32),
        source=np.sort(source),
    )


def test_samples_of_unknown_neurons_are_not_capped() -> None:
    samples = made(40, 1)
    samples.neuron_id[:25] = 0
    order = epoch_order(samples, OrderSpec(seed=1, max_per_neuron=1), 0, 8)
    assert set(range(25)) < set(order.tolist())
    assert len(order) < 40


def specs(**fixed: object) -> st.SearchStrategy[OrderSpec]:
    """Return any order that reads every sample once."""
    windows = st.one_of(st.none(), st.integers(1, 5))
    return st.builds(OrderSpec, seed=seeds, window_shards=windows, **fixed)  # type: ignore[arg-type]


@given(num=sizes, spec=specs(nodes=st.sampled_from([1, 2, 4])), seed=seeds, epoch=epochs)
def test_without_balance_every_sample_is_read_once(
    num: int, spec: OrderSpec, seed: int, epoch: int
) -> None:
    order = epoch_order(made(num, seed), spec, epoch, 8)
    assert sorted(order) == list(range(num))


@given(num=sizes, spec=specs(balance=st.just("class")), epoch=epochs)
def test_class_balance(num: int, spec: OrderSpec, epoch: int) -> None:
    samples = made(num, spec.seed)
    order = epoch_order(samples, spec, epoch, 8)
    present, counts = np.unique(samples.label, return_counts=True)
    assert len(order) == len(present) * counts.max()
    times = np.bincount(order, minlength=num)
    for label, count in zip(present, counts, strict=True):
        read = times[samples.label == label]
        assert read.sum() == counts.max()
        assert read.min() >= counts.max() // count
        assert read.max() <= -(-counts.max() // count)


@given(num=sizes, seed=seeds, cap=st.integers(1, 6), balance=st.sampled_from(["none", "class"]))
def test_the_cap_holds_and_an_epochs_length_never_varies(
    num: int, seed: int, cap: int, balance: str
) -> None:
    samples = made(num, seed)
    plain = OrderSpec(seed=seed, max_per_neuron=cap)
    groups = samples.neuron_id * 10 + samples.label
    expected = sum(min(cap, count) for count in np.unique(groups, return_counts=True)[1])
    for epoch in range(3):
        order = epoch_order(samples, plain, epoch, 8)
        assert len(order) == len(set(order)) == expected
        assert np.unique(groups[order], return_counts=True)[1].max() <= cap
    spec = OrderSpec(seed=seed, max_per_neuron=cap, balance=balance)  # type: ignore[arg-type]
    assert len({len(epoch_order(samples, spec, epoch, 8)) for epoch in range(3)}) == 1


@given(
    num=st.integers(10, 300),
    seed=seeds,
    weights=st.lists(st.floats(0.1, 10), min_size=1, max_size=4),
    balance=st.sampled_from(["none", "class"]),
)
def test_sets_are_mixed_by_weight(num: int, seed: int, weights: list[float], balance: str) -> None:
    samples = made(num, seed, sources=len(weights))
    spec = OrderSpec(seed=seed, weights=tuple(weights), balance=balance)  # type: ignore[arg-type]
    order = epoch_order(samples, spec, 0, 8)
    shares = np.bincount(samples.source[order], minlength=len(weights)) / len(order)
    np.testing.assert_allclose(shares, np.array(weights) / sum(weights), atol=1 / len(order))
    times = np.bincount(order, minlength=num)
    for source in range(len(weights)):
        ours = samples.source == source
        groups = [ours & (samples.label == label) for label in range(3)]
        totals = [times[group].sum() for group in groups if group.any()]
        if balance == "class":
            assert max(totals) - min(totals) <= 1
        for group in groups if balance == "class" else [ours]:
            if group.any():
                assert times[group].max() - times[group].min() <= 1


@given(
    num=st.integers(20, 300),
    per_rank=st.integers(1, 4),
    spec=specs(nodes=st.sampled_from([1, 2, 4])),
)
def test_ranks_part_the_global_batch_and_any_number_resumes(
    num: int, per_rank: int, spec: OrderSpec
) -> None:
    batch = 4 * per_rank
    order = epoch_order(made(num, spec.seed), spec, 0, batch)
    for step in range(steps_per_epoch(num, batch)):
        whole = order[step * batch : (step + 1) * batch]
        for ranks in (1, 2, 4):
            parts = [order[rank_slice(step, batch, rank, ranks)] for rank in range(ranks)]
            np.testing.assert_array_equal(np.concatenate(parts), whole)


@given(seed=seeds, nodes=st.sampled_from([2, 4]))
def test_a_node_reads_its_own_shards(seed: int, nodes: int) -> None:
    """Over two epochs, the nodes together fetch at most 1.1 times the set's shards."""
    shard = np.repeat(np.arange(80, dtype=np.int32), 25)
    samples = Samples(label=shard, neuron_id=shard, shard=shard, source=shard)
    fetched: list[set[int]] = [set() for _ in range(nodes)]
    for epoch in range(2):
        spec = OrderSpec(seed=seed, window_shards=4, nodes=nodes)
        order = epoch_order(samples, spec, epoch, 8 * nodes)
        for step in range(len(order) // (8 * nodes)):
            for node in range(nodes):
                fetched[node] |= set(shard[order[rank_slice(step, 8 * nodes, node, nodes)]])
    assert sum(map(len, fetched)) <= 1.1 * 80


def test_a_window_spans_few_shards() -> None:
    shard = np.repeat(np.arange(40, dtype=np.int32), 50)
    samples = Samples(label=shard, neuron_id=shard, shard=shard, source=shard)
    order = epoch_order(samples, OrderSpec(window_shards=5), 0, 10)
    for start in range(0, len(order), 250):
        assert len(set(shard[order[start : start + 250]])) == 5
    assert (
        len({tuple(epoch_order(samples, OrderSpec(window_shards=5), e, 10)) for e in (0, 1)}) == 2
    )


@given(num_items=st.integers(0, 500), count=st.integers(1, 64))
def test_every_item_is_in_one_part(num_items: int, count: int) -> None:
    parts = [even_split(num_items, index=i, count=count) for i in range(count)]
    assert [i for part in parts for i in part] == list(range(num_items))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_order_is_fixed_for_all_time() -> None:
    assert shuffled(np.arange(8), [42, 0, 0]).tolist() == [4, 1, 3, 6, 0, 7, 2, 5]
    samples = Samples(
        label=np.array([0, 1, 1, 1, 0, 1], np.int16),
        neuron_id=np.zeros(6, np.int64),
        shard=np.array([0, 0, 1, 1, 2, 2], np.int32),
        source=np.zeros(6, np.int16),
    )
    balanced = epoch_order(samples, OrderSpec(balance="class"), 3, 2)
    assert balanced.tolist() == [0, 3, 2, 4, 4, 5, 1, 0]
    windowed = epoch_order(samples, OrderSpec(window_shards=1, nodes=2), 3, 2)
    assert windowed.tolist() == [0, 3, 1, 2, 5, 4]


def test_epochs_and_seeds_differ() -> None:
    samples = made(200, 0)
    orders = [
        epoch_order(samples, OrderSpec(seed=seed), epoch, 8).tolist()
        for seed in (1, 2)
        for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_shuffling_is_even() -> None:
    """Each of 6 items stands at each of 6 places in a sixth of 6,000 shuffles."""
    shuffles = np.stack([shuffled(np.arange(6), [seed]) for seed in range(6000)])
    for place in range(6):
        counts = np.bincount(shuffles[:, place], minlength=6)
        assert np.all(np.abs(counts - 1000) < 150)  # five standard deviations


def test_what_cannot_be_ordered_is_refused() -> None:
    samples = made(8, 0)
    samples.label[3] = -1
    with pytest.raises(ValueError, match="1 samples have no label"):
        epoch_order(samples, OrderSpec(balance="class"), 0, 2)
    with pytest.raises(ValueError, match="cannot be split evenly over 3 ranks"):
        rank_slice(0, 16, 0, 3)
    with pytest.raises(ValueError, match="cannot be split evenly over 3 nodes"):
        epoch_order(samples, OrderSpec(nodes=3), 0, 2)
    with pytest.raises(ValueError, match="shard set 1 has no samples"):
        epoch_order(samples, OrderSpec(weights=(1, 1)), 0, 2)
    with pytest.raises(ValueError, match="has no batch of 32"):
        steps_per_epoch(31, 32)
    for wrong in ({"balance": "x"}, {"nodes": 0}, {"weights": (1, 0)}, {"seed": -1}):
        with pytest.raises(ValueError, match="must"):
            OrderSpec(**wrong)  # type: ignore[arg-type]
