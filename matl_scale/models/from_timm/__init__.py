"""timm's models as backbones: found by name, built, and made graphs of torch's own layers."""

PREFIX = "timm/"  # of `model.name`


def is_timm(name: str) -> bool:
    """Returns whether a `model.name` is one of timm's."""
    return name.startswith(PREFIX)
