"""Peers that not every machine has. Where one is missing, the tests that call it skip and say so; the others run."""

import importlib
from typing import Any

import pytest

_NOT_EVERYWHERE = {"torch", "monai", "torchmetrics", "SimpleITK"}


class _Missing:
    """Stands for a module that is not installed, and for all that is in it."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *arguments, **options):
        pytest.skip(f"{self._name} is not installed", allow_module_level=True)

    __iter__ = __call__

    def __mro_entries__(self, bases):
        return ()


def peer(name: str) -> Any:
    """The module of this name, or what stands in where it, or what it imports, is not everywhere and not here."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in _NOT_EVERYWHERE:
            raise
        return _Missing(error.name)


torch = peer("torch")
F = peer("torch.nn.functional")
monai_metrics = peer("monai.metrics")
torchmetrics_classification = peer("torchmetrics.functional.classification")
torchmetrics_segmentation = peer("torchmetrics.functional.segmentation")
sitk = peer("SimpleITK")
