"""How long each run of a sweep is, so that all arms have equally much of what the budget counts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from matl_scale.automatic import AUTO, chosen
from matl_scale.errors import InputError, nearest
from matl_scale.runs.sweep_folder import BudgetKind
from matl_scale.sweep.costs import RunCosts
from matl_scale.text import count_of
from matl_scale.train.config import Config

KINDS: tuple[BudgetKind, ...] = get_args(BudgetKind)
UNITS = {  # one of it, and what it is of
    "compute": ("multiply-add", " of training"),
    "labels": ("label", ""),
    "steps": ("step", ""),
    "minutes": ("minute", " of training steps"),
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What all arms have equally much of; `amount` is None where the reference arm's own length says it."""

    kind: BudgetKind
    amount: float | None = None


@dataclass(frozen=True, kw_only=True)
class Network:
    """One of the networks of a variant: the only one, or that of one task."""

    task: str  # empty if it serves all tasks
    config: Config  # with every automatic choice made
    costs: RunCosts
    # training labels of all tasks, of which this network serves one; 0 if it serves all
    all_labels: int = 0


def read_budget(text: str) -> Budget:
    """Reads `KIND` or `KIND=AMOUNT`; raises `InputError` if it is neither."""
    kind, has_amount, amount = text.partition("=")
    if kind not in KINDS:
        raise InputError(f"`--budget` should be one of {', '.join(KINDS)}. Got {kind!r}." + nearest(kind, KINDS))
    if not has_amount:
        return Budget(kind=kind)
    try:
        value = float(amount)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"`--budget {kind}=AMOUNT` should have a number above 0. Got {amount!r}.")
    return Budget(kind=kind, amount=value)


def check_length(budget: Budget, config: Config) -> None:
    """Raises `InputError` if neither the budget nor the config of the reference arm says how long runs are."""
    if budget.amount is not None:
        return
    if budget.kind == "minutes" and not config.train.minutes:
        raise InputError("`--budget minutes` should say how many, as minutes=30; or set `train.minutes`.")
    if budget.kind != "minutes" and config.train.minutes:
        noun, of = UNITS[budget.kind]
        raise InputError(
            f"`--budget {budget.kind}` should say how many {noun}s{of}, as {budget.kind}=1000: with `train.minutes` that is not "
            "known before. Or use --budget minutes."
        )


def amount_of(budget: Budget, networks: Sequence[Network]) -> float:
    """Returns how much of a budget each arm gets: the amount given, or what the networks of the reference variant have."""
    if budget.amount is not None:
        return budget.amount
    if budget.kind == "minutes":
        return networks[0].config.train.minutes
    total = sum(chosen(each.config.train.steps) * each.costs.of_a_step(budget.kind) for each in networks)
    return total / sum(share_of(each) for each in networks)


def share_out(amount: float, networks: Sequence[Network]) -> list[float]:
    """Returns what each network of a variant gets of its amount: all of it, or the share of its task's labels. The shares of
    tasks without a network, where only some have one, go to nobody."""
    return [amount * share_of(network) for network in networks]


def share_of(network: Network) -> float:
    return network.costs.num_labels / network.all_labels if network.all_labels else 1.0


def count_steps(kind: BudgetKind, amount: float, costs: RunCosts) -> int:
    """Returns the number of steps that come nearest to an amount."""
    return max(1, round(amount / costs.of_a_step(kind)))


def minutes_settings(minutes: float) -> Mapping[str, Any]:
    """Returns the config keys that make a run so many minutes long."""
    return {"train.steps": AUTO, "train.epochs": AUTO, "train.minutes": minutes}


def length_settings(kind: BudgetKind, amount: float, costs: RunCosts) -> Mapping[str, Any]:
    """Returns the config keys that make a run as long as its amount."""
    if kind == "minutes":
        return minutes_settings(amount)
    return {"train.steps": count_steps(kind, amount, costs), "train.epochs": AUTO, "train.minutes": 0.0}


def find_least_amount(kind: BudgetKind, networks: Sequence[Network]) -> float:
    """Returns the smallest amount that gives each network of a variant one whole pass over its labels."""
    return max(network.costs.full_steps * network.costs.of_a_step(kind) / share_of(network) for network in networks)


def check_passes(kind: BudgetKind, amount: float, networks_of: Mapping[str, Sequence[Network]]) -> None:
    """Raises `InputError` if some variant, by its name, gets less than one pass over its labels. Of minutes that is not known."""
    if kind == "minutes":
        return
    short = {name: passes for name, found in networks_of.items() if (passes := find_short_passes(kind, amount, found))}
    if not short:
        return
    least = max(find_least_amount(kind, networks) for networks in networks_of.values())
    worst = min(short, key=lambda name: short[name])
    others = f" ({len(short)} variants have less than one)" if len(short) > 1 else ""
    raise InputError(
        f"With {describe_amount(kind, amount)}, `{worst}` would have {short[worst]:.2g} passes over its labels{others}. "
        f"An arm that sees less than one cannot be judged. Use at least --budget {kind}={round_up(least)}."
    )


def find_short_passes(kind: BudgetKind, amount: float, networks: Sequence[Network]) -> float | None:
    """Returns the passes of the network of a variant that has fewest, if that is less than one; else None."""
    found = [
        network.costs.passes(steps)
        for network, part in zip(networks, share_out(amount, networks), strict=True)
        if (steps := count_steps(kind, part, network.costs)) < network.costs.least_steps
    ]
    return min(found, default=None)


def describe_amount(kind: BudgetKind, amount: float) -> str:
    """Returns an amount with its unit, as `3.41e+12 multiply-adds of training` or `1,200 steps`."""
    noun, of = UNITS[kind]
    return count_of(amount, noun, ".3g" if kind in ("compute", "minutes") else ",.0f") + of


def round_up(amount: float) -> str:
    """Returns a number that is not smaller, with three digits where it has more than six."""
    unit = 10 ** max(0, math.floor(math.log10(amount)) - 2) if amount >= 1e6 else 1
    rounded = math.ceil(amount / unit) * unit
    return f"{rounded:.2e}" if amount >= 1e6 else str(rounded)
