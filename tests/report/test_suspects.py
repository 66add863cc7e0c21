"""Labels that are likely wrong: confident learning against a slow reference, the search of a run, its list and its page."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, log_expit, log_softmax

from helpers.commands import matl_data
from helpers.made_up_runs import MadeUp, write_shapes
from helpers.made_up_runs import write_run as write_made_up
from helpers.report_runs import binary_tasks, draw_labels, draw_predictions, write_run
from matl_scale.data.shards.layout import MISSING
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.errors import InputError
from matl_scale.report.__main__ import main
from matl_scale.report.suspects.confident_learning import find_label_errors
from matl_scale.report.suspects.search import calibrate, log_probabilities, search_run
from matl_scale.report.suspects.suspect_list import HEADER
from matl_scale.runs.history import RunHistory
from matl_scale.runs.predictions import Predictions, PredictionsInfo, write_predictions
from matl_scale.tasks import Task

THREE = Task(name="three", classes=("x", "y", "z"))


def draw_task(
    seed: int, num_samples: int, num_classes: int, flipped: float = 0.0, sharpness: float = 3.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns labels, log-probabilities, and which labels were made wrong, of a network that knows a good deal."""
    generator = np.random.default_rng(seed)
    truth = generator.choice(
        num_classes, num_samples, p=np.arange(1, num_classes + 1) / (num_classes + 1) / num_classes * 2
    )
    logits = generator.normal(size=(num_samples, num_classes)) + sharpness * np.eye(num_classes)[truth]
    wrong = generator.random(num_samples) < flipped
    labels = np.where(wrong, (truth + generator.integers(1, num_classes, num_samples)) % num_classes, truth)
    return labels, log_softmax(logits, axis=1), wrong


def slow_label_errors(labels: Sequence[int], probabilities: Sequence[Sequence[float]]) -> tuple[list, list, list]:
    """Confident learning as the paper has it, sample by sample."""
    num_classes = len(probabilities[0])
    thresholds = []
    for j in range(num_classes):
        own = [row[j] for row, label in zip(probabilities, labels, strict=True) if label == j]
        thresholds.append(sum(own) / len(own) if own else float("inf"))
    joint = [[0] * num_classes for _ in range(num_classes)]
    errors = []
    for sample, (row, label) in enumerate(zip(probabilities, labels, strict=True)):
        reached = [j for j in range(num_classes) if row[j] >= thresholds[j]]
        if reached:
            likely = max(reached, key=lambda j: row[j])
            joint[label][likely] += 1
            if likely != label:
                errors.append((row[label], sample, likely))
    errors.sort()
    return [sample for _, sample, _ in errors], [likely for *_, likely in errors], joint


@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize("seed", range(5))
def test_confident_learning_is_that_of_the_paper(num_classes: int, seed: int) -> None:
    labels, log_probabilities, _ = draw_task(seed, 300, num_classes, flipped=0.1, sharpness=1.5)
    lacks_class = seed == 0 and num_classes > 2
    if lacks_class:
        labels[labels == num_classes - 1] = 0
    found = find_label_errors(labels, np.exp(log_probabilities))
    rows, suggested, joint = slow_label_errors(labels.tolist(), np.exp(log_probabilities).tolist())
    assert rows
    assert found.rows.tolist() == rows
    assert found.suggested.tolist() == suggested
    assert found.joint.tolist() == joint
    assert not lacks_class or num_classes - 1 not in suggested


@pytest.mark.parametrize("num_classes", [2, 5])
def test_calibration_undoes_a_factor_and_biases(num_classes: int) -> None:
    labels, log_probabilities, _ = draw_task(1, 5000, num_classes, flipped=0.02)
    biases = np.linspace(-2, 3, num_classes)
    plain = calibrate(labels, log_probabilities)
    changed = calibrate(labels, log_softmax(3 * log_probabilities + biases, axis=1))
    np.testing.assert_allclose(changed, plain, atol=0.01)
    np.testing.assert_allclose(plain.sum(axis=1), 1)
    # what fits best has, on average over the samples, each class as often as the labels do
    np.testing.assert_allclose(plain.mean(axis=0), np.bincount(labels, minlength=num_classes) / 5000, atol=1e-3)


def test_calibration_of_few_samples_stays_finite() -> None:
    labels = np.array([0, 1, 1])
    scores = log_expit(np.array([[60.0, -60.0, -60.0], [-60.0, 60.0, -60.0], [-1.0, 1.0, -60.0]]))
    calibrated = calibrate(labels, scores)
    assert np.isfinite(calibrated).all()
    assert calibrated.argmax(axis=1).tolist() == [0, 1, 1]


def write_scores(
    folder: Path,
    tasks: Sequence[Task],
    labels: np.ndarray,
    scores: np.ndarray,
    split: str = "test",
    test_set: str = "images",
) -> RunHistory:
    """Writes a run whose predictions of a split have these scores; the split may be added to a run that is there."""
    predicted = np.where(labels < 0, -1, 0)
    stand_ins = binary_tasks(*(task.name for task in tasks))
    write_run(folder, stand_ins, np.minimum(labels, 1), predicted, split=split, test_set=test_set)
    info = PredictionsInfo(split=split, step=100, tasks=tuple(tasks), test_set=test_set)
    found = Predictions(
        samples=np.arange(len(labels)),
        labels=labels,
        predicted=predicted,
        log_odds=scores.astype(np.float16),
        info=info,
    )
    write_predictions(RunHistory(folder).files.predictions_file(split), found)
    return RunHistory(folder)


def draw_binary(seed: int, num_samples: int, flipped: float = 0.02) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns labels, log-odds and which labels are wrong, of a task with one positive in five."""
    generator = np.random.default_rng(seed)
    truth = (generator.random(num_samples) < 0.2).astype(np.int64)
    wrong = generator.random(num_samples) < flipped
    return truth ^ wrong, generator.normal(size=num_samples) * 2 + 10 * truth - 5, wrong


def test_flipped_labels_are_found_whatever_the_logits_are_shifted_by(tmp_path: Path) -> None:
    drawn = [draw_binary(seed, 3000) for seed in range(3)]
    labels, scores, wrong = (np.stack(columns, axis=1) for columns in zip(*drawn, strict=True))
    labels[::7, 0] = MISSING
    scores[::7, 0] = np.nan
    wrong[::7, 0] = False
    scores[:, 1] += 3  # as balanced classes shift it
    scores[:, 2] *= 2  # too sure of itself
    found = search_run(write_scores(tmp_path / "run", binary_tasks("a", "b", "c"), labels, scores))
    assert [task.num_labels for task in found.tasks] == [int((labels[:, i] >= 0).sum()) for i in range(3)]
    first = found.ranked[: int(wrong.sum())]
    hits = [bool(wrong[suspect.sample, "abc".index(suspect.task)]) for suspect in first]
    assert np.mean(hits) > 0.9
    counts = [sum(suspect.task == task for suspect in first) for task in "abc"]
    assert (counts > 0.6 * wrong.sum(axis=0)).all()  # no task crowds out another
    for suspect in found.ranked:
        label = int(labels[suspect.sample, "abc".index(suspect.task)])
        assert (suspect.given, suspect.suggested) == (("no", "yes"), ("yes", "no"))[label]


def test_tasks_that_were_not_learned_are_left_out(tmp_path: Path) -> None:
    labels, scores, _ = draw_binary(0, 2000)
    generator = np.random.default_rng(1)
    one_class, noise = np.zeros_like(labels), generator.normal(size=(2000, 20))
    names = [f"noise_{i}" for i in range(20)]
    run = write_scores(
        tmp_path / "run",
        binary_tasks("good", "one", *names),
        np.stack([labels, one_class, *(generator.permutation(labels) for _ in names)], axis=1),
        np.stack([scores, scores, *noise.T], axis=1),
    )
    found = search_run(run)
    assert [task.name for task in found.tasks] == ["good"]
    assert found.left_out[0] == "one: fewer than two classes occur on test"
    assert found.left_out[1:] == [f"{name}: the network is not better than chance on test" for name in names]
    assert search_run(run, patterns=["go*"]).left_out == []


def test_many_classes_with_scores_of_their_own(tmp_path: Path) -> None:
    labels, log_probabilities, wrong = draw_task(0, 2000, 4, flipped=0.03, sharpness=6)
    log_odds = log_probabilities - np.log(-np.expm1(np.minimum(log_probabilities, -1e-9)))
    task = Task(name="kind", classes=("w", "x", "y", "z"))
    found = search_run(write_scores(tmp_path / "run", [task], labels[:, None], log_odds))
    first = found.ranked[: int(wrong.sum())]
    assert np.mean([wrong[suspect.sample] for suspect in first]) > 0.8
    assert all(suspect.given == task.classes[labels[suspect.sample]] for suspect in first)
    assert all(suspect.given != suspect.suggested for suspect in first)


def test_a_task_of_which_one_class_was_kept_is_left_out(tmp_path: Path) -> None:
    task = Task(name="identity", classes=tuple(map(str, range(300))))
    labels = np.arange(600)[:, None] % 300
    found = search_run(write_scores(tmp_path / "run", [task], labels, np.full((600, 1), 2.0)))
    assert found.left_out == ["identity: the predictions of test have one of its classes per sample only"]


def test_every_split_but_train_is_searched(tmp_path: Path) -> None:
    tasks = binary_tasks("a")
    for seed, split in enumerate(("train", "val", "test")):
        labels, scores, _ = draw_binary(seed, 1000)
        run = write_scores(tmp_path / "run", tasks, labels[:, None], scores[:, None], split=split)
    both = search_run(run)
    assert {info.split for info in both.splits} == {"val", "test"}
    assert both.num_labels == 2000
    assert {suspect.split for suspect in both.ranked} == {"val", "test"}
    only = search_run(run, split="val")
    assert only.ranked == [suspect for suspect in both.ranked if suspect.split == "val"]
    with pytest.raises(InputError, match="repeats the labels that it was trained on"):
        search_run(run, split="train")


def test_only_predictions_of_train_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, scores, _ = draw_binary(0, 200)
    run = write_scores(tmp_path / "run", binary_tasks("a"), labels[:, None], scores[:, None], split="train")
    with pytest.raises(SystemExit):
        main([str(run.folder), "--suspects", str(tmp_path / "out.csv")])
    assert "was not trained on" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_without_predictions_the_command_that_makes_them_is_named(tmp_path: Path) -> None:
    labels, scores, _ = draw_binary(0, 200)
    run = write_scores(tmp_path / "run", binary_tasks("a"), labels[:, None], scores[:, None], split="val")
    run.files.predictions_file("val").unlink()
    with pytest.raises(InputError, match=r"matl-evaluate --run \S*/run --split val"):
        search_run(run)


def test_old_predictions_have_the_log_odds_of_two_classes(tmp_path: Path) -> None:
    labels, scores, _ = draw_binary(0, 1000)
    new = write_scores(tmp_path / "run", binary_tasks("a"), labels[:, None], scores[:, None]).predictions("test")
    predicted = (scores[:, None] > 0).astype(np.int16)
    confidences = expit(np.abs(scores[:, None])).astype(np.float16).astype(np.float32)
    old = replace(new, predicted=predicted, old_confidences=confidences, log_odds=None)
    found, expected = log_probabilities(old, 0), log_probabilities(new, 0)
    assert found is not None
    assert expected is not None
    unsure = np.abs(scores) < 4  # half precision cannot tell the others apart
    np.testing.assert_allclose(found[unsure], expected[unsure], rtol=0.05)
    assert np.isfinite(found).all()
    assert log_probabilities(replace(old, info=replace(old.info, tasks=(THREE,))), 0) is None


def contradict(run: RunHistory, share: float = 0.05) -> None:
    """Replaces the predictions of a run by those of a network that is sure, and contradicts a share of the labels."""
    old, generator = run.predictions("test"), np.random.default_rng(0)
    columns = []
    for labels, task in zip(old.labels.T, old.info.tasks, strict=True):
        other = (labels + generator.integers(1, task.num_classes, len(labels))) % task.num_classes
        truth = np.where(generator.random(len(labels)) < share, other, np.maximum(labels, 0))
        logits = generator.normal(size=(len(labels), task.num_classes)) + 8 * np.eye(task.num_classes)[truth]
        found = log_softmax(logits, axis=1)
        scores = found - np.log(-np.expm1(found))
        columns.append(np.where(labels[:, None] < 0, np.nan, scores[:, 1:] if task.num_classes == 2 else scores))
    scores = np.concatenate(columns, axis=1).astype(np.float16)
    write_predictions(run.files.predictions_file("test"), replace(old, log_odds=scores))


def test_the_list_and_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up = MadeUp(num_tasks=8, num_samples=300, num_evaluations=2)
    manifest = write_shapes(tmp_path / "set", made_up)
    run = write_made_up(tmp_path / "made", made_up, tmp_path / "set")
    contradict(run)
    out = {
        name: str(tmp_path / file) for name, file in (("suspects", "out.csv"), ("out", "page.html"), ("json", "s.json"))
    }
    assert main([str(run.folder), *(word for name, file in out.items() for word in (f"--{name}", file))]) == 0
    shown = capsys.readouterr().out
    assert f"suspects: {tmp_path / 'out.csv'}" in shown
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert tuple(rows[0]) == HEADER
    assert f"labels likely wrong: {len(rows):,} of " in shown
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    certain = [float(row["given_probability"]) for row in rows]
    assert certain == sorted(certain)
    as_json = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["suspects"]
    listed = [(task["name"], each["sample"], each["given"]) for task in as_json["tasks"] for each in task["suspects"]]
    assert sorted(listed) == sorted((row["task"], int(row["sample"]), row["given"]) for row in rows)
    paths = dict(zip(*(manifest.sample_columns(name).column(0).to_pylist() for name in ("key", "path")), strict=True))
    of_task: dict[str, int] = {}
    predictions = run.predictions("test")
    for row in rows:
        of_task[row["task"]] = of_task.get(row["task"], 0) + 1
        column = next(i for i, task in enumerate(predictions.info.tasks) if task.name == row["task"])
        classes = predictions.info.tasks[column].classes
        label = predictions.labels[np.searchsorted(predictions.samples, int(row["sample"])), column]
        assert row["given"] == classes[label]
        assert row["suggested"] in set(classes) - {row["given"]}
        assert (row["image"], row["correct"]) == (paths[row["sample"]], "")
        assert int(row["rank_in_task"]) == of_task[row["task"]]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="suspects">') :]
    section = section[: section.index("</section>")]
    assert section.count('src="data:image/png;base64,') == sum(min(count, 8) for count in of_task.values())
    assert rows[0]["image"] in section


def test_a_filled_list_corrects_the_shard_set(tmp_path: Path) -> None:
    made_up = MadeUp(num_tasks=8, num_samples=300, num_evaluations=2)
    before = write_shapes(tmp_path / "set", made_up)
    run = write_made_up(tmp_path / "made", made_up, tmp_path / "set")
    contradict(run)
    list_file = tmp_path / "out.csv"
    assert main([str(run.folder), "--suspects", str(list_file)]) == 0
    with list_file.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows[:5]:
        row["correct"] = row["suggested"]
    with list_file.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        writer.writerows(rows)
    assert matl_data(["tasks", "correct", str(tmp_path / "set"), "--list", str(list_file)]) == 0
    after = read_manifest(tmp_path / "set")
    assert int((after.labels() != before.labels()).sum()) == 5
    paths = after.sample_columns("path").column(0).to_pylist()
    for row in rows[:5]:
        column = after.task_names.index(row["task"])
        label = after.labels([column])[paths.index(row["image"]), 0]
        assert after.tasks[column].classes[label] == row["correct"]


def test_without_the_shard_set_images_have_no_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, scores, _ = draw_binary(0, 1000)
    run = write_scores(tmp_path / "run", binary_tasks("a"), labels[:, None], scores[:, None])
    assert main([str(run.folder), "--suspects", str(tmp_path / "out.csv"), "--out", str(tmp_path / "page.html")]) == 0
    assert "no names of images: " in capsys.readouterr().out
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert {row["image"] for row in rows} == {""}
    assert "No images: " in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_several_runs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = binary_tasks("a")
    labels = draw_labels(50, tasks)
    for name in "xy":
        write_run(tmp_path / name, tasks, labels, draw_predictions(labels, tasks, 0.8, 0))
    with pytest.raises(SystemExit):
        main([str(tmp_path / "x"), str(tmp_path / "y"), "--suspects", str(tmp_path / "out.csv")])
    assert "`--suspects` should be asked of one RUN. Got 2." in capsys.readouterr().err
