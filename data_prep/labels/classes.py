"""Which columns of a label file can be tasks, and their classes: what is refused, left out, and pointed out."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from data_prep.labels.cells import TooManyClasses, count_values, read_cells
from data_prep.labels.class_names import count_classes, name_classes
from data_prep.labels.label_file import LabelFile
from data_prep.labels.missing_words import (
    MissingWords,
    count_missing,
    describe_doubtful,
    describe_missing,
    describe_taken,
)
from data_prep.labels.rare_classes import OTHER, RareRule, list_classes
from data_prep.labels.suspects import describe_several, describe_suspects
from data_prep.labels.white_space import trim
from matl_scale.data.shards.layout import MAX_CLASSES
from matl_scale.errors import InputError, nearest, shortened
from matl_scale.tasks import Task

SPREADSHEET_ERRORS = frozenset(
    {"#BLOCKED!", "#CALC!", "#DIV/0!", "#FIELD!", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#SPILL!", "#VALUE!"}
)
SHOWN_COLUMNS = 5
LABELS_PER_CLASS = 10  # with fewer in the mean, a column is rather an identifier or free text than a task
FEWEST_IDS = 20  # classes: a small table has few labels of each
NO_VALUES = "no values"
LIKE_IDS = "so many different values look like an identifier or free text. Named in --tasks, such a column is a task"


@dataclass(frozen=True, kw_only=True)
class ColumnClasses:
    """What the columns of a label file hold.

    Attributes:
        names: For each column the class name of each stored value that is a label, in the order of the classes.
        labels: For each column the number of labels of each class, in the order of the classes.
        missing: For each column with words that mean missing, these words and how often they occur.
        suspects: Lines about columns that look like mistakes.
        left_out: Columns that are left out as tasks, each with the reason.
        rare: Lines about classes with few labels, and what became of them.
    """

    names: Mapping[str, Mapping[object, str]]
    labels: Mapping[str, Mapping[str, int]]
    missing: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    suspects: Sequence[str] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    rare: Sequence[str] = ()

    def describe_left_out(self) -> list[str]:
        """Returns a line for each reason to leave out columns."""
        columns_of: dict[str, list[str]] = {}
        for name, reason in self.left_out.items():
            columns_of.setdefault(reason, []).append(f"`{name}`")
        return [f"left out {shortened(columns, SHOWN_COLUMNS)}: {reason}" for reason, columns in columns_of.items()]

    def notes(self, path: str) -> list[str]:
        """Returns what to tell the user, a line each."""
        lines = [f"{path}: {line}" for line in self.describe_left_out()]
        lines += [f"{path}, {line}" for line in self.rare]
        lines += [f"{path}: {line}" for line in describe_taken(self.missing, SHOWN_COLUMNS)]
        classes = {name: list(dict.fromkeys(values.values())) for name, values in self.names.items()}
        lines += [f"{path}: {line}" for line in describe_doubtful(classes, SHOWN_COLUMNS)]
        rest = len(self.suspects) - SHOWN_COLUMNS
        lines += [f"{path}, {line}" for line in self.suspects[:SHOWN_COLUMNS]]
        return lines + ([f"{path}: {rest} more columns are like these"] if rest > 0 else [])


def find_classes(
    file: LabelFile,
    names: Sequence[str],
    text_columns: Sequence[str],
    missing: MissingWords = MissingWords(),  # noqa: B008 - frozen
    known: Mapping[str, Sequence[str]] | None = None,
    *,
    rare: RareRule = RareRule(),  # noqa: B008 - frozen
    leave_out: bool = False,
) -> ColumnClasses:
    """Reads the file once and finds the classes of each column.

    Integers are ordered by value, strings alphabetically, and false comes before true. Cells of `text_columns` are text even if
    they look like numbers. `missing` are words that mean that there is no label. Where the rows will join a shard set, `known`
    has the classes of each of its tasks, and a column may have any number of them. `rare` says what becomes of classes with few
    labels. `leave_out` leaves out columns that nobody asked for and that look like no task: without a value, or with nearly as
    many classes as labels.

    Raises:
        InputError: Columns have fewer than two classes, more than 65,535, or values that cannot be labels; all are named.
    """
    if not names:  # which would read all columns
        return ColumnClasses(names={}, labels={})
    texts = set(map(trim, text_columns))
    counts, refused = count_values(file, names)
    classes, words, suspects, rare_of = {}, {}, [], {}
    left_out = {name: LIKE_IDS for name in names if leave_out and isinstance(refused.get(name), TooManyClasses)}
    for name in [name for name in names if name not in refused]:
        context = f"{file.path}, column `{name}`"
        if leave_out and not any(trim(str(value)) for value in counts[name]):
            left_out[name] = NO_VALUES
            continue
        kept = () if known is None else known[name]
        cells = read_cells(counts[name], missing.of(name), kept)
        words[name] = count_missing(counts[name], cells)
        try:
            if known is None:
                check_formulas(cells.values(), context)
            found = name_classes(cells, context, file.is_parquet or trim(name) in texts)
            found, rare_of[name] = rare.apply(found, count_classes(counts[name], found), kept)
            if known is None:
                labels = count_classes(counts[name], found)
                if leave_out and looks_like_ids(labels):
                    left_out[name] = LIKE_IDS
                    if several := describe_several(labels):
                        suspects.append(f"column `{name}`: {several}")
                    continue
                check_count(labels, context, words[name], rare_of[name])
                suspects += describe_suspects(name, labels)
            classes[name] = found
        except InputError as error:
            refused[name] = error
    raise_refused(
        file.path,
        {name: refused[name] for name in names if name in refused and name not in left_out},
        are_new=known is None,
    )
    return ColumnClasses(
        names=classes,
        labels={name: count_classes(counts[name], found) for name, found in classes.items()},
        missing=words,
        suspects=suspects,
        left_out=left_out,
        rare=rare.describe(rare_of),
    )


def raise_refused(path: str, refused: Mapping[str, InputError], are_new: bool) -> None:
    """Raises what is wrong with some columns of a file in one error, if there are any. Columns of new tasks can be left out,
    those of a set that the rows will join cannot."""
    errors = list(refused.values())
    remedy = (
        f" To leave {'them all' if len(errors) > 1 else 'it'} out: --exclude {shlex.join(refused)}" if are_new else ""
    )
    if len(errors) == 1:
        said = str(errors[0])
        raise InputError(said + ("" if "--exclude" in said else remedy))
    if errors:
        listed = [str(error).removeprefix(f"{path}, ").rstrip(".") for error in errors[:SHOWN_COLUMNS]]
        rest = f"; and {len(errors) - SHOWN_COLUMNS} more" if len(errors) > SHOWN_COLUMNS else ""
        raise InputError(f"{path}: {len(errors)} columns cannot be tasks: {'; '.join(listed)}{rest}.{remedy}")


def check_formulas(labels: Iterable[object], context: str) -> None:
    """Raises `InputError` if a formula that failed in a spreadsheet would be a class."""
    if failed := sorted(label for label in map(str, labels) if label in SPREADSHEET_ERRORS):
        raise InputError(
            f"{context}: formulas of a spreadsheet have failed ({shortened(failed, 3)}). Correct or empty these cells, or leave "
            "the column out with --exclude."
        )


def check_count(labels: Mapping[str, int], context: str, missing: Mapping[str, int], rare: Mapping[str, int]) -> None:
    """Raises `InputError` if a column with these labels of each class has too few or too many classes to be a task."""
    if len(labels) > MAX_CLASSES:
        raise TooManyClasses(context)
    if len(labels) < 2:
        found = f"only {next(iter(labels))!r}" if labels else "no value at all"
        raise InputError(
            f"{context}: a task should have at least two classes. Got {found}"
            + (f", and {describe_missing(missing)}, which mean that a label is missing" if missing else "")
            + (f", beside rare classes: {list_classes(rare)}" if rare else "")
            + ": leave the column out with --exclude."
        )


def looks_like_ids(labels: Mapping[str, int]) -> bool:
    """Returns whether a column with these labels of each class looks like an identifier or free text."""
    return len(labels) > FEWEST_IDS and len(labels) > sum(labels.values()) / LABELS_PER_CLASS


def find_known_classes(
    file: LabelFile,
    candidates: Sequence[str],
    tasks: Sequence[Task],
    text_columns: Sequence[str],
    missing: MissingWords = MissingWords(),  # noqa: B008 - frozen
    rare: RareRule = RareRule(),  # noqa: B008 - frozen
) -> ColumnClasses:
    """Returns what `find_classes` returns, for the columns of the tasks of the set that the file's rows will join.

    `candidates` are the file's label columns.

    Raises:
        InputError: The file has no column for a task, or the column holds a class that the task does not have.
    """
    for task in tasks:
        if trim(task.name) not in candidates:
            column = next((name for name in candidates if task.name.startswith(f"{name}:")), None)
            raise InputError(
                f"{file.path} has no column `{task.name}`, which the shard set has."
                + (
                    f" Was it made with --one-vs-rest {column}? Give that again."
                    if column
                    else nearest(task.name, candidates)
                )
            )
    known = {task.name: task.classes for task in tasks}
    found = find_classes(file, list(known), text_columns, missing, known, rare=rare)
    for task in tasks:
        if unknown := sorted(set(found.names[task.name].values()) - set(task.classes)):
            became = [line for line in found.rare if OTHER in unknown and line.startswith(f"column `{task.name}`:")]
            raise InputError(
                f"{file.path}, column `{task.name}`: the shard set has no class {shortened(unknown)}. It has "
                f"{shortened(task.classes)}."
                + "".join(f" {line[0].upper()}{line[1:]}; --rare drop leaves them out." for line in became)
                + (" Prepare all splits in one call." if not became else "")
            )
    return found
