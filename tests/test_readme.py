"""The README's Python is run, so that it stays true."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_five_lines_of_python_give_a_certificate(capsys):
    block = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    assert len(block.strip().splitlines()) == 5
    exec(block, {})  # noqa: S102  the README is ours
    assert re.fullmatch(r"forward 0\.\d+\n", capsys.readouterr().out)
