import struct

import pytest
from tiny_gguf import write_tiny_gguf

from kvhelpers.errors import InputError
from kvhelpers.models.gguf_header import check_header
from kvhelpers.models.source import EMBEDDED, find_wheel_file

HUGE = 2**60
LENGTH, ARRAY, STRING = struct.Struct("<Q"), 9, 8


def text(content):
    return LENGTH.pack(len(content)) + content.encode()


def header(tensors, pairs, rest=b""):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + rest


def array(kind, n):
    return text("key") + struct.pack("<IIQ", ARRAY, kind, n)


def tensor(n_dimensions):
    return text("token_embd.weight") + struct.pack("<I", n_dimensions)


PAIR = text("key") + struct.pack("<I", STRING) + text("value")
BEYOND = {
    "nothing after the magic": b"GGUF",
    "pairs": header(0, HUGE),
    "pairs and zeros": header(0, HUGE, b"\0" * 4096),
    "tensors": header(HUGE, 1, PAIR),
    "a key": header(0, 1, LENGTH.pack(HUGE) + b"key"),
    "a string": header(0, 1, text("key") + struct.pack("<I", STRING) + LENGTH.pack(HUGE)),
    "strings": header(0, 1, array(STRING, HUGE) + b"\0" * 4096),
    "numbers": header(0, 1, array(4, HUGE) + b"\0" * 4096),
    "bytes": header(0, 1, array(0, 2**64 - 1) + b"\0" * 4096),
    "cut": header(1, 1, PAIR + tensor(2)),
}


def refused(tmp_path, content, match):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=match):
        check_header(path)


@pytest.mark.parametrize("content", BEYOND.values(), ids=BEYOND)
def test_a_huge_count_is_not_believed(tmp_path, content):
    refused(tmp_path, content, "header says more than the file holds, at byte")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "it is empty"),
        (b"PK\3\4" + b"\0" * 40, "does not begin as a GGUF file"),
        (b"GGUF" + struct.pack("<I", 77) + b"\0" * 40, "does not begin as a GGUF file"),
        (header(0, 0), "it has 0 metadata and 0 tensors"),
        (header(0, 1, PAIR), "it has 1 metadata and 0 tensors"),
        (header(0, 1, text("key") + struct.pack("<I", 99)), "value of unknown type 99"),
        (header(0, 1, array(ARRAY, 2)), "array of type 9"),
        (header(1, 1, PAIR + tensor(HUGE % 2**32 + 5)), "tensor of 5 dimensions"),
    ],
)
def test_a_header_that_is_none_is_not_read_further(tmp_path, content, match):
    refused(tmp_path, content, match)


def test_good_headers_pass(tmp_path):
    check_header(write_tiny_gguf(tmp_path / "tiny.gguf"))
    check_header(find_wheel_file(EMBEDDED["smollm2-135m"]))


def test_no_beginning_of_a_header_is_taken_for_the_whole(tmp_path):
    whole = write_tiny_gguf(tmp_path / "tiny.gguf", blocks=1).read_bytes()
    for n in range(0, whole.index(b"output_norm.weight"), 97):
        refused(tmp_path, whole[:n], "empty|more than the file holds")
