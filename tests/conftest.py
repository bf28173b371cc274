"""What holds for all tests."""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

_HERE = Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """As Equinox and others have it in their tests: shapes of different ranks are an error, in the library and here.

    The experiments are no library, and their users set no mode for them; nor do the readers of examples.
    """
    strict = item.path.is_relative_to(_HERE) and not item.path.is_relative_to(_HERE / "experiments")
    with jax.numpy_rank_promotion("raise" if strict else "allow"):
        return (yield)
