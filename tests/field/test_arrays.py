"""Labels and names handed over as arrays: NaN, fractions, classes counted from 1, values that wrap around in a small type.

Stands for reports such as "my class 256 was trained as class 0" or "NaN became the first class" with data frames that have gaps.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.dataset import Chunk, Dataset, from_arrays
from data_prep.planning.make_plan import Options
from data_prep.shard_set import write_shard_set
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.errors import InputError
from matl_scale.tasks import Task

TASKS = [Task(name="smiling", classes=("no", "yes")), Task(name="hair", classes=("black", "blond", "brown"))]
NAMES = [f"{i}.png" for i in range(4)]
GOOD = np.array([[0, 2], [1, -1], [-1, 0], [1, 1]])
IMAGES = ArrayImages(root="memory", pixels=np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8))


def build(labels: object, tasks: list[Task] = TASKS, names: object = NAMES, splits: object = None) -> Dataset:
    return from_arrays(tasks, names, labels, ["train"] * 4 if splits is None else splits, IMAGES)  # type: ignore[arg-type]


GAPS = GOOD.astype(np.float64)
GAPS[GOOD < 0] = np.nan
SAME = {
    "int64": GOOD,
    "NaN is missing": GAPS,
    "float16": GAPS.astype(np.float16),
    "None in a column of objects": np.array([[0, 2], [1, None], [None, 0], [True, 1.0]], dtype=object),
    "a masked array": np.ma.masked_array(np.abs(GOOD).astype(np.uint8), GOOD < 0),
    "lists": GOOD.tolist(),
}


@pytest.mark.parametrize("case", SAME)
def test_gaps_are_missing_labels_whatever_the_type(case: str) -> None:
    labels = next(build(SAME[case]).chunks()).labels
    assert labels.dtype == np.int8
    np.testing.assert_array_equal(labels, GOOD)


def test_booleans_are_classes_0_and_1() -> None:
    labels = next(build(np.array([[True], [False], [True], [False]]), TASKS[:1]).chunks()).labels
    assert labels.tolist() == [[1], [0], [1], [0]]


def with_value(value: float, dtype: type = np.float64) -> np.ndarray:
    labels = GOOD.astype(dtype)
    labels[2, 1] = value
    return labels


WRONG_VALUES = {
    "a fraction": (with_value(0.7), "Got 0.7"),
    "infinity": (with_value(np.inf), "Got inf"),
    "what wraps around in 8 bits": (with_value(256, np.int64), "Got 256"),
    "classes counted from 1": (with_value(3, np.int64), "Got 3"),
    "below -1": (with_value(-2, np.int64), "Got -2"),
    "a word": (np.array([[0, 2], [1, 0], [0, "blond"], [1, 1]], dtype=object), "Got 'blond'"),
}


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_what_is_no_class_is_refused_with_task_row_name_and_value(case: str) -> None:
    labels, got = WRONG_VALUES[case]
    with pytest.raises(InputError) as error:
        build(labels)
    assert all(part in str(error.value) for part in ("task `hair`", "row 2 (2.png)", "from 0 to 2", str(got)))


def test_what_wraps_is_refused_in_any_integer_type() -> None:
    labels = np.array([[0], [1], [2**64 - 1], [0]], dtype=np.uint64)
    with pytest.raises(InputError, match=r"task `smiling`, row 2 .* Got 18446744073709551615"):
        build(labels, TASKS[:1])


WRONG_SHAPES = {
    "transposed": {"labels": GOOD.T},
    "one dimension": {"labels": GOOD[:, 0]},
    "a column too few": {"labels": GOOD[:, :1]},
    "texts": {"labels": GOOD.astype(str)},
    "rows of unequal length": {"labels": [[0, 1], [1], [0, 1], [1, 1]]},
    "a name too few": {"labels": GOOD, "names": NAMES[:3]},
    "one text as splits": {"labels": GOOD, "splits": "test"},
    "a split too many": {"labels": GOOD, "splits": ["train"] * 5},
    "numbers as names": {"labels": GOOD, "names": [0, 1, 2, 3]},
    "a name twice": {"labels": GOOD, "names": ["a.png", "b.png", "c.png", "a.png"]},
}


@pytest.mark.parametrize("case", WRONG_SHAPES)
def test_what_does_not_fit_is_refused_by_its_name(case: str) -> None:
    given = WRONG_SHAPES[case]
    named = "image name" if case == "a name twice" else "`splits`" if "name too few" in case else f"`{[*given][-1]}`"
    with pytest.raises(InputError, match=named):
        build(**given)  # type: ignore[arg-type]


def write(dataset: Dataset, out: Path) -> None:
    write_shard_set(lambda _: dataset, out, Options())


@pytest.mark.parametrize(
    ("column", "found"), [([1, 1, -1, 1], "only `yes`"), ([0, 0, 0, -1], "only `no`"), ([-1] * 4, "no label")]
)
def test_a_task_without_two_classes_is_refused_as_in_a_label_file(
    tmp_path: Path, column: list[int], found: str
) -> None:
    labels = np.column_stack([column, [0, 1, 2, 0]])
    with pytest.raises(InputError, match=f"`smiling` has {found}"):
        write(build(labels), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Every task name should be unique.*smiling"):
        write(build(GOOD[:, :1].repeat(2, axis=1), [TASKS[0], TASKS[0]]), tmp_path / "set")


def test_chunks_of_an_own_source_are_checked_alike(tmp_path: Path) -> None:
    labels = with_value(0.7)
    chunk = Chunk(names=NAMES, indices=np.arange(4), labels=labels, splits=["train"] * 4)
    with pytest.raises(InputError, match=r"task `hair`, row 2 \(2.png\).*Got 0.7"):
        write(Dataset(tasks=TASKS, chunks=lambda: iter([chunk]), images=IMAGES), tmp_path / "set")
    short = Chunk(names=NAMES, indices=np.arange(4), labels=GOOD, splits=["train"] * 3)
    with pytest.raises(InputError, match="4 names, 4 indices and 3 splits"):
        write(Dataset(tasks=TASKS, chunks=lambda: iter([short]), images=IMAGES), tmp_path / "set")


# pixels as `ToTensor` leaves them, as a detector stores them, as matplotlib reads a PNG
WRONG_PIXELS = {
    "floats": np.zeros((2, 8, 8)),
    "16 bits": np.zeros((2, 8, 8), dtype=np.uint16),
    "channels first": np.zeros((2, 3, 8, 8), dtype=np.uint8),
    "one channel": np.zeros((2, 8, 8, 1), dtype=np.uint8),
    "a single image": np.zeros((8, 8), dtype=np.uint8),
}


@pytest.mark.parametrize("case", WRONG_PIXELS)
def test_pixels_of_another_type_or_shape_are_refused_at_once(case: str) -> None:
    pixels = WRONG_PIXELS[case]
    with pytest.raises(InputError, match=rf"should be uint8.*Got {pixels.dtype}, shape {re.escape(str(pixels.shape))}"):
        ArrayImages(root="memory", pixels=pixels)


def test_names_without_pixels_are_refused(tmp_path: Path) -> None:
    images = ArrayImages(root="memory", pixels=IMAGES.pixels[:3])
    labels = np.array([[0, 0], [1, 1], [0, 2], [1, 0]])
    with pytest.raises(InputError, match=r"an image for every name\. Got 3 images"):
        write_shard_set(
            lambda _: from_arrays(TASKS, NAMES, labels, ["train"] * 4, images), str(tmp_path / "set"), Options()
        )


def test_labels_that_need_a_gradient_are_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match=r"cannot be read: .*Use tensor.detach\(\).numpy\(\) instead\.$"):
        build(torch.tensor(GOOD).float().requires_grad_())
