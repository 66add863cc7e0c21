"""Optional packages: code that needs one which is not installed ends with the `pip install` line that brings it."""

from importlib.util import find_spec

from matl_scale.errors import InputError


def is_installed(module: str) -> bool:
    """Returns whether a top-level module can be imported."""
    return find_spec(module) is not None


def require(extra: str, *modules: str, purpose: str) -> None:
    """Raises `InputError` if one of the top-level modules that an extra brings is not installed.

    The message begins with `purpose`: what needs them.
    """
    missing = [f"`{module}`" for module in modules if not is_installed(module)]
    if missing:
        raise InputError(
            f"{purpose} needs {', '.join(missing)}, not installed here. Install with: pip install 'matl-scale[{extra}]'"
        )
