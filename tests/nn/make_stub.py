"""Writes `upsampling/nn/_create.pyi`, what type checkers and editors know of `create`, from the registry.

Run `python tests/nn/make_stub.py` after a layer's arguments have changed; tests/nn/test_stub.py says when that is due.
"""

import ast
import inspect
import sys
import textwrap
from pathlib import Path
from types import FunctionType

import upsampling as up
from upsampling.nn import _create

STUB = Path(_create.__file__).with_suffix(".pyi")

HEADER = '''"""`create` for each method, with its options. Written by tests/nn/make_stub.py; do not edit."""
'''


def stub() -> str:
    """The text of the stub."""
    methods = up.nn.available()
    imports = {("typing", "Literal"), ("typing", "overload"), ("flax", "nnx"), ("upsampling._arguments", "Numbers")}
    overloads = []
    for method in methods.values():
        overloads.append(overload(method))
        imports |= {result(method), *imports_of(method)}
    names = "".join(f'    "{name}",\n' for name in methods)
    return "\n".join([HEADER, import_lines(imports), f"MethodName = Literal[\n{names}]\n", *overloads, ""])


def overload(method: up.nn.Method) -> str:
    """The signature of `create` for one method."""
    annotations = {name: ast.unparse(node) for name, node in annotations_of(method).items()}
    lines = [f'name: Literal["{method.name}"],', "features: int,"]
    for parameter in method.signature.parameters.values():
        if parameter.name == "scale":
            lines.insert(2, f"scale: {annotations['scale']} = 2,")
        elif parameter.name not in ("features", "rngs"):
            lines.append(f"{parameter.name}: {annotations[parameter.name]} = {shown(parameter.default)},")
    variants = ", ".join(f'"{name}"' for name in method.variants)
    lines[3:3] = ["*,", "rngs: nnx.Rngs,", f"variant: {f'Literal[{variants}] | ' if variants else ''}None = None,"]
    body = "".join(f"    {line}\n" for line in lines)
    return f"@overload\ndef create(\n{body}) -> {result(method)[1]}: ..."


def result(method: up.nn.Method) -> tuple[str, str]:
    """The module and the name of the layer's class."""
    kind = method.build if inspect.isclass(method.build) else up.nn.Upsampler
    return kind.__module__, kind.__name__


def constructor(method: up.nn.Method) -> FunctionType:
    return method.build.__init__ if inspect.isclass(method.build) else method.build


def shown(default: object) -> str:
    """A default that editors show; `...` for what has no literal."""
    if isinstance(default, str):
        return f'"{default}"'
    return repr(default) if default is None or isinstance(default, int | float) else "..."


def annotations_of(method: up.nn.Method) -> dict[str, ast.expr]:
    """The annotations of the constructor as they are written in the source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(constructor(method))))
    function = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    arguments = [*function.args.args, *function.args.kwonlyargs]
    return {argument.arg: argument.annotation for argument in arguments if argument.annotation is not None}


def imports_of(method: up.nn.Method) -> set[tuple[str, str]]:
    """Where the layer's module has the names of these annotations from: (module, name), or ("", name) of a module."""
    annotations = (node for name, node in annotations_of(method).items() if name not in ("features", "rngs"))
    used = {node.id for annotation in annotations for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    module = sys.modules[constructor(method).__module__]
    found = {(module.__name__, name) for name in used if name in vars(module)}
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported = {alias.asname or alias.name for alias in node.names} & used
            found -= {(module.__name__, name) for name in imported}
            found |= {(node.module or "" if isinstance(node, ast.ImportFrom) else "", name) for name in imported}
    return found


def import_lines(imports: set[tuple[str, str]]) -> str:
    """The import statements, sorted as ruff sorts them: the standard library, others, this package."""
    blocks: list[list[str]] = [[], [], []]
    for module in sorted(name for source, name in imports if not source):
        blocks[1].append(f"import {module}\n")
    for module in sorted({module for module, _ in imports if module}):
        # Constants, classes, functions.
        order = lambda name: (not name.isupper(), not name[0].isupper(), name.lower())  # noqa: E731
        names = sorted((name for m, name in imports if m == module), key=order)
        root = module.partition(".")[0]
        block = 2 if root == "upsampling" else 0 if root in sys.stdlib_module_names else 1
        blocks[block].append(f"from {module} import {', '.join(names)}\n")
    return "\n".join("".join(block) for block in blocks if block)


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
