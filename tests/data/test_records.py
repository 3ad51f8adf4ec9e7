"""Lists of a JSON file, cut into raw entries."""

import json
from math import inf, nan

import msgspec
import pytest

from partnas.data import records
from partnas.data.records import decoded, read_lists

WRITTEN_AND_READ = {
    "not finite": ([1, nan, {"b": [inf, -inf, -2.5]}], [1, inf, {"b": [inf, -inf, -2.5]}]),
    "in texts": (["NaN", 'a "NaN", \\', "-Infinity", {"NaN": nan, "Infinity\\": 1}, "\\\\", inf],
                 ["NaN", 'a "NaN", \\', "-Infinity", {"NaN": inf, "Infinity\\": 1}, "\\\\", inf]),
    "in a text behind escapes": (['\\" NaN', nan, '"', "NaN"], ['\\" NaN', inf, '"', "NaN"]),
    "beyond 64 bits": ([2**70, -(2**70)], [2**70, -(2**70)]),
    "nothing": ([], []),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN_AND_READ)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_what_only_python_writes_is_read_without_decoding_the_file_whole(tmp_path, monkeypatch, name, mark):
    written, read = WRITTEN_AND_READ[name]
    path = tmp_path / "a.json"
    path.write_bytes(mark + json.dumps({"other": nan, "rows": written}).encode())
    monkeypatch.setattr(records, "read_json", lambda path: pytest.fail("decoded whole"))
    lists = read_lists(path, ["rows"], ["more"])
    assert lists["more"] == []
    assert all(isinstance(row, msgspec.Raw) for row in lists["rows"])
    assert decoded(lists["rows"]) == read
