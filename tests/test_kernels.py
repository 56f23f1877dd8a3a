"""What is compiled once is not run again after an edit of what it calls."""

import subprocess
import sys
from pathlib import Path


def answer(package: Path) -> str:
    code = "from inner_outer.outer import outer; print(outer(1))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=package.parent, env={"PATH": "", "PYTHONPATH": f"{package.parent}"}, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_edit_of_a_called_function_reaches_the_caller_that_took_it_in(tmp_path):
    package = tmp_path / "inner_outer"
    package.mkdir()
    (package / "__init__.py").touch()
    head = "from watchnext.kernels import kernel\n"
    (package / "outer.py").write_text(
        f"{head}from inner_outer.inner import inner\n@kernel\ndef outer(x):\n    return inner(x)\n"
    )
    for added in (10, 20):
        (package / "inner.py").write_text(f"{head}@kernel\ndef inner(x):\n    return x + {added}\n")
        assert answer(package) == str(1 + added)
        assert answer(package) == str(1 + added)  # from disk
    kept = sorted(path.name for path in (package / "__pycache__").glob("kernels-*"))
    assert len(kept) == 2
    assert all(any((package / "__pycache__" / name).rglob("*.nbi")) for name in kept)
