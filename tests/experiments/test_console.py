"""What a run prints: in any terminal, into a file, and when nobody reads it any more."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from experiments import __main__ as command_line
from experiments import console

ROOT = Path(__file__).parents[2]
ROWS = [{"method": "bilinear", "Boundary IoU, 1 px": "0.383 ± 0.012", "ms/step": "5.1"}] * 2


def script(text, **environment):
    lines = ["import sys", "from experiments import console", "with console.accept_any_reader():"]
    lines += [f"    {line}" for line in text.splitlines()]
    return [sys.executable, "-c", "\n".join(lines)], {"PATH": "/bin:/usr/bin", "PYTHONPATH": str(ROOT), **environment}


def test_a_reader_that_leaves_does_not_end_a_run(tmp_path):
    text = f"""
for i in range(20000): console.say(f'line {{i}}')
print('whoever prints')
print('here too', file=sys.stderr)
open({str(tmp_path / "end")!r}, 'w').close()"""
    command, environment = script(text)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout.readline() == "line 0\n"
        run.stdout.close()
        assert run.wait() == 0
    assert (tmp_path / "end").exists()


@pytest.fixture
def broken(monkeypatch):
    """A standard output whose reader has left."""
    read, write = os.pipe()
    os.close(read)
    stream = io.TextIOWrapper(io.FileIO(write, "w"), encoding="utf-8")
    for name in ("stdout", "__stdout__"):
        monkeypatch.setattr(sys, name, stream)
    yield
    with contextlib.suppress(BrokenPipeError):
        stream.close()


@pytest.mark.usefixtures("broken")
def test_help_and_errors_end_quietly_where_nobody_reads():
    for arguments in (["--help"], *([name, "--help"] for name in command_line._NAMED)):
        with pytest.raises(SystemExit) as ended:
            command_line.main(arguments)
        assert ended.value.code == 0
    assert command_line.main(["segmentation", "--steps", "0"]) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_below_what_is_printed_ends_nothing_and_is_told():
    command, environment = script("console.say('lost')\nprint('still here', file=sys.stderr)")
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=True)
    told = "error: what is printed could not all be written: No space left on device."
    assert done.stderr.splitlines() == ["still here", told]


def test_closed_streams_take_what_is_printed(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    with console.accept_any_reader():
        console.say("to nobody")
        print("nor here", file=sys.stderr)
    assert sys.stdout is None


def test_an_ascii_terminal_shows_what_it_can():
    text = f"console.say('160 × 160, caf\\udce9 ü')\nconsole.table('table', {ROWS!r})"
    command, environment = script(text, PYTHONIOENCODING="ascii")
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    printed = done.stdout.decode("ascii")
    assert "160 x 160, caf? ?" in printed
    assert "0.383 +- 0.012" in printed


@pytest.fixture
def terminal(monkeypatch):
    def of(width):
        monkeypatch.setattr(console, "console", console.Console(width=width, force_terminal=True, color_system=None))

    return of


def test_a_narrow_terminal_shows_rows_as_lines(terminal, capsys):
    terminal(20)
    console.table("Results", ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("method: bilinear") == 2
    assert lines.count("Boundary IoU, 1 px: 0.383 ± 0.012") == 2


def test_a_file_gets_tables_whole_whatever_their_width(monkeypatch, capsys):
    monkeypatch.setattr(console, "console", console.Console(width=80))
    rows = [{f"a measure of number {i}": "0.8123456789 ± 0.0123456789" for i in range(6)}]
    console.table("Results", rows)
    printed = capsys.readouterr().out
    assert printed.count("0.8123456789 ± 0.0123456789") == 6


def test_a_file_gets_a_line_now_and_then(capsys):
    now = 0.0
    lines = console._Lines(jobs=3, quiet=False, clock=lambda: now)
    with lines.job("frozen bilinear, seed 0", 400) as step:
        for number in range(1, 401):
            now += 1
            step(number, 0.5)
    with lines.job("frozen carafe, seed 0", 10) as step:
        now += 70
        step(1, 0.25)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 7  # every minute of 400 seconds, and the second training's
    assert printed[0].endswith(
        "0 of 3 trainings done; frozen bilinear, seed 0: step 60 of 400, loss 0.500, about 6 min left"
    )
    assert "1 of 3 trainings done; frozen carafe, seed 0: step 1 of 10" in printed[-1]
    assert not any(c in "".join(printed) for c in "\r\x1b")


def test_quiet_is_quiet(capsys):
    now = 0.0
    lines = console._Lines(jobs=3, quiet=True, clock=lambda: now)
    with lines.job("a", 10) as step:
        now += 1000
        step(1, 0.5)
    lines.say("a: 0.5")
    assert capsys.readouterr().out == ""


def test_bars_are_for_terminals(terminal, capsys):
    terminal(100)
    with console.run_progress(2) as progress:
        assert isinstance(progress, console._Bars)
        with progress.job("a", 10) as step:
            step(3, 0.5)
        progress.say("a stays")
    assert "a stays" in capsys.readouterr().out
    with console.run_progress(2, quiet=True) as progress:
        assert isinstance(progress, console._Lines)
    terminal(20)  # bars would leave no room for what they are of
    with console.run_progress(2) as progress:
        assert isinstance(progress, console._Lines)


def test_help_has_an_example_of_each_command_that_is_taken(capsys):
    """Each stands in the help of all, and is one that the command line understands."""
    with pytest.raises(SystemExit):
        command_line.main(["--help"])
    told = " ".join(re.sub(r"[│╭╰─╮╯•]", " ", capsys.readouterr().out).split())
    assert re.findall(r"Example: python -m experiments ([a-z-]+)", told) == list(command_line._NAMED)
    for name in command_line._NAMED:
        parsed = tyro.cli(command_line._COMMANDS, args=[name, *command_line.example_of(name).split()])
        assert isinstance(parsed, command_line._NAMED[name])
