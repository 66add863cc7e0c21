"""What the Python module beside exported weights says about its tasks: their constants, and how outputs become decisions."""

import textwrap
from typing import Any

from matl_scale.deploy.export.description import Description
from matl_scale.deploy.task_rules import Output

# what a network returns for a task, and in which shape
RETURNED: dict[Output, tuple[str, str]] = {
    "logits": ("logits", "(batch, len(CLASSES{i}))"),
    "probabilities": ("calibrated probabilities", "(batch, len(CLASSES{i}))"),
    "decisions": ("decisions (indices of classes, int64)", "(batch,)"),
}
# how a user gets from there to decisions, and the constants for it; `{i}` is empty for a task by itself
DECIDE = "# indices of CLASSES{i}, for AIM{i}, fitted on FITTED_ON if that is not empty"
STEPS: dict[Output, tuple[str, ...]] = {
    "logits": (
        "scores = SCALE{i} * logits + torch.tensor(SHIFT{i})",
        "probabilities = scores.softmax(1)  # calibrated",
        DECIDE,
        "decisions = (scores + torch.tensor(DECISION_OFFSETS{i})).argmax(1)",
    ),
    "probabilities": (DECIDE, "decisions = (probabilities.log() + torch.tensor(DECISION_OFFSETS{i})).argmax(1)"),
    "decisions": (DECIDE, "names = [CLASSES{i}[index] for index in decisions]"),
}
CONSTANTS: dict[Output, tuple[str, ...]] = {
    "logits": ("aim", "scale", "shift", "decision_offsets"),
    "probabilities": ("aim", "decision_offsets"),
    "decisions": ("aim",),
}


def describe_tasks(description: Description) -> dict[str, str]:
    """Returns the parts of the module's text that depend on tasks, by their names in its template."""
    if len(description.tasks) == 1:
        return describe_one(description)
    num_tasks, output = len(description.tasks), description.output
    returned, shape = RETURNED[output]
    lists = {"TASKS": [task.name for task in description.tasks], **constants(description)}
    loop = "".join(f"\n    {line}" for line in STEPS[output])
    return {
        "purpose": f"{num_tasks} image-classification tasks",
        "use": indented(f"for i, {output} in enumerate(load()(images)):{loop}".format(i="[i]")),
        "tasks": "".join(write_list(*item) for item in lists.items()) + fitted_on(description),
        "returned": f"a tuple of {returned}, one for each of TASKS, of shape `{shape.format(i='[i]')}`",
    }


def describe_one(description: Description) -> dict[str, str]:
    output, (task,) = description.output, description.tasks
    returned, shape = RETURNED[output]
    own = "".join(f"{name} = {value!r}\n" for name, (value,) in constants(description).items())
    return {
        "purpose": "one image-classification task",
        "use": indented("\n".join([f"{output} = load()(images)", *STEPS[output]]).format(i="")),
        "tasks": f"TASK = {task.name!r}\n{own}{fitted_on(description)}",
        "returned": f"{returned}, shape `{shape.format(i='')}`",
    }


def constants(description: Description) -> dict[str, list[Any]]:
    """Returns the module's constants by name, with one value per task."""
    columns = description.rules.columns()
    classes = [list(task.classes) for task in description.tasks]
    return {"CLASSES": classes, **{name.upper(): columns[name] for name in CONSTANTS[description.output]}}


def write_list(name: str, values: list[Any]) -> str:
    lines = "".join(f"    {value!r},\n" for value in values)
    return f"{name} = [\n{lines}]\n"


def fitted_on(description: Description) -> str:
    return f"FITTED_ON = {description.rules.fitted_on!r}"


def indented(lines: str) -> str:
    return textwrap.indent(lines, " " * 4)
