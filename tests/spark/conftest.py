"""One session of Spark for all tests of this folder; without pyspark or Java they are skipped, with the reason."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchnext.spark import Spark

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def spark() -> Iterator[Spark]:
    """Two workers of this machine. They import the tests' own work from the root."""
    pytest.importorskip("pyspark", reason="pyspark is not installed; run `make test-spark`")
    if not shutil.which("java"):
        pytest.skip("Java is not installed; run `apt-get install default-jre-headless`")
    paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        # Most of a short session's time is Java's own compiler.
        quick = {"spark_driver_extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
        with Spark.opened("local[2]", wait_s=600.0, **quick) as opened:
            yield opened
