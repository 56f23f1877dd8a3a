"""An engine that is missing or does not answer is named, with what to do."""

import sys

import pytest
from tests.unit.serving.bento_server import free_port

from watchnext import spark
from watchnext.spark import SparkError, engine


def refusal(name: str, master: str) -> str:
    with pytest.raises(SparkError) as caught, engine(name, master):
        pass
    return str(caught.value)


def test_this_machine_is_no_engine():
    with engine("local", "local[2]") as none:
        assert none is None


def test_an_unknown_engine_is_refused():
    assert refusal("flink", "local[2]") == "engine is 'flink', expected local or spark"


def test_an_engine_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark", None)
    assert "needs pyspark, which is not installed; run pip install 'watchnext[spark]'" in refusal("spark", "local[2]")


@pytest.fixture
def installed(monkeypatch) -> None:
    monkeypatch.setattr(spark, "_require_installed", lambda: None)


@pytest.mark.usefixtures("installed")
def test_a_master_that_takes_no_connection_is_named():
    master = f"spark://127.0.0.1:{free_port()}"
    assert f"master {master} does not answer" in refusal("spark", master)


@pytest.mark.usefixtures("installed")
def test_an_address_that_is_none_is_refused():
    assert refusal("spark", "locale[2]").startswith("master is 'locale[2]', expected local[N], spark://HOST:PORT")
