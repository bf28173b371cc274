"""What layers that go to any size share: where they take the size from."""

from collections.abc import Sequence
from typing import Any

import jax

from upsampling import _arguments, interpolation
from upsampling._arguments import Numbers
from upsampling.nn import _layers
from upsampling.nn.registry import Upsampler


class AnySize(Upsampler):
    """A layer whose output has the size that the call names, or the layer; or else its guide, or its scale.

    A guide beside a `size` may have any size. One that decides the size has `scale` times the input's, or any other of
    at least the input's.
    """

    features: int
    guide_features: int
    scale: tuple[int, ...] | None
    size: tuple[int, ...] | None

    rank: int

    def _set_sizes(
        self, features: Any, scale: Any, size: Any, guide_features: Any = None, axes: Sequence[int] = (2,)
    ) -> None:
        name = type(self).__name__
        if size is None:
            self.features, self.scale = _layers.sizes(name, features, scale, axes)
            self.size = None
        elif scale in (None, 2):
            # A size takes the place of the default scale.
            self.features, self.scale = _arguments.number(name, "features", features), None
            self.size = _layers.per_axis(name, "size", size, axes[0] if len(axes) == 1 else None)
        else:
            raise ValueError(f"{name}: give one of size and scale; got size={size!r}, scale={scale!r}.")
        self.rank = len(self.size or self.scale or ())
        self.guide_features = _layers.or_features(name, "guide_features", guide_features, self.features)

    def _target(self, x: jax.Array, size: Any) -> tuple[int, ...] | None:
        """The size that the call or the layer names; None where neither does."""
        return self.size if size is None else _arguments.per_axis(type(self).__name__, "size", size, self.rank)

    def _checked(self, x: Any, guide: Any, size: Any) -> tuple[jax.Array, jax.Array, tuple[int, ...]]:
        """The input, the guide, and the size of the output."""
        name = type(self).__name__
        x = _layers.checked_map(name, x, self.features, self.rank)
        target, space = self._target(x, size), slice(-1 - self.rank, -1)
        if target is None:
            high = _arguments.guide(name, guide, x, self.scale, self.guide_features, any_size=True)
            return x, high, high.shape[space]
        given = target if guide is None else _arguments.array(name, "guide", guide).shape[space]
        return x, _arguments.guide(name, guide, x, None, self.guide_features, size=given), target

    def _checked_alike(self, x: Any, guide: Any, size: Any) -> tuple[jax.Array, jax.Array]:
        """The input, and the guide, which is brought to the size of the output."""
        x, high, target = self._checked(x, guide, size)
        space = slice(-1 - self.rank, -1)
        if any(m < n for n, m in zip(x.shape[space], target, strict=True)):
            raise ValueError(f"{type(self).__name__}: size must be at least that of x {x.shape}; got {target}.")
        if high.shape[space] != target:
            high = interpolation.resize(high, target, method="linear", antialias=True)
        return x, high

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Upsamples `x`, to `size` if it is given."""
        raise NotImplementedError
