"""State what serves, for people who look after it: the release with its verdict, and the last report of drift."""

import json
import logging
from pathlib import Path

from watchnext.features.catalogue import Ids
from watchnext.serving.release.release import Release, verdict_of

log = logging.getLogger(__name__)
REPORT_BYTES = 4_000_000  # a larger file is no report of drift


def status(release: Release, viewer_ids: Ids, drift: Path) -> dict:
    """Return a StatusResponse; `drift` is the report's file, which may be missing."""
    names, regions = release.trending.segments[:, 0].tolist(), release.catalogue.region_names.tolist()
    return {
        "release": {
            "id": release.id,
            "data": release.manifest["data"],
            "as_of_ms": release.as_of_ms,
            "videos": len(release.catalogue),
            "viewers": len(release.user_ids.ids),
            "lost_to": dict(verdict_of(release.folder)),
        },
        "viewer_ids": ("string" if viewer_ids.are_strings else "number") if len(viewer_ids.ids) else None,
        "surfaces": sorted({*names} - {""}),
        "regions": sorted({*regions, *release.trending.regions.tolist()} - {""}),
        "drift": _drift(drift),
    }


def _drift(file: Path) -> dict | None:
    """Return the report's summary and when it was written; None where there is none that can be read."""
    try:
        found = file.stat()
        if found.st_size > REPORT_BYTES:
            raise ValueError(f"{found.st_size:,} bytes, expected at most {REPORT_BYTES:,}")
        report = json.loads(file.read_text())
        return {
            "verdict": str(report["verdict"]),
            "rows": int(report["rows"]["current"]),
            "columns": len(report["columns"]),
            "drifted": sorted(name for name, column in report["columns"].items() if column["drifted"]),
            "reported_ms": int(1000 * found.st_mtime),
        }
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is no report of drift: %r; write it again with `python -m watchnext.monitoring drift`", file, error)
        return None
