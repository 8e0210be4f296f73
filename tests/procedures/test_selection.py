from collections import Counter
from functools import partial
from types import SimpleNamespace

import pytest

from rankwright.core.run import Run
from rankwright.errors import MethodError
from rankwright.procedures.chain.selection import (
    POLICIES,
    blocks,
    group_of,
    groups,
    number_of_groups,
    round_robin,
    top_heavy,
    uniform,
)

NAMES = [f"layers.{i}" for i in range(7)]


def seeded(seed):
    return partial(Run.generator, SimpleNamespace(seed=seed))


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("base_model.model.model.layers.7.self_attn.q_proj", "base_model.model.model.layers.7"),
        (
            "base_model.model.bert.encoder.layer.11.output.dense",
            "base_model.model.bert.encoder.layer.11",
        ),
        ("base_model.model.transformer.h.0.attn.c_attn", "base_model.model.transformer.h.0"),
        ("base_model.model.layers.3.mlp.experts.5.w1", "base_model.model.layers.3"),
        ("base_model.model.bert.pooler.dense", "base_model.model.bert.pooler.dense"),
        ("base_model.model.0", "base_model.model.0"),
        ("base_model.model.conv2d", "base_model.model.conv2d"),
    ],
)
def test_a_module_belongs_to_its_block(name, group):
    assert group_of(name) == group


def test_groups_keep_the_order_of_the_model():
    found = groups(["h.1.a", "h.0.a", "pooler", "h.1.b"])
    assert found == {"h.1": ["h.1.a", "h.1.b"], "h.0": ["h.0.a"], "pooler": ["pooler"]}


@pytest.mark.parametrize(
    ("share", "total", "count"),
    [
        (None, 5, 5),
        (1 / 3, 32, 11),
        (1 / 3, 33, 11),
        (1 / 3, 2, 1),
        (1.0, 4, 4),
        (1, 4, 1),
        (4, 4, 4),
    ],
)
def test_layers_of_a_round(share, total, count):
    assert number_of_groups(share, total) == count


def test_more_layers_than_there_are():
    with pytest.raises(
        MethodError, match="layers_per_round = 5, but the adapted modules lie in 4 layers"
    ):
        number_of_groups(5, 4)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_selection_is_a_function_of_seed_and_round(policy):
    for round_ in range(20):
        chosen = POLICIES[policy](seeded(3), round_, NAMES, 3)
        assert len(set(chosen)) == 3
        assert set(chosen) <= set(NAMES)
        assert chosen == POLICIES[policy](seeded(3), round_, NAMES, 3)
    sequences = [[POLICIES[policy](seeded(s), t, NAMES, 3) for t in range(5)] for s in (3, 4)]
    assert sequences[0] != sequences[1]


def test_every_layer_is_drawn_equally_often():
    rounds, share = 10_000, 3 / 7
    seen = Counter(name for t in range(rounds) for name in uniform(seeded(0), t, NAMES, 3))
    deviation = (rounds * share * (1 - share)) ** 0.5
    for name in NAMES:
        assert abs(seen[name] - rounds * share) < 3 * deviation


@pytest.mark.parametrize("policy", [round_robin, blocks])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_turn_leaves_no_layer_out(count, policy):
    turn = -(-len(NAMES) // count)
    for first in range(0, 4 * turn, turn):
        chosen = [policy(seeded(1), first + i, NAMES, count) for i in range(turn)]
        assert {name for names in chosen for name in names} == set(NAMES)
        assert all(len(set(names)) == count for names in chosen)


def test_a_block_is_of_neighbours_and_the_top_is_one():
    found = {tuple(blocks(seeded(1), t, NAMES, 3)) for t in range(12)}
    assert found == {(*NAMES[4:],), (*NAMES[1:4],), (*NAMES[:3],)}


def test_the_first_draw_of_top_heavy_rises_from_layer_to_layer():
    rounds = 10_000
    seen = Counter(top_heavy(seeded(0), t, NAMES, 1)[0] for t in range(rounds))
    for i, name in enumerate(NAMES, start=1):
        share = i / 28
        deviation = (rounds * share * (1 - share)) ** 0.5
        assert abs(seen[name] - rounds * share) < 3 * deviation


def lowest(policy, total, count, rounds=600):
    """Mean place of the lowest chosen layer, 0 at the bottom."""
    names = [f"layers.{i}" for i in range(total)]
    draws = (policy(seeded(0), t, names, count) for t in range(rounds))
    return sum(min(names.index(name) for name in chosen) for chosen in draws) / rounds


def test_how_far_up_the_backward_pass_ends():
    """Figures of docs/methods/xgblora.md."""
    assert lowest(uniform, 12, 4) == pytest.approx(13 / 5 - 1, abs=0.2)
    assert lowest(blocks, 12, 4) == 4
    assert lowest(top_heavy, 12, 4) == pytest.approx(3.55, abs=0.3)
    assert lowest(uniform, 32, 11) == pytest.approx(33 / 12 - 1, abs=0.2)
    assert lowest(blocks, 32, 11) == pytest.approx((21 + 10 + 0) / 3)
    assert lowest(top_heavy, 32, 11) == pytest.approx(6.33, abs=0.6)
