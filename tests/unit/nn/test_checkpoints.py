"""Folders of unfinished trainings: what goes on, what starts anew and why, and that they do not pile up."""

import contextlib
import os

import pytest

from watchnext.nn import checkpoints
from watchnext.nn.checkpoints import KEPT, Checkpoints, differing, unfinished

WHAT = {"seed": 0, "trainer": {"max_epochs": 3, "clip": None}}


def cut(root, name: str, what=WHAT, epochs: int = 1) -> Checkpoints:
    """A training that was interrupted after some epochs."""
    with contextlib.suppress(InterruptedError), unfinished(root, name, what) as kept:
        kept.run = "r1"
        for epoch in range(epochs):
            kept.write("net", epoch, lambda path, epoch=epoch: path.write_text(f"epoch {epoch}"))
        raise InterruptedError
    return kept


def test_only_the_last_epoch_is_kept_and_found_again(tmp_path, capsys):
    cut(tmp_path, "a", epochs=11)
    with unfinished(tmp_path, "a", WHAT) as kept:
        assert kept.run == "r1"
        assert kept.latest("net").read_text() == "epoch 10"
        assert kept.latest("other") is None
        assert len(list(kept.folder.glob("*.ckpt"))) == 1
        assert "resumed after epoch 10 from" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())  # it ended well


def test_a_kill_between_two_epochs_files_leaves_the_newer(tmp_path):
    kept = cut(tmp_path, "a", epochs=2)
    older = kept.folder / "net.0.0123456789abcdef.ckpt"
    older.write_text("epoch 0")
    (kept.folder / ".net.aside").write_text("half a")
    assert kept.latest("net").read_text() == "epoch 1"
    kept.write("net", 2, lambda path: path.write_text("epoch 2"))
    assert [path.read_text() for path in kept.folder.glob("*net*")] == ["epoch 2"]


@pytest.mark.parametrize("damage", [lambda old: old[:-1], lambda old: b"E" + old[1:], lambda old: b""])
def test_a_damaged_file_is_left_out_and_named(tmp_path, capsys, damage):
    kept = cut(tmp_path, "a")
    (path,) = kept.folder.glob("*.ckpt")
    path.write_bytes(damage(path.read_bytes()))
    assert kept.latest("net") is None
    assert f"{path} is damaged" in capsys.readouterr().out
    assert not path.exists()


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ({**WHAT, "seed": 1}, "seed changed\n"),
        ({"seed": 0, "trainer": {"max_epochs": 4}}, "trainer.max_epochs changed\n"),
        ({"seed": 1, "trainer": {"max_epochs": 4, "clip": 1.0}, "data": "x"}, "data, seed, trainer.clip and 1 more changed\n"),
    ],
)
def test_another_training_starts_anew_and_says_why(tmp_path, capsys, what, named):
    first = cut(tmp_path, "a")
    cut(tmp_path, "b")
    with unfinished(tmp_path, "a", what) as kept:
        assert kept.latest("net") is kept.run is None
    assert capsys.readouterr().out == f"not resumed from {first.folder}: {named}"
    assert first.folder.exists()


def test_another_machine_starts_anew(tmp_path, capsys, monkeypatch):
    cut(tmp_path, "a")
    monkeypatch.setattr(checkpoints, "surroundings", lambda: {"torch": "0"})
    with unfinished(tmp_path, "a", WHAT) as kept:
        assert kept.run is None
    assert capsys.readouterr().out.endswith("processor, threads, torch changed\n")


def test_the_oldest_are_removed(tmp_path):
    folders = [cut(tmp_path, f"m{place}").folder for place in range(KEPT + 2)]
    for place, folder in enumerate(folders):
        if folder.exists():
            os.utime(folder, (place, place))
    assert [folder.exists() for folder in folders] == [False, False, True, True, True]
    cut(tmp_path, "last")
    assert [folder.exists() for folder in folders] == [False, False, False, True, True]


def test_the_very_same_is_not_trained_twice_at_once(tmp_path):
    with unfinished(tmp_path, "a", WHAT) as held:
        with pytest.raises(ValueError, match="another process is training this model"), unfinished(tmp_path, "a", WHAT):
            pass
        for place in range(KEPT + 1):
            cut(tmp_path, f"m{place}")
        assert held.folder.exists()  # what is in use is not removed for others
        assert len(list(tmp_path.iterdir())) == KEPT + 1


def test_differences_are_named_with_their_place():
    first, second = {"a": 1, "b": {"c": 1, "d": {"e": [1]}}, "f": None}, {"a": 1, "b": {"c": 2, "d": {"e": [2]}}, "f": {"g": 1}}
    assert list(differing(first, second)) == ["b.c", "b.d.e", "f"]
