"""What the network got most confidently wrong in the worst tasks, with the images, if they are still there."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from matl_scale.data.images.decode import decode_image
from matl_scale.data.shards.layout import MISSING
from matl_scale.data.shards.manifest import Manifest, read_manifest
from matl_scale.data.shards.reader import SampleReader
from matl_scale.errors import InputError
from matl_scale.metrics.names import MAIN_METRIC, METRIC_LABELS
from matl_scale.report.facts import RunFacts, data_path
from matl_scale.report.page.table import format_number
from matl_scale.runs.predictions import Predictions

NUM_TASKS = 10
NUM_SAMPLES = 8
SIDE_PX = 64
QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One sample.

    Attributes:
        key: Of the sample.
        truth: Name of its class.
        answer: Name of the class that it was given.
        confidence: Probability of the answer.
        image: Data URL of the thumbnail; empty if there is none.
        problem: Why there is none.
    """

    key: int
    truth: str
    answer: str
    confidence: float
    image: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class WorstTask:
    """One task: its name, how bad it is in a few words, and its most confident mistakes."""

    name: str
    summary: str
    mistakes: list[Mistake]


@dataclass(frozen=True, kw_only=True)
class WorstTasks:
    """The section: its tasks, and in a sentence what is missing from it."""

    tasks: list[WorstTask]
    missing: str = ""


class Thumbnails:
    """Makes thumbnails of a split's samples by key.

    Args:
        manifest: The shard set.
        predictions: Whose samples are looked for.

    Raises:
        InputError: The split has other images than those that were evaluated.
    """

    def __init__(self, manifest: Manifest, predictions: Predictions) -> None:
        split = predictions.info.split
        self._rows, self._reader = manifest.rows(split), SampleReader(manifest)
        if manifest.hash_shards(split) != predictions.info.test_set:
            raise InputError(f"{manifest.root} has other images in split `{split}` than those that were evaluated.")
        keys = self._reader.keys(self._rows)
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    def draw(self, key: int) -> tuple[str, str]:
        """Returns a data URL, or an empty text and why there is none."""
        place = int(np.searchsorted(self._keys, key))
        data = self._reader.read(self._rows[self._order[place : place + 1]])[0]
        if not isinstance(data, bytes):
            return "", str(data)
        try:
            pixels = decode_image(data, SIDE_PX)
        except Exception as error:  # Pillow's codecs raise many kinds
            return "", f"cannot be decoded: {error}"
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode(), ""


def find_worst_tasks(facts: RunFacts) -> WorstTasks:
    """Returns the worst tasks of a run with their most confident mistakes."""
    if facts.predictions is None:
        return WorstTasks(tasks=[], missing=f"No samples: {facts.without}")
    try:
        thumbnails = Thumbnails(open_set(facts), facts.predictions)
        missing = ""
    except (InputError, OSError) as error:
        thumbnails, missing = None, f"No images: {error}"
    columns = {task.name: i for i, task in enumerate(facts.predictions.info.tasks)}
    worst = [i for i in facts.latest.metrics.worst(NUM_TASKS, MAIN_METRIC) if facts.latest.tasks[i] in columns]
    tasks = [describe(facts, facts.predictions, i, columns[facts.latest.tasks[i]], thumbnails) for i in worst]
    return WorstTasks(tasks=tasks, missing=missing)


def open_set(facts: RunFacts) -> Manifest:
    """Opens the shard set that a run was trained on.

    Raises:
        InputError: It is not there, or the run does not say where it was.
    """
    place = data_path(facts.run)
    if not place:
        raise InputError(f"{facts.run.folder} does not say where its shard set was.")
    return read_manifest(place)


def describe(
    facts: RunFacts, predictions: Predictions, task_id: int, column: int, thumbnails: Thumbnails | None
) -> WorstTask:
    """Describes one task: number `task_id` of the run, `column` of the predictions."""
    labels, answers = predictions.labels[:, column], predictions.predicted[:, column]
    confidences = predictions.confidences[:, column].astype(np.float32)
    wrong = np.flatnonzero((labels != MISSING) & (answers != MISSING) & (labels != answers))
    most_confident = wrong[np.argsort(-confidences[wrong], kind="stable")][:NUM_SAMPLES]
    classes = predictions.info.tasks[column].classes
    mistakes = []
    for row in most_confident.tolist():
        key = int(predictions.samples[row])
        image, problem = thumbnails.draw(key) if thumbnails else ("", "")
        truth, answer = classes[labels[row]], classes[answers[row]]
        confidence = float(confidences[row])
        mistakes.append(
            Mistake(key=key, truth=truth, answer=answer, confidence=confidence, image=image, problem=problem)
        )
    value = format_number(facts.latest.metrics.values[MAIN_METRIC][task_id])
    count = int((labels != MISSING).sum())
    summary = f"{METRIC_LABELS[MAIN_METRIC]} {value}; {len(wrong):,} of {count:,} samples wrong"
    return WorstTask(name=facts.latest.tasks[task_id], summary=summary, mistakes=mistakes)
