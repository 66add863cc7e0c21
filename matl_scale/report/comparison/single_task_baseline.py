"""A run compared with networks trained on one of its tasks alone: which tasks does sharing help, and which does it hurt?

(Negative transfer; the comparison is with single-task networks of the same shape, as in Standley et al., *Which Tasks Should Be
Learned Together in Multi-task Learning?*, ICML 2020, arXiv 1905.07553.)
"""

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from matl_scale.data.shards.layout import MISSING
from matl_scale.errors import InputError
from matl_scale.report.comparison.alignment import Outcomes, check_test_set, read_outcomes, same_task, select_names
from matl_scale.report.comparison.configs import SEED_KEY, list_changes, read_settings
from matl_scale.report.comparison.results import Comparison, Question
from matl_scale.report.comparison.two_sides import compare_task, decide_verdicts
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.predictions import read_predictions_info

NAME_A = "one network per task"
TASKS_KEY = "data.tasks"
OF_ANY_TASKS = ("auto", "one", "task")  # `routing.routes` that fit any number of tasks


def compare_with_single_tasks(run: RunHistory, question: Question) -> Comparison:
    """Compares a run, as B, with the single-task runs in its parent folder, as A; several of one task count with their mean.

    Raises:
        InputError: There is none.
    """
    split, shared = question.split, read_outcomes(run, question.split)
    names = select_names(list(shared.tasks), question.patterns)
    settings = read_settings(run)
    found = find_single_task_runs(run, split, shared, names)
    tasks, left_out, used = [], [], list[RunHistory]()
    for name in names:
        usable = [(single, outcomes) for single, outcomes in found.get(name, []) if same_task(shared, outcomes, name)]
        if not usable:
            reason = "its single-task run has other labels; " if name in found else ""
            left_out.append(f"{name}: {reason}{training_command(run, settings, name, split)}")
            continue
        labels = shared.labels[name]
        labelled = labels != MISSING
        correct_a = np.stack([outcomes.correct[name][labelled] for _, outcomes in usable])
        correct_b = shared.correct[name][None, labelled]
        tasks.append(compare_task(shared.tasks[name], labels[labelled], correct_a, correct_b, question.metric))
        used += [single for single, _ in usable]
    if not tasks:
        raise InputError(
            f"{run.folder.resolve().parent} holds no single-task run on the {split} images of {run.name}. Train them, as: "
            f"{training_command(run, settings, names[0], split)}"
        )
    return Comparison(
        name_a=NAME_A,
        name_b=run.name,
        runs_a=[single.name for single in used],
        runs_b=[shared.label],
        split=split,
        metric=question.metric,
        alpha=question.alpha,
        tasks=decide_verdicts(tasks, question.alpha),
        config_changes=count_changes(used, settings),
        left_out=left_out,
        kind="single-task",
        min_count=question.min_count,
    )


def find_single_task_runs(
    run: RunHistory, split: str, shared: Outcomes, names: Sequence[str]
) -> dict[str, list[tuple[RunHistory, Outcomes]]]:
    """Finds the runs in the same parent folder that have exactly one task, one of `names`, and the same images."""
    found: dict[str, list[tuple[RunHistory, Outcomes]]] = {}
    wanted = set(names)
    for folder in sorted(run.folder.resolve().parent.iterdir()):
        predictions_file = RunFolder(folder).predictions_file(split)
        if folder == run.folder.resolve() or not predictions_file.is_file():
            continue
        info = read_predictions_info(predictions_file)
        if info.test_set == shared.test_set and len(info.tasks) == 1 and info.tasks[0].name in wanted:
            single = RunHistory(folder)
            outcomes = read_outcomes(single, split)
            check_test_set(shared, outcomes, split)
            found.setdefault(info.tasks[0].name, []).append((single, outcomes))
    return found


def training_command(run: RunHistory, settings: Mapping[str, Any], name: str, split: str) -> str:
    """Returns the commands that train and evaluate a network on one task alone, with all else as in `run`."""
    folder, parent = run.folder, run.folder.resolve().parent
    single = "single-" + re.sub(r"[/\\\0]", "_", name)  # a run is a folder, but tasks may have any name
    words = ["matl-train", "--config", f"{run.files.config_file}", "--data.tasks", name, "--run.name", single]
    if Path(run.config.get("run", {}).get("dir", "runs")).resolve() != parent:
        words += ["--run.dir", f"{parent}"]
    if settings.get("routing.routes", "task") not in OF_ANY_TASKS:
        words += ["--routing.routes", "task"]
    if run.config.get("run", {}).get("resume", "auto") != "auto":
        words += ["--run.resume", "auto"]
    command = shlex.join(words)
    if settings.get("eval.split", "val") != split:
        command += " && " + shlex.join(["matl-evaluate", "--run", f"{folder.parent / single}", "--split", split])
    return command


def count_changes(singles: Sequence[RunHistory], settings: Mapping[str, Any]) -> list[str]:
    """Lists how the settings of the single-task runs differ, apart from task and seed, and in how many of these runs."""
    changes = Counter(
        change for single in singles for change in list_changes(read_settings(single), settings, (TASKS_KEY, SEED_KEY))
    )
    return [f"{change} ({count} of {len(singles)} single-task runs)" for change, count in changes.items()]
