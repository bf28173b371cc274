"""What holds for all tests."""

import gc
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from tests.compiling import QUICKLY

_HERE = Path(__file__).parent

# XLA reads it before it compiles the first program; processes that tests start inherit it. What is given goes last and
# wins: `XLA_FLAGS=--xla_backend_optimization_level=3`, and so on, runs all tests as users' programs are compiled. The
# compiler for TPUs, where it is installed, reads it too, and ends the process at a setting it does not know.
if QUICKLY not in os.environ.get("XLA_FLAGS", "") and importlib.util.find_spec("libtpu") is None:
    os.environ["XLA_FLAGS"] = f"{QUICKLY} {os.environ.get('XLA_FLAGS', '')}".strip()

# PyTorch's threads wait for one another in loops that take a fifth of the time of its tests, where nothing is large.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tracing makes many small objects that live on: with Python's own threshold of 700 a sixteenth of the time goes to
# looking for garbage among them.
gc.set_threshold(10_000, 10, 50)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """In JAX's strict modes, as Equinox's tests: nothing promotes ranks or dtypes, neither the library nor a test.

    The experiments are no library, and their users set no mode for them; nor do the readers of examples.
    """
    if "torch" in sys.modules:  # its layers draw their weights from one generator: what fails must fail again
        sys.modules["torch"].manual_seed(0)
    strict = item.path.is_relative_to(_HERE) and not item.path.is_relative_to(_HERE / "experiments")
    mixes = item.get_closest_marker("mixes_dtypes") is not None
    dtypes = jax.numpy_dtype_promotion("strict" if strict and not mixes else "standard")
    with jax.numpy_rank_promotion("raise" if strict else "allow"), dtypes:
        return (yield)


# The longest. Of these none should be the last, while the other process has nothing left to do.
_LONG = ("[unet]", "test_meshes", "test_the_site_is_built", "test_two_processes_stop", "[mypy]")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests come first."""
    items.sort(key=lambda item: not any(name in item.nodeid for name in _LONG))
