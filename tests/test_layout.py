"""The house stands as it was drawn: folders, links, one-way imports, documented and typed public functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("kernels", "hooks", "probe") for path in (ROOT / folder).rglob("*.py"))
SOURCES = [path for path in SOURCES if "probe/hooks" not in str(path) and "probe/kernels" not in str(path)]
NAMED = [str(path.relative_to(ROOT)) for path in SOURCES]


def imports(path: Path) -> set[str]:
    """Absolute module names that a file imports, relative ones resolved."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = f"probe.{path.parent.name}" if node.level else ""
            found.add(".".join(part for part in (home, node.module or "") if part))
    return found


def test_sources_are_found():
    assert {"kernels/reference.py", "hooks/attention.py", "probe/scan.py"} <= set(NAMED)


@pytest.mark.parametrize("name", ["hooks", "kernels"])
def test_the_two_folders_are_links_without_an_init(name: str):
    link = ROOT / "probe" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"
    assert link.resolve() == ROOT / name
    assert not (ROOT / name / "__init__.py").exists()


@pytest.mark.parametrize("path", SOURCES, ids=NAMED)
def test_imports_go_one_way(path: Path):
    own = {name for name in imports(path) if name.split(".")[0] in ("probe", "hooks", "kernels")}
    assert not {name for name in own if not name.startswith("probe")}, "import by the full name probe.…"
    home = path.relative_to(ROOT).parts[0]
    if home in ("hooks", "kernels"):
        assert all(name.startswith(f"probe.{home}") for name in own), own
    if path.parent.name in ("page", "plots") or path.name == "table.py":
        assert not {name for name in own if name.startswith(("probe.hooks", "probe.kernels", "probe.scan"))}


def test_the_check_of_imports_can_fail(tmp_path: Path):
    (tmp_path / "hooks").mkdir()
    wrong = tmp_path / "hooks" / "wrong.py"
    wrong.write_text("from probe.errors import ProbeError\nfrom .mask import LazyMask\n")
    assert imports(wrong) == {"probe.errors", "probe.hooks.mask"}


def test_transformers_does_not_take_our_kernels_for_another_package():
    code = (
        "import sys, transformers.modeling_utils; found = sys.modules.get('kernels'); "
        "print(getattr(found, '__file__', None))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "None"


@pytest.mark.parametrize("path", SOURCES, ids=NAMED)
def test_public_functions_are_documented_and_typed(path: Path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "what is this file's one idea?"
    for node in [*tree.body, *(part for top in tree.body if isinstance(top, ast.ClassDef) for part in top.body)]:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        overload = any("overload" in ast.dump(mark) for mark in node.decorator_list)
        protocol = [top for top in tree.body if isinstance(top, ast.ClassDef) and top.name.startswith("_")]
        if overload or any(node in top.body for top in protocol):
            continue
        assert ast.get_docstring(node) or isinstance(node, ast.ClassDef), f"{node.name} has no docstring"
        assert not isinstance(node, ast.FunctionDef) or node.returns is not None, f"{node.name} has no return type"


@pytest.mark.parametrize("path", SOURCES, ids=NAMED)
def test_nothing_is_left_unfinished_or_checked_by_assert(path: Path):
    text = path.read_text()
    assert "NotImplementedError" not in text
    assert not [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)]
    assert "trust_remote_code=True" not in text
    assert "pickle.load" not in text
