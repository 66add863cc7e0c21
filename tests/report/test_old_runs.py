"""A finished run of an earlier version stays readable, from any folder, although it names its shard set by a relative path."""

import json
import shutil
from pathlib import Path

import pytest

from matl_scale.report.__main__ import main

OLD = Path(__file__).parents[1] / "data" / "old"
RUN = OLD / "runs" / "old"


@pytest.mark.parametrize("started_in", ["here", "elsewhere"])
def test_an_old_run_is_reported_with_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started_in: str
) -> None:
    monkeypatch.chdir(OLD if started_in == "here" else tmp_path)
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    run = str(RUN.relative_to(OLD) if started_in == "here" else RUN)
    assert main([run, "--out", str(page), "--json", str(numbers)]) == 0
    content = json.loads(numbers.read_text(encoding="utf-8"))["run"]
    assert content["step"] == 40
    assert [task["task"] for task in content["tasks"]] == ["bright", "colour", "blue", "dark"]
    assert content["summary"]["macro_accuracy"] == 0.375
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg") > 5
    assert "Rank correlation of overlap" in text or "Overlap and labels cannot be compared" in text


def test_a_shard_set_that_cannot_be_found_is_looked_for_in_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(RUN, tmp_path / "runs" / "old")
    (tmp_path / "started").mkdir()
    monkeypatch.chdir(tmp_path / "started")
    assert main([str(tmp_path / "runs" / "old"), "--out", "page.html"]) == 0
    text = (tmp_path / "started" / "page.html").read_text(encoding="utf-8")
    assert "No images: The run names its shard set by the relative path set" in text
    assert str(tmp_path / "started") in text
    shutil.copytree(OLD / "set", tmp_path / "started" / "set")
    assert main([str(tmp_path / "runs" / "old"), "--out", "page.html"]) == 0
    assert "data:image/jpeg" in (tmp_path / "started" / "page.html").read_text(encoding="utf-8")
