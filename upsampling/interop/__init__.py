"""Weights from other frameworks."""

from upsampling.interop import flax, torch

__all__ = ["flax", "torch"]
