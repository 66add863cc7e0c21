"""Plans a sweep: which runs there are, and with which settings each of them trains."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from matl_scale.automatic import AUTO
from matl_scale.errors import InputError, NarrowLayerError, shortened
from matl_scale.models.feature_layers import FEATURES
from matl_scale.runs.sweep_folder import PlannedRun, Search, SweepPlan, Variant
from matl_scale.storage.files import hash_text
from matl_scale.sweep.arms import NARROW
from matl_scale.sweep.budget import (
    Network,
    amount_of,
    check_length,
    check_passes,
    describe_amount,
    length_settings,
    minutes_settings,
    share_out,
)
from matl_scale.sweep.costs import measure_costs
from matl_scale.sweep.draft import SweepDraft
from matl_scale.sweep.vary import TASKS_KEY
from matl_scale.text import count_of
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.train.config import Config, with_settings
from matl_scale.train.defaults.fill import fit_to_heads
from matl_scale.train.resolve import resolve_offline
from matl_scale.train.run_data import check_train_data

MAX_NAME = 120
SIGMA = "routing.sigma"
SEARCH = "-search"  # ends the names of searches
# chosen once for the reference variant: arms differ in how they share a network, not in the network
SHARED_KEYS = ("model.name", "model.args", "model.width", "model.stem", "data.image_size")
# chosen once for each variant: the length of its runs is counted in these, whatever machine they run on
COUNTED_KEYS = ("data.batch_size", "train.accumulate")


def complete_plan(draft: SweepDraft, earlier: SweepPlan | None = None) -> tuple[SweepPlan, list[str]]:
    """Plans the runs of a sweep, and says in lines what they are. What is in an earlier plan stays as it is.

    Raises:
        InputError: The data cannot feed an arm, or the budget is too small for one.
    """
    budget = draft.request.budget
    if earlier is None:
        planned, networks, amount = {}, *measure_reference(draft)
    else:
        planned, networks, amount = settings_by_variant(earlier), {}, earlier.amount
    shared = choose_shared(draft, planned, networks)
    for variant in draft.variants:
        if variant.name not in planned and variant.name not in networks:
            networks[variant.name] = build_networks(draft, variant, shared)
    check_passes(budget.kind, amount, networks)
    for variant in draft.variants:
        if variant.name in networks:
            planned[variant.name] = plan_networks(draft, variant, networks[variant.name], shared, amount)
    plan = SweepPlan(
        variants=draft.variants,
        runs=plan_runs(draft, planned, name_networks(draft, earlier)),
        reference=draft.reference,
        budget=budget.kind,
        amount=amount,
        split=draft.split,
        base=asdict(draft.base),
        tune=draft.request.tune,
        searches=plan_searches(draft, earlier),
    )
    lines = [f"every arm has {describe_amount(budget.kind, amount)}", *draft.lines]
    return plan, lines + [
        describe_variant(variant, networks[variant.name], planned)
        for variant in draft.variants
        if variant.name in networks
    ]


def measure_reference(draft: SweepDraft) -> tuple[dict[str, list[Network]], float]:
    """Returns the networks of the reference variant by its name, and the amount that all variants get."""
    reference = next(variant for variant in draft.variants if variant.name == draft.reference)
    check_length(draft.request.budget, with_settings(draft.base, reference.settings))
    networks = build_networks(draft, reference, {})
    return {reference.name: networks}, amount_of(draft.request.budget, networks)


def choose_shared(
    draft: SweepDraft, planned: Mapping[str, Mapping[str, Mapping[str, Any]]], networks: dict[str, list[Network]]
) -> dict[str, Any]:
    """Returns the settings of the network that all variants on images have in common: those of runs that were planned earlier, or
    else of the reference. Where that is trained on features, they are those of the first variant on images, whose networks are
    added. Where all are trained on features, they are those of the reference."""

    def on_images(settings: Mapping[str, Any]) -> bool:
        return bool(settings.get("model.name", draft.base.model.name) != FEATURES)

    earlier = [settings for of_tasks in planned.values() for settings in of_tasks.values()]
    if found := next(filter(on_images, earlier), None):
        return {key: found[key] for key in SHARED_KEYS}
    variants = sorted(draft.variants, key=lambda variant: variant.name != draft.reference)
    if variant := next((variant for variant in variants if on_images(variant.settings)), None):
        networks[variant.name] = networks.get(variant.name) or build_networks(draft, variant, {})
        return keys_of(networks[variant.name][0].config, SHARED_KEYS)
    return (
        {key: earlier[0][key] for key in SHARED_KEYS}
        if earlier
        else keys_of(networks[draft.reference][0].config, SHARED_KEYS)
    )


def settings_by_variant(plan: SweepPlan) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns the settings of the runs of each variant, by their task; without those that differ between seeds."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for run in plan.runs:
        settings = {key: value for key, value in run.settings.items() if key not in ("run.seed", "track.tags")}
        found.setdefault(run.variant, {}).setdefault(run.task, settings)
    return found


def build_networks(draft: SweepDraft, variant: Variant, shared: Mapping[str, Any]) -> list[Network]:
    """Finds out what the networks of a variant cost.

    Raises:
        InputError: The data cannot feed the arm.
    """
    try:
        networks = [plan_network(draft, variant, task, shared) for task in draft.tasks_of(variant)]
        if draft.request.budget.kind == "compute" and networks[0].config.model.is_features:
            raise InputError(
                "heads on features cost next to nothing, so that the compute of another arm would be thousands of passes. Use "
                "--budget labels, or steps or minutes."
            )
        if variant.name not in draft.single_tasks:
            return networks
        tasks = variant.settings.get(TASKS_KEY, draft.base.data.tasks)
        whole, _ = resolve_offline(with_settings(networks[0].config, {TASKS_KEY: tasks}))
        total = whole.step_labels.num_labels
        return [replace(network, all_labels=total) for network in networks]
    except NarrowLayerError as error:
        raise InputError(f"Arm `{variant.name}`: {error}{explain_width(draft, variant, shared, error)}") from error
    except InputError as error:
        raise InputError(f"Arm `{variant.name}`: {error}") from error


def explain_width(draft: SweepDraft, variant: Variant, shared: Mapping[str, Any], error: NarrowLayerError) -> str:
    """Says with which width a network is wide enough for an arm, and how to go on without the arm."""
    width = {"model.width": draft.base.model.width, **shared, **variant.settings}["model.width"]
    least = math.ceil(width * error.widening * 1000) / 1000 if width != AUTO else math.inf
    wide = f" Here the width is {width:g}, so --model.width {least:g} is enough." if least <= 1 else ""
    return f"{wide} Or leave `{variant.arm}` out of --arms."


def plan_network(draft: SweepDraft, variant: Variant, task: str, shared: Mapping[str, Any]) -> Network:
    budget = draft.request.budget
    # what a run chooses for its network depends on the time that it has
    length = minutes_settings(budget.amount) if budget.kind == "minutes" and budget.amount is not None else {}
    settings = {**settings_on(draft, variant, shared), **length, **only_task(task), "run.seed": draft.request.seeds[0]}
    return measure_network(with_settings(draft.base, settings), task)


def settings_on(draft: SweepDraft, variant: Variant, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a variant on the network that all have in common, if that is known: σ of the arm `narrow` is the
    nearest by which its attention heads split."""
    settings = {**shared, **variant.settings}
    if variant.arm == NARROW:
        model = with_settings(draft.base, settings).model
        if not shared:  # it says itself what the network is
            resolved, _ = resolve_offline(with_settings(draft.base, {**settings, SIGMA: 1.0}))
            model = resolved.config.model
        if not model.is_features:
            settings[SIGMA] = fit_to_heads(model, settings[SIGMA])
    return settings


def measure_network(config: Config, task: str) -> Network:
    """Finds out what a network costs; raises `InputError` if the data cannot feed it."""
    resolved, data = resolve_offline(config)
    check_train_data(data, resolved.config.data, 1)
    return Network(task=task, config=resolved.config, costs=measure_costs(resolved, data))


def only_task(task: str) -> dict[str, Any]:
    """Returns the settings of a network for one task; nothing for a network that serves all."""
    return {TASKS_KEY: [task]} if task else {}


def plan_networks(
    draft: SweepDraft, variant: Variant, networks: Sequence[Network], shared: Mapping[str, Any], amount: float
) -> dict[str, dict[str, Any]]:
    """Returns the settings of each network of a variant, by its task."""
    experiment = draft.base.track.experiment
    if experiment == TrackConfig().experiment:
        experiment = draft.request.experiment
    return {
        network.task: {
            **keys_of(network.config, COUNTED_KEYS),
            **settings_on(draft, variant, shared),
            **only_task(network.task),
            **length_settings(draft.request.budget.kind, part, network.costs),
            "track.experiment": experiment,
        }
        for network, part in zip(networks, share_out(amount, networks), strict=True)
    }


def keys_of(config: Config, keys: Sequence[str]) -> dict[str, Any]:
    sections = asdict(config)
    return {key: sections[key.split(".")[0]][key.split(".")[1]] for key in keys}


def plan_runs(
    draft: SweepDraft,
    settings: Mapping[str, Mapping[str, Mapping[str, Any]]],
    folders: Mapping[tuple[str, str], str],
) -> list[PlannedRun]:
    """Returns every run: one seed of all variants after the other, so that a sweep that is broken off can be compared. `folders`
    has the name of each network's folders by its variant and its task."""
    return [
        PlannedRun(
            name=f"{folders[variant.name, task]}-seed{seed}",
            variant=variant.name,
            seed=seed,
            settings={
                **settings[variant.name][task],
                "run.seed": seed,
                "track.tags": draft.base.track.tags
                | {"arm": variant.arm, "variant": variant.name, "seed": str(seed)}
                | ({"task": task} if task else {}),
            },
            task=task,
        )
        for seed in draft.request.seeds
        for variant in draft.variants
        for task in draft.tasks_of(variant)
    ]


def plan_searches(draft: SweepDraft, earlier: SweepPlan | None) -> list[Search]:
    """Returns the search for each variant's settings; none if nothing is tuned."""
    if not draft.request.tune:
        return []
    names = [variant.name for variant in draft.variants]
    known = {(each.variant, ""): each.name.removesuffix(SEARCH) for each in (earlier.searches if earlier else ())}
    folders = name_folders([(name, "") for name in names], known)
    return [Search(name=folders[name, ""] + SEARCH, variant=name) for name in names]


def name_networks(draft: SweepDraft, earlier: SweepPlan | None) -> dict[tuple[str, str], str]:
    """Returns the name of the folders of each network, by its variant and its task; those of an earlier plan stay."""
    known = {
        (run.variant, run.task): run.name.removesuffix(f"-seed{run.seed}") for run in (earlier.runs if earlier else ())
    }
    return name_folders([(each.name, task) for each in draft.variants for task in draft.tasks_of(each)], known)


def name_folders(
    networks: Sequence[tuple[str, str]], known: Mapping[tuple[str, str], str]
) -> dict[tuple[str, str], str]:
    """Returns a readable name for each variant and task, and those `known`. Where two would be alike, for a file system that does
    not tell capitals either, or a name was cut, a hash makes the difference."""
    names = dict(known)
    short = {network: readable_name(" ".join(filter(None, network))) for network in networks if network not in names}
    taken = Counter(name.casefold() for name in (*known.values(), *short.values()))
    for (variant, task), name in short.items():
        is_whole = 0 < len(name) < MAX_NAME and taken[name.casefold()] == 1
        names[variant, task] = name if is_whole else f"{name}-{hash_text(f'{variant}/{task}')[:6]}".strip("-")
    return names


def readable_name(text: str) -> str:
    return re.sub(r"[^\w.=+-]+", "-", text)[:MAX_NAME].strip("-.")


def describe_variant(
    variant: Variant, networks: Sequence[Network], planned: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> str:
    """Says how long the runs of a variant are."""
    lengths = [planned[variant.name][network.task] for network in networks]
    if minutes := lengths[0]["train.minutes"]:
        length = count_of(minutes, "minute", ".3g")
    else:
        steps = [settings["train.steps"] for settings in lengths]
        passes = [network.costs.passes(each) for network, each in zip(networks, steps, strict=True)]
        length = f"{join_range(steps, 'step', ',')}, {join_range(passes, 'pass', '.3g')}"
    several = f"{count_of(len(networks), 'network')} of " if networks[0].task else ""
    of = f" ({shortened((network.task for network in networks), 3)})" if several else ""
    return f"{variant.name}: {several}{length}{of}"


def join_range(values: Sequence[float], noun: str, pattern: str) -> str:
    low, high = format(min(values), pattern), count_of(max(values), noun, pattern)
    return high if high.split(" ")[0] == low else f"{low} to {high}"
