"""Docstrings as Markdown: examples, which stand in them as doctests, become blocks of code."""

import re
import textwrap
from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Fences every doctest of a docstring."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text with a fence around each run of lines that starts with a prompt and ends before a blank one.

    An example may be indented; what is indented in Markdown is no fence, so it is moved to the left.

    >>> fenced("Such as:\\n\\n    >>> 1 + 1\\n    2\\n\\nThe end.").splitlines()
    ['Such as:', '', '```pycon', '>>> 1 + 1', '2', '```', '', 'The end.']
    """
    return re.sub(r"^ *>>> .*(?:\n *\S.*)*", _fence, text, flags=re.MULTILINE)


def _fence(found: re.Match[str]) -> str:
    return f"```pycon\n{textwrap.dedent(found[0])}\n```"
