"""Optional packages: code that needs one which is not installed ends with the `pip install` line that brings it."""

from importlib.util import find_spec

from matl_scale.errors import InputError


def require(extra: str, *modules: str) -> None:
    """Checks that the packages of an extra are installed, before they are imported.

    Args:
        extra: The extra of this distribution that brings them, as `report`.
        modules: Top-level modules, as `plotly`.

    Raises:
        InputError: One is missing.
    """
    for module in modules:
        if find_spec(module) is None:
            raise InputError(f"This needs the package `{module}`. Install it with: pip install 'matl-scale[{extra}]'")
