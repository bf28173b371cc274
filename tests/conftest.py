"""What holds for all tests."""

import jax

# As Equinox and others have it in their tests: shapes of different ranks are an error, here and in the library.
jax.config.update("jax_numpy_rank_promotion", "raise")
