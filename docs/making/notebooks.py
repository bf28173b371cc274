"""Notebooks as pages: their text, code and committed outputs as Markdown, their pictures as files."""

import base64
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "notebooks"


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook's Markdown, and its pictures by file name."""
    lines: list[str] = []
    pictures: dict[str, bytes] = {}
    for number, cell in enumerate(cells(path)):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [source, ""]
            continue
        if "hide" not in cell["metadata"].get("tags", []):
            lines += ["```python", source, "```", ""]
        for k, output in enumerate(cell["outputs"]):
            lines += _output(output, f"{path.stem}-{number}-{k}.png", pictures)
    first, _, rest = "\n".join(lines).partition("\n")
    told = f"\n*The notebook is `docs/notebooks/{path.name}` in the repository; what it shows was computed by it.*\n"
    return f"{first}\n{told}{rest}\n", pictures


def cells(path: Path) -> list[dict[str, Any]]:
    """Those of a notebook, as they are stored."""
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def has_parameters(cell: Mapping[str, Any]) -> bool:
    """Whether a cell is the one whose values may be set anew."""
    return "parameters" in cell["metadata"].get("tags", [])


def _output(output: dict[str, Any], name: str, pictures: dict[str, bytes]) -> list[str]:
    if output["output_type"] == "stream":
        return ["```text", "".join(output["text"]).rstrip(), "```", ""] if output["name"] == "stdout" else []
    data = output["data"]
    if "image/png" in data:
        pictures[name] = base64.b64decode("".join(data["image/png"]))
        return [f"![What the cell above draws]({name})", ""]
    if "text/markdown" in data:
        return ["".join(data["text/markdown"]), ""]
    return ["```text", "".join(data["text/plain"]), "```", ""]


def executed(path: Path, settings: dict[str, str] | None = None, timeout: int = 1200) -> Any:
    """A notebook run from the repository's root, as nbformat has it; `settings` are appended to its cell of parameters.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if settings and has_parameters(cell):
            cell.source += "".join(f"\n{name} = {value}" for name, value in settings.items())
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(FOLDER.parents[1])}},
    )
    client.execute()
    return notebook


def main(names: list[str]) -> None:
    """Runs the notebooks, all or those named, and writes their outputs: `python -m docs.making.notebooks [NAME...]`."""
    import nbformat

    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            notebook = executed(path)
            for cell in notebook.cells:
                cell.metadata.pop("execution", None)  # times, which differ from run to run
            notebook.metadata.get("language_info", {}).pop("version", None)
            nbformat.write(notebook, path)
            print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
