"""`python tests/hooks/hooked_transformer.py`: the tests of TransformerLens models on the class of transformer-lens 3.

The installed transformer-lens 4 has no `HookedTransformer`, and both cannot be installed at once. This makes an
environment of its own in a temporary folder, with transformer-lens 3 before everything else and the rest seen
from the environment that runs this, and runs `test_lens.py` and `test_edits_lens.py` in it. A package index must
be reachable; no model is downloaded. Exit status: 0 where all tests of `HookedTransformer` ran and passed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

WANTED = ("transformer-lens>=3.8,<4", "better-abc")
ROOT = Path(__file__).parent.parent.parent
TESTS = ("tests/hooks/test_lens.py", "tests/hooks/test_edits_lens.py")


def make_environment(folder: Path) -> Path:
    """An environment that sees this one's packages behind its own; its python."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    shown = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    behind = f"{ROOT}\n{sysconfig.get_path('purelib')}\n"
    (Path(shown.stdout.strip()) / "behind.pth").write_text(behind)
    # Without their dependencies: but for better-abc they are those of transformer-lens 4, which is here.
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", *WANTED]
    subprocess.run(install, check=True)
    return python


def main() -> int:
    """Make the environment, run the tests, and see that none of `HookedTransformer` was skipped."""
    with tempfile.TemporaryDirectory() as name:
        python = make_environment(Path(name))
        version = [python, "-c", "from importlib.metadata import version as v; print(v('transformer-lens'))"]
        print("transformer-lens", subprocess.run(version, capture_output=True, text=True, check=True).stdout.strip())
        done = subprocess.run(
            [python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *TESTS],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
    print(done.stdout)
    skipped = re.search(r"not checked: transformer-lens 4|could not import 'transformer_lens'", done.stdout)
    return done.returncode or (1 if skipped else 0)


if __name__ == "__main__":
    sys.exit(main())
