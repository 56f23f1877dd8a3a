import numpy as np
import polars as pl

from watchnext.features.video_texts import TITLE_CHARACTERS, URL_BYTES, Texts, VideoTexts


def of(**columns) -> VideoTexts:
    return VideoTexts.of(pl.DataFrame({"video_id": [1, 2, 3], **columns}))


def test_texts_of_any_alphabet_are_kept_by_row(tmp_path):
    texts = of(title=["Größe", None, "日本 🎬"], url=["https://a.example/ü?q=1#x", "http://b.example", None])
    texts.save(tmp_path)
    loaded = VideoTexts.load(tmp_path)
    assert loaded.of_video(0) == {"title": "Größe", "thumbnail_url": None, "url": "https://a.example/ü?q=1#x"}
    assert loaded.of_video(1) == {"title": None, "thumbnail_url": None, "url": "http://b.example"}
    assert loaded.of_video(2)["title"] == "日本 🎬"
    assert not loaded.has_thumbnails


def test_a_log_without_texts_writes_no_folder_and_answers_none(tmp_path):
    of().save(tmp_path / "texts")
    assert not (tmp_path / "texts").exists()
    loaded = VideoTexts.load(tmp_path / "texts")
    assert set(loaded.of_video(2).values()) == {None}


def test_a_column_of_nulls_can_be_written_and_read(tmp_path):
    of(title=pl.Series([None, None, None], dtype=pl.String)).save(tmp_path)
    assert VideoTexts.load(tmp_path).of_video(1)["title"] is None


def test_titles_are_cut_and_hold_no_control_characters():
    texts = of(title=["x" * 500, "two\nlines\tand \u202eback", " \x00 "])
    assert texts.of_video(0)["title"] == "x" * TITLE_CHARACTERS
    assert texts.of_video(1)["title"] == "two lines and  back"
    assert texts.of_video(2)["title"] is None


def test_only_addresses_of_the_web_are_kept():
    good = ["https://a.example/x.jpg", "http://a.example", "https://a.example/" + "x" * (URL_BYTES - 18)]
    bad = ["javascript:alert(1)", "data:image/png;base64,AA", "//a.example/x", "https://a.example/ x", "HTTPS:/x", "",
           'https://a.example/"onload=', "https://a.example/" + "x" * (URL_BYTES - 17), "file:///etc/passwd", None]  # fmt: skip
    texts = VideoTexts.of(pl.DataFrame({"thumbnail_url": good + bad}))
    assert [texts.of_video(row)["thumbnail_url"] for row in range(len(good + bad))] == good + [None] * len(bad)
    assert texts.has_thumbnails


def test_texts_take_the_bytes_of_their_letters():
    texts = Texts.of(pl.Series(["a" * 10, None] * 500))
    assert (texts.content.nbytes, texts.ends.dtype, len(texts.ends)) == (5_000, np.int64, 1_000)
