"""Runs of earlier versions name their shard set by a relative path; the report finds it, whatever folder it is started in."""

import json
import shutil
from pathlib import Path

import pytest

from matl_scale.report.__main__ import main

OLD = Path(__file__).parents[1] / "data" / "old"
RUN = OLD / "runs" / "old"


def test_a_report_started_in_another_folder_has_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()  # another folder of the same name
    assert main([str(RUN), "--out", "page.html", "--json", "numbers.json"]) == 0
    content = json.loads(Path("numbers.json").read_text(encoding="utf-8"))["run"]
    assert (content["step"], content["summary"]["macro_accuracy"]) == (40, 0.375)
    page = Path("page.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png') > 5
    assert "Rank correlation of overlap and label association" in page


def test_the_shard_set_may_be_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(RUN, tmp_path / "moved" / "old")
    (tmp_path / "started").mkdir()
    monkeypatch.chdir(tmp_path / "started")
    assert main(["../moved/old", "--out", "page.html"]) == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert (
        f"No images: The run names its shard set by the relative path set. There is none below {Path.cwd()} or" in page
    )
    shutil.copytree(OLD / "set", "set")
    assert main(["../moved/old", "--out", "page.html"]) == 0
    assert 'src="data:image/png' in Path("page.html").read_text(encoding="utf-8")
