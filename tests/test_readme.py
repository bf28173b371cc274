"""The README's own words: its code runs, and its two commands are where CI looks for them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["layer"](names["x"]).shape == (4, 64, 64, 16)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("study", [".[experiments]", "python -m experiments segmentation"]),
        ("tests", ["torch==2.13.0", ".[experiments,test]", "python -m pytest"]),
    ],
)
def test_each_of_the_two_commands_does_all_the_set_up(name, parts):
    (command,) = re.findall(rf"<!-- {name} -->\n```sh\n(.*)\n```", README)
    places = [command.index(part) for part in ["venv", *parts]]
    assert places == sorted(places)


def test_every_file_that_the_readme_promises_of_a_run_is_written_somewhere():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "experiments").glob("*.py"))
    table = README[README.index("| file | what |") : README.index("Ctrl-C stops it")]
    names = re.findall(r"`([\w.]+\.\w+)`", table)
    assert len(names) == 6
    for name in names:
        assert f'"{name}"' in source
