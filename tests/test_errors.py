from __future__ import annotations

import pickle

import pytest

from palm_cache.errors import StoreError, counted, did_you_mean, naming, visible, without_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://KEY:hid/den+x@bucket/x", "s3://bucket/x"),
        ("see https://me:p@ss@host:80/x, and a@b", "see https://host:80/x, and a@b"),
        ("https://me@host/x", "https://host/x"),
        ("http://127.0.0.1:5000/x@2", "http://127.0.0.1:5000/x@2"),
        ("https://h/x?a=1&X-Amz-Signature=abc&b=2", "https://h/x?a=1&X-Amz-Signature=***&b=2"),
        ("https://h/x?token=abc", "https://h/x?token=***"),
        ("https://h/x#access_token=abc", "https://h/x#access_token=***"),
        ("https://h/x;sig=abc", "https://h/x;sig=***"),
        ("https://h/x?pwd=abc&auth=d", "https://h/x?pwd=***&auth=***"),
        ("s3://Key:hid@b/x: no bucket 'key:hid@b'", "s3://b/x: no bucket 'b'"),
        ("s3://bucket/x", "s3://bucket/x"),
        ("me@host: no URL", "me@host: no URL"),
    ],
)
def test_credentials_of_urls_are_left_out(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
    assert str(StoreError(text)) == shown


def test_a_message_names_parameters_as_they_are_given() -> None:
    error = StoreError("`hop`: goes with `window`, not with `hop_size`; see HOP and `s")
    assert str(error) == "hop: goes with window, not with hop_size; see HOP and `s"
    assert naming(error.message, {"hop": "--hop", "window": "-w"}) == (
        "--hop: goes with -w, not with hop_size; see HOP and `s"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_control_characters_are_written_out() -> None:
    assert visible("a\x1b]0;x\x07\nb\t\x9b\u202e\udc80\u2028") == (
        r"a\x1b]0;x\x07\nb\t\x9b\u202e\udc80\u2028"
    )
    assert visible("Käuzchen, 鳥, \u00a0") == "Käuzchen, 鳥, \u00a0"


def test_things_are_counted_in_the_singular_where_there_is_one() -> None:
    assert counted(1, "file") == "1 file"
    assert counted(0, "class", "classes") == "0 classes"
    assert counted(1, "row has", "rows have") == "1 row has"
    assert counted(1200, "clip") == "1,200 clips"


def test_of_many_names_that_may_be_meant_three_are_named() -> None:
    assert did_you_mean([]) == ""
    assert did_you_mean(["a"]) == "did you mean a?"
    assert did_you_mean("abcde") == "did you mean a, b or c (or one of 2 more)?"
