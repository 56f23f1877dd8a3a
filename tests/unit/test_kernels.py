"""Machine code is kept for every process and checkout, and never run again after an edit of what it takes in."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import watchnext

SAID = "compiling kernels (once per machine and version, about a minute in all)\n"
HEAD = "from watchnext.kernels import kernel\n"
OUTER = "from inner_outer import inner\n@kernel\ndef outer(x):\n    return inner.inner(x)\n"
CALL = "from inner_outer.outer import outer; print(outer(1))"


def package(folder: Path, *, inner: str = "ADDED = 10\n@kernel\ndef inner(x):\n    return x + ADDED\n") -> Path:
    found = folder / "inner_outer"
    found.mkdir(parents=True, exist_ok=True)
    (found / "__init__.py").touch()
    (found / "outer.py").write_text(HEAD + OUTER)
    (found / "inner.py").write_text(HEAD + inner)
    return found


def run(package: Path, code: str = CALL, **environment: str) -> tuple[str, str]:
    """Return what it prints, and what it tells of compiling."""
    paths = f"{package.parent}{os.pathsep}{Path(watchnext.__file__).parents[2]}"
    variables = {**environment, "PATH": "", "PYTHONPATH": paths, "HOME": str(package.parent / "home")}
    variables["PYTHONDONTWRITEBYTECODE"] = "1"  # Python takes an edit of the same size within the same second for none
    done = subprocess.run([sys.executable, "-c", code], env=variables, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def kept(folder: Path, function: str = "outer.outer") -> list[str]:
    return sorted(path.name for path in folder.rglob(f"inner_outer.{function}-*"))


def test_another_process_and_another_checkout_compile_nothing(tmp_path):
    cache = str(tmp_path / "cache")
    first = package(tmp_path / "first")
    assert run(first, XDG_CACHE_HOME=cache) == ("11", SAID)
    assert run(first, XDG_CACHE_HOME=cache, PYTHONHASHSEED="7") == ("11", "")
    shutil.rmtree(first)
    assert run(package(tmp_path / "second"), XDG_CACHE_HOME=cache) == ("11", "")
    assert len(kept(tmp_path / "cache" / "watchnext" / "kernels")) == 1


def test_without_a_setting_it_is_in_the_home_folder(tmp_path):
    assert run(package(tmp_path)) == ("11", SAID)
    assert run(package(tmp_path)) == ("11", "")
    assert len(kept(tmp_path / "home" / ".cache" / "watchnext" / "kernels")) == 1


def test_numbas_setting_is_obeyed(tmp_path):
    run(package(tmp_path), NUMBA_CACHE_DIR=str(tmp_path / "there"), XDG_CACHE_HOME=str(tmp_path / "elsewhere"))
    assert len(kept(tmp_path / "there")) == 1
    assert not (tmp_path / "elsewhere").exists()


def test_an_edit_of_a_called_function_or_its_constants_reaches_the_caller_that_took_it_in(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert run(package(tmp_path), **environment)[0] == "11"
    for inner, answer in (
        ("ADDED = 20\n@kernel\ndef inner(x):\n    return x + ADDED\n", "21"),
        ("ADDED = 10\n@kernel\ndef inner(x):\n    return x + 3 * ADDED\n", "31"),
        ("@kernel\ndef inner(x, ADDED=40):\n    return x + ADDED\n", "41"),
    ):
        assert run(package(tmp_path, inner=inner), **environment) == (answer, SAID)
    assert run(package(tmp_path), **environment) == ("11", "")  # the first one is still there


def test_an_edit_beside_it_compiles_nothing(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    run(package(tmp_path), **environment)
    for path in package(tmp_path).glob("*.py"):
        path.write_text(f"# printed anew\n{path.read_text()}\ndef another():\n    return {path.stem!r}\n")
    assert run(tmp_path / "inner_outer", **environment) == ("11", "")


def test_fields_of_a_named_tuple_are_read_by_name_when_they_move(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    for fields in ("a: int; b: int", "b: int; a: int"):
        inner = f"from typing import NamedTuple\nclass Two(NamedTuple):\n    {fields.replace('; ', chr(10) + '    ')}\n"
        inner += "@kernel\ndef inner(two):\n    return two.a\n"
        call = "from inner_outer.inner import inner, Two; print(inner(Two(a=1, b=2)))"
        assert run(package(tmp_path, inner=inner), call, **environment)[0] == "1"


def test_kept_kernels_are_bounded(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    inner = "import numpy as np\n@kernel\ndef inner(x):\n    return x.size\n"
    call = "import numpy as np; from watchnext import kernels; kernels.KEPT = 3\nfrom inner_outer.inner import inner\n"
    call += "for n in range(1, 6): inner(np.zeros((1,) * n))"
    run(package(tmp_path, inner=inner), call, **environment)
    assert len(kept(tmp_path / "cache", "inner.inner")) == 3


def test_a_file_cut_short_is_compiled_again(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    run(package(tmp_path), **environment)
    for path in (tmp_path / "cache").rglob("inner_outer.outer.outer-*"):
        path.write_bytes(path.read_bytes()[:100])
    assert run(package(tmp_path), **environment) == ("11", SAID)
    assert run(package(tmp_path), **environment) == ("11", "")


def test_where_no_folder_can_be_written_to_every_process_compiles_and_says_why(tmp_path):
    (tmp_path / "file").touch()
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "file")}
    for _ in range(2):
        answer, printed = run(package(tmp_path), **environment)
        assert answer == "11"
        assert "in every process" in printed
        assert "set NUMBA_CACHE_DIR" in printed


def test_several_processes_at_once(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    call = "import sys, random\nfrom inner_outer.outer import outer\nkinds = [int, float, complex]\nrandom.shuffle(kinds)\n"
    call += "print(sum(outer(kind(1)).real for kind in kinds))"
    found = package(tmp_path)
    with ThreadPoolExecutor(3) as pool:
        assert [answer for answer, _ in pool.map(lambda _: run(found, call, **environment), range(3))] == ["33.0"] * 3
    assert len(kept(tmp_path / "cache")) == 3
    assert run(found, call, **environment) == ("33.0", "")
    assert not list((tmp_path / "cache").rglob("*.new"))


def test_every_kernel_of_the_package_is_kept_this_way():
    """numba's own cache goes by a file's path, and by that file alone."""
    source = Path(__file__).resolve().parents[2] / "src" / "watchnext"
    assert not [path for path in source.rglob("*.py") if "cache=True" in path.read_text()]
    assert os.environ.get("NUMBA_DISABLE_JIT") is None
