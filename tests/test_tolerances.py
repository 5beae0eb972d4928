"""Every comparison of floats says what it allows for where the value is near 0."""

from __future__ import annotations

import ast
from pathlib import Path

# pytest.approx and torch.testing.assert_close have an absolute part of their own
RELATIVE = {"assert_allclose", "allclose", "isclose"}


def offenders(source: str) -> list[int]:
    """Lines of the comparisons that have no absolute part."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        given = {keyword.arg for keyword in node.keywords}  # None for ** of a named tolerance
        if name in RELATIVE and not given & {"atol", "abs_tol", None}:
            lines.append(node.lineno)
        if name == "approx" and any(
            isinstance(a, ast.Constant) and a.value == 0 for a in node.args[:1]
        ):
            lines += [node.lineno] * (not given & {"abs", None})
    return lines


def test_every_comparison_has_an_absolute_part():
    found = [
        f"{path.name}:{line}"
        for path in sorted(Path(__file__).parent.glob("*.py"))
        for line in offenders(path.read_text())
    ]
    assert not found, f"give these an atol of tests/tolerances.py, with its reason: {found}"


def test_it_sees_those_that_have_none():
    assert offenders("np.allclose(a, b, rtol=1e-4)\n\nassert x == pytest.approx(0)") == [1, 3]
    good = "np.allclose(a, b, atol=1)\nassert_allclose(a, b, **SINGLE)\npytest.approx(0, abs=1e-3)"
    assert offenders(good) == []
