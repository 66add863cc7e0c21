"""A trained network as an MLflow model. `mlflow.pyfunc.load_model(uri)` runs this file.

It imports as little as it can, and only when the network is loaded: a server starts with it."""

from typing import Any

import mlflow
import numpy as np


class TaskClassifier(mlflow.pyfunc.PythonModel):
    """Classifies images for one task, `model.predict(images, params={"task": "smiling"})`, or for all that a pattern matches."""

    def load_context(self, context: Any) -> None:
        """Loads the network from the model's files."""
        from pathlib import Path

        from matl_scale.device import choose_device
        from matl_scale.models.predictor import Predictor
        from matl_scale.runs.checkpoints.network import NetworkConfig, open_network, restore_network

        checkpoint = open_network(Path(context.artifacts["network"]))
        self.tasks = list(checkpoint.classes)
        self.device = choose_device()
        model, config = restore_network(checkpoint, self.device), NetworkConfig.read(checkpoint.config)
        self.predictor = Predictor(model, config.routing.execution, config.route_chunk)
        self.predictor.start()

    # without annotations, from which MLflow would derive another signature
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """Returns the logits of a task, float32, shape `(batch, num_classes)`, for uint8 images of the network's size, shape
        `(batch, 3, size, size)`. `params` is `{"task": name}`; a pattern, as `*`, gives a dict from the names that it matches to
        their logits. Every route runs once per call.

        Raises:
            InputError: There is no such task.
        """
        import torch

        from matl_scale.models.network import normalise
        from matl_scale.tasks import match_names

        task = (params or {}).get("task", self.tasks[0])
        task_ids = match_names(self.tasks, task, "task")
        images = torch.from_numpy(np.array(model_input)).to(self.device)
        by_task = self.predictor.logits_of_tasks(normalise(images), task_ids)
        logits = {self.tasks[task_id]: values.float().cpu().numpy() for task_id, values in by_task.items()}
        return logits[task] if task in self.tasks else logits


mlflow.models.set_model(TaskClassifier())
