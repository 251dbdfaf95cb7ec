from __future__ import annotations

from pathlib import Path

import pytest
import torch

from search_core.errors import DataError
from search_core.recurrent.options import TextOptions
from search_core.recurrent.text import columns, load_text, windows
from tests.search_core.recurrent.texts import topics_text, write_text


def test_words_end_with_their_line_and_are_numbered_as_they_appear(tmp_path: Path) -> None:
    for name, text in {"train": "a b a\nc\n", "valid": " b  d \na", "test": "a a\n\n"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    data = load_text(TextOptions(folder=str(tmp_path)))
    assert data.vocabulary == ("a", "b", "<eos>", "c", "d")
    assert data.train.tolist() == [0, 1, 0, 2, 3, 2]
    assert data.valid.tolist() == [1, 4, 2, 0, 2]
    assert data.test.tolist() == [0, 0, 2, 2]


def test_characters_are_the_text_itself(tmp_path: Path) -> None:
    data = load_text(TextOptions(folder=str(write_text(tmp_path, 300, 50)), level="char"))
    text = "".join(data.vocabulary[number] for part in (data.train, data.valid, data.test) for number in part.tolist())
    assert text == topics_text()[:400]


def test_digest_depends_on_content_and_level(tmp_path: Path) -> None:
    folders = [write_text(tmp_path / "a"), write_text(tmp_path / "b"), write_text(tmp_path / "c", 601)]
    words = [load_text(TextOptions(folder=str(folder))).digest for folder in folders]
    assert words[0] == words[1] != words[2]
    assert load_text(TextOptions(folder=str(folders[0]), level="char")).digest != words[0]


def test_faults_of_a_text_name_the_file(tmp_path: Path) -> None:
    options = TextOptions(folder=str(tmp_path))
    with pytest.raises(DataError, match=r"train\.txt must be there: a text is a folder with train\.txt, valid\.txt"):
        load_text(options)
    write_text(tmp_path)
    (tmp_path / "test.txt").write_bytes(b"good \xff bad")
    with pytest.raises(DataError, match=r"test\.txt:1:6: must be UTF-8 text, but the byte 0xff"):
        load_text(options)
    (tmp_path / "test.txt").write_text("")
    with pytest.raises(DataError, match=r"test\.txt must have at least 4 words, got 0"):
        load_text(options)


def test_columns_are_pieces_of_the_text_and_windows_say_what_follows() -> None:
    read = columns(torch.arange(11), 2)
    assert read.tolist() == [[0, 5], [1, 6], [2, 7], [3, 8], [4, 9]]
    pairs = [(inputs.tolist(), following.tolist()) for inputs, following in windows(read, 3)]
    assert pairs == [([[0, 5], [1, 6], [2, 7]], [[1, 6], [2, 7], [3, 8]]), ([[3, 8]], [[4, 9]])]
    with pytest.raises(DataError, match="`batch_size` must be at most 5, half of the 11 words, got 6"):
        columns(torch.arange(11), 6)
