"""A notebook executed without Jupyter: its cells one after the other in one namespace, with what they show.

``python -m tests.support.notebook FILE.ipynb`` executes one and writes the outputs into it.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

DPI = 72
"""Of the pictures, which are kept in the file."""


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return the notebook with the outputs of its code cells; the first error is raised."""
    import matplotlib

    matplotlib.use("agg", force=True)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    number = 0
    cells = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            outputs = _outputs("".join(cell["source"]), namespace, number)
            cell = {**cell, "execution_count": number, "outputs": outputs}
        cells.append(cell)
    return {**notebook, "cells": cells}


def _outputs(source: str, namespace: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Execute a cell: what it prints, its pictures, and the value of its last line."""
    from matplotlib import pyplot

    body = ast.parse(source).body
    last = ast.Expression(body.pop().value) if body and isinstance(body[-1], ast.Expr) else None
    name, printed = f"<cell {number}>", io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), name, "exec"), namespace)
        value = None if last is None else eval(compile(last, name, "eval"), namespace)
    found: list[dict[str, Any]] = []
    if printed.getvalue():
        found.append({"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())})
    for figure in map(pyplot.figure, pyplot.get_fignums()):
        picture = io.BytesIO()
        figure.savefig(picture, format="jpeg", dpi=DPI, bbox_inches="tight", pil_kwargs={"quality": 80})
        content = {"image/jpeg": base64.b64encode(picture.getvalue()).decode() + "\n", "text/plain": ["a picture"]}
        found.append({"output_type": "display_data", "metadata": {}, "data": content})
    pyplot.close("all")
    if value is not None:
        content = {"text/plain": _lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            content["text/html"] = _lines(value._repr_html_())
        found.append({"output_type": "execute_result", "metadata": {}, "execution_count": number, "data": content})
    return found


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def write(file: Path, notebook: dict[str, Any]) -> None:
    """Write a notebook as Jupyter does."""
    file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        write(Path(argument), executed(json.loads(Path(argument).read_text(encoding="utf-8"))))
