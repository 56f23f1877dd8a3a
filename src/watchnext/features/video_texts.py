"""Titles, thumbnails and links of the videos, for people: bounded, checked, and one file each however many videos there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.features.arrays import load_arrays, save_arrays

TITLE_CHARACTERS, URL_BYTES = 200, 2_000
URL = r"^https?://[^\s\x00-\x1f\"'<>\\\\]+$"
CONTROL = r"[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]+"  # also what turns the direction of the text around it
FOLDER = "video_texts"


def clean_titles(titles: pl.Expr) -> pl.Expr:
    """Put spaces for control characters, cut to TITLE_CHARACTERS; null where nothing is left."""
    plain = titles.str.replace_all(CONTROL, " ").str.strip_chars().str.slice(0, TITLE_CHARACTERS)
    return pl.when(plain != "").then(plain)


def clean_urls(urls: pl.Expr) -> pl.Expr:
    """Keep the addresses that are http or https and at most URL_BYTES long, null for others."""
    return pl.when(urls.str.contains(URL) & (urls.str.len_bytes() <= URL_BYTES)).then(urls)


CLEANED = {"title": clean_titles, "thumbnail_url": clean_urls, "url": clean_urls}


@dataclass(frozen=True)
class Texts:
    """One text a video, or none: UTF-8 `content` (bytes,) uint8, text i is `content[ends[i-1]:ends[i]]`, `ends` (V,) int64."""

    content: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, texts: pl.Series) -> "Texts":
        filled = texts.fill_null("")
        content = np.frombuffer("".join(filled.to_list()).encode(), np.uint8)
        return cls(content, filled.str.len_bytes().cast(pl.Int64).cum_sum().to_numpy())

    def __getitem__(self, row: int) -> str | None:
        start = int(self.ends[row - 1]) if row else 0
        return self.content[start : int(self.ends[row])].tobytes().decode() or None


@dataclass(frozen=True)
class VideoTexts:
    """Texts by name; a name of CLEANED that the log lacks is absent."""

    by_name: Mapping[str, Texts]

    @classmethod
    def of(cls, videos: pl.DataFrame) -> "VideoTexts":
        """Take what the videos table has of CLEANED."""
        present = [name for name in CLEANED if name in videos.columns]
        cleaned = videos.select(CLEANED[name](pl.col(name)).alias(name) for name in present)
        return cls({name: Texts.of(cleaned[name]) for name in present})

    def of_video(self, row: int) -> dict[str, str | None]:
        """Return every name of CLEANED > the text of a video, or None."""
        return {name: self.by_name[name][row] if name in self.by_name else None for name in CLEANED}

    @cached_property
    def has_thumbnails(self) -> bool:
        return "thumbnail_url" in self.by_name and len(self.by_name["thumbnail_url"].content) > 0

    def save(self, folder: Path) -> None:
        """Write `folder`, or nothing where the log has no texts."""
        for name, texts in self.by_name.items():
            save_arrays(folder / name, vars(texts))

    @classmethod
    def load(cls, folder: Path) -> "VideoTexts":
        return cls({name: Texts(**load_arrays(folder / name)) for name in CLEANED if (folder / name).exists()})
