"""The documentation: examples run as printed, the reference is complete, tables are the code's and the runs'."""

import ast
import doctest
import functools
import inspect
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tyro
from matplotlib.figure import Figure

import upsampling as up
from docs.making import figures, notebooks, reference, tables
from experiments import __main__ as experiments_main
from experiments import tasks
from experiments.data import brain
from upsampling import _figures
from upsampling.nn import registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = [page for page in PAGES if re.search(r"^```py", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)]
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.fixture(autouse=True)
def nothing_stays_registered(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


@pytest.mark.mixes_dtypes  # readers set no modes
@pytest.mark.parametrize("page", EXAMPLES)
def test_the_examples_of_a_page_run_in_order(page, monkeypatch):
    text = (DOCS / page).read_text(encoding="utf-8")
    script = ModuleType("__main__")  # the study finds a method that is defined in a script by its module
    monkeypatch.setitem(sys.modules, "__main__", script)
    names = vars(script)
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    for number, (kind, code) in enumerate(
        re.findall(r"^```(python|pycon)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ):
        if kind == "python":
            exec(compile(code, f"{page}, block {number}", "exec"), names)
        else:
            said: list[str] = []
            examples = doctest.DocTestParser().get_doctest(code, {}, page, page, 0)
            examples.globs = names  # and not a copy, so that blocks go on from each other
            runner.run(examples, out=said.append, clear_globs=False)
            assert not said, "".join(said)


def test_calls_in_tables_and_text_have_arguments_that_there_are():
    bound = 0
    for page in (README, *((DOCS / page).read_text(encoding="utf-8") for page in PAGES)):
        for code in re.findall(
            r"`(up\.[\w.]+\([^`]*\))`", re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
        ):
            if "..." in code:
                continue
            for call in (node for node in ast.walk(ast.parse(code, mode="eval")) if isinstance(node, ast.Call)):
                name = ast.unparse(call.func)
                if name.startswith("up.") and name != "up.nn.create":
                    function = eval(name, {"up": up})
                    inspect.signature(function).bind(*call.args, **{k.arg: k.value for k in call.keywords})
                    bound += 1
    assert bound > 40


def test_the_example_of_a_real_backbone(monkeypatch):
    """With stand-ins for what is not installed; this backbone's features are the means of patches."""
    backbone, use = re.findall(r"^```py\n(.*?)^```$", (DOCS / "own.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)

    class Means:
        config = SimpleNamespace(num_register_tokens=4)

        def __call__(self, images):
            batch, channels, height, width = images.shape
            cells = images.reshape(batch, channels, height // 16, 16, width // 16, 16).mean((3, 5))
            patches = jnp.tile(cells.reshape(batch, channels, -1).mT, 128)
            return {"last_hidden_state": jnp.concatenate([jnp.full((batch, 5, 384), jnp.nan), patches], 1)}

    names = {"Dinov3ViTModel": SimpleNamespace(from_pretrained=lambda name: Means())}
    monkeypatch.setitem(sys.modules, "bonsai.models.dinov3", SimpleNamespace(modeling=SimpleNamespace(**names)))
    monkeypatch.setitem(sys.modules, "safetensors.numpy", SimpleNamespace(load_file=lambda path: path))
    loaded = []
    monkeypatch.setattr(up.interop.torch, "load_state_dict", lambda layer, state: loaded.append(state))
    monkeypatch.setattr(up.nn, "create", functools.partial(up.nn.create, variant="small"))
    module, script = ModuleType("my_package.my_module"), {}
    exec(compile(backbone, "own.md", "exec"), vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(use, "own.md", "exec"), script)
    image = jax.random.uniform(jax.random.key(0), (1, 32, 48, 3))
    expected = np.asarray(up.area(image, (2, 3))) - np.array([0.485, 0.456, 0.406])
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        features = module.dinov3(image)
        assert script["upsampled"](image, "uplift_dinov3-splus16.safetensors").shape == (1, 32, 48, 384)
    np.testing.assert_allclose(features, np.tile(expected / [0.229, 0.224, 0.225], 128), atol=1e-5)
    assert loaded == ["uplift_dinov3-splus16.safetensors"]


def test_commands_that_are_printed_are_commands():
    """Their names and options, at least, and what tasks say of their settings."""
    texts = [README, *((DOCS / page).read_text(encoding="utf-8") for page in PAGES)]
    printed = re.compile(
        r"`python -m experiments ([^`]+)`|^(?:[^`\n]* )?python -m experiments ([^`\n#]+)", re.MULTILINE
    )
    given = {tuple("".join(found).split()) for text in texts for found in printed.findall(text)}
    given = sorted(words for words in given if words[0].islower())
    assert len(given) > 15
    for words in given:
        if "--help" in words or "package" in " ".join(words):
            continue
        command = tyro.cli(experiments_main._COMMANDS, args=list(words))
        for task in tasks.known():
            if type(command) is task.settings:
                task.resolve(command)


def test_every_public_name_is_in_the_reference():
    wanted = {"upsampling.conventions.Preset", "upsampling.conventions.Method", "upsampling.conventions.PRESETS"}
    wanted |= {f"upsampling.conventions.{name}" for name in up.conventions.PRESETS}
    for module in (up, up.nn, up.nn.initializers, up.metrics, up.analysis, up.interop.torch, up.interop.flax):
        listed = getattr(module, "__all__", ())
        for name, value in vars(module).items():
            defined = inspect.isclass(value) or inspect.isfunction(value)
            if name in listed or (defined and value.__module__ == module.__name__ and not name.startswith("_")):
                wanted |= set() if inspect.ismodule(value) else {f"{module.__name__}.{name}"}
    assert len(wanted) > 120
    assert wanted <= reference.documented()


def test_every_registered_method_is_in_the_table():
    told = tables.methods()
    shipped = [name for name, method in up.nn.available().items() if method.family != "own"]
    assert all(f"| `{name}` |" in told for name in shipped)
    assert "| `transposed_conv` | convolution |" in told
    assert "65,600 | 16,129 |" in told  # 4 * 4 * 64 * 64 + 64; four taps of 64 channels, 64 times, but at the borders


def test_pages_name_tables_that_there_are():
    named = {name for page in PAGES for name in re.findall(r"<!-- table: (.*?) -->", (DOCS / page).read_text("utf-8"))}
    assert named <= set(tables.TABLES)
    assert tables.filled("see <!-- table: edges -->.").startswith("see | word |")
    with pytest.raises(KeyError):
        tables.filled("<!-- table: none such -->")


def test_conventions_stand_beside_their_own_numbers():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", tables.conventions(), re.MULTILINE))
    assert list(rows) == list(up.conventions.PRESETS)
    for name in ("torch_align_corners", "tensorflow1"):
        linear = up.resize(jnp.arange(4.0), 8, method="linear", convention=name, axes=0)
        told = re.split(r"\s|&nbsp;|<br>", rows[name].split(" | ")[1])
        np.testing.assert_allclose([float(figure) for figure in told], linear, atol=5e-3)


def test_figures_that_pages_show_are_made():
    shown = {name for page in PAGES for name in re.findall(r"figures/(\w+)\.png", (DOCS / page).read_text("utf-8"))}
    assert shown == set(figures.FIGURES) - {"boundaries"}


def test_the_readme_has_the_speed_of_the_committed_tables():
    assert tables.speed() in README


def test_the_readme_has_the_figures_of_its_picture():
    truth = _figures.scene(4)
    for name, given in figures.SIX.items():
        y = _figures._upsampled(_figures._call(given, 4), truth, truth, 4, name)[..., 0]
        found = _figures.boundary_figures(y, truth[..., 0])
        assert f"| {name} | {found['boundary_iou']:.2f} | {found['wrong']:.2f} |" in README


def test_what_the_study_found_is_told_as_the_runs_have_it():
    methods = tables.widest("brain", "frozen")["designs"]["frozen"]["methods"]
    words = {"sub-pixel convolution": "sub_pixel_conv", "guided filter": "guided_filter"}
    found = README[README.index("What was found") :].replace("\n", " ")
    names = {*methods, *words}
    told = {name: re.findall(rf"\b{name} \((\.\d\d)\)", found) for name in names}
    assert sum(map(len, told.values())) == len(re.findall(r"\(\.\d\d\)", found)) >= 6
    for name, values in told.items():
        mean = methods[words.get(name, name)]["summary"]["boundary_iou_1px"]["mean"]
        assert all(f"{mean:.2f}"[1:] == value for value in values), name


# --- what needs the tools of the extra `docs` ------------------------------------------------------------------------

# Settings that show that a notebook runs, and no more; four images to be tested on in the place of sixteen.
REDUCED = {"unet": {"STEPS": 2, "DEPTH": 1, "SEEDS": (0,)}, "features": {"STEPS": 2}}


@pytest.mark.mixes_dtypes
@pytest.mark.parametrize("path", sorted(notebooks.FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run_and_are_committed_with_outputs(path, monkeypatch):
    """In this process: a kernel of its own would import and compile again what other tests have."""
    module = ModuleType(f"notebook_{path.stem}")  # the study finds a class by the name of its module
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(plt, "show", lambda: None)
    monkeypatch.setattr(brain, "_HELD_OUT", 2)
    with jax.numpy_rank_promotion("allow"):  # readers set no modes
        drawn = sum(figures_of(cell, vars(module), REDUCED.get(path.stem, {})) for cell in notebooks.cells(path))
    page, pictures = notebooks.page(path)
    assert len(pictures) == drawn > 0
    assert "Traceback" not in page


def figures_of(cell, names, parameters):
    """Runs a cell; how many figures a notebook shows below it: those that are open, and its last value."""
    if cell["cell_type"] != "code":
        return 0
    code = ast.parse("".join(cell["source"]))
    last = code.body.pop() if isinstance(code.body[-1], ast.Expr) else None
    exec(compile(code, "cell", "exec"), names)
    value = last and eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    names |= parameters if notebooks.has_parameters(cell) else {}
    shown = [plt.figure(number) for number in plt.get_fignums()] + [value] * isinstance(value, Figure)
    for figure in shown:
        figure.savefig(io.BytesIO())
    plt.close("all")
    return len(shown)


def test_a_notebook_is_executed_in_a_kernel(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cells = [
        nbformat.v4.new_code_cell("A = 1\nB = 2", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("from docs.making import notebooks\nprint(A, B)\nA + B"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    ran = notebooks.executed(tmp_path / "a.ipynb", {"B": "5"})
    printed, value = ran.cells[1].outputs
    assert (printed.text, value.data["text/plain"]) == ("1 5\n", "6")
    nbformat.write(ran, tmp_path / "a.ipynb")
    assert notebooks.page(tmp_path / "a.ipynb")[0].count("```text\n6\n```") == 1


def test_the_site_is_built_without_warnings(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    environment = {**os.environ, "DOCS_FIGURES": "none", "JAX_PLATFORMS": "cpu", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:  # nothing is loaded from elsewhere
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]+src=\"?https?:|<link[^>]+stylesheet[^>]+https?:", text), page
    assert not [page for page in pages if "```" in page.read_text(encoding="utf-8")]  # a fence that is none
    analysis = (tmp_path / "reference" / "analysis.html").read_text(encoding="utf-8")
    assert 'id="upsampling.analysis.show"' in analysis
    assert inspect.getdoc(up.analysis.show).partition("\n")[0].split(".")[0] in analysis
