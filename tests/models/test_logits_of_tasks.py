"""A routed network gives the logits of chosen tasks, and runs each of their routes once."""

import torch

from helpers.exported_networks import ROUTES, SIZE, masked, on_two_routes
from helpers.network_outputs import images_of


def test_tasks_get_their_columns_and_a_route_runs_once() -> None:
    model, images = on_two_routes("flat"), images_of(SIZE)
    calls: list[int] = []
    model.register_forward_hook(lambda module, arguments, output: calls.append(arguments[1]))  # noqa: ARG005
    for task_ids, routes in (([3, 0, 2], [0]), ([4], [1]), (range(ROUTES.num_tasks), [0, 1])):
        calls.clear()
        found = model.logits_of_tasks(images, task_ids)
        assert calls == routes
        assert list(found) == list(task_ids)
        assert all(torch.equal(found[task_id], masked(model, task_id, images)) for task_id in task_ids)
