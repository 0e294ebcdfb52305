"""Extension of the site's reference: doctests in docstrings are shown as code."""

import re

import griffe

_DOCTEST = re.compile(r"(?m)^>>> .*(?:\n(?!\n).*)*")


class Doctests(griffe.Extension):
    """Fences the doctests of every docstring; called by griffe."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Change one docstring."""
        if obj.docstring:
            obj.docstring.value = _DOCTEST.sub(lambda match: f"```python\n{match[0]}\n```", obj.docstring.value)
