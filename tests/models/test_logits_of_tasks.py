"""A predictor gives the logits of chosen tasks, and runs each of their routes once."""

import torch

from helpers.exported_networks import ROUTES, SIZE, masked, on_two_routes
from helpers.network_outputs import gap, images_of
from matl_scale.models.predictor import Predictor


def test_tasks_get_their_columns_and_a_route_runs_once() -> None:
    model, images = on_two_routes("flat"), images_of(SIZE)
    calls: list[int] = []
    model.register_forward_hook(lambda module, arguments, output: calls.append(arguments[1]))  # noqa: ARG005
    predictor, sliced = Predictor(model, "masked", 0), Predictor(model, "subnetwork", 1)
    predictor.start()
    sliced.start()
    for task_ids, routes in (([3, 0, 2], [0]), ([4], [1]), (range(ROUTES.num_tasks), [0, 1])):
        calls.clear()
        found = predictor.logits_of_tasks(images, task_ids)
        assert calls == routes
        assert list(found) == list(task_ids)
        assert all(torch.equal(found[task_id], masked(model, task_id, images)) for task_id in task_ids)
        for task_id, logits in sliced.logits_of_tasks(images, task_ids).items():
            assert gap(logits, found[task_id]) < 1e-10
