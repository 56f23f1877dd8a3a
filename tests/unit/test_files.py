"""Files that are replaced in one step, whoever else replaces or reads them."""

import threading

import pytest

from watchnext.files import replaced


def test_writers_of_one_file_at_once_leave_it_whole(tmp_path):
    path, failed, stop = tmp_path / "plan.json", [], threading.Event()
    texts = [each * 100_000 for each in "ab"]
    replaced(path, texts[0])

    def write(text: str) -> None:
        try:
            while not stop.is_set():
                replaced(path, text)
        except OSError as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(text,)) for text in texts]
    for each in writers:
        each.start()
    read = [path.read_text() for _ in range(300)]
    stop.set()
    for each in writers:
        each.join()
    assert (failed, {*read} <= {*texts}) == ([], True)
    assert [*tmp_path.iterdir()] == [path]


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "table"
    replaced(path, lambda aside: aside.write_bytes(b"old"))

    def full(aside) -> None:
        aside.write_bytes(b"ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        replaced(path, full)
    assert ([*tmp_path.iterdir()], path.read_bytes()) == ([path], b"old")
