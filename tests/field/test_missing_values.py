"""Which words mean that there is no label, and who says so. Stands for reports such as "the country Namibia (NA) is read as
missing", "unknown became a class", "keep_default_na has to be set per column".
"""

from pathlib import Path

import pytest

from helpers.commands import matl_data, shard_arguments
from helpers.label_tables import decoded, read
from helpers.sources_on_disk import write_images
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.errors import InputError

TABLE = "image,country,mood\na,NA,unknown\nb,DE,happy\nc,DE,?\nd,,sad\n"
COUNTRIES, MOODS = ["NA", "DE", "DE", None], ["unknown", "happy", "?", "sad"]


@pytest.mark.parametrize(
    ("choices", "country", "mood"),
    [
        ([""], COUNTRIES, MOODS),
        (["country="], COUNTRIES, MOODS),
        (["unknown,?", "country="], COUNTRIES, [None, "happy", None, "sad"]),
        (["mood=unknown , ?", "country=XX"], COUNTRIES, [None, "happy", None, "sad"]),
        (["mood=unknown", "mood=?", ""], COUNTRIES, [None, "happy", None, "sad"]),
    ],
)
def test_users_choose_the_words_for_all_columns_or_for_one(
    choices: list[str], country: list[str | None], mood: list[str | None], tmp_path: Path
) -> None:
    assert decoded(read(tmp_path, TABLE, missing=choices)) == {"country": country, "mood": mood}


def test_a_word_that_is_every_cell_of_a_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Got no value at all, and 2 `NA`, which mean that a label is missing"):
        read(tmp_path, "image,x,y\na,NA,1\nb,NA,0\n")


def test_a_column_that_does_not_exist_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no column `county`\. Did you mean `country`"):
        read(tmp_path, TABLE, missing=["county=NA"])


def test_a_column_whose_name_holds_the_sign_is_found(tmp_path: Path) -> None:
    table = "image,a=b,x\nu,NA,1\nv,c,0\nw,d,0\n"
    assert decoded(read(tmp_path, table, missing=["a=b="]))["a=b"] == ["NA", "c", "d"]


def test_words_that_may_mean_missing_are_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(tmp_path, TABLE, missing=["country="])
    assert "classes that may mean a missing label: `?` of `mood`, `unknown` of `mood`" in capsys.readouterr().err


def test_columns_without_any_value_are_left_out_unless_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = "image,note,x, \na,,1,\nb, ,0,\n"
    assert decoded(read(tmp_path, table)) == {"x": ["1", "0"]}
    assert "left out `note`: no values" in capsys.readouterr().err
    with pytest.raises(
        InputError, match=r"column `note`: a task should have at least two classes\. Got no value at all"
    ):
        read(tmp_path, table, tasks=["*"])
    with pytest.raises(InputError, match="can be a task by itself: left out `note`: no values"):
        read(tmp_path, "image,note\na,\nb,\n")


def test_the_option_works_for_new_sets_and_new_tasks(tmp_path: Path) -> None:
    names = write_images(tmp_path / "images", 4)
    for file, cells in (("labels.csv", ["NA", "DE", "?", "NA"]), ("more.csv", ["-", "u", "v", "-"])):
        rows = "".join(f"{name},{cell}\n" for name, cell in zip(names, cells, strict=True))
        (tmp_path / file).write_text(f"image,{file[0]}\n{rows}")
    assert matl_data(shard_arguments(tmp_path, tmp_path / "set", "--missing-values", "?")) == 0
    add = ["tasks", "add", str(tmp_path / "set"), "--labels", str(tmp_path / "more.csv"), "--missing-values", "m=-"]
    assert matl_data(add) == 0
    assert [task.classes for task in read_manifest(tmp_path / "set").tasks] == [("DE", "NA"), ("u", "v")]
