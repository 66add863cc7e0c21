"""A run keeps its paths as absolute ones: it was started with relative ones, and is read from another folder."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from helpers.shard_sets import ShardSet
from matl_scale.commands.evaluate import main as matl_evaluate
from matl_scale.commands.predict import main as matl_predict
from matl_scale.commands.train import main as matl_train
from matl_scale.report.__main__ import main as matl_report

SETTINGS = [
    "--data.batch_size", "6", "--data.workers", "0", "--model.name", "vgg11_bn", "--model.width", "0.03125",
    "--model.stem", "small", "--train.steps", "4", "--train.precision", "fp32", "--track.mlflow", "false",
]  # fmt: skip


@pytest.fixture
def run(small_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run; afterwards the working folder is another one."""
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    data = os.path.relpath(small_set.root)
    assert matl_train(["--data.path", data, *SETTINGS]) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "project/runs/run"


def test_a_run_is_read_from_any_folder(run: Path, small_set: ShardSet) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert Path(config["data"]["path"]).is_absolute()
    assert Path(config["data"]["path"]).resolve() == small_set.root.resolve()
    assert matl_report([str(run), "--out", "page.html"]) == 0
    assert 'src="data:image/png' in Path("page.html").read_text(encoding="utf-8")  # the worst samples
    assert matl_evaluate(["--run", str(run), "--split", "train"]) == 0
    assert set(pq.read_table(run / "per_task.parquet")["split"].to_pylist()) == {"val", "train"}
    assert matl_predict(["--run", str(run), "--images", str(small_set.root), "--out", "p.parquet"]) == 0
    assert pq.read_metadata("p.parquet").num_rows == 90 * 6
    assert not Path("runs").exists()
