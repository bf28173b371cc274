"""The methods of a study by name: the library's, or a user's own as `package.module:Class`."""

import difflib
from collections.abc import Iterable

import upsampling as up


def find(name: str, option: str = "--methods") -> up.nn.Method:
    """The method called `name`, which `option` asked for.

    Raises:
      ValueError: there is none, or a module or class that cannot be used; the message names the option.
    """
    if ":" in name:
        try:
            return up.nn.find(name)
        except (ValueError, TypeError, ImportError) as error:
            raise ValueError(f"{option} {name}: {error}") from error
    known = up.nn.available()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"{option} {name}: not known.{hint} Known: {' '.join(known)}; or your own, as package.module:Class."
        )
    return known[name]


def variant_of(name: str, variants: Iterable[str]) -> str | None:
    """The first of `variants` that the method has; None for the authors' own settings."""
    return next((variant for variant in variants if variant in find(name).variants), None)
