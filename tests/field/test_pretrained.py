"""Runs that start from torchvision's weights on machines without a network, with a damaged cache, or with a checkpoint."""

import hashlib
import shutil
import urllib.error
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from matl_scale.commands.train import main as matl_train
from matl_scale.data.loading.config import DataConfig
from matl_scale.deploy.predict import predict
from matl_scale.doctor.__main__ import main as matl_doctor
from matl_scale.doctor.weights import check_weights
from matl_scale.errors import InputError
from matl_scale.models.backbones import build_backbone
from matl_scale.models.config import ModelConfig
from matl_scale.models.pretrained import HASH_IN_NAME, WeightsFile, fetch_weights
from matl_scale.storage.files import file_sha256
from matl_scale.train.build_state import ready_on_every_machine
from matl_scale.train.config import Config
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.train_step import TrainConfig
from matl_scale.vision import models

NAME = "squeezenet1_1"  # small, and its weights begin with b8a52dc0
MODEL = ModelConfig(name=NAME, width=1.0, stem="standard", pretrained=True)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WeightsFile:
    """The file of the weights in an empty cache of torch.hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return WeightsFile.of_model(NAME)


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compute node that reaches nothing."""

    def fail(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError(OSError(101, "Network is unreachable"))

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)


@pytest.fixture
def _network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that gives random weights, which have the right checksum as long as they are whole."""

    def checksum(path: Path) -> str:
        return "b8a52dc0" + "0" * 56 if path.stat().st_size > 1e6 else file_sha256(path)

    monkeypatch.setattr("matl_scale.models.pretrained.file_sha256", checksum)

    def download(_: str, path: str, *__: Any, **___: Any) -> None:
        torch.save(models.get_model(NAME).state_dict(), path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)


def cut_off(file: WeightsFile) -> Path:
    """Leaves the first bytes of a download that was killed under an older torch, or copied by hand."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    file.path.write_bytes(b"PK\x03\x04 and no more")
    return file.path


def config_of(folder: Path, shards: ShardSet, name: str = "run", **sections: Any) -> Config:
    settings = TrainConfig(steps=2, precision="fp32")
    data = DataConfig(path=str(shards.root), batch_size=6, workers=0, image_size=64)
    return build_config(folder, shards, name, model=MODEL, train=settings, data=data, **sections)


@pytest.mark.usefixtures("_no_network")
def test_without_a_network_the_line_names_file_folder_and_address(file: WeightsFile) -> None:
    """Reports: `URLError: <urlopen error [Errno -2] …>` with forty lines of trace on a compute node."""
    with pytest.raises(InputError) as error:
        build_backbone(MODEL, 0)
    assert str(error.value) == (
        f"`model.pretrained`: {file.path.name} cannot be fetched into {file.path.parent}: <urlopen error [Errno 101] Network is "
        f"unreachable>. Without a network, put {file.url} into {file.path.parent} as {file.path.name} (the environment variable "
        "TORCH_HOME moves that folder), or set `model.pretrained` to false."
    )
    assert file.path.parts[-3:] == ("hub", "checkpoints", "squeezenet1_1-b8a52dc0.pth")


def test_a_wrong_checksum_and_a_full_disk_are_lines_too(file: WeightsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    for problem in (
        RuntimeError('invalid hash value (expected "b8", got "00")'),
        OSError(28, "No space left on device"),
    ):

        def fail(*_: Any, problem: Exception = problem, **__: Any) -> None:
            raise problem

        monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
        with pytest.raises(InputError, match="cannot be fetched into") as error:
            fetch_weights(NAME)
        assert str(problem) in str(error.value)
        assert not file.path.exists()


@pytest.mark.usefixtures("_no_network")
def test_a_cut_off_file_is_named_and_said_to_be_replaced(file: WeightsFile) -> None:
    """Reports: `PytorchStreamReader failed reading zip archive` after a download that was interrupted."""
    path = cut_off(file)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    with pytest.raises(InputError) as error:
        build_backbone(MODEL, 0)
    assert str(error.value) == (
        f"`model.pretrained`: {path} is damaged or cut off: its SHA-256 should begin with b8a52dc0, and begins with {digits}. "
        f"Delete it to have it downloaded again, or replace it by {file.url}."
    )


@pytest.mark.usefixtures("_no_network", "file")
@pytest.mark.parametrize("main", [matl_train, matl_doctor])
@pytest.mark.filterwarnings("ignore")  # what the doctor imports warns
def test_the_commands_end_with_one_line_or_a_finding(
    main: Any, small_set: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "--data.path": small_set.root,
        "--run.dir": tmp_path,
        "--model.name": NAME,
        "--model.pretrained": "true",
    }
    arguments = [str(word) for pair in settings.items() for word in pair] + ["--data.image_size", "64"]
    if main is matl_doctor:
        assert main([*arguments, "--ranks", "1", "--data.batch_size", "2", "--data.workers", "0"]) == 0
        shown = capsys.readouterr().out
        assert "weights: " in shown
        assert "b8a52dc0.pth is not there: the run downloads https://" in shown
        return
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--track.mlflow", "false", "--train.precision", "fp32"])
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "error" in line]) == 1, lines
    assert "Traceback" not in "".join(lines)


@pytest.mark.usefixtures("_network")
def test_nothing_is_fetched_where_a_checkpoint_is_loaded(
    file: WeightsFile, small_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports: a run that cannot be resumed on a node without a network, though its checkpoint has all weights."""
    config = config_of(tmp_path, small_set, checkpoint=CheckpointConfig(every=1))
    train(config, build_accelerator("fp32"))
    weights = torch.load(file.path, weights_only=True)
    assert "features.0.weight" in weights
    newest = sorted((config.run.folder / "checkpoints").glob("step-*"))[-1]
    shutil.rmtree(newest)  # so that there is a step to do
    cut_off(file)

    def forbid(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is to be fetched")

    monkeypatch.setattr(torch.hub, "download_url_to_file", forbid)
    assert train(config, build_accelerator("fp32")).step == 2
    started = config_of(tmp_path, small_set, "started")
    started = replace(started, run=replace(started.run, start_from=str(config.run.folder)))
    assert train(started, build_accelerator("fp32")).step == 2
    predict(config.run.folder, str(small_set.root), tmp_path / "out.parquet", which="newest", workers=0)
    for run in (config, started):
        assert [(finding.level, finding.topic) for finding in check_weights(run)] == [("ok", "weights")]
    with pytest.raises(InputError, match="is damaged or cut off"):
        train(config_of(tmp_path, small_set, "new"), build_accelerator("fp32"))


def test_one_rank_of_each_machine_fetches(file: WeightsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight ranks of a node that download the same file at once."""
    fetched: list[str] = []
    monkeypatch.setattr("matl_scale.train.build_state.fetch_weights", fetched.append)
    accelerator = Accelerator(cpu=True)
    ready_on_every_machine(MODEL, accelerator)
    assert fetched == [NAME]
    monkeypatch.setattr(type(accelerator), "is_local_main_process", property(lambda _: False))
    ready_on_every_machine(MODEL, accelerator)
    assert fetched == [NAME]
    assert not file.path.exists()


def test_the_doctor_says_whether_the_weights_are_there(
    file: WeightsFile, small_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, small_set)
    assert not list(check_weights(replace(config, model=ModelConfig(name=NAME))))
    (missing,) = check_weights(config)
    assert missing.level == "warning"
    assert f"put {file.url} into {file.path.parent}" in missing.remedy
    cut_off(file)
    (damaged,) = check_weights(config)
    assert (damaged.level, damaged.remedy.split(",")[0]) == ("error", "Delete it to have it downloaded again")
    monkeypatch.setattr("matl_scale.models.pretrained.file_sha256", lambda _: "b8a52dc0" + "0" * 56)
    (whole,) = check_weights(config)
    assert (whole.level, whole.text) == ("ok", f"{file.path} is there and whole.")


def test_models_that_weights_change_are_refused() -> None:
    """Their checkpoints could not be read: torchvision gives GoogLeNet and Inception other layers with weights."""
    for name in ("googlenet", "inception_v3"):
        with pytest.raises(InputError, match=f"`model.pretrained` should be false for {name}"):
            build_backbone(ModelConfig(name=name, pretrained=True), 0)


def test_weights_have_a_checksum_in_their_name() -> None:
    for name in models.list_models(module=models):
        assert HASH_IN_NAME.search(WeightsFile.of_model(name).path.name), name
