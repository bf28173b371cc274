"""What holds for all tests."""

import jax
import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """As Equinox and others have it in their tests: shapes of different ranks are an error, in the library and here.

    The experiments are no library, and their users set no mode for them.
    """
    mode = "allow" if "experiments" in item.path.parts else "raise"
    jax.config.update("jax_numpy_rank_promotion", mode)
