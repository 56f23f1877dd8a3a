"""The initial state of a release: all records as of the first test request."""

import json
from pathlib import Path

import numpy as np

from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.features.catalogue import Catalogue
from watchnext.features.column_files import ColumnFiles
from watchnext.features.state.builder import fold_onto
from watchnext.features.state.event_order import Log
from watchnext.features.state.fold import Layout
from watchnext.features.state.fold_log import CHUNK_VIEWERS
from watchnext.features.state.snapshots import Snapshots
from watchnext.schema import FeatureSchema


def load_initial_state(features: Path, layout: Layout) -> tuple[dict, Snapshots]:
    """Load the facts of `LogFold.save_initial_state` and the snapshots of the initial state."""
    facts = json.loads((features / "state" / "opening.json").read_text())
    return facts, Snapshots(features / "state", layout, **{name: facts[name] for name in ("users", "videos", "creators")})


def write_initial_state(features: Path, folder: Path, schema: FeatureSchema, catalogue: Catalogue) -> None:
    """Write the initial state of the feature stage's output `features` to `folder`.

    It holds all records as of the first test request: viewers.npy (U, layout.viewer), videos.npy, creators.npy.
    """
    layout = Layout.of(schema.state)
    facts, state = load_initial_state(features, layout)
    items, viewers = state.items(facts["stretch"]), state.viewers(facts["stretch"])
    out = ColumnFiles(folder, {"viewers": (np.float64, (layout.viewer,))})
    out.resize(facts["users"])
    for first in range(0, facts["users"], CHUNK_VIEWERS):
        users = np.arange(first, min(first + CHUNK_VIEWERS, facts["users"]))
        out.append(first, {"viewers": viewers.load(users)})
    columns = load_arrays(features / "state" / "opening")
    columns |= {name: getattr(catalogue, name) for name in ("creator_rows", "tag_rows")}
    log = Log(**{name: np.array(values) for name, values in columns.items()}, pending=facts["pending"])
    mapped = out.rows(0, facts["users"])["viewers"]
    for users, records in fold_onto(layout, log, facts["as_of_ms"], items, lambda users: mapped[users]):
        mapped[users] = records
    save_arrays(folder, {"videos": items.videos, "creators": items.creators})
