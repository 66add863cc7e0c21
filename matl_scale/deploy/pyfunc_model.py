"""A trained network as an MLflow model. `mlflow.pyfunc.load_model(uri)` runs this file.

It imports as little as it can, and only when the network is loaded: a server starts with it."""

from typing import Any

import mlflow
import numpy as np


class TaskClassifier(mlflow.pyfunc.PythonModel):
    """Classifies images for one task, `model.predict(images, params={"task": "smiling", "output": "decisions"})`, or for all
    that a pattern matches."""

    def load_context(self, context: Any) -> None:
        """Loads the network from the model's files."""
        from pathlib import Path

        from matl_scale.device import choose_device
        from matl_scale.models.predictor import Predictor
        from matl_scale.runs.checkpoints.decisions import open_decisions
        from matl_scale.runs.checkpoints.network import NetworkConfig, open_network, restore_network

        checkpoint = open_network(Path(context.artifacts["network"]))
        self.tasks, self.rules = list(checkpoint.classes), open_decisions(checkpoint).rules
        model, config = restore_network(checkpoint, choose_device()), NetworkConfig.read(checkpoint.config)
        self.predictor = Predictor(model, config.routing.execution, config.route_chunk)
        self.predictor.start()

    # without annotations, from which MLflow would derive another signature
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """Returns what the network says of a task, in float32, for uint8 images of its size, shape `(batch, 3, size, size)`:
        squares as `decode_image` makes them, by the run's `data.fit`.

        `params["task"]` is the task's name; a pattern, as `*`, gives a dict by the names that it matches. Every route runs once
        per call. `params["output"]` is one of `probabilities` (the default: calibrated, shape `(batch, num_classes)`),
        `decisions` (the index of the decided class, shape `(batch, 1)`) and `logits` (as trained, shape
        `(batch, num_classes)`).

        Raises:
            InputError: There is no such task or output.
        """
        from matl_scale.deploy.answer import answer

        params = params or {}
        task, output = params.get("task", self.tasks[0]), params.get("output", "probabilities")
        found = answer(self.predictor, self.rules, np.array(model_input), task, output)
        answers = {name: values.reshape(len(values), -1).astype(np.float32) for name, values in found.items()}
        return answers[task] if task in self.tasks else answers


mlflow.models.set_model(TaskClassifier())
