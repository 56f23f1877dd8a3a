"""The state that a release starts from: everybody's records as of the first test request."""

import json
from pathlib import Path

import numpy as np

from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.features.catalogue import Catalogue
from watchnext.features.growing_arrays import Columns
from watchnext.features.state.builder import folded_on
from watchnext.features.state.events import Log
from watchnext.features.state.fold import Layout
from watchnext.features.state.replay import CHUNK_VIEWERS
from watchnext.features.state.snapshots import Snapshots
from watchnext.schema import FeatureSchema


def opening_of(features: Path, layout: Layout) -> tuple[dict, Snapshots]:
    """What `Folding.save_opening` said of it, and the snapshots that it lies in."""
    facts = json.loads((features / "state" / "opening.json").read_text())
    return facts, Snapshots(features / "state", layout, **{name: facts[name] for name in ("users", "videos", "creators")})


def write_opening_state(features: Path, folder: Path, schema: FeatureSchema, catalogue: Catalogue) -> None:
    """Write everybody's records as of the first test request, of what the feature stage left in `features`, to `folder`:
    viewers.npy (U, layout.viewer), videos.npy, creators.npy."""
    layout = Layout.of(schema.state)
    facts, state = opening_of(features, layout)
    items, viewers = state.items(facts["stretch"]), state.viewers(facts["stretch"])
    out = Columns(folder, {"viewers": (np.float64, (layout.viewer,))})
    out.resize(facts["users"])
    for first in range(0, facts["users"], CHUNK_VIEWERS):
        users = np.arange(first, min(first + CHUNK_VIEWERS, facts["users"]))
        out.append(first, {"viewers": viewers.load(users)})
    columns = load_arrays(features / "state" / "opening")
    columns |= {name: getattr(catalogue, name) for name in ("creator_rows", "tag_rows")}
    log = Log(**{name: np.array(values) for name, values in columns.items()}, pending=facts["pending"])
    mapped = out.rows(0, facts["users"])["viewers"]
    for users, records in folded_on(layout, log, facts["as_of_ms"], items, lambda users: mapped[users]):
        mapped[users] = records
    save_arrays(folder, {"videos": items.videos, "creators": items.creators})
