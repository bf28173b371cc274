"""The pages of the API reference: every public name of the library, taken from the library."""

import inspect
from types import ModuleType
from typing import TypeVar

import upsampling as up

FAMILIES = {
    "Interpolation": "upsampling.interpolation",
    "Convolution": "upsampling.convolution",
    "Pooling": "upsampling.pooling",
    "Reassembly": "upsampling.reassembly",
    "Guided": "upsampling.guided",
    "Attention": "upsampling.attention",
    "Sampling": "upsampling.sampling",
}
"""What the functions' modules are called on their page; a module that is not here is called by its name."""

_MODULES: dict[str, tuple[str, str, ModuleType]] = {
    "nn": ("Layers", "Flax NNX layers, `upsampling.nn`. `create` builds any of them by name.", up.nn),
    "initializers": ("Initializers", "First values of kernels, `upsampling.nn.initializers`.", up.nn.initializers),
    "metrics": ("Metrics", "Boundary and region metrics, `upsampling.metrics`.", up.metrics),
    "analysis": ("Analysis", "What an upsampler does to a signal, `upsampling.analysis`.", up.analysis),
    "conventions": ("Conventions", "How frameworks place pixels, `upsampling.conventions`.", up.conventions),
    "interop-torch": ("Weights from PyTorch", "`upsampling.interop.torch`.", up.interop.torch),
    "interop-flax": ("Weights from Flax", "`upsampling.interop.flax`.", up.interop.flax),
}


def public_names(module: ModuleType) -> list[str]:
    """A module's `__all__`; or what is defined in it and starts with a letter."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not isinstance(getattr(module, name), ModuleType)]
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    # What has no module of its own: constants and literals, that have a docstring below them in the source.
    source = inspect.getsource(module)
    own += [name for name in vars(module) if f"\n{name} = " in source or f"\n{name}: " in source]
    return [name for name in dict.fromkeys(own) if name[0] != "_" and not isinstance(getattr(module, name), TypeVar)]


def pages() -> dict[str, str]:
    """Markdown by file name below `reference/`."""
    found = {"functions.md": _functions()}
    for page, (title, what, module) in _MODULES.items():
        names = public_names(module)
        found[f"{page}.md"] = _page(title, what, {"": [f"{module.__name__}.{name}" for name in names]})
    found["index.md"] = _index(found)
    return found


def documented() -> set[str]:
    """The full names that are on some page."""
    return {line[4:].strip() for page in pages().values() for line in page.splitlines() if line.startswith("::: ")}


def _functions() -> str:
    by_module: dict[str, list[str]] = {}
    for name in public_names(up):
        by_module.setdefault(getattr(up, name).__module__, []).append(f"upsampling.{name}")
    titles = {module: title for title, module in FAMILIES.items()}
    order = [*FAMILIES.values(), *sorted(by_module)]
    parts = {
        titles.get(module, module.rpartition(".")[2].replace("_", " ").capitalize()): by_module[module]
        for module in dict.fromkeys(order)
        if module in by_module
    }
    return _page("Functions", "Pure functions, `import upsampling as up`.", parts)


def _page(title: str, what: str, parts: dict[str, list[str]]) -> str:
    lines = [f"# {title}", "", what, ""]
    for part, names in parts.items():
        lines += [f"## {part}", ""] if part else []
        for name in names:
            lines += [f"::: {name}", ""]
    return "\n".join(lines)


def _index(found: dict[str, str]) -> str:
    lines = ["# Reference", "", "Every public name of the library.", ""]
    for page, text in found.items():
        title = text.partition("\n")[0][2:]
        lines += [f"## [{title}]({page})", ""]
        names = [line[4:] for line in text.splitlines() if line.startswith("::: ")]
        lines += [" · ".join(f"[`{name.rpartition('.')[2]}`]({page}#{name})" for name in names), ""]
    return "\n".join(lines)
