"""What `mkdocs build` does beside its own: figures, tables, notebooks, the reference and the changes become pages.

With DOCS_FIGURES=none in the environment figures are empty pictures: a test of words and links needs none.
"""

import os
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parents[2]))

from docs.making import figures, notebooks, reference, tables

# A white pixel.
_EMPTY = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63f80f0001010100"
    "1bb6ee560000000049454e44ae426082"
)


def on_files(files: Files, config: Any) -> Files:
    """Adds what is made: `figures/`, `reference/`, `notebooks/`, and changes.md."""
    made: dict[str, str | bytes] = {f"reference/{name}": text for name, text in reference.pages().items()}
    made["changes.md"] = "# Changes\n\n<!-- table: changes -->\n"
    for path in sorted(notebooks.FOLDER.glob("*.ipynb")):
        text, pictures = notebooks.page(path)
        made[f"notebooks/{path.stem}.md"] = text
        made |= {f"notebooks/{name}": picture for name, picture in pictures.items()}
    drawn = os.environ.get("DOCS_FIGURES") != "none"
    made |= {f"figures/{name}.png": figures.png(name) if drawn else _EMPTY for name in figures.FIGURES}
    for place, content in made.items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fills in the tables."""
    return tables.filled(markdown)


# The one script that the theme would load from the web; pages are read offline.
_FROM_THE_WEB = '<script src="https://unpkg.com/iframe-worker/shim"></script>'


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Takes out what pages would load from the web."""
    return output.replace(_FROM_THE_WEB, "")


def on_post_template(output_content: str, template_name: str, config: Any) -> str:
    """The same of pages that are none of the documentation's, such as 404.html."""
    return output_content.replace(_FROM_THE_WEB, "")
