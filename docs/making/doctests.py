"""Docstrings as Markdown: examples, which stand in them as doctests, become blocks of code."""

import re
from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Fences every doctest of a docstring."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text with a fence around each run of lines that starts with a prompt and ends before a blank one.

    >>> print(fenced("Example:\\n\\n>>> 1 + 1\\n2"))
    Example:
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    return re.sub(r"^( *)>>> .*(?:\n *\S.*)*", r"\1```pycon\n\g<0>\n\1```", text, flags=re.MULTILINE)
