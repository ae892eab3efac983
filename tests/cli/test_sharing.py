from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import at_a_terminal, call, fail, misuse, succeed
from hub_server import Hub
from workshop import Workshop

from palm_cache.prediction.table import predict


def test_a_head_goes_to_the_hub_and_predicts_from_there(model_hub: Hub, workshop: Workshop) -> None:
    result = succeed(
        "push", str(workshop.heads), "hf://me/tones", "--run", "palm-2shots", "--private", "--yes"
    )
    assert "hf://me/tones (private, new): head.safetensors (" in result.stderr
    assert "2 classes: high tone, low tone" in result.stderr
    commit = list(model_hub.models["me/tones"].commits)[-1]
    pinned = f"hf://me/tones@{commit}"
    assert result.stdout.endswith(f"-2shots-fold1-seed0 -> {pinned}\n")
    assert model_hub.models["me/tones"].private

    audio = str(workshop.data / "audios")
    answers = json.loads(succeed("predict", "hf://me/tones", audio, "--json").stdout)
    assert answers["heads"] == pinned
    expected = predict(workshop.heads, audio, run="palm-2shots").table
    assert [row["label"] for row in answers["results"]] == expected["label"].tolist()

    assert succeed("pull", pinned, "--out", "old").stdout == f"{pinned} -> old\n"
    printed = succeed("pull", "hf://me/tones", "--json").stdout
    assert json.loads(printed) == {"folder": "tones", "address": pinned, "commit": commit}
    assert json.loads(succeed("predict", "tones", audio, "--json").stdout)["results"] == answers["results"]


def test_rows_of_a_store_are_predicted_with_a_shared_head(model_hub: Hub, workshop: Workshop) -> None:
    succeed("push", str(workshop.heads), "hf://me/tones", "--run", "palm-4shots", "--yes")
    words = ("--store", str(workshop.store), "--json")
    expected = json.loads(succeed("predict", str(workshop.heads), "--run", "palm-4shots", *words).stdout)
    answers = json.loads(succeed("predict", "hf://me/tones", *words).stdout)
    assert answers["heads"].startswith("hf://me/tones@")
    assert answers["results"] == expected["results"]


def test_nothing_is_uploaded_unasked(model_hub: Hub, workshop: Workshop) -> None:
    words = ("push", str(workshop.heads), "hf://me/tones")
    nothing = "error: nothing was uploaded; give --yes where nobody can be asked\n"
    assert call(*words, stdin=b"y\n").stderr.endswith(nothing)  # of a pipe
    assert model_hub.models == {}
    with at_a_terminal():
        for answer in (b"", b"n\n"):
            result = call(*words, stdin=answer)
            assert result.exit_code == 1
            assert result.stderr.endswith(nothing)
            assert result.stdout.strip() in ("", "n")  # the answer's echo
        assert model_hub.models == {}
        result = succeed(*words, "--json", stdin=b"y\n")
    assert "hf://me/tones (public, new)" in result.stderr
    assert json.loads(result.stdout[result.stdout.index("{") :])["card"]["classes"] == [
        "high tone",
        "low tone",
    ]
    assert "hf://me/tones (public, already there)" in call(*words).stderr


def test_what_cannot_be_shared_or_fetched_is_one_line(
    model_hub: Hub, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "write hf://user/name" in misuse("push", str(workshop.heads), "me/tones", "--yes")
    assert "to push a head there" in fail("push", str(workshop.heads), "hf://me/tones@v1", "--yes")
    assert "no heads here" in fail("push", "absent.h5", "hf://me/tones", "--yes")
    assert "write hf://user/name" in misuse("pull", "me/tones")
    assert "no such repository" in fail("predict", "hf://me/absent", str(workshop.data))
    monkeypatch.delenv("HF_TOKEN")
    assert "log in with: hf auth login" in fail("push", str(workshop.heads), "hf://me/tones", "--yes")
    assert list(Path().iterdir()) == []
