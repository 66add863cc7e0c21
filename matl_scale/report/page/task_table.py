"""The table of a run's tasks, worst first, and what its columns mean."""

from matl_scale.metrics.names import (
    MAIN_METRIC,
    METRIC_LABELS,
    NOT_LEARNED,
    POSITIVE_HINT,
    POSITIVE_METRICS,
    POSITIVE_NOTE,
    TASK_COLUMNS,
)
from matl_scale.metrics.task_metrics import worst_first
from matl_scale.report.facts import RunFacts
from matl_scale.report.page.table import Column, Mark, Table, rounded
from matl_scale.report.undefined import explain_undefined

OTHER_METRICS = (*TASK_COLUMNS[1:], "decided_f1", "ece", "brier")
HINTS = dict.fromkeys(POSITIVE_METRICS, POSITIVE_HINT) | {
    "majority_accuracy": "of always predicting the most frequent class",
    "decided_balanced_accuracy": "with the decision that was fitted for the task",
    "decided_f1": f"with the decision that was fitted for the task; {POSITIVE_HINT}",
    "ece": "expected calibration error: how far probabilities are from the shares of correct answers; the lower the better",
    "brier": "mean squared error of the probabilities; the lower the better",
}
THRESHOLD_HINT = "the calibrated probability from which the best network decides for the positive class"
MAIN_COLUMN, CHANGE_COLUMN = 1, 3


def build_task_table(facts: RunFacts) -> Table:
    """Builds the table."""
    latest, change = facts.latest, facts.change
    since = "the previous evaluation" if change.since is None else f"step {change.since:,}"
    main, positives = METRIC_LABELS[MAIN_METRIC], facts.run.positives
    others, thresholds = latest.metrics.measured(OTHER_METRICS), list_thresholds(facts)
    columns = [
        Column(title="task"),
        Column(title=main, digits=3),
        Column(title="±", digits=3, hint=f"half of the 95 % interval of the {main}"),
        Column(title="change", digits=3, signed=True, hint=f"of the {main} since {since}"),
        *(Column(title=METRIC_LABELS[name], digits=3, hint=HINTS.get(name, "")) for name in others),
        *([Column(title="threshold", digits=3, hint=THRESHOLD_HINT)] if thresholds else []),
        *([Column(title="positive", hint="the positive class of a task with two classes")] if positives else []),
        Column(title="samples", digits=0, hint="with a label for the task"),
        Column(title="draws", digits=0, hint="how often the task's route was trained"),
        *([] if latest.labels_seen is None else [Column(title="labels seen", digits=0, hint="in training")]),
        *([Column(title="route")] if facts.run.shares_routes else []),
        Column(title="note"),
    ]
    values, counts = latest.metrics.values, latest.metrics.counts.tolist()
    draws = [None] * len(counts) if latest.draws is None else latest.draws.tolist()
    measured = [values[MAIN_METRIC], facts.half_widths, change.values, *(values[name] for name in others)]
    notes = note_tasks(facts)
    order = worst_first(values[MAIN_METRIC], latest.metrics.column("decided_balanced_accuracy"))
    seen = [] if latest.labels_seen is None else [latest.labels_seen.tolist()]
    routes = [[facts.run.route_of[name] for name in latest.tasks]] if facts.run.shares_routes else []
    classes = [[positives.get(name) for name in latest.tasks]] if positives else []
    cells = [latest.tasks, *map(rounded, measured), *thresholds, *classes, counts, draws, *seen, *routes, notes]
    changes: list[Mark] = [mark_change(facts, i) for i in order]
    not_learned = latest.metrics.not_learned
    mains: list[Mark] = ["bad" if not_learned[i] else "" for i in order]
    return Table(
        columns=columns,
        rows=[[column[i] for column in cells] for i in order],
        marks={CHANGE_COLUMN: changes, MAIN_COLUMN: mains},
        chosen=[row for row, i in enumerate(order) if notes[i]],
        choice="only tasks with a note",
    )


def list_thresholds(facts: RunFacts) -> list[list[float | None]]:
    """Returns the thresholds of all tasks as the cells of a column; no column if no decisions were fitted."""
    decisions = facts.run.decisions
    if decisions is None:
        return []
    rules = [decisions.rules.get(name) for name in facts.latest.tasks]
    return [[None if rule is None or rule.threshold is None else round(rule.threshold, 3) for rule in rules]]


def note_tasks(facts: RunFacts) -> list[str]:
    """Says of each task what is wrong with it; an empty text if nothing is."""
    latest, notes, metrics = facts.latest, [], facts.latest.metrics
    not_learned, few = metrics.not_learned, ~metrics.in_means & ~metrics.unlabelled
    trained = latest.draws if latest.labels_seen is None else latest.labels_seen
    for i, undefined in enumerate(explain_undefined(facts)):
        at_chance = NOT_LEARNED if not_learned[i] else ""
        rare = f"not in means: fewer than {metrics.min_count:,} samples of a class" if few[i] else ""
        untrained = "not trained in this run" if trained is not None and trained[i] == 0 else ""
        notes.append("; ".join(note for note in (undefined, at_chance, rare, untrained) if note))
    return notes


def mark_change(facts: RunFacts, task_id: int) -> Mark:
    """Returns the colour of a change: none if chance alone may explain it."""
    if not facts.change.beyond_chance[task_id]:
        return ""
    return "better" if facts.change.values[task_id] > 0 else "worse"


def explain_columns(facts: RunFacts) -> str:
    """Says what the columns ± and change mean, or why they are empty, and of which class some metrics are."""
    main = METRIC_LABELS[MAIN_METRIC]
    positive = f" {POSITIVE_NOTE}" if facts.run.positives else ""
    if facts.predictions is None:
        width, colour = f"± and the colour of changes are missing. {facts.no_predictions}", ""
    else:
        width = f"± is half of the 95 % interval of the {main}, for other samples of the same kind."
        colour = "; coloured if chance alone would rarely cause one so large (once in 20 tasks)"
    if facts.change.since is None:
        return f"{width} This is the first evaluation, so nothing has changed yet.{positive}"
    return f"{width} Change is that of the {main} since step {facts.change.since:,}{colour}.{positive}"
