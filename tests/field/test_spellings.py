"""What people write into a column of two classes, and what it becomes: the negative class first. Stands for reports such as
"1.0 and 1 are two classes", "TRUE and True differ", "CelebA's -1 means no".
"""

from pathlib import Path

import pyarrow as pa
import pytest

from helpers.label_tables import decoded, read

# the cells of a column, its classes with the positive one last, and the index of each cell's class, None where it is missing
SPELLINGS = [
    (["0", "1"], ["0", "1"], [0, 1]),
    (["1", "0", "0"], ["0", "1"], [1, 0, 0]),
    (["1.0", "0.0", "1"], ["0", "1"], [1, 0, 1]),
    ([" 1", "0 ", "01"], ["0", "1"], [1, 0, 1]),
    (["1e0", "0e0", "+1"], ["0", "1"], [1, 0, 1]),
    (["-1", "1"], ["-1", "1"], [0, 1]),
    (["1", "-1", "-1.0"], ["-1", "1"], [1, 0, 0]),
    (["+1", "-1", ""], ["-1", "1"], [1, 0, None]),
    (["1", "2"], ["1", "2"], [0, 1]),
    (["1", "", "0", "NA"], ["0", "1"], [1, None, 0, None]),
    (["1", "nan", "0", "NULL"], ["0", "1"], [1, None, 0, None]),
    (["True", "False"], ["false", "true"], [1, 0]),
    (["TRUE", "false", "True"], ["false", "true"], [1, 0, 1]),
    ([" true", "FALSE ", ""], ["false", "true"], [1, 0, None]),
    (["true", "None", "false"], ["false", "true"], [1, None, 0]),
    (["t", "f"], ["f", "t"], [1, 0]),
    (["T", "F", "N/A"], ["F", "T"], [1, 0, None]),
    (["yes", "no"], ["no", "yes"], [1, 0]),
    (["Yes", "No", "Yes "], ["No", "Yes"], [1, 0, 1]),
    (["YES", "NO"], ["NO", "YES"], [1, 0]),
    (["y", "n", "n"], ["n", "y"], [1, 0, 0]),
    (["Y", "N"], ["N", "Y"], [1, 0]),
    (["ja", "nein"], ["nein", "ja"], [1, 0]),
    (["present", "absent"], ["absent", "present"], [1, 0]),
    (["Present", "Absent", "-nan"], ["Absent", "Present"], [1, 0, None]),
    (["positive", "negative"], ["negative", "positive"], [1, 0]),
    (["pos", "neg"], ["neg", "pos"], [1, 0]),
    (["+", "-"], ["-", "+"], [1, 0]),
    (["on", "off"], ["off", "on"], [1, 0]),
    (["active", "inactive"], ["inactive", "active"], [1, 0]),
    (["with", "without"], ["without", "with"], [1, 0]),
    (["no finding", "pneumonia"], ["no finding", "pneumonia"], [0, 1]),
    (["healthy", "cancer"], ["healthy", "cancer"], [0, 1]),
    (["benign", "malignant"], ["benign", "malignant"], [0, 1]),
    (["abnormal", "normal"], ["normal", "abnormal"], [1, 0]),
    (["glasses", "none"], ["none", "glasses"], [1, 0]),
    (["not smiling", "smiling"], ["not smiling", "smiling"], [0, 1]),
    (["male", "female"], ["female", "male"], [1, 0]),  # nothing denies: in order, and a line says so
]


@pytest.mark.parametrize(("cells", "classes", "labels"), SPELLINGS, ids=lambda value: ",".join(map(str, value)))
def test_what_spellings_become(cells: list[str], classes: list[str], labels: list[int | None], tmp_path: Path) -> None:
    rows = "".join(f'{i},"{cell}"\n' for i, cell in enumerate(cells))
    found = read(tmp_path, f"image,x\n{rows}")
    assert list(found.tasks[0].classes) == classes
    assert found.tasks[0].positive == classes[1]
    assert decoded(found)["x"] == [None if label is None else classes[label] for label in labels]


def test_minus_one_beside_0_and_1_is_a_class_that_is_pointed_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = "image,x\na,1\nb,0\nc,-1\n"
    assert decoded(read(tmp_path, table))["x"] == ["1", "0", "-1"]
    assert "classes that may mean a missing label: `-1` of `x`" in capsys.readouterr().err
    assert decoded(read(tmp_path, table, missing=["x=-1"]))["x"] == ["1", "0", None]
    assert "may mean a missing label" not in capsys.readouterr().err


def test_numbers_in_parquet_can_mean_missing_too(tmp_path: Path) -> None:
    table = pa.table({"image": ["a", "b", "c"], "x": [1, 0, -1]})
    assert decoded(read(tmp_path, table, "labels.parquet", missing=["x=-1"]))["x"] == ["1", "0", None]


@pytest.mark.parametrize("cell", ["-1", "-1.0", " -1. "])
def test_a_number_means_missing_however_pandas_wrote_it(cell: str, tmp_path: Path) -> None:
    table = f"image,x\na,1.0\nb,0.0\nc,{cell}\n"
    assert decoded(read(tmp_path, table, missing=["-1"]))["x"] == ["1", "0", None]
