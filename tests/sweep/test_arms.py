"""Arms and what is varied: what they set, and the lines that wrong ones get."""

from pathlib import Path
from typing import Any

import pytest

from matl_scale.commands.sweep import read_seeds
from matl_scale.errors import InputError
from matl_scale.sweep.arms import BUILT_IN, Arm, read_arms
from matl_scale.sweep.vary import build_variants, describe_not_varied, read_varied
from matl_scale.train.config import all_keys

TASKS = [f"task_{i}" for i in range(12)]


def arms_of(*names: str) -> list[Arm]:
    return read_arms(names, [], "test")


def test_built_in_arms_set_valid_keys_and_leave_the_rest_open() -> None:
    for arm in [*BUILT_IN.values(), *arms_of("k8")]:
        assert set(arm.settings(12)) <= set(all_keys())
    assert arms_of("k8")[0].settings(12) == {"routing.routes": 8}
    assert BUILT_IN["partition"].settings(5)["routing.routes"] == 5
    assert BUILT_IN["partition"].settings(5000)["routing.routes"] == 8


def test_an_own_arm_is_a_file_of_config_sections(tmp_path: Path) -> None:
    path = tmp_path / "wide.yaml"
    path.write_text("model: {width: 0.5}\noptim: {lr: 1e-2}\n")
    (arm,) = arms_of(str(path))
    assert (arm.name, arm.settings(3)) == ("wide", {"model.width": 0.5, "optim.lr": 0.01})


WRONG_ARMS = {
    "unknown": (["dens"], None, "Got 'dens'. Did you mean `dense`?"),
    "no number": (["k0"], None, "Got 'k0'"),
    "twice": (["dense", "dense"], None, "`dense` is there twice"),
    "none": ([], None, "at least one arm"),
    "unknown key": (["own.yaml"], "routing: {sigmaa: 1}", "Did you mean `routing.sigma`?"),
    "length": (
        ["own.yaml"],
        "train: {steps: 10}",
        "should leave `train.steps` alone: the budget says how long runs are",
    ),
    "seed": (["own.yaml"], "run: {seed: 1}", "should leave `run.seed` alone: use --seeds"),
    "name": (["dense.yaml"], "optim: {lr: 1}", "`dense` is a built-in arm"),
    "no file": (["gone.yaml"], None, "gone.yaml cannot be read"),
}


@pytest.mark.parametrize("case", WRONG_ARMS)
def test_wrong_arms_get_a_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, content, message = WRONG_ARMS[case]
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(names[0]).write_text(content)
    with pytest.raises(InputError) as error:
        arms_of(*names)
    assert message in str(error.value)


def test_arms_whose_folders_would_be_called_alike_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a b.yaml", "a-b.yaml"):
        Path(name).write_text("optim: {lr: 0.01}")
    with pytest.raises(InputError, match="`a-b` and `a b` would have the same folders"):
        arms_of("a b.yaml", "a-b.yaml")


def test_variants_are_arms_at_points() -> None:
    arms = arms_of("dense", "task", "partition")
    varied = read_varied(["routing.sigma=0.25,1", "T=4,6"], [], "test")
    variants = build_variants(arms, varied, TASKS)
    assert [variant.name for variant in variants] == [
        "dense T=4",
        "dense T=6",
        *(
            f"{arm} routing.sigma={sigma} T={number}"
            for arm in ("task", "partition")
            for sigma in (0.25, 1.0)
            for number in (4, 6)
        ),
    ]
    by_name = {variant.name: variant for variant in variants}
    small, large = by_name["dense T=4"].settings["data.tasks"], by_name["dense T=6"].settings["data.tasks"]
    assert len(small) == 4
    assert set(small) < set(large) < set(TASKS)
    assert large == sorted(large, key=TASKS.index)
    names = [name for name in by_name if name.startswith("partition")]
    assert {by_name[name].settings["routing.routes"] for name in names} == {4, 6}
    assert describe_not_varied(arms, varied, 12) == ["routing.sigma is not varied in dense, which sets it"]


def test_sigma_by_depth_is_varied_where_there_are_routes() -> None:
    varied = read_varied(["routing.sigma_last=0.25,none"], [], "test")
    variants = build_variants(arms_of("dense", "task"), varied, TASKS)
    assert [variant.settings["routing.sigma_last"] for variant in variants] == ["none", 0.25, "none"]


def test_values_are_read_as_config_values() -> None:
    (varied,) = read_varied(["routing.layers=[layer3, layer4],layer4"], [], "test")
    assert varied.values == [["layer3", "layer4"], ["layer4"]]
    assert read_varied(["optim.lr=1e-3,0.01"], [], "test")[0].values == [0.001, 0.01]


WRONG_VALUES: dict[str, tuple[list[str], str]] = {
    "unknown key": (["routing.sigmas_=1,2"], "Did you mean `routing.sigmas`?"),
    "section": (["routing=1,2"], "should name a key of the section `routing`"),
    "no values": (["routing.sigma"], "should be KEY=V1,V2"),
    "own": (["run.seed=1,2"], "should leave `run.seed` alone: use --seeds"),
    "length": (["train.steps=1,2"], "should leave `train.steps` alone"),
    "tasks": (["data.tasks=a,b"], "use T=10,50"),
    "twice": (["T=2,3", "T=4"], "`data.tasks` is there twice"),
    "same value": (["routing.sigma=0.5,0.50"], "each value once"),
    "no number": (["T=many"], "at least 1"),
    "too many tasks": (["T=4,13"], "at most the number of tasks, 12. Got 13"),
    "nobody varies": (["routing.routes=2,3"], "every arm sets `routing.routes` itself"),
}


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_wrong_variations_get_a_line(case: str) -> None:
    texts, message = WRONG_VALUES[case]
    with pytest.raises(InputError) as error:
        build_variants(arms_of("dense", "k2"), read_varied(texts, [], "test"), TASKS)
    assert message in str(error.value)


def test_a_value_that_its_key_does_not_take_ends_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_varied(["routing.sigma=0.5,much"], [], "test")
    assert "routing.sigma" in capsys.readouterr().err


SEEDS: dict[str, Any] = {
    "3": [0, 1, 2],
    "5,6": [5, 6],
    "7,": [7],
    "0": None,
    "": None,
    "a": None,
    "1,1": None,
    "-1": None,
}


@pytest.mark.parametrize("text", SEEDS)
def test_seeds_are_a_number_or_a_list(text: str) -> None:
    if SEEDS[text] is not None:
        assert read_seeds(text) == SEEDS[text]
        return
    with pytest.raises(InputError, match="--seeds"):
        read_seeds(text)
