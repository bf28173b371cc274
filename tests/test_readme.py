"""The README's own words: its code runs, its commands are where CI looks for them, its links work on an index."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HOME = PROJECT["urls"]["Homepage"]


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


def test_every_file_that_is_promised_of_a_run_is_written_somewhere():
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "experiments").glob("*.py"))
    table = page[page.index("| file | what |") : page.index("Ctrl-C stops it")]
    names = re.findall(r"`([\w.]+\.\w+)`", table)
    assert len(names) == 7
    for name in names:
        assert f'"{name}"' in source


def test_links_are_absolute_and_name_files_of_this_repository():
    """An index shows the README without the files beside it."""
    assert not re.search(r"\]\((?!https://)", README)
    links = re.findall(r"^\[\w+\]: (.*)$", README, re.MULTILINE)
    assert len(links) >= 4
    for link in links:
        assert link.startswith("https://")
        if link.startswith(HOME):
            assert (ROOT / re.fullmatch(HOME + r"/(?:blob|tree)/main/(.*)", link)[1]).exists()


def test_the_picture_is_a_file_of_this_repository():
    (address,) = re.findall(r"!\[[^]]+\]\((.*?)\)", README)
    served = HOME.replace("github.com", "raw.githubusercontent.com") + "/main/"
    assert address.startswith(served)
    assert (ROOT / address.removeprefix(served)).stat().st_size < 150_000


def test_the_projects_address_is_the_same_everywhere():
    assert all(url.startswith(HOME) for url in PROJECT["urls"].values())
    assert f'repository-code: "{HOME}"' in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_citation_and_package_have_the_same_version():
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f'__version__ = "{PROJECT["version"]}"' in (ROOT / "upsampling/__init__.py").read_text(encoding="utf-8")


def test_what_is_imported_is_required():
    """All third-party packages that the library imports, and no others; for figures, those of their extra."""
    imported = set()
    for path in sorted((ROOT / "upsampling").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    required = {re.match(r"[\w-]+", requirement)[0] for requirement in PROJECT["dependencies"]}
    drawing = {re.match(r"[\w-]+", requirement)[0] for requirement in PROJECT["optional-dependencies"]["figures"]}
    assert imported - sys.stdlib_module_names - {"upsampling"} == required | drawing
    users = [path.name for path in (ROOT / "upsampling").rglob("*.py") if "matplotlib.figure" in path.read_text()]
    assert users == ["_figures.py"]
