"""Key files: made by the command, read, read again, and refused by name."""

import logging
import os
import subprocess
import sys

import pytest

from watchnext.serving.http.access import keys
from watchnext.serving.http.access.keys import Keys, KeysError, new_key
from watchnext.serving.http.access.rate import RateLimit


@pytest.fixture
def file(tmp_path):
    made = tmp_path / "keys"
    made.touch(0o600)
    return made


def test_the_command_makes_a_key_that_the_file_knows_and_does_not_hold(file):
    command = [sys.executable, "-m", "watchnext.serving.http.access.keys"]
    with file.open("a") as lines:
        for name, scopes in {"app": "read,write", "ops": "admin"}.items():
            ran = subprocess.run([*command, name, scopes], stdout=lines, stderr=subprocess.PIPE, text=True, check=True)
    secret = ran.stderr.split()[0]
    assert secret not in file.read_text()
    found = Keys(file).find(secret)
    assert (found.name, found.scopes) == ("ops", {"admin"})
    assert Keys(file).find(secret[:-1]) is None
    assert Keys(file).find("") is None
    assert Keys(file).find("\udcff") is None


@pytest.mark.parametrize("arguments", [[], ["app"], ["app", "all"], ["a b", "read"], ["app", ""]])
def test_the_command_refuses_by_name(arguments):
    command = [sys.executable, "-m", "watchnext.serving.http.access.keys", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "read, write, admin" in ran.stderr


DIGEST = "0" * 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nobody\n\n", "has 0 keys"),
        (f"a read {DIGEST}\na write {DIGEST}\n", "two keys of one name"),
        (f"a read {DIGEST}\nb all {DIGEST}\n", "line 2 of key file .* is no key"),
        (f"a read {DIGEST[1:]}\n", "line 1 of"),
        ("a read\n", "line 1 of"),
        ("\udcff\n", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_by_name(file, text, message):
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(KeysError, match=message):
        Keys(file)


def test_a_file_that_others_may_write_is_refused_with_the_command(file):
    file.write_text(f"a read {DIGEST}\n")
    file.chmod(0o664)
    with pytest.raises(KeysError, match=r"mode 664\), expected 600; run `chmod 600"):
        Keys(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(KeysError, match="cannot be read"):
        Keys(tmp_path / "none")


def replace(file, text):
    """Replace the file, as an editor does."""
    new = file.with_suffix(".new")
    new.touch(0o600)
    new.write_text(text)
    os.replace(new, file)


def test_a_changed_file_is_read_and_a_wrong_one_changes_nothing(file, monkeypatch, caplog):
    monkeypatch.setattr(keys, "LOOK_EVERY_S", 0.0)
    (first, line), (second, other) = new_key("a", ["read"]), new_key("b", ["write"])
    file.write_text(line)
    found = Keys(file)
    replace(file, other)
    assert (found.find(first), found.find(second).name) == (None, "b")
    with caplog.at_level(logging.ERROR):
        replace(file, "nonsense")
        assert found.find(second).name == "b"
        file.unlink()
        assert found.find(second).name == "b"
    assert [record.message[:34] for record in caplog.records if record.levelno == logging.ERROR] == [
        "the keys before the change stay: " + "l",
        "the keys before the change stay: " + "k",
    ]


def test_a_bucket_lets_a_burst_through_and_then_its_rate():
    now = 100.0
    limit = RateLimit(10.0, clock=lambda: now)
    assert [limit.wait_s("a") for _ in range(20)] == [0.0] * 20
    assert limit.wait_s("a") == pytest.approx(0.1)
    assert limit.wait_s("b") == 0.0
    now += 0.25
    assert [limit.wait_s("a") > 0 for _ in range(3)] == [False, False, True]
    slow = RateLimit(0.1, clock=lambda: now)
    assert (slow.wait_s("a"), slow.wait_s("a")) == (0.0, pytest.approx(10.0))
