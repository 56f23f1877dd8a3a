"""Filter the catalogue as a request asks: tags, creators and languages > the videos that have one of each."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from watchnext.retrieval.index.prefilter import StaticMask
from watchnext.serving.funnel.query import FieldError
from watchnext.serving.release.live_catalogue import LiveCatalogue, NamesByRow
from watchnext.serving.release.release import Release
from watchnext.types import VideoFilter

KEPT = 16  # filters whose videos are remembered: 1 byte a video each
LANGUAGE = "language"


class VideoFilters:
    """Compute which videos of a catalogue a filter lets through. Safe to call from any thread."""

    def __init__(self, release: Release, catalogue: LiveCatalogue) -> None:
        self._catalogue = catalogue
        categories = [each.name for each in release.pipeline.schema.columns("video") if each.kind == "categorical"]
        self._language = categories.index(LANGUAGE) if LANGUAGE in categories else None
        if self._language is not None:
            known = release.pipeline.fitted[f"vocabulary.{LANGUAGE}"]
            self._languages = {str(name): code for code, name in enumerate(known.tolist(), 1)}
        self._within = lru_cache(KEPT)(self._computed)

    def within(self, static_mask: StaticMask, wanted: VideoFilter) -> StaticMask:
        """Return the videos of a static mask that the filter lets through.

        Raises FieldError for a filter by language where the videos of the data set have none.
        """
        if wanted.language and self._language is None:
            raise FieldError("filter.language is given, but the videos of this data set have no language; leave it out")
        return self._within(static_mask, wanted, self._catalogue.changes.version)

    def _computed(self, static_mask: StaticMask, wanted: VideoFilter, version: int) -> StaticMask:
        """Compute the mask; with another `version` of the catalogue it is another one."""
        mask, rows = static_mask.mask.copy(), np.arange(len(self._catalogue))
        mask[len(rows) :] = False  # room for videos that are not posted yet
        mask[rows] &= self.mask(rows, wanted)
        return StaticMask(mask)

    def mask(self, rows: np.ndarray, wanted: VideoFilter) -> np.ndarray:
        """Return a mask (n,) of the videos `rows` (n,) that the filter lets through."""
        catalogue, mask = self._catalogue, np.ones(len(rows), bool)
        if wanted.tags:
            mask &= _marked(wanted.tags, catalogue.tag_names)[catalogue.tag_rows[rows]].any(axis=1)
        if wanted.creators:
            mask &= _marked(wanted.creators, catalogue.creator_names)[catalogue.creator_rows[rows]]
        if wanted.language:
            codes = [self._languages[name] for name in wanted.language if name in self._languages]
            mask &= np.isin(catalogue.inputs["video_codes"][rows][:, self._language], codes)
        return mask


def _marked(wanted: Sequence[str], names: NamesByRow) -> np.ndarray:
    """Return a mask by row of the names that are wanted; the last one is for row -1, no name."""
    marks = np.zeros(names.most + 1, bool)
    marks[[names.rows[name] for name in wanted if name in names.rows]] = True
    return marks
