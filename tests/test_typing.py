"""What a user of types sees: strict checkers pass a script, which runs, and find the mistakes that they can find."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT, MISTAKES = "tests/typing/user_script.py", "tests/typing/mistakes.py"


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def mypy():
    """(file, line, message) of each error; the package counts as installed, so that its own files are not checked."""
    options = ["--strict", "--follow-imports=silent", f"--cache-dir={os.devnull}", "--output=json"]
    checked = run("-m", "mypy", *options, SCRIPT, MISTAKES)
    assert not checked.stderr
    found = map(json.loads, checked.stdout.splitlines())
    return [(error["file"], error["line"], error["message"]) for error in found if error["severity"] == "error"]


def pyright():
    """The same of pyright; the script asks for its strict mode."""
    checked = json.loads(run("-m", "pyright", "--outputjson", SCRIPT, MISTAKES).stdout)
    assert checked["summary"]["filesAnalyzed"] == 2
    return [
        (Path(error["file"]).relative_to(ROOT).as_posix(), error["range"]["start"]["line"] + 1, error["message"])
        for error in checked["generalDiagnostics"]
        if error["severity"] == "error"
    ]


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_users_script_is_accepted_and_mistakes_are_found(checker):
    errors = checker()
    refused = [f"{line}: {message}" for file, line, message in errors if file == SCRIPT]
    assert not refused, "\n".join(refused)
    lines = (ROOT / MISTAKES).read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert {line for file, line, _ in errors if file == MISTAKES} == wrong


def test_the_users_script_runs():
    ran = run("-m", "tests.typing.user_script")
    assert ran.returncode == 0, ran.stderr
