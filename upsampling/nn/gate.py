"""The attention gate of skip connections, which is no upsampler but stands beside one in a decoder."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from upsampling import _arguments, interpolation
from upsampling.nn import _layers


class AttentionGate(nnx.Module):
    """Scales each pixel of a skip connection by a weight that the coarser level helps to predict.

        weight = sigmoid(psi(relu(theta(skip) + phi(gating))))

    theta brings the skip to half its size by 2x2 windows, phi and psi look at single pixels. The gating signal is
    brought to the same size, and the weight to the skip's, bilinearly. What the weight lets pass is projected and
    normalized.

    Args:
      features: channels of the skip, and of the result.
      gating_features: channels of the gating signal.
      hidden: channels in which the two are added; half of `features` if not given.
      projected: whether a 1x1 convolution and batch normalization follow, as in the authors' code and not in the
        paper's equations.
      dtype, param_dtype, rngs: as in `TransposedConv`.

    Shapes: skip `(*batch, H, W, features)` with H and W at least 2, and gating `(*batch, H', W', gating_features)` of
    any size, to the skip's shape.

    As in the paper the gate starts open: psi's bias is 3. Batch normalization uses its running averages until
    `layer.train()` is called.

    Raises:
      ValueError: channels that do not match, batch axes that differ, a skip of one row or column, or numbers out of
        range.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> gate = up.nn.AttentionGate(8, 16, rngs=nnx.Rngs(0))
    >>> gate(jnp.ones((6, 6, 8)), jnp.ones((3, 3, 16))).shape
    (6, 6, 8)

    Source: Oktay et al. 2018, arXiv:1804.03999, equations 1 and 2, and the authors' code.
    """

    def __init__(
        self,
        features: int,
        gating_features: int,
        *,
        hidden: int | None = None,
        projected: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "AttentionGate"
        self.features = _arguments.number(name, "features", features)
        self.gating_features = _arguments.number(name, "gating_features", gating_features)
        hidden = _layers.or_features(name, "hidden", hidden, max(self.features // 2, 1))
        projected = _arguments.flag(name, "projected", projected)
        _layers.check_parameters(name, rngs, param_dtype, dtype)
        self.dtype = dtype
        options: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.skip = nnx.Conv(self.features, hidden, (2, 2), strides=2, padding="VALID", use_bias=False, **options)
        self.gating = nnx.Conv(self.gating_features, hidden, (1, 1), **options)
        self.psi = nnx.Conv(hidden, 1, (1, 1), bias_init=nnx.initializers.constant(3.0), **options)
        self.out = nnx.Conv(self.features, self.features, (1, 1), **options) if projected else None
        self.norm = _layers.make_batch_norm(self.features, param_dtype, rngs) if projected else None

    def __call__(self, skip: jax.Array, gating: jax.Array) -> jax.Array:
        """What passes of `skip`."""
        name = "AttentionGate"
        skip = _layers.checked_map(name, skip, self.features, 2, "skip")
        gating = _layers.checked_map(name, gating, self.gating_features, 2, "gating")
        if gating.shape[:-3] != skip.shape[:-3] or min(skip.shape[-3:-1]) < 2:
            raise ValueError(
                f"{name}: skip must have at least 2 rows and columns, and gating its batch axes; got shapes "
                f"{skip.shape} and {gating.shape}."
            )
        skip, gating = _layers.cast(self.dtype or jnp.result_type(skip, self.skip.kernel[...]), skip, gating)
        own = self.skip(skip)
        added = own + interpolation.bilinear(self.gating(gating), own.shape[-3:-1])
        weight = jax.nn.sigmoid(self.psi(_layers.relu(added)))
        y = skip * interpolation.bilinear(weight, skip.shape[-3:-1])
        return y if self.out is None or self.norm is None else _layers.batch_norm(self.out(y), self.norm)
