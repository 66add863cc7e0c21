"""The settings of a trial: what it chooses, and what follows from that, so that it has the budget of the variant's runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from matl_scale.automatic import AUTO, chosen
from matl_scale.runs.sweep_folder import PlannedRun, SweepPlan, Variant
from matl_scale.seeds import derive_seed
from matl_scale.sweep.budget import check_passes, length_settings
from matl_scale.sweep.plan import COUNTED_KEYS, keys_of, measure_network
from matl_scale.sweep.settings import value_of
from matl_scale.sweep.tuning.space import DECAY, FACTOR, RATE, ROUTES, SIGMA, Space, build_space
from matl_scale.train.config import Config, read_saved, with_settings
from matl_scale.train.defaults.fill import fit_to_heads
from matl_scale.train.resolve import resolve_offline

# of all trials: no run that is compared has it, so that nothing is tuned to the luck of one that is
SEED = derive_seed("tuning of a sweep") % 2**31


def first_runs(plan: SweepPlan, variant: Variant) -> list[PlannedRun]:
    """Returns the runs of a variant's first seed: one, or one for each task."""
    runs = plan.runs_of(variant.name)
    return [run for run in runs if run.seed == runs[0].seed]


def build_trial_config(plan: SweepPlan, run: PlannedRun, tuned: Mapping[str, Any]) -> Config:
    """Returns the config of a run with the settings and the seed of a trial. Trials are evaluated after equal parts, so that they
    can be compared on the way, and leave no trace in MLflow."""
    config = with_settings(read_saved(plan.base), {**run.settings, **tuned, "run.seed": SEED})
    return replace(
        config,
        eval=replace(config.eval, every=AUTO, predictions=False),
        track=replace(config.track, mlflow=False, tags={}),
    )


def trial_configs(
    plan: SweepPlan, variant: Variant, tuned: Mapping[str, Any], folder: Path, number: int
) -> list[Config]:
    """Returns the config of each network of a trial, counted from 1, which has its run in the search's folder."""
    runs = first_runs(plan, variant)
    configs = []
    for i, run in enumerate(runs):
        name = name_trial(number) + (f"-{i + 1:03}" if run.task else "")
        place = {"run.name": name, "run.dir": str(folder.absolute())}
        configs.append(with_settings(build_trial_config(plan, run, tuned), place))
    return configs


def name_trial(number: int) -> str:
    """Returns how the run folders of a trial begin."""
    return f"trial-{number:03}"


def find_space(plan: SweepPlan, variant: Variant) -> Space:
    """Returns what the search for a variant varies; raises `InputError` if the data cannot feed the arm."""
    given = build_trial_config(plan, first_runs(plan, variant)[0], {})
    resolved, data = resolve_offline(given)
    num_routes, model = resolved.routes.routes.num_routes, resolved.config.model

    def fit(sigma: float) -> float:
        return sigma if model.is_features else fit_to_heads(model, sigma)

    return build_space(variant, given, resolved.config, num_routes, len(data.task_names), fit)


def settings_of_trial(plan: SweepPlan, variant: Variant, choices: Mapping[str, Any], is_first: bool) -> dict[str, Any]:
    """Returns config keys with values that a variant's runs get besides their own; none for the first trial.

    Raises:
        InputError: The data cannot feed such a network, or the budget is less than a pass over the labels for it.
    """
    if is_first:
        return {}
    runs = first_runs(plan, variant)
    structure = {key: choices[key] for key in (ROUTES, SIGMA) if key in choices}
    settings = structure | (recount(plan, variant, runs, structure) if structure else {})
    if FACTOR in choices:
        settings[RATE] = choices[FACTOR] * find_rate(plan, runs, settings)
    if DECAY in choices:
        settings[DECAY] = choices[DECAY]
    return settings


def recount(
    plan: SweepPlan, variant: Variant, runs: Sequence[PlannedRun], structure: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns batch, micro-steps and length of a network with other routes, counted as for the variant itself, where they
    differ."""
    (run,) = runs  # an arm with a network for each task has one route
    base = read_saved(plan.base)
    given = {key: variant.settings.get(key, value_of(base, key)) for key in COUNTED_KEYS}
    network = measure_network(build_trial_config(plan, run, {**given, **structure}), run.task)
    check_passes(plan.budget, plan.amount, {variant.name: [network]})
    found = keys_of(network.config, COUNTED_KEYS) | dict(length_settings(plan.budget, plan.amount, network.costs))
    return {key: value for key, value in found.items() if value != run.settings[key]}


def find_rate(plan: SweepPlan, runs: Sequence[PlannedRun], settings: Mapping[str, Any]) -> float:
    """Returns the learning rate that the config or the rules give; the geometric mean of an arm with several networks."""
    configs = [build_trial_config(plan, run, settings) for run in runs]
    if all(config.optim.lr != AUTO for config in configs):
        return geometric_mean(chosen(config.optim.lr) for config in configs)
    return geometric_mean(chosen(resolve_offline(config)[0].config.optim.lr) for config in configs)
