"""The harness: fair turns, true ratios, gradients that are gradients, and tables that say what was measured."""

import json
import subprocess
import sys
import time
import types
from importlib.metadata import version

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import __main__ as command
from experiments import benchmarks
from experiments.benchmarks import harness
from tests.optional import peer


def sleeper(milliseconds, log=None, name=""):
    def run():
        time.sleep(milliseconds / 1000)
        if log is not None:
            log.append(name)

    return harness.Contender(run)


def test_contenders_take_turns_and_ratios_are_ours_over_theirs():
    log = []
    case = harness.Case("nap", {"ours": sleeper(5, log, "a"), "slow": sleeper(20, log, "b")})
    row = harness.measure(case, seconds=0.15)
    assert row["repetitions"] >= 3
    timed = log[4:]  # two of each come first, unmeasured
    assert timed == ["a", "b"] * row["repetitions"]
    assert row["contenders"]["ours"]["ratio"] == 1
    assert 0.2 < row["contenders"]["slow"]["ratio"] < 0.5
    assert row["contenders"]["ours"]["least"] >= 5
    assert 0.2 < row["contenders"]["slow"]["ratio_of_least"] < 0.5
    assert row["contenders"]["ours"]["low"] <= row["contenders"]["ours"]["median"] <= row["contenders"]["ours"]["high"]


def test_contenders_are_made_when_it_is_their_turn():
    made = []

    def make():
        made.append(True)
        return {"ours": sleeper(1), "peer": sleeper(1)}

    case = harness.Case("later", make)
    assert not made
    harness.measure(case, seconds=0.01)
    assert len(made) == 1


def test_freed_memory_is_kept():
    """Written again, memory that was freed is not cleared by the system page by page."""
    program = (
        "import resource, numpy as np; from experiments.benchmarks import harness; harness.keep_memory();\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt; np.ones(2**25)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(faults(), faults())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second = map(int, done.stdout.split())
    if not sys.platform.startswith("linux"):
        pytest.skip("the C library of this platform cannot be told to keep memory")
    assert second < first / 10


def test_the_fastest_of_several_ways_is_kept():
    quick, slow = sleeper(1), sleeper(8)
    assert harness.fastest({"channels last": slow, "channels first": quick}, "peer") == {"peer": quick}


def test_compiled_functions_tell_their_cost_and_wait_for_their_result():
    contender = harness.compiled(lambda x, y: jnp.sin(x) @ y, np.ones((20, 30)), np.ones((30, 4)))
    np.testing.assert_allclose(contender.run(), np.sin(np.ones((20, 30))) @ np.ones((30, 4)), rtol=1e-5)
    assert contender.compile_seconds > 0
    assert contender.temporary_bytes is not None


def test_with_gradient_gives_value_and_pull_backs_of_the_arguments_named():
    def function(x, y, z):
        return x * y**2 + z

    x, y, z, cotangent = (jnp.asarray(v) for v in (3.0, 5.0, 7.0, 2.0))
    value, gradients = harness.with_gradient(function, (0, 1))(x, y, z, cotangent)
    assert value == function(x, y, z)
    assert gradients == (2 * y**2, 2 * 2 * x * y)


def test_summary_and_table(tmp_path):
    def row(name, ratio):
        ours = {"median": 1.0, "low": 0.9, "high": 1.1, "least": 0.8, "ratio": 1.0}
        ours |= {"compile_seconds": 0.25, "temporary_bytes": 3_000_000, "ratio_of_least": 1.0}
        peer = ours | {"median": 1 / ratio, "ratio": ratio, "ratio_of_least": ratio / 2}
        peer |= {"compile_seconds": None, "temporary_bytes": None}
        return {"name": name, "repetitions": 3, "contenders": {"ours": ours, "torch": peer}}

    rows = [row("small", 0.5), row("large", 2.0)]
    assert harness.summary(rows) == [
        "- against torch: geometric mean 1.00, worst 2.00 (large), 1 of 2 cells at or ahead of it; "
        "of the least times: geometric mean 0.50, worst 1.00"
    ]
    harness.write(tmp_path / "new" / "table", "Two rows.", rows, {"device": "abacus"})
    text = (tmp_path / "new" / "table.md").read_text()
    assert text.startswith("Two rows.")
    assert "device abacus" in text
    assert "| small | 1.00 (0.90 to 1.10) | 2.00 | 0.50 | 3.00 | 0.25 |" in text
    assert json.loads((tmp_path / "new" / "table.json").read_text())["rows"] == rows


@pytest.mark.parametrize("group", benchmarks.groups())
def test_every_group_makes_cases_that_run(group):
    module = peer(f"experiments.benchmarks.{group}")
    assert module.DESCRIPTION
    assert all(version(peer) for peer in module.PEERS)
    contenders = next(module.cases()).made()
    assert len(contenders) >= 2
    for contender in contenders.values():
        contender.run()


@pytest.mark.parametrize("group", ["sampling", "reassembly"])
def test_layers_take_the_weights_of_those_they_are_held_against(group):
    first, *others = peer(f"experiments.benchmarks.{group}").cases()
    shape = first.name.split()[0]
    for case in others:
        if case.name.startswith(shape) and "gradient" not in case.name:
            case.made()


def test_unknown_groups_are_refused(capsys):
    assert command.main(["benchmark", "--group", "nothing"]) == 2
    assert "--group 'nothing' is not known" in capsys.readouterr().out


def test_a_part_of_the_cases_never_takes_the_place_of_the_whole_table(tmp_path, monkeypatch):
    fake = types.ModuleType("experiments.benchmarks.fake")
    fake.DESCRIPTION, fake.PEERS = "Naps.", ()
    fake.cases = lambda: iter(
        harness.Case(name, {"ours": sleeper(1), "peer": sleeper(1)}) for name in ("long", "short")
    )
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setattr(benchmarks, "groups", lambda: ("fake",))
    monkeypatch.setattr(benchmarks, "_RESULTS", tmp_path)
    options = ["benchmark", "--group", "fake", "--seconds", "0.01"]
    assert command.main([*options, "--only", "short"]) == 0
    assert list(tmp_path.iterdir()) == []
    assert command.main([*options, "--only", "short", "--out", str(tmp_path / "part")]) == 0
    assert len(list((tmp_path / "part").iterdir())) == 2
    assert command.main(options) == 0
    (table,) = tmp_path.glob("*.md")
    assert "| long |" in table.read_text()


def test_a_peer_that_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setattr("experiments.benchmarks.layers.PEERS", ("flax", "no-such-peer"))
    assert command.main(["benchmark", "--group", "layers"]) == 2
    assert "--group layers: no-such-peer is not installed; `pip install torch==2.13.0`" in capsys.readouterr().out


def test_methods_belong_to_the_group_of_layers(capsys):
    assert command.main(["benchmark", "--group", "metrics", "--methods", "carafe"]) == 2
    assert "--methods goes with --group layers" in capsys.readouterr().out
