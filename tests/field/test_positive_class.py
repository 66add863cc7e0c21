"""The positive class of a binary task: reports that precision and recall were those of `healthy`, `absent` or `no`."""

from pathlib import Path

import pytest

from data_prep.labels.matrix import ColumnRoles, read_labels
from data_prep.labels.positive import choose_positive, order_classes
from helpers.commands import matl_data, shard_arguments
from helpers.sources_on_disk import write_images
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.errors import InputError
from matl_scale.tasks import Task

KNOWN = [  # negative, positive
    ("no", "yes"), ("No", "YES"), ("N", "Y"), ("n", "j"), ("nein", "ja"), ("non", "oui"), ("no", "sí"), ("false", "true"),
    ("F", "T"), ("absent", "present"), ("Negative", "Positive"), ("neg", "pos"), ("off", "on"), ("0", "1"), ("-1", "1"),
    ("-", "+"), ("without", "with"), ("normal", "abnormal"), ("healthy", "cancer"), ("benign", "malignant"),
    ("none", "hat"), ("no hat", "hat"), ("not smiling", "a smile"), ("non-smoker", "smoker"), ("No_Finding", "Finding"),
    ("without glasses", "glasses"), ("unaffected", "affected"), ("inactive", "active"), ("normal", "pneumonia"),
]  # fmt: skip


@pytest.mark.parametrize(("negative", "positive"), KNOWN)
def test_words_that_deny_are_negative(negative: str, positive: str) -> None:
    for pair in ((negative, positive), (positive, negative)):
        assert order_classes(pair) == ((negative, positive), True)


@pytest.mark.parametrize(
    ("first", "second"), [("cat", "dog"), ("female", "male"), ("f", "m"), ("1", "2"), ("no", "none")]
)
def test_other_words_stay_in_order_and_are_named(first: str, second: str) -> None:
    assert order_classes((first, second)) == ((first, second), False)


def test_more_classes_have_no_positive_one() -> None:
    assert order_classes(("yes", "no", "maybe")) == (("yes", "no", "maybe"), True)
    assert Task(name="x", classes=("a", "b", "c")).positive is None
    assert Task(name="x", classes=("a", "b")).positive == "b"


TASKS = [
    Task(name="a=b", classes=("x", "y=z")),
    Task(name="*", classes=("no", "yes")),
    Task(name="hair", classes=("black", "brown", "red")),
    Task(name="left", classes=("cat", "dog")),
    Task(name="right", classes=("cat", "dog")),
]


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ([], ["y=z", "yes", None, "dog", "dog"]),
        (["left=cat"], ["y=z", "yes", None, "cat", "dog"]),
        (["[lr]*t=cat"], ["y=z", "yes", None, "cat", "cat"]),
        (["a=b=x"], ["x", "yes", None, "dog", "dog"]),
        (["a=b=y=z", "*=no"], ["y=z", "no", None, "dog", "dog"]),
        (["left=dog", "left=dog"], ["y=z", "yes", None, "dog", "dog"]),
    ],
)
def test_users_choose(choices: list[str], expected: list[str | None]) -> None:
    assert [task.positive for task in choose_positive(TASKS, choices)] == expected


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("left", "should be TASK=CLASS"),
        ("leftt=cat", "`leftt` matches none of the 5 tasks. Did you mean `left`"),
        ("left=cats", "`left`: `cat` or `dog`. Got `cats`. Did you mean `cat`"),
        ("hair=red", "should name a task of two classes. `hair` has 3"),
        ("l*=red", "none of the 1 tasks that match `l*` is binary and has the class `red`"),
    ],
)
def test_choices_that_cannot_be(choice: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        choose_positive(TASKS, [choice])
    assert message in str(caught.value)


def test_two_choices_that_disagree() -> None:
    with pytest.raises(InputError, match=r"one class of `left`\. Got `cat` and `dog`"):
        choose_positive(TASKS, ["left=cat", "l*=dog"])


def test_labels_follow_the_order_of_the_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.csv").write_text("image,state,pet\na,cancer,cat\nb,healthy,dog\nc,,cat\n")
    found = read_labels(str(tmp_path / "labels.csv"), ColumnRoles(), tmp_path)
    assert [task.classes for task in found.tasks] == [("healthy", "cancer"), ("cat", "dog")]
    assert found.matrix.tolist() == [[1, 0], [0, 1], [-1, 0]]
    assert "positive classes, the later of two in order, as nothing says which it should be: `dog` of `pet`" in (
        capsys.readouterr().err
    )
    found = read_labels(str(tmp_path / "labels.csv"), ColumnRoles(positive=["pet=cat"]), tmp_path)
    assert found.matrix.tolist() == [[1, 1], [0, 0], [-1, 1]]
    assert "positive" not in capsys.readouterr().err


def test_the_choice_is_kept_by_the_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_images(tmp_path / "images", 8)
    rows = [f"{name},{'cat' if i % 2 else 'dog'}\n" for i, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text("image,pet\n" + "".join(rows[:4]))
    arguments = shard_arguments(tmp_path, tmp_path / "set", "--workers", "1", "--allow-unmatched")
    assert matl_data([*arguments, "--positive", "pet=cat"]) == 0
    assert read_manifest(tmp_path / "set").tasks[0].classes == ("dog", "cat")
    assert matl_data(["info", str(tmp_path / "set")]) == 0
    header, line, *_ = capsys.readouterr().out.split("images (train")[1].splitlines()[1:]
    assert "positive" in header
    assert line.index("cat") == header.index("positive")
    # another choice is another plan, and a set does not change its mind
    assert matl_data([*arguments, "--positive", "pet=dog"]) == 2
    assert "`cat` of `pet` is positive in the shard set" in capsys.readouterr().err
    (tmp_path / "labels.csv").write_text("image,pet\n" + "".join(rows[4:]))
    assert matl_data([*arguments, "--split", "val"]) == 0
    manifest = read_manifest(tmp_path / "set")
    labels = dict(zip(manifest.samples["path"].to_pylist(), manifest.labels()[:, 0].tolist(), strict=True))
    assert [labels[name] for name in names] == [0, 1] * 4


def test_added_tasks_have_one_too(tmp_path: Path) -> None:
    names = write_images(tmp_path / "images", 4)
    (tmp_path / "labels.csv").write_text("image,x\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(names)))
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--workers", "1")) == 0
    (tmp_path / "more.csv").write_text(
        "image,pet,state\n" + "".join(f"{n},{p},{s}\n" for n, p, s in zip(names, "cdcd", "NYYN", strict=True))
    )
    more = ["tasks", "add", str(tmp_path / "set"), "--labels", str(tmp_path / "more.csv"), "--positive", "pet=c"]
    assert matl_data(more) == 0
    assert [task.positive for task in read_manifest(tmp_path / "set").tasks] == ["1", "c", "Y"]
