"""What holds for all tests."""

from collections.abc import Iterator

import jax
import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """As Equinox and others have it in their tests: shapes of different ranks are an error, in the library and here.

    The experiments are no library, and their users set no mode for them.
    """
    if "experiments" in item.path.parts:
        return (yield)
    with jax.numpy_rank_promotion("raise"):
        return (yield)
