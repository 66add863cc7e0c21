"""Columns whose classes, or whose several values in a cell, become tasks of their own. Stands for reports such as "my tags are
in one column, separated by bars", "one-hot this column for me", "the Planet data set has space-separated tags".
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_prep.labels.matrix import ColumnRoles, read_labels
from data_prep.labels.one_vs_rest import OneVsRest
from data_prep.labels.rare_classes import RareRule
from helpers.commands import matl_data, shard_arguments
from helpers.label_tables import decoded, read
from helpers.sources_on_disk import write_images
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.errors import InputError

COLOURS = "image,x,colour\na,1,red\nb,0,blue\nc,1,\nd,0,red\ne,1,NA\nf,0,green\n"
TAGS = "image,x,tags\na,1,sea|sky\nb,0,sky\nc,1, sea | sand |\nd,0,\ne,1,NA\n"
RED = ["yes", "no", None, "yes", None, "no"]


def test_each_class_becomes_a_task_instead_of_its_column(tmp_path: Path) -> None:
    found = decoded(read(tmp_path, COLOURS, one_vs_rest=OneVsRest(columns=["colour"])))
    assert list(found) == ["x", "colour:blue", "colour:green", "colour:red"]
    assert found["colour:red"] == RED
    assert found["colour:blue"] == ["no", "yes", None, "no", None, "no"]


def test_the_column_stays_beside_its_classes_if_it_is_named(tmp_path: Path) -> None:
    found = decoded(read(tmp_path, COLOURS, tasks=["colour"], one_vs_rest=OneVsRest(columns=["colour"])))
    assert list(found) == ["colour", "colour:blue", "colour:green", "colour:red"]
    assert found["colour"] == ["red", "blue", None, "red", None, "green"]


def test_each_of_several_values_in_a_cell_becomes_a_task(tmp_path: Path) -> None:
    found = decoded(read(tmp_path, TAGS, one_vs_rest=OneVsRest(columns=["tags"], separator="|")))
    assert found == {
        "x": ["1", "0", "1", "0", "1"],
        "tags:sand": ["no", "no", "yes", None, None],
        "tags:sea": ["yes", "no", "yes", None, None],
        "tags:sky": ["yes", "yes", "no", None, None],
    }


def test_labels_equal_those_of_columns_written_by_hand(tmp_path: Path) -> None:
    """Against a slow, obvious reference: many tags, in any order, repeated in a cell, with missing cells."""
    generator = np.random.default_rng(0)
    cells = [" ".join(generator.choice([f"t{i:02d}" for i in range(30)], generator.integers(0, 6))) for _ in range(200)]
    rows = "".join(f"{i},{cell}\n" for i, cell in enumerate(cells))
    found = read(tmp_path, f"image,tags\n{rows}", one_vs_rest=OneVsRest(columns=["tags"], separator=" "))
    names = sorted({tag for cell in cells for tag in cell.split()})
    assert [task.name for task in found.tasks] == [f"tags:{name}" for name in names]
    expected = [[int(name in cell.split()) if cell else -1 for name in names] for cell in cells]
    np.testing.assert_array_equal(found.matrix, expected)


def test_numbers_and_parquet_are_taken_apart_too(tmp_path: Path) -> None:
    table = pa.table({"image": ["a", "b", "c"], "grade": pa.array([10, 9, None], pa.int16())})
    found = decoded(read(tmp_path, table, "labels.parquet", one_vs_rest=OneVsRest(columns=["grade"])))
    assert found == {"grade:9": ["no", "yes", None], "grade:10": ["yes", "no", None]}


def test_rare_values_have_no_task_or_one_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = OneVsRest(columns=["colour"])
    found = decoded(read(tmp_path, COLOURS, one_vs_rest=rule, rare=RareRule(min_count=2)))
    assert found == {"x": ["1", "0", "1", "0", "1", "0"], "colour:red": RED}
    assert "2 values in fewer than 2 cells became no task: `blue` (1), `green` (1)" in capsys.readouterr().err
    found = decoded(read(tmp_path, COLOURS, one_vs_rest=rule, rare=RareRule(min_count=2, become="other")))
    assert found["colour:other"] == ["no", "yes", None, "no", None, "yes"]


def test_what_every_cell_holds_is_no_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = OneVsRest(columns=["t"], separator=";")
    assert list(decoded(read(tmp_path, "image,t\na,all;u\nb,all\nc,all;v\n", one_vs_rest=rule))) == ["t:u", "t:v"]
    assert "left out what every cell holds: all" in capsys.readouterr().err


def test_lists_as_programs_print_them_lose_brackets_and_quotes(tmp_path: Path) -> None:
    """Stands for "pandas wrote my list of tags as text". An empty list is no value: a missing label."""
    table = "image,t\na,\"['x', 'y']\"\nb,\"['y']\"\nc,[]\nd,z [old]\n"
    assert decoded(read(tmp_path, table, one_vs_rest=OneVsRest(columns=["t"], separator=","))) == {
        "t:x": ["yes", "no", None, "no"],
        "t:y": ["yes", "yes", None, "no"],
        "t:z [old]": ["no", "no", None, "yes"],
    }


def test_missing_words_and_odd_values_are_said_as_for_other_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = "image,t\na,NA\nb,red\nc,Red|blue\nd,unknown\n"
    read(tmp_path, table, one_vs_rest=OneVsRest(columns=["t"], separator="|"))
    lines = capsys.readouterr().err
    assert "taken as missing labels: 1 `NA` in `t`" in lines
    assert "`unknown` of `t`" in lines
    assert "these are different classes: `Red`, `red`" in lines


def test_yes_is_the_positive_class_of_each_task(tmp_path: Path) -> None:
    rule = OneVsRest(columns=["colour"])
    found = read(tmp_path, COLOURS, one_vs_rest=rule, positive=["colour:red=yes", "x=0"])
    assert [task.positive for task in found.tasks] == ["0", "yes", "yes", "yes"]
    with pytest.raises(InputError, match="in the tasks of --one-vs-rest, `yes` is positive"):
        read(tmp_path, COLOURS, one_vs_rest=rule, positive=["colour:red=no"])


def join(path: Path, table: str, more: str, **roles: object) -> dict[str, list[str | None]]:
    """Returns the labels of a table whose rows join the tasks of another one."""
    tasks = read(path, table, **roles).tasks
    (path / "more.csv").write_text(more)
    return decoded(read_labels(str(path / "more.csv"), ColumnRoles(**roles), path, known_tasks=tasks))  # type: ignore[arg-type]


JOINED = {
    "one value": (COLOURS, "image,x,colour\nm,1,red\nn,0,red\n", "", {"blue": ["no", "no"], "red": ["yes", "yes"]}),
    "no value": (COLOURS, "image,x,colour\nm,1,\nn,0,NA\n", "", {"blue": [None, None], "red": [None, None]}),
    "numbers alone": (
        "image,colour\na,1;2\nb,2\nc,3\n",
        "image,colour\nm,1\nn,3\n",
        ";",
        {"1": ["yes", "no"], "2": ["no", "no"], "3": ["no", "yes"]},
    ),
}


@pytest.mark.parametrize("case", JOINED)
def test_a_split_that_joins_may_hold_any_of_the_values(case: str, tmp_path: Path) -> None:
    table, more, separator, labels = JOINED[case]
    found = join(tmp_path, table, more, one_vs_rest=OneVsRest(columns=["colour"], separator=separator))
    assert {name: found[f"colour:{name}"] for name in labels} == labels


def test_a_column_whose_name_begins_like_the_tasks_keeps_its_labels(tmp_path: Path) -> None:
    table = "image,colour:bright,colour\na,yes,red\nb,no,blue\n"
    found = join(tmp_path, table, table, one_vs_rest=OneVsRest(columns=["colour"]))
    assert found["colour:bright"] == ["yes", "no"]
    table = "image,a,a:b\n1,x,p\n2,b,q\n"
    found = join(tmp_path, table, table, one_vs_rest=OneVsRest(columns=["a", "a:b"]))
    assert found["a:b"] == ["no", "yes"]
    assert found["a:b:q"] == ["no", "yes"]


def test_new_values_that_become_other_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = "image,t\na,red\nb,other\n"
    found = join(tmp_path, table, "image,t\nm,mauve\nn,red\n", one_vs_rest=OneVsRest(columns=["t"]))
    assert found["t:other"] == ["yes", "no"]
    assert "1 values have no task in the shard set, and are `t:other`: mauve" in capsys.readouterr().err


BAD = {
    "no column": ({"columns": ["color"]}, "has no column `color`"),
    "names of images": ({"columns": ["image"]}, "should name columns of labels"),
    "numbers": ({"columns": ["x"], "separator": "|"}, "column `x`: `--separator` is for cells of several words"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, tmp_path: Path) -> None:
    options, message = BAD[case]
    with pytest.raises(InputError, match=message):
        read(tmp_path, TAGS, one_vs_rest=OneVsRest(**options))  # type: ignore[arg-type]


def test_a_separator_needs_columns() -> None:
    with pytest.raises(InputError, match="--one-vs-rest: name them there"):
        OneVsRest(separator="|")


def test_splits_join_a_set_whose_columns_were_taken_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_images(tmp_path / "images", 4)
    more = write_images(tmp_path / "more", 3, prefix="m")
    for file, images, cells in (("labels", names, ["u|v", "v", "u", ""]), ("more", more, ["v|w", "", "u"])):
        rows = "".join(f"{name},{i % 2},{cell}\n" for i, (name, cell) in enumerate(zip(images, cells, strict=True)))
        (tmp_path / f"{file}.csv").write_text(f"image,x,t\n{rows}")
    apart = ["--one-vs-rest", "t", "--separator", "|"]
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", *apart)) == 0
    join = shard_arguments(tmp_path, tmp_path / "set", "--split", "val", images="more", labels="more.csv")
    assert matl_data(join) == 2
    assert "Was it made with --one-vs-rest t? Give that again" in capsys.readouterr().err
    assert matl_data([*join, *apart]) == 0
    assert "1 values have no task in the shard set: w" in capsys.readouterr().err
    manifest = read_manifest(tmp_path / "set")
    assert manifest.task_names == ["x", "t:u", "t:v"]
    val = manifest.sample_ids("val")
    paths = manifest.sample_columns("path").column(0).to_pylist()
    assert {paths[i]: manifest.labels()[i].tolist() for i in val} == {
        more[0]: [0, 0, 1],
        more[1]: [1, -1, -1],
        more[2]: [0, 1, 0],
    }


def test_tasks_of_values_are_added_and_relabelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names, target = write_images(tmp_path / "images", 4), str(tmp_path / "set")
    (tmp_path / "labels.csv").write_text("image,x\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(names)))
    cells = ["u|v", "v", "", "u"]
    tags = "".join(f"{name},{cell}\n" for name, cell in zip(names, cells, strict=True))
    (tmp_path / "tags.csv").write_text(f"image,t\n{tags}")
    (tmp_path / "new.csv").write_text(f"image,t:u\n{names[0]},no\n{names[2]},yes\n{names[3]},\n")
    assert matl_data(shard_arguments(tmp_path, target)) == 0
    add = ["tasks", "add", target, "--labels", str(tmp_path / "tags.csv"), "--one-vs-rest", "t", "--separator", "|"]
    assert matl_data(add) == 0
    assert matl_data(["tasks", "relabel", target, "--labels", str(tmp_path / "new.csv")]) == 0
    manifest = read_manifest(tmp_path / "set")
    paths = manifest.sample_columns("path").column(0).to_pylist()
    found = dict(zip(paths, manifest.labels().tolist(), strict=True))
    assert [found[name][1:] for name in names] == [[0, 1], [0, 1], [1, -1], [-1, 0]]
    assert matl_data(["tasks", "relabel", target, "--labels", str(tmp_path / "tags.csv")]) == 2
    assert "It has a task of each of its values (t:u, t:v): relabel them in columns" in capsys.readouterr().err


def test_too_many_different_cells_are_not_called_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cells", "one_vs_rest"):
        monkeypatch.setattr(f"data_prep.labels.{module}.MAX_SPELLINGS", 3)
    table = "image,t\n" + "".join(f"{i},a|{i}\n" for i in range(5))
    with pytest.raises(
        InputError, match=r"column `t`: more than 3 cells differ .* Give each value a column of its own"
    ):
        read(tmp_path, table, one_vs_rest=OneVsRest(columns=["t"], separator="|"))
