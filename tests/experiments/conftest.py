"""Programs that tests of the study have in common are compiled once, in whichever process comes first."""

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def _shared_programs(tmp_path_factory, worker_id):
    base = tmp_path_factory.getbasetemp()
    jax.config.update("jax_compilation_cache_dir", str((base if worker_id == "master" else base.parent) / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    yield
    jax.config.update("jax_compilation_cache_dir", None)
