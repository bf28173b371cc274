"""How XLA compiles the programs of the tests: quickly, or as it compiles a user's.

Compiling took four fifths of the suite's time. Most tests ask whether a formula is computed, by programs that run once
for microseconds: they are compiled without LLVM's optimization and, where jax is older than 0.11, without the newer way
to emit fusions, in an eighth of the time. What the passes over the program decide to compute is the same.
`tests/modes/test_modes.py` runs every public function and layer both ways.
"""

import jax

# XLA's own settings, and the tests'. It ends the process at one that it does not know: jaxlib 0.12 has no choice of how
# fusions are emitted.
_SETTINGS = {"xla_backend_optimization_level": (3, 0), "xla_cpu_parallel_codegen_split_count": (32, 1)}
if jax.__version_info__ < (0, 11):
    _SETTINGS["xla_cpu_use_fusion_emitters"] = (True, False)
AS_FOR_USERS = {name: own for name, (own, _) in _SETTINGS.items()}
QUICKLY = " ".join(f"--{name}={str(ours).lower()}" for name, (_, ours) in _SETTINGS.items())


def as_for_users(function, **options):
    """`jax.jit` with XLA's own settings."""
    return jax.jit(function, compiler_options=AS_FOR_USERS, **options)


def planned_as_for_users(function):
    """The same for programs that are read and not run: their text and memory are settled before LLVM optimizes."""
    return jax.jit(function, compiler_options=AS_FOR_USERS | {"xla_backend_optimization_level": 0})
