"""A run against networks trained on one of its tasks alone: which tasks does sharing help, and which does it hurt?

(Negative transfer; for the comparison with single-task networks of the same shape: Standley et al., *Which Tasks Should Be
Learned Together in Multi-task Learning?*, ICML 2020, arXiv 1905.07553.)
"""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.errors import InputError
from matl_scale.report.comparison.alignment import Answers, check_test_set, read_answers, same_task
from matl_scale.report.comparison.results import Comparison
from matl_scale.report.comparison.seeds import SEED_KEY, list_changes, read_config
from matl_scale.report.comparison.two_sides import compare_task, judge
from matl_scale.report.significance.paired_counts import Metric
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.predictions import METADATA_KEY
from matl_scale.tasks import match_names

NAME_A = "one network per task"
TASKS_KEY = "data.tasks"


def compare_with_single_tasks(
    run: RunHistory, split: str, patterns: Sequence[str], metric: Metric, alpha: float
) -> Comparison:
    """Compares a run, as B, with the single-task runs in its parent folder, as A; several of one task count with their mean.

    Raises:
        InputError: There is none.
    """
    shared = read_answers(run, split)
    names = list(shared.tasks)
    if patterns:
        names = [names[i] for i in match_names(names, patterns, "--tasks")]
    config = read_config(run)
    found = find_single_task_runs(run, split, shared, names)
    tasks, left_out, used = [], [], list[RunHistory]()
    for name in names:
        alone = [(single, answers) for single, answers in found.get(name, []) if same_task(shared, answers, name)]
        if not alone:
            reason = "its single-task run has other labels; " if name in found else ""
            left_out.append(f"{name}: {reason}{training_command(run, config, name, split)}")
            continue
        labels = shared.labels[shared.rows[name]]
        right_a = np.stack([answers.right[0][labels >= 0] for _, answers in alone])
        right_b = shared.right[shared.rows[name]][None, labels >= 0]
        tasks.append(compare_task(shared.tasks[name], labels[labels >= 0], right_a, right_b, metric))
        used += [single for single, _ in alone]
    if not tasks:
        raise InputError(
            f"{run.folder.resolve().parent} holds no single-task run on the {split} images of {run.name}. Train them, as: "
            f"{training_command(run, config, names[0], split)}"
        )
    return Comparison(
        name_a=NAME_A,
        name_b=run.name,
        runs_a=[single.name for single in used],
        runs_b=[shared.label],
        split=split,
        metric=metric,
        alpha=alpha,
        tasks=judge(tasks, alpha),
        config_changes=changes_over_runs(used, config),
        left_out=left_out,
        kind="single-task",
    )


def find_single_task_runs(
    run: RunHistory, split: str, shared: Answers, names: Sequence[str]
) -> dict[str, list[tuple[RunHistory, Answers]]]:
    """Finds the runs beside `run` that have exactly one task, one of `names`, on the same images."""
    found: dict[str, list[tuple[RunHistory, Answers]]] = {}
    wanted = set(names)
    for folder in sorted(run.folder.resolve().parent.iterdir()):
        about = read_about(RunFolder(folder).predictions_file(split))
        if folder == run.folder.resolve() or about is None or about["test_set"] != shared.test_set:
            continue
        if len(about["tasks"]) == 1 and about["tasks"][0]["name"] in wanted:
            single = RunHistory(folder)
            answers = read_answers(single, split)
            check_test_set(shared, answers, split)
            found.setdefault(about["tasks"][0]["name"], []).append((single, answers))
    return found


def read_about(path: Path) -> dict[str, Any] | None:
    """Returns what predictions say of themselves, without reading them; None if they are none."""
    if not path.is_file():
        return None
    try:
        about: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {})[METADATA_KEY])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} does not hold predictions of a run: {error!r}. Evaluate that run again, or move it away."
        ) from error
    return about


def training_command(run: RunHistory, config: dict[str, Any], name: str, split: str) -> str:
    """Returns the commands that train and evaluate a network on one task alone, with all else as in `run`."""
    folder, parent = run.folder, run.folder.resolve().parent
    single = "single-" + "".join("_" if letter in "/\\\0" else letter for letter in name)
    words = [
        "matl-train",
        "--config",
        f"{RunFolder(folder).config_file}",
        "--data.tasks",
        name,
        "--run.name",
        single,
    ]
    if Path(run.config.get("run", {}).get("dir", "runs")).resolve() != parent:
        words += ["--run.dir", f"{parent}"]
    command = shlex.join(words)
    if config.get("eval.split", "val") != split:
        command += " && " + shlex.join(["matl-evaluate", "--run", f"{folder.parent / single}", "--split", split])
    return command


def changes_over_runs(singles: Sequence[RunHistory], config: dict[str, Any]) -> list[str]:
    """Lists in what the single-task runs were told otherwise, beside their task and seed, and how many of them were."""
    changes = Counter(
        change for single in singles for change in list_changes(read_config(single), config, (TASKS_KEY, SEED_KEY))
    )
    return [f"{change} ({count} of {len(singles)} single-task runs)" for change, count in changes.items()]
