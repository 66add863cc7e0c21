"""The study of scale, at a small one: the figures are those of tables that can be counted by hand."""

import csv
from pathlib import Path

import pytest

from helpers.shard_sets import ShardSet
from matl_scale.benchmark.studies import scaling
from matl_scale.benchmark.studies.runner import run_study
from matl_scale.benchmark.studies.workbench import Workbench

DENSE, SPARSE = scaling.Scale("dense", 5_000, 128, 0.4), scaling.Scale("sparse", 70_000, 128, 0.01)


def test_bytes_are_those_of_the_tables(small_set: ShardSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scaling, "SCALES", (DENSE, SPARSE))
    monkeypatch.setattr(Workbench, "shard_set", lambda *_: Path(str(small_set.root)))
    text = run_study(scaling.STUDY, Workbench(work=tmp_path, data={}))
    assert "| a set of | seeds | dense | sparse |" in text
    rows = list(csv.DictReader((tmp_path / "scaling.csv").read_text(encoding="utf-8").splitlines()))
    found = {(row["measure"], row["row"]): float(row["value"]) for row in rows}
    cache = "label cache on disk, mapped once per node, GB"
    assert found["dense", cache] * 1e9 == pytest.approx(
        DENSE.num_samples * DENSE.num_tasks, rel=0.01
    )  # a byte per cell
    labels = SPARSE.num_samples * SPARSE.num_tasks * SPARSE.share
    assert found["sparse", cache] * 1e9 == pytest.approx(2 * labels, rel=0.1)  # two bytes per label
    heads = 128 * 2 * (2048 + 1) * 4 * 3  # binary tasks on the features of ResNet-50, fp32, with two moments
    assert found["dense", "heads with AdamW per rank, GB"] * 1e9 == pytest.approx(heads)
    trunk = 23_508_032  # ResNet-50 without its classifier
    sent = 2 * 511 / 512 * 4 * (trunk + heads / 12)
    assert found["dense", "sent per step and rank, 64 nodes, GB"] * 1e9 == pytest.approx(sent)
