"""`matl-doctor --backbones`: a line for each model, and the same as JSON."""

import json
from pathlib import Path

import pytest

from matl_scale.doctor import backbones
from matl_scale.doctor.__main__ import main


def test_the_list_is_printed_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backbones, "list_names", lambda: ["squeezenet1_1", "vit_b_16"])
    assert main(["--backbones", "--json", str(tmp_path / "list.json")]) == 0
    found = json.loads((tmp_path / "list.json").read_text())
    routed = {"name": "squeezenet1_1", "source": "torchvision", "routed": True, "subnetwork": True, "reason": ""}
    assert found[0] == routed
    assert [found[1][key] for key in ("name", "routed", "subnetwork")] == ["vit_b_16", False, False]
    printed = capsys.readouterr().out
    assert "sub-network  squeezenet1_1" in printed
    assert found[1]["reason"] in printed
    assert "torchvision: 1 of 2 with sub-networks" in printed


@pytest.mark.parametrize("arguments", [["--backbones", "--data.path", "x"], ["--json", "x.json"]])
def test_other_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
