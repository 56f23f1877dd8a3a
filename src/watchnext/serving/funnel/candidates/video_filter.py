"""Filter the catalogue as a request asks: tags, creators and languages > the videos that have one of each."""

from functools import lru_cache

import numpy as np

from watchnext.retrieval.index.prefilter import StaticMask
from watchnext.serving.funnel.query import FieldError
from watchnext.serving.release.live_catalogue import LiveCatalogue
from watchnext.types import VideoFilter

KEPT = 16  # filters whose videos are remembered: 1 byte a video each


class VideoFilters:
    """Compute which videos of a catalogue a filter lets through. Safe to call from any thread."""

    def __init__(self, catalogue: LiveCatalogue) -> None:
        self._catalogue = catalogue
        self._within = lru_cache(KEPT)(self._computed)

    def within(self, static_mask: StaticMask, wanted: VideoFilter) -> StaticMask:
        """Return the videos of a static mask that the filter lets through.

        Raises FieldError for a filter by language where the videos of the data set have none.
        """
        if wanted.language and not self._catalogue.has_language:
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
            mask &= catalogue.tag_names.marked(wanted.tags)[catalogue.tag_rows[rows]].any(axis=1)
        if wanted.creators:
            mask &= catalogue.creator_names.marked(wanted.creators)[catalogue.creator_rows[rows]]
        if wanted.language:
            codes = [catalogue.languages[name] for name in wanted.language if name in catalogue.languages]
            mask &= np.isin(catalogue.language_codes(rows), codes)
        return mask
