"""The initial state of a release: all records as of the first test request."""

from pathlib import Path

import numpy as np

from watchnext.features.arrays import save_arrays
from watchnext.features.column_files import ColumnFiles
from watchnext.features.state.fold import Layout
from watchnext.features.state.snapshots import Snapshots
from watchnext.schema import FeatureSchema


def write_initial_state(features: Path, folder: Path, schema: FeatureSchema) -> None:
    """Write the initial state of the feature stage's output `features` to `folder`.

    It holds viewers.npy (U, layout.viewer), videos.npy, creators.npy.
    """
    state = Snapshots.load_as_of(features / "state", Layout.of(schema.state))
    viewers = ColumnFiles(folder, {"viewers": (np.float64, (state.layout.viewer,))})
    viewers.resize(state.viewers.count)
    for users, records in state.viewers.all():
        viewers.append(int(users[0]), {"viewers": records})
    save_arrays(folder, {"videos": state.videos, "creators": state.creators})
