"""The configuration: what is refused, what wins, and that a run's config can be given back."""

from pathlib import Path

import pytest

from matl_scale.train.config import Config, all_keys, describe_changes, dump_config, read_saved
from matl_scale.train.parse_config import parse_config

KEYS = """
run.name run.dir run.seed run.resume data.path data.tasks data.batch_size data.workers data.augment model.name model.width
model.pretrained routing.sigma routing.strategy routing.statistics tasks.policy train.steps train.precision
train.accumulate train.clip_norm optim.name optim.lr optim.weight_decay optim.warmup_steps eval.every eval.split
checkpoint.every checkpoint.keep track.mlflow track.curves
"""


def parse(*arguments: str) -> Config:
    return parse_config(arguments, "train.py", "")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_promised_keys_exist() -> None:
    assert set(KEYS.split()) <= set(all_keys())


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("train:\n  steps: 7\nrouting:\n  sigma: 0.25\n")
    config = parse("--config", str(path), "--train.steps", "9", "--data.tasks", "one*")
    assert (config.train.steps, config.routing.sigma, config.data.tasks) == (9, 0.25, "one*")


@pytest.mark.parametrize("separate", [True, False])
def test_a_length_on_the_command_line_replaces_that_of_the_file(tmp_path: Path, separate: bool) -> None:
    """The `config.yaml` of a run holds passes and the steps that follow from them; more passes are more steps."""
    path = tmp_path / "run.yaml"
    path.write_text("train:\n  epochs: 12.0\n  steps: 500\n  precision: fp32\n")
    file = ["--config", str(path)] if separate else [f"--config={path}"]

    def lengths(*arguments: str) -> tuple[object, ...]:
        train = parse_config(arguments, "test", "").train
        assert train.precision == "fp32"
        return train.epochs, train.steps, train.minutes

    assert lengths(*file, "--data.path", "x") == (12, 500, 0)
    assert lengths(*file, "--train.epochs", "20") == (20, "auto", 0)
    assert lengths(*file, "--train.steps=90") == ("auto", 90, 0)
    assert lengths(*file, "--train.minutes", "3") == ("auto", "auto", 3)
    assert lengths(*file, "--train.steps", "90", "--train.epochs", "20") == (20, 90, 0)
    assert lengths("--train.epochs", "20", *file) == (12, 500, 0), "what comes later wins"


def test_lists_and_null_values() -> None:
    config = parse("--data.tasks", "[a*, b]", "--track.curves", "[x]", "--tasks.policy=uniform")
    assert config.data.tasks == ["a*", "b"]
    assert config.track.curves == ["x"]


def test_a_dumped_config_reads_back(tmp_path: Path) -> None:
    config = parse("--data.tasks", "[a, b]", "--optim.lr", "1e-05", "--run.name", "1e3", "--model.stem", "small")
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert parse("--config", str(path)) == config


def test_unknown_key_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "Unknown config key `train.step` in the command line. Did you mean `train.steps`?" in refused(
        capsys, "--train.step", "5"
    )
    path = tmp_path / "config.yaml"
    path.write_text("optim:\n  weightdecay: 1\n")
    error = refused(capsys, "--config", str(path))
    assert str(path) in error
    assert "Did you mean `optim.weight_decay`?" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--train.steps", "many"), "train.steps"),
        (("--train.precision", "fp8"), "train.precision"),
        (("--train.steps", "0"), "`train.steps` should be at least 1. Got 0."),
        (("--run.name", "../x"), "`run.name` should be a plain folder name"),
        (("--config", "missing.yaml"), "missing.yaml"),
        (("--model.pretrained", "true", "--model.width", "0.5"), "`model.pretrained`"),
    ],
)
def test_wrong_values_are_one_clear_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert message in refused(capsys, *arguments)


def test_broken_yaml_names_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("train: [unclosed")
    assert "broken.yaml" in refused(capsys, "--config", str(path))
    path.write_text("trian:\n  steps: 5")
    assert "Unknown config section `trian`" in (error := refused(capsys, "--config", str(path)))
    assert "Did you mean `train`?" in error
    path.write_text("train: 5")
    assert "section `train` should hold keys" in refused(capsys, "--config", str(path))
    path.write_text("")
    assert "is empty. It should hold sections with keys" in refused(capsys, "--config", str(path))


def test_help_explains_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{key}" in text for key in all_keys())
    assert "hard sharing" in text


def test_changes_are_listed() -> None:
    old = {"train": {"steps": 5}}
    assert "train.steps: 5 → 'auto'" in describe_changes(read_saved(old), Config())


def test_a_config_file_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark, path = tmp_path / "mark", tmp_path / "config.yaml"
    path.write_text(f"run:\n  name: !!python/object/apply:os.system ['touch {mark}']\n")
    assert "cannot be read" in refused(capsys, "--config", str(path))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/tmp/x", "", "../x"])
def test_a_run_cannot_be_named_out_of_its_folder(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "`run.name` should be a plain folder name" in refused(capsys, "--run.name", name)
