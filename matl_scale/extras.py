"""Optional packages: code that needs one which is not installed ends with the `pip install` line that brings it."""

from importlib.util import find_spec

from matl_scale.errors import InputError


def require(extra: str, *modules: str, purpose: str) -> None:
    """Checks that the packages of an extra are installed, before they are imported.

    Args:
        extra: The extra of this distribution that brings them, as `report`.
        modules: Top-level modules, as `plotly`.
        purpose: What needs them, as the beginning of a sentence.

    Raises:
        InputError: One is missing.
    """
    missing = [f"`{module}`" for module in modules if find_spec(module) is None]
    if missing:
        raise InputError(
            f"{purpose} needs {', '.join(missing)}, not installed here. Install with: pip install 'matl-scale[{extra}]'"
        )
