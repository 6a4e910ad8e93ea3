"""Folders that other tools take for one table: only the files that they list are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from support.fakes import write_arrow

from engine import data
from engine.errors import InputError


def names_of(inputs: Sequence[str | Path]) -> list[str]:
    return [file.name for file in data.find_files(inputs)]


# datasets


def save_to_disk(folder: Path, shards: Sequence[str], **state: object) -> Path:
    """As `datasets.Dataset.save_to_disk` lays a dataset out."""
    for number, name in enumerate(shards):
        write_arrow(folder / name, pa.table({"text": [f"w{number}"]}), stream=True)
    listed = {"_data_files": [{"filename": name} for name in shards], "_fingerprint": "0"}
    (folder / "state.json").write_text(json.dumps(listed | state))
    (folder / "dataset_info.json").write_text('{"features": {}}')
    return folder


def test_a_saved_dataset_is_its_shards_in_their_order(tmp_path: Path) -> None:
    shards = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    folder = save_to_disk(tmp_path / "saved", shards[::-1])
    write_arrow(folder / "cache-1234.arrow", pa.table({"text": ["old"]}), stream=True)
    write_arrow(folder / "tmp.arrow", pa.table({"text": ["old"]}), stream=True)
    assert names_of([folder]) == shards[::-1]
    assert names_of([folder / "*.arrow"]) == shards[::-1]
    assert names_of([tmp_path]) == [f"saved/{name}" for name in shards[::-1]]
    assert data.discover([folder]).unread["files that a dataset does not list"] == 2
    assert names_of([folder / "cache-1234.arrow"]) == ["cache-1234.arrow"]


def test_a_dict_of_datasets_is_the_splits_that_it_lists(tmp_path: Path) -> None:
    for split in ("train", "test", "removed"):
        save_to_disk(tmp_path / split, ["data-00000-of-00001.arrow"])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    expected = ["test/data-00000-of-00001.arrow", "train/data-00000-of-00001.arrow"]
    assert names_of([tmp_path]) == expected
    unread = data.discover([tmp_path]).unread
    assert unread["folders that a dataset does not list"] == 1


def test_a_dataset_that_lacks_a_shard_or_a_split_is_refused(tmp_path: Path) -> None:
    folder = save_to_disk(tmp_path / "train", ["a.arrow", "b.arrow"])
    (folder / "b.arrow").unlink()
    with pytest.raises(InputError, match=r"train: b\.arrow is missing, which the dataset lists"):
        names_of([folder])
    save_to_disk(tmp_path / "train", ["a.arrow"])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(InputError, match="test is missing, which the dataset lists"):
        names_of([tmp_path])


def test_a_dataset_of_chosen_rows_is_refused(tmp_path: Path) -> None:
    indices = [{"filename": "indices.arrow"}]
    folder = save_to_disk(tmp_path, ["a.arrow"], _indices_data_files=indices)
    with pytest.raises(InputError, match="rows are chosen by indices") as caught:
        names_of([folder])
    assert "flatten_indices()" in caught.value.hint


@pytest.mark.parametrize("state", ["{}", "[1]", "not json", '{"_data_files": 3}'])
def test_a_state_file_of_something_else_means_nothing(tmp_path: Path, state: str) -> None:
    write_arrow(tmp_path / "a.arrow", pa.table({"text": ["w1"]}))
    (tmp_path / "state.json").write_text(state)
    assert "a.arrow" in names_of([tmp_path])
