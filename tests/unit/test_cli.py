"""Commands and their configuration: what is misspelt is named together with what would be right."""

from pathlib import Path

import pytest
from hydra.utils import get_class

from watchnext.cli import composed, dispatch, keys_of, overrides_from, plain

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.chdir(ROOT)


def said(capsys, monkeypatch, *words: str) -> tuple[object, str]:
    """Exit code (None where it did not exit) or last words, and what was printed."""
    commands = {"show": show, "fail": fail, "crash": crash, "look": look, "look closely": closely}
    monkeypatch.setattr("sys.argv", ["program", *words])
    try:
        dispatch("watchnext.thing", commands, (LookupError,), leading={"look": "path"})
    except SystemExit as stopped:
        return stopped.code, capsys.readouterr().out
    return "returned", capsys.readouterr().out


def show(config) -> int:
    """Print the seed."""
    print(f"seed {config.seed}")
    return int(config.seed)


def look(config) -> None:
    """Look at a path."""
    print(f"path {config.path}, seed {config.seed}")


def closely(config) -> None:
    """Look at a log."""
    print(f"log {config.log}, seed {config.seed}")


def fail(config) -> None:
    """Always fail."""
    raise LookupError("there is no such thing")


def crash(config) -> None:
    """Fail as nobody expects."""
    raise ZeroDivisionError


def test_a_command_gets_the_composed_configuration_and_its_answer_is_the_exit_code(capsys, monkeypatch):
    assert said(capsys, monkeypatch, "show", "seed=3") == (3, "seed 3\n")


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("some/where",), "some/where"),
        (("it's, an odd [place] ", "seed=3"), "it's, an odd [place] "),
        (("path=some/where",), "some/where"),
        (("a/date=3",), "a/date=3"),
        ((), "None"),
        (("seed=3",), "None"),
    ],
)
def test_a_leading_word_sets_the_key_of_a_command_that_takes_one(capsys, monkeypatch, words, path):
    assert said(capsys, monkeypatch, "look", *words) == (None, f"path {path}, seed {3 if 'seed=3' in words else 0}\n")


def test_a_word_where_none_is_taken_is_refused(capsys, monkeypatch):
    for words in (("show", "somewhere"), ("look", "one", "two"), ("look", "seed=3", "late")):
        code, out = said(capsys, monkeypatch, *words)
        assert words[-1] in code
        assert out == ""


@pytest.mark.parametrize(
    ("words", "log"),
    [
        (("--log", "some/where"), "some/where"),
        (("--log=some/where",), "some/where"),
        (("log=some/where",), "some/where"),
        (("seed=3", "--log", "it's, an odd [place]/date=3 "), "it's, an odd [place]/date=3 "),
        (("--log", "ends so \\", "--seed", "3"), "ends so \\"),
        (("--log", "\\'\\\\' "), "\\'\\\\' "),
        (("--seed", "3"), "None"),
    ],
)
def test_a_command_of_two_words_and_options(capsys, monkeypatch, words, log):
    seed = 3 if "3" in words or "seed=3" in words else 0
    assert said(capsys, monkeypatch, "look", "closely", *words) == (None, f"log {log}, seed {seed}\n")


def test_an_option_needs_its_value_and_a_known_key(capsys, monkeypatch):
    assert said(capsys, monkeypatch, "look", "closely", "--log")[0] == "--log has no value; expected --log VALUE, or log=VALUE"
    assert (
        said(capsys, monkeypatch, "show", "--log", "--seed", "3")[0] == "--log has no value; expected --log VALUE, or log=VALUE"
    )
    assert "unknown key 'lgo'; did you mean log?" in said(capsys, monkeypatch, "show", "--lgo", "x")[0]


@pytest.mark.parametrize("words", [(), ("-h",), ("--help",), ("show", "--help")])
def test_help_lists_the_commands(capsys, monkeypatch, words):
    code, out = said(capsys, monkeypatch, *words)
    assert code in ("returned", 0)
    assert "usage: python -m watchnext.thing COMMAND [key=value ...]" in out
    assert "show          Print the seed." in out
    assert "look PATH     Look at a path." in out
    assert "look closely  Look at a log." in out


def test_an_unknown_command_is_named(capsys, monkeypatch):
    code, _ = said(capsys, monkeypatch, "shwo")
    known = "show, fail, crash, look, look closely"
    assert code == f"unknown command 'shwo', expected one of {known}; see `python -m watchnext.thing --help`"


def test_expected_errors_are_their_message_alone_and_others_keep_their_trace(capsys, monkeypatch):
    assert said(capsys, monkeypatch, "fail")[0] == "LookupError: there is no such thing"
    with pytest.raises(ZeroDivisionError):
        said(capsys, monkeypatch, "crash")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sede=1", r"unknown key 'sede'; did you mean seed\? Known beside it: .*\bregime\b"),
        (
            "trainer.max_epoch=1",
            r"unknown key 'trainer.max_epoch'; did you mean trainer.max_epochs\? Known beside it: trainer\.",
        ),
        ("model.module.epochs_=1", r"did you mean model.module.epochs\?"),
        ("zzzzzz=1", r"unknown key 'zzzzzz'\. Known beside it: "),
        ("model=rankr", r"(?s)'model/rankr'.*logistic_regression.*ranker.*two_tower"),
        ("seed", "seed"),
    ],
)
def test_a_misspelt_override_is_named(override, message):
    with pytest.raises(SystemExit) as stopped:
        composed([override])
    assert isinstance(stopped.value.code, str)
    stopped.match(message)


def test_the_hint_knows_the_chosen_groups():
    with pytest.raises(SystemExit, match=r"did you mean model.module.negatives.uniform\?"):
        composed(["model=two_tower", "model.module.negatives.unifrm=3"])


def test_overrides_apply_and_a_plus_adds(capsys):
    config = composed(["model=two_tower", "index=ivf_sq8", "+trainer.limit_train_batches=2", "seed=5"])
    assert config.model.name == "two_tower"
    assert config.trainer.limit_train_batches == 2
    assert config.seed == 5
    assert {"seed", "trainer.max_epochs", "model.module.negatives.uniform"} <= set(keys_of(config))


@pytest.mark.parametrize("model", sorted(path.stem for path in (ROOT / "conf/model").glob("*.yaml")))
@pytest.mark.parametrize("data", ["sample", "world"])
def test_every_choice_composes_into_plain_values(model, data):
    config = plain(composed([f"model={model}", f"data={data}"]))
    assert config["model"]["name"] == model
    assert config["data"]["name"] == data
    assert type(config["model"]["module"]) is dict


def test_another_folder_is_told_where_to_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"conf/ is missing in .*; run this command at the root of the repository"):
        composed([])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("watchnext.data.canonical.CanonicalTables", "watchnext.data.loaders.canonical.CanonicalTables"),
        ("watchnext.data.kuairand.KuaiRand", "watchnext.data.loaders.kuairand.KuaiRand"),
        ("watchnext.data.world.World", "watchnext.simulator.world.World"),
    ],
)
def test_a_preset_may_name_its_loader_by_the_old_place(old, new, capsys):
    assert composed([f"data.loader._target_={old}"]).data.loader._target_ == new
    assert get_class(new)
    assert f"{old} is {new} now" in capsys.readouterr().err


def test_a_loader_where_it_stands_needs_no_note(capsys):
    composed(["data=kuairand"])
    assert capsys.readouterr().err == ""


def test_a_word_with_brackets_is_a_value_and_brackets_alone_are_a_list():
    config = composed(overrides_from(["master=local[2]", "releases=[a,b]"]))
    assert (config.master, config.releases) == ("local[2]", ["a", "b"])
