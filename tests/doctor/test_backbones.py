"""`matl-doctor --backbones`: a line for each model, and the same as JSON."""

import json
from pathlib import Path

import pytest

from matl_scale.doctor import backbones
from matl_scale.doctor.__main__ import main


def test_the_list_is_printed_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backbones, "list_names", lambda: ["squeezenet1_1", "shufflenet_v2_x0_5"])
    assert main(["--backbones", "--json", str(tmp_path / "list.json")]) == 0
    found = json.loads((tmp_path / "list.json").read_text())
    routed = {"name": "squeezenet1_1", "source": "torchvision", "routed": True, "subnetwork": True, "reason": ""}
    assert found[0] == routed
    assert [found[1][key] for key in ("name", "routed", "subnetwork")] == ["shufflenet_v2_x0_5", False, False]
    printed = capsys.readouterr().out
    assert "sub-network  squeezenet1_1" in printed
    assert found[1]["reason"] in printed
    assert "torchvision: 1 of 2 with sub-networks" in printed


def test_entries_of_other_models_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, others = tmp_path / "list.json", [{"name": name, "reason": "as before"} for name in ("c", "a")]
    file.write_text(json.dumps(others))
    monkeypatch.setattr(backbones, "list_names", lambda: ["a", "squeezenet1_1", "c"])
    assert main(["--backbones", "--json", str(file), "--only", "squeeze*"]) == 0
    found = json.loads(file.read_text())
    assert [entry["name"] for entry in found] == ["a", "squeezenet1_1", "c"]
    assert [found[0], found[2]] == others[::-1]


@pytest.mark.parametrize(
    "arguments",
    [["--backbones", "--data.path", "x"], ["--json", "x.json"], ["--only", "x"], ["--backbones", "--only", "nothing"]],
)
def test_other_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
