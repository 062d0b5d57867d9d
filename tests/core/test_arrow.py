"""Arrow's buffers as numpy arrays, for every type, slice and null."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from worldclip.core import arrow
from worldclip.core.arrow import binary_array, byte_buffers, string_buffers


def strings_of(data: np.ndarray, offsets: np.ndarray) -> list[bytes]:
    return [data[start:end].tobytes() for start, end in pairwise(offsets)]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])
def test_byte_buffers_of_every_type_and_slice(kind: pa.DataType) -> None:
    array = pa.array([b"x", "猫".encode(), b"", None, b"ab"], pa.binary()).cast(kind)
    data, offsets = byte_buffers(array.slice(1), fill_nulls=True)
    assert strings_of(data, offsets) == ["猫".encode(), b"", b"", b"ab"]
    assert (data.dtype, offsets.dtype) == (np.uint8, np.int64)
    assert not data.flags.writeable
    assert not offsets.flags.writeable
    assert byte_buffers(array.slice(5))[1].tolist() == [0]


def test_string_buffers_refuse_nulls_and_lone_surrogates() -> None:
    with pytest.raises(ValueError, match="1 of 2 keys are null"):
        string_buffers(pa.array(["a", None]))
    with pytest.raises(ValueError, match="surrogates"):
        string_buffers(["\ud800"])


def test_binary_array_is_the_inverse_of_byte_buffers() -> None:
    array = pa.array([b"a", b"", b"bcd"], pa.large_binary())
    assert binary_array(*byte_buffers(array)).equals(array)


def test_large_strings_are_narrowed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "MAX_CHUNK_BYTES", 5)
    texts = ["aa", "bbb", None, "", "cccccccc", "d", "ü", None]
    column = pa.chunked_array([pa.array(texts, pa.large_string())[1:], pa.array([], pa.large_string())])
    narrow = arrow.narrow_strings(column)
    assert narrow.type == pa.string()
    assert narrow.to_pylist() == texts[1:]
    assert [len(chunk) for chunk in narrow.chunks] == [3, 1, 3]
    narrow.validate(full=True)
