"""Studies on tiny data with a faked trainer: what is trained, what their tables hold, and that nothing is trained twice."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.dataset import Dataset, binary_tasks, from_arrays, one_vs_rest
from data_prep.sources import cifar100, digits, fashion_mnist
from matl_scale.benchmark.studies import alphabets, baseline, decisions, image_size, imbalance, missing
from matl_scale.benchmark.studies.runner import STUDIES, run_study
from matl_scale.benchmark.studies.samples import Samples, read_samples
from matl_scale.benchmark.studies.workbench import RESULT_FILE, Workbench, train_and_evaluate
from matl_scale.commands.benchmark import main
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.errors import InputError
from matl_scale.metrics.names import METRICS
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.runs.records import LocalLog
from matl_scale.train.config import Config

NUM_TRAIN, NUM_TEST = 4000, 40


def tiny_dataset(*_: object) -> Dataset:
    """Returns small random images of ten classes, as ten one-vs-rest tasks."""
    pixels = np.random.default_rng(0).integers(0, 256, (NUM_TRAIN + NUM_TEST, 4, 4), dtype=np.uint8)
    return from_arrays(
        tasks=binary_tasks([f"class_{i}" for i in range(10)], "tiny"),
        names=[f"{i:04d}.png" for i in range(len(pixels))],
        labels=one_vs_rest(np.arange(len(pixels)) % 10, 10),
        splits=["train"] * NUM_TRAIN + ["test"] * NUM_TEST,
        images=ArrayImages(root="memory", pixels=pixels),
    )


@dataclass
class FakeTrainer:
    """Notes what it is asked to train, and writes an evaluation instead, whose values grow with each training."""

    configs: list[Config] = field(default_factory=list)

    def __call__(self, config: Config) -> None:
        self.configs.append(config)
        tasks = [task.name for task in read_manifest(config.data.path).tasks]
        base = len(self.configs) / 1000
        values = {name: np.full(len(tasks), base) for name in METRICS}
        values |= {"decided_balanced_accuracy": np.full(len(tasks), base + 0.5)}
        metrics = TaskMetrics(values=values, counts=np.full(len(tasks), 40))
        config.run.folder.mkdir(parents=True)
        for split in ("val", "test"):
            LocalLog(config.run.folder).log_per_task(1, split, tasks, metrics)


Bench = Callable[..., Workbench]


@pytest.fixture
def trainer() -> FakeTrainer:
    return FakeTrainer()


@pytest.fixture
def bench(tmp_path: Path, trainer: FakeTrainer, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for source in (fashion_mnist, cifar100, digits):
        monkeypatch.setattr(source, "build", tiny_dataset)
    data = {"fashion_mnist": tmp_path, "cifar100": tmp_path}
    return lambda only="": Workbench(work=tmp_path / "work", data=data, only=only, train=trainer)


def only_singles(work: Path, name: str) -> list[dict[str, str]]:
    with (work / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_missing_labels(bench: Bench, trainer: FakeTrainer) -> None:
    text = run_study(missing.STUDY, bench())
    assert len(trainer.configs) == 27
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert rows == ["| data.missing", "| ---", "| ignore", "| negative", "| soft"]
    shares = [np.mean(kept_labels(config) >= 0) for config in trainer.configs[:9:3]]
    np.testing.assert_allclose(shares, missing.SHARES, atol=0.01)
    singles = only_singles(bench().work, "missing")
    assert len(singles) == 27
    assert [round(float(single["value"]), 3) for single in singles[:2]] == [
        0.001,
        0.002,
    ]  # what was trained first and second


def test_imbalance_where_positives_are_rare(bench: Bench, trainer: FakeTrainer) -> None:
    text = run_study(imbalance.STUDY, bench())
    assert len(trainer.configs) == 3 * len(imbalance.RATES) * len(imbalance.ARMS)
    tables = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| macro")]
    assert tables == ["| macro AP", "| macro balanced accuracy as decided", "| macro balanced accuracy at argmax"]
    labels = kept_labels(trainer.configs[0])
    num_positive, num_negative = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    np.testing.assert_array_equal(num_positive, np.round(num_negative / 10))
    assert (num_negative > 2800).all()  # no negative is taken away
    test = read_manifest(trainer.configs[0].data.path)
    assert (test.labels()[test.sample_ids("test")] >= 0).all()


def kept_labels(config: Config) -> np.ndarray:
    manifest = read_manifest(config.data.path)
    labels: np.ndarray = manifest.labels()[manifest.sample_ids("train")]
    return labels


def test_a_study_continues_where_it_was_interrupted(bench: Bench, trainer: FakeTrainer) -> None:
    seen = run_study(missing.STUDY, bench(only="missing-0.5-soft-seed0"))
    assert len(trainer.configs) == 1
    assert "| soft | 1 | 0.0010 |" in seen
    run_study(missing.STUDY, bench(only="missing-0.5-soft"))
    assert [config.run.name for config in trainer.configs[1:]] == ["missing-0.5-soft-seed1", "missing-0.5-soft-seed2"]
    text = run_study(missing.STUDY, bench(only="missing-0.5-soft"))
    assert len(trainer.configs) == 3
    assert "| soft | 3 | 0.0020 ± 0.0025 |" in text


def test_a_run_with_other_settings_is_not_taken_for_the_same(bench: Bench) -> None:
    run_study(missing.STUDY, bench(only="missing-0.5-soft-seed0"))
    result = bench().work / "runs" / "missing-0.5-soft-seed0" / RESULT_FILE
    kept = json.loads(result.read_text())
    kept["settings"]["train.steps"] = 7
    result.write_text(json.dumps(kept))
    with pytest.raises(InputError, match=r"other settings than this study has now: train.steps. Give another --work"):
        run_study(missing.STUDY, bench(only="missing-0.5-soft-seed0"))


def test_decisions_of_a_trained_network(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {"train.steps": 3, "model.width": 0.03125, "data.batch_size": 16}
    monkeypatch.setattr(decisions, "ARMS", {row: changes | quick for row, changes in decisions.ARMS.items()})
    text = run_study(decisions.STUDY, replace(bench(only="balance_1-seed0"), train=train_and_evaluate))
    tables = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| CIFAR-100")]
    assert tables == ["| CIFAR-100, balanced accuracy", "| CIFAR-100, F1", "| CIFAR-100, ECE"]
    found = {
        (single["table"], single["measure"]): float(single["value"])
        for single in only_singles(bench().work, "decisions")
    }
    errors = {name: found["CIFAR-100, ECE", name] for name in ("as trained", "prior corrected", "fitted")}
    assert errors["as trained"] > 0.3  # trained on as many positives as negatives; one in ten is positive
    assert errors["prior corrected"] < errors["as trained"] / 2
    assert errors["fitted"] < errors["as trained"] / 2


def test_worst_task_on_digits(bench: Bench) -> None:
    text = run_study(decisions.STUDY, bench(only="digits-seed1"))
    assert "| 175 tasks | 1 | 0.0010 | 0.501 |" in text
    assert run_study(decisions.STUDY, bench(only="digits-seed1")) == text  # the columns keep their order


def test_what_random_networks_are_said_to_have_learned(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "NUM_TASKS", 7)
    monkeypatch.setattr(baseline, "RAREST", 0.1)
    text = run_study(baseline.STUDY, bench(only="baseline-seed49"))
    assert "| any task named | 1 | 0 of 1 (0.0% to 97.5%) | 0 of 1 (0.0% to 97.5%) |" in text


def test_what_a_study_needs_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["imbalance"], "--work should be given for a study"),
        (["imbalance", "--work", str(tmp_path)], "--fashion-mnist should be given for the study `imbalance`."),
        (["imbalance", "step"], "imbalance should not be started together with suites of figures"),
        (["imbalence"], "did you mean `imbalance`?"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert message.lower() in capsys.readouterr().err.lower()


def test_drawn_alphabets_can_be_told_apart(bench: Bench, trainer: FakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alphabets, "NUM_ALPHABETS", 3)
    drawn, again = (read_samples(alphabets.draw_alphabets(0)) for _ in range(2))
    np.testing.assert_array_equal(drawn.labels, again.labels)
    assert ((drawn.labels >= 0).sum(axis=1) == 1).all()
    classes = np.unique(drawn.labels, axis=0, return_inverse=True)[1].reshape(-1)
    for split, count in (("train", 14), ("val", 3), ("test", 3)):
        assert set(np.bincount(classes[drawn.splits == split])) == {count}
    images = [np.asarray(Image.open(io.BytesIO(x)).resize((16, 16)), float) for x in read_images(drawn)]
    assert list(map(bytes, read_images(drawn))) == list(map(bytes, read_images(again)))
    pixels = np.stack(images).reshape(len(images), -1)
    train, test = drawn.splits == "train", drawn.splits == "test"
    distances = np.linalg.norm(pixels[test][:, None] - pixels[train][None], axis=2)
    found = classes[train][distances.argmin(axis=1)]
    assert 0.3 < (found == classes[test]).mean() < 0.95, "neither noise nor copies"
    run_study(image_size.STUDY, bench())
    assert [config.data.image_size for config in trainer.configs[:4]] == ["auto", 105, 64, 32]


def read_images(samples: Samples) -> list[bytes]:
    return list(samples.dataset.images.read(samples.names.tolist(), samples.indices))


def test_every_study_has_a_name_of_its_own() -> None:
    assert list(STUDIES) == [
        "decisions", "missing", "imbalance", "baseline", "suspects", "defaults", "image-size", "answers", "same-arm",
        "scaling",
    ]  # fmt: skip
    assert baseline.STUDY.are_shares
