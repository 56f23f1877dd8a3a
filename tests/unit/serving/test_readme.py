"""The Python that README.md prints, run on a small release."""

from pathlib import Path

README = Path(__file__).resolve().parents[3] / "README.md"


def test_the_printed_python_asks_a_release_for_a_slate(release, tmp_path, monkeypatch, capsys):
    (tmp_path / "releases").symlink_to(release.folder.parent)
    monkeypatch.chdir(tmp_path)
    program = README.read_text().partition("```python\n")[2].partition("```")[0]
    exec(compile(program, str(README), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert len({line.split()[0] for line in lines}) == 10
    assert all(len(line.split()) > 1 for line in lines)
