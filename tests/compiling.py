"""How XLA compiles the programs of the tests: quickly, or as it compiles a user's.

Compiling took four fifths of the suite's time. Most tests ask whether a formula is computed, by programs that run once
for microseconds: they are compiled without LLVM's optimization and without the second generation of fusions, in an
eighth of the time. XLA's own passes over the program, which decide what is computed, are the same.
`tests/modes/test_modes.py` runs every public function and layer both ways.
"""

import jax

# XLA's own settings, and the tests'.
_SETTINGS = {
    "xla_backend_optimization_level": (3, 0),
    "xla_cpu_use_fusion_emitters": (True, False),
    "xla_cpu_parallel_codegen_split_count": (32, 1),
}
AS_FOR_USERS = {name: own for name, (own, _) in _SETTINGS.items()}
QUICKLY = " ".join(f"--{name}={str(ours).lower()}" for name, (_, ours) in _SETTINGS.items())


def as_for_users(function, **options):
    """`jax.jit` with XLA's own settings."""
    return jax.jit(function, compiler_options=AS_FOR_USERS, **options)
