"""Equal budgets, against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from matl_scale.errors import InputError
from matl_scale.runs.sweep_folder import BudgetKind
from matl_scale.sweep.budget import (
    Network,
    amount_of,
    check_length,
    check_passes,
    count_steps,
    find_least_amount,
    length_settings,
    read_budget,
    share_out,
)
from matl_scale.sweep.costs import RunCosts, measure_trained
from matl_scale.train.config import Config
from matl_scale.train.step.train_step import TrainConfig

# two routes; a step has three slots. The first route has a small batch, as it has few samples
COSTS = RunCosts(
    slots_per_step=3,
    shares=np.array([0.5, 0.5]),
    images=np.array([4, 10]),
    labels=np.array([4.0, 16.0]),
    multiply_adds=np.array([100.0, 20.0]),
    dense_multiply_adds=np.array([200.0, 40.0]),
    dense_share=0.0,
    num_labels=450,
    parameters=7,
)
CONFIG = Config(train=TrainConfig(steps=20, epochs="auto"))


def network(costs: RunCosts = COSTS, task: str = "", config: Config = CONFIG) -> Network:
    return Network(task=task, config=config, costs=costs)


def test_what_a_step_has() -> None:
    assert COSTS.of_a_step("steps") == 1
    assert COSTS.of_a_step("labels") == 30
    assert COSTS.of_a_step("compute") == 3 * (0.5 * 4 * 100 + 0.5 * 10 * 20)  # 900
    assert COSTS.passes(20) == 600 / 450
    assert COSTS.least_steps == 15
    assert measure_trained(COSTS, {0: 2, 1: 3}) == (38, 2 * 4 + 3 * 16, 2 * 4 * 100 + 3 * 10 * 20)


def test_a_dense_part_counts_as_what_it_costs() -> None:
    costs = replace(COSTS, dense_share=0.25)
    assert costs.of_a_step("compute") == 900 * (0.25 * 2 + 0.75)
    dense, rest = 1 * 4 * 200 + 2 * 10 * 40, 1 * 4 * 100 + 1 * 10 * 20
    assert measure_trained(costs, {0: 2, 1: 3}, [1, 2]) == (38, 2 * 4 + 3 * 16, dense + rest)


def test_the_length_of_the_reference_says_the_amount() -> None:
    assert amount_of(read_budget("compute"), [network()]) == 20 * 900
    assert amount_of(read_budget("labels"), [network()]) == 600
    assert amount_of(read_budget("steps"), [network()]) == 20
    assert amount_of(read_budget("compute=1e6"), [network()]) == 1e6
    minutes = network(config=Config(train=TrainConfig(minutes=5)))
    assert amount_of(read_budget("minutes"), [minutes]) == 5


@pytest.mark.parametrize("kind", ["compute", "labels", "steps"])
def test_others_get_as_much_to_half_a_step(kind: str) -> None:
    dear = replace(COSTS, slots_per_step=1, multiply_adds=np.array([700.0, 900.0]), labels=np.array([8.0, 8.0]))
    budget = read_budget(kind)
    amount = amount_of(budget, [network()])
    steps = count_steps(budget.kind, amount, dear)
    assert abs(steps * dear.of_a_step(budget.kind) - amount) <= dear.of_a_step(budget.kind) / 2
    assert length_settings(budget.kind, amount, dear)["train.steps"] == steps


def test_networks_of_single_tasks_share_an_amount_by_their_labels() -> None:
    networks = [
        replace(network(replace(COSTS, num_labels=number), task), all_labels=400)
        for task, number in (("a", 100), ("b", 300))
    ]
    assert share_out(8000, networks) == [2000, 6000]
    assert share_out(8000, networks[:1]) == [2000], "the others' share is not handed on"
    # a: 4 steps of 900 are a pass over 100 labels, and it gets a quarter; b: 10 steps, and it gets three quarters
    assert find_least_amount("compute", networks) == max(4 * 900 * 4, 10 * 900 * 4 / 3)


def test_less_than_a_pass_is_refused_with_the_amount_that_suffices() -> None:
    enough, short = (
        {"dense": [network()]},
        {"dense": [network()], "task": [network(replace(COSTS, labels=COSTS.labels / 6))]},
    )
    check_passes("compute", 20 * 900, enough)
    with pytest.raises(InputError) as error:
        check_passes("compute", 20 * 900, short)
    assert "`task` would have 0.22 passes over its labels" in str(error.value)
    assert "Use at least --budget compute=81000." in str(error.value)  # 90 steps of 5 labels
    check_passes("compute", 81000, short)
    check_passes("minutes", 0.01, short)  # not known before


@pytest.mark.parametrize("kind", ["compute", "labels", "steps"])
def test_the_amount_that_is_said_to_suffice_is_accepted_and_is_a_pass(kind: BudgetKind) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        networks = [
            replace(
                network(
                    replace(
                        COSTS,
                        labels=np.full(2, rng.uniform(1, 100)) / 3,
                        num_labels=int(rng.integers(200, 900)),
                        multiply_adds=rng.uniform(1, 1e9, 2),
                    ),
                    task,
                ),
                all_labels=2000,
            )
            for task in "abc"
        ]
        with pytest.raises(InputError) as error:
            check_passes(kind, 1e-9, {"single": networks})
        budget = read_budget(str(error.value).split("--budget ")[1].removesuffix("."))
        assert budget.amount is not None
        check_passes(kind, budget.amount, {"single": networks})
        for part, each in zip(share_out(budget.amount, networks), networks, strict=True):
            assert each.costs.passes(count_steps(kind, part, each.costs)) >= 1


def test_a_budget_of_minutes_is_a_length_of_minutes() -> None:
    settings = length_settings("minutes", 2.5, COSTS)
    assert settings == {"train.steps": "auto", "train.epochs": "auto", "train.minutes": 2.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flops", "one of compute, labels, steps, minutes"),
        ("step", "Did you mean `steps`?"),
        ("steps=", "a number above 0"),
        ("steps=-3", "a number above 0"),
        ("labels=inf", "a number above 0"),
    ],
)
def test_wrong_budgets_get_a_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        read_budget(text)
    assert message in str(error.value)


def test_a_length_that_nobody_knows_is_asked_for() -> None:
    timed = Config(train=TrainConfig(minutes=5))
    check_length(read_budget("minutes"), timed)
    check_length(read_budget("compute=5"), timed)
    with pytest.raises(InputError, match="should say how many"):
        check_length(read_budget("compute"), timed)
    with pytest.raises(InputError, match="should say how many, as minutes=30"):
        check_length(read_budget("minutes"), Config())
