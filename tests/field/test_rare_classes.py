"""Columns with classes that nobody can learn, and columns that are no tasks. Stands for reports such as "my classifier has 4,000
breeds with one photo each", "the caption column became a task with a class per image".
"""

from pathlib import Path

import pytest

from data_prep.labels.rare_classes import Rare, RareRule
from helpers.commands import matl_data, shard_arguments
from helpers.label_tables import decoded, read
from helpers.sources_on_disk import write_images
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.errors import InputError
from matl_scale.tasks import Task


def table(**columns: list[object]) -> str:
    rows = zip(*columns.values(), strict=True)
    return "\n".join(
        [",".join(["image", *columns]), *(",".join(map(str, [i, *cells])) for i, cells in enumerate(rows))]
    )


BREEDS: list[object] = ["pug", "pug", "boxer", "boxer", "borzoi", "mutt", "", "pug"]


def test_rare_classes_become_missing_labels(tmp_path: Path) -> None:
    found = read(tmp_path, table(breed=BREEDS), rare=RareRule(min_count=2))
    assert decoded(found) == {"breed": ["pug", "pug", "boxer", "boxer", None, None, None, "pug"]}
    assert found.tasks[0].classes == ("boxer", "pug")


def test_rare_classes_become_one_class(tmp_path: Path) -> None:
    found = read(tmp_path, table(breed=BREEDS), rare=RareRule(min_count=3, become="other"))
    assert decoded(found) == {"breed": ["pug", "pug", "other", "other", "other", "other", None, "pug"]}


def test_a_class_that_is_called_other_takes_the_rare_ones(tmp_path: Path) -> None:
    cells: list[object] = ["other", "other", "a", "a", "b", "b", "c"]
    found = read(tmp_path, table(x=cells), rare=RareRule(min_count=2, become="other"))
    assert decoded(found) == {"x": ["other", "other", "a", "a", "b", "b", "other"]}
    assert found.tasks[0].classes == ("a", "b", "other")


def test_what_became_of_rare_classes_is_said_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_images(tmp_path / "images", len(BREEDS))
    rows = "".join(f"{name},{breed}\n" for name, breed in zip(names, BREEDS, strict=True))
    (tmp_path / "labels.csv").write_text(f"image,breed\n{rows}")
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--min-class-count", "2")) == 0
    expected = "column `breed`: 2 classes with fewer than 2 labels became missing labels: `borzoi` (1), `mutt` (1)"
    assert expected in capsys.readouterr().err
    assert [count.tolist() for count in read_manifest(tmp_path / "set").counts] == [[2, 3]]
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--min-class-count", "2")) == 0
    assert "is complete: there is nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize(("become", "expected"), [("drop", None), ("other", "other")])
def test_classes_of_a_set_stay_however_rare_they_are_in_rows_that_join(
    tmp_path: Path, become: Rare, expected: str | None
) -> None:
    task = Task(name="breed", classes=("boxer", "pug", "other")[: 2 if become == "drop" else 3])
    cells: list[object] = ["pug", "borzoi", "boxer", "boxer"]
    found = read(tmp_path, table(breed=cells), rare=RareRule(min_count=2, become=become), known_tasks=[task])
    assert decoded(found) == {"breed": ["pug", expected, "boxer", "boxer"]}
    with pytest.raises(InputError, match=r"the shard set has no class borzoi\. It has boxer, pug"):
        read(tmp_path, table(breed=[*cells, "borzoi"]), rare=RareRule(min_count=2, become=become), known_tasks=[task])


def test_a_set_without_other_cannot_take_rare_classes_as_other(tmp_path: Path) -> None:
    task = Task(name="breed", classes=("boxer", "pug"))
    with pytest.raises(InputError, match=r"no class other\. .* became class `other`: `mutt` \(1\); --rare drop leaves"):
        read(tmp_path, table(breed=["pug", "mutt"]), rare=RareRule(min_count=2, become="other"), known_tasks=[task])


def test_a_column_of_rare_classes_only_is_refused_with_their_counts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Got only 'pug', beside rare classes: `boxer` \(2\), `borzoi` \(1\)"):
        read(tmp_path, table(breed=BREEDS), rare=RareRule(min_count=3))


def test_columns_like_identifiers_are_left_out_unless_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = table(caption=[f"photo {i}" for i in range(60)], x=[i % 2 for i in range(60)])
    assert list(decoded(read(tmp_path, text))) == ["x"]
    assert (
        "left out `caption`: so many different values look like an identifier or free text" in capsys.readouterr().err
    )
    assert list(decoded(read(tmp_path, text, tasks=["caption", "x"]))) == ["caption", "x"]


def test_many_classes_with_enough_labels_are_a_task(tmp_path: Path) -> None:
    text = table(species=[i % 50 for i in range(500)], few=[i % 20 for i in range(500)])
    assert list(decoded(read(tmp_path, text))) == ["species", "few"]
