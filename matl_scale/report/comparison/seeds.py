"""Which runs are of one config, in what configs differ, and how far the runs of one config spread."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from matl_scale.errors import InputError
from matl_scale.report.comparison.alignment import AlignedRuns
from matl_scale.report.comparison.results import SeedSpread
from matl_scale.report.comparison.two_sides import values_of_runs
from matl_scale.report.significance.paired_counts import Metric
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder

PLACE_KEYS = frozenset({"run.name", "run.dir", "run.resume"})
SEED_KEY = "run.seed"
IGNORED_SECTION = "track"


def read_config(run: RunHistory) -> dict[str, Any]:
    """Returns what a run was told, as `section.key` → value, without its name and place and how it was tracked.

    Raises:
        InputError: Its config cannot be read.
    """
    try:
        sections = run.config
        flat = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
        raise InputError(
            f"{RunFolder(run.folder).config_file} cannot be read ({' '.join(str(error).split())}): it says which runs "
            "belong together. "
            "Copy it from the original folder of the run."
        ) from error
    return {
        key: value for key, value in flat.items() if key not in PLACE_KEYS and not key.startswith(f"{IGNORED_SECTION}.")
    }


def group_by_config(configs: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Returns the numbers of the runs of each config, whatever their seeds, in the order given."""
    groups: dict[str, list[int]] = {}
    for number, config in enumerate(configs):
        told = {key: value for key, value in config.items() if key != SEED_KEY}
        groups.setdefault(json.dumps(told, sort_keys=True, default=str), []).append(number)
    return list(groups.values())


def list_changes(config_a: Mapping[str, Any], config_b: Mapping[str, Any], without: Sequence[str] = ()) -> list[str]:
    """Lists in what two configs differ, as `key: A → B`."""
    keys = [key for key in {**config_a, **config_b} if key not in without]
    return [
        f"{key}: {describe(config_a, key)} → {describe(config_b, key)}"
        for key in keys
        if describe(config_a, key) != describe(config_b, key)
    ]


def describe(config: Mapping[str, Any], key: str) -> str:
    return repr(config[key]) if key in config else "(not there)"


def measure_spread(aligned: AlignedRuns, split: str, metric: Metric) -> SeedSpread:
    """Measures how far the runs lie apart, task by task."""
    return SeedSpread(
        runs=[answers.label for answers in aligned.answers],
        split=split,
        metric=metric,
        tasks=[task.name for task in aligned.tasks],
        values=values_of_runs(aligned, range(len(aligned.answers)), metric),
        left_out=aligned.left_out,
    )
