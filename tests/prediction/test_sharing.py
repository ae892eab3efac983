"""Heads that go to a small hub on loopback and come back."""

from __future__ import annotations

import doctest
import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from hub_server import Hub, Model
from samples import write_palm_folder
from workshop import Workshop

from palm_cache.errors import (
    AbsentRepositoryError,
    EncoderError,
    OutputError,
    ParameterError,
    PlaceError,
    StaleStoreError,
    StoreError,
)
from palm_cache.prediction import sharing
from palm_cache.prediction.export import export_head
from palm_cache.prediction.hub_heads import HubAddress
from palm_cache.prediction.sharing import pull, push
from palm_cache.prediction.table import predict
from palm_cache.store.head_writing import write_heads
from palm_cache.store.heads import read_head, read_heads
from palm_cache.store.places import local


def files_of(hub: Hub, name: str = "me/tones") -> dict[str, bytes]:
    model = hub.models[name]
    return model.commits[list(model.commits)[-1]]


def test_what_is_pushed_is_what_export_writes_and_predicts_the_same(
    model_hub: Hub, workshop: Workshop, tmp_path: Path
) -> None:
    address = push(workshop.heads, "hf://me/tones")
    files = files_of(model_hub)
    assert set(files) == {"head.safetensors", "README.md"}
    exported = export_head(workshop.heads, "safetensors", out=tmp_path / "out" / "head.safetensors")
    assert exported.file.read_bytes() == files["head.safetensors"]

    wanted = predict(workshop.heads, workshop.data / "audios")
    folder, pinned = pull("hf://me/tones")
    assert (folder, pinned) == (Path("tones"), address)
    for source in ("hf://me/tones", folder, folder / "head.safetensors", exported.file.parent):
        found = predict(source, workshop.data / "audios")
        assert found.run == wanted.run
        assert found.calibrated == wanted.calibrated
        assert (found.probabilities == wanted.probabilities).all()


@pytest.mark.parametrize("run", ["zero-shot", "palm-2shots", "coop", "cocoop"])
def test_every_kind_of_head_predicts_the_same_from_a_hub(
    model_hub: Hub, workshop: Workshop, run: str
) -> None:
    push(workshop.mean_heads, "hf://me/tones", run)
    wanted = predict(workshop.mean_heads, workshop.data / "audios", run=run)
    found = predict("hf://me/tones", workshop.data / "audios")
    assert found.run == wanted.run
    assert (found.probabilities == wanted.probabilities).all()


def test_the_page_says_what_is_known(model_hub: Hub, workshop: Workshop) -> None:
    push(workshop.heads, "hf://me/tones")
    page = files_of(model_hub)["README.md"].decode()
    _, front, text = page.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["library_name"] == "palm-cache"
    assert matter["pipeline_tag"] == "audio-classification"
    card = json.loads(
        export_head(workshop.heads, "safetensors", out=Path("x.safetensors")).card_file.read_text()
    )
    result = matter["model-index"][0]["results"][0]
    assert result["dataset"] == {"name": "Tones", "type": "Tones"}
    assert result["metrics"][0]["value"] == round(card["scores"]["accuracy"], 4)
    low, high = card["scores"]["accuracy_interval"]
    assert 0 <= low < high <= 1
    for known in (
        "- `high tone`\n- `low tone`\n",
        f"| encoder's fingerprint | `{card['encoder']['fingerprint']}` |",
        "palm-cache predict hf://me/tones recordings/",
        f"{low:.1%} to {high:.1%}",
        "- Dataset: not known to palm-cache; ask who shares this\n- Encoder: MIT (part of palm-cache)",
        f"calibrated on {card['calibration']['n_clips']} held-out training clips",
    ):
        assert known in text
    assert huggingface_hub.ModelCard(page).data.tags == ["palm-cache", "few-shot", "palm"]


def test_nothing_of_this_machine_is_uploaded(model_hub: Hub, workshop: Workshop, tmp_path: Path) -> None:
    head, origin = read_head(workshop.heads, read_heads(workshop.heads)[0][0].run)
    elsewhere = replace(head, run=replace(head.run, encoder="pengi:/home/me/secret/base.pth"))
    write_heads(tmp_path / "heads.h5", [elsewhere], origin.store, identity=origin.identity)
    push(tmp_path / "heads.h5", "hf://me/tones")
    content = b"".join(files_of(model_hub).values())
    for secret in (b"secret", str(workshop.data.parent).encode(), str(tmp_path).encode()):
        assert secret not in content
    assert b"`pengi:base.pth`" in content


def test_a_revision_is_pinned_and_the_commit_recorded(model_hub: Hub, workshop: Workshop) -> None:
    first = push(workshop.heads, "hf://me/tones", "palm")
    second = push(workshop.heads, "hf://me/tones", "zero-shot")
    assert first.revision != second.revision
    assert predict("hf://me/tones", workshop.data / "audios").run.startswith("zero-shot")
    assert predict(str(first), workshop.data / "audios").run.startswith("palm")
    folder, pinned = pull(str(first), "old")
    assert pinned == first
    assert (folder / "address.txt").read_text() == f"{first}\n"
    with pytest.raises(PlaceError, match="no revision v9"):
        pull("hf://me/tones@v9", "new")


def test_another_encoder_is_refused(model_hub: Hub, workshop: Workshop) -> None:
    head, origin = read_head(workshop.heads, read_heads(workshop.heads)[0][0].run)
    write_heads(
        Path("heads.h5"), [replace(head, fingerprint="e" * 64)], origin.store, identity=origin.identity
    )
    push("heads.h5", "hf://me/tones")
    with pytest.raises(StaleStoreError, match=r"than those that hf://me/tones@[0-9a-f]{40} was fitted on"):
        predict("hf://me/tones", workshop.data / "audios")


def test_code_that_a_shared_head_names_is_not_run(model_hub: Hub, workshop: Workshop) -> None:
    head, origin = read_head(workshop.heads, read_heads(workshop.heads)[0][0].run)
    strange = replace(head, run=replace(head.run, encoder="python:os:system"))
    write_heads(Path("heads.h5"), [strange], origin.store, identity=origin.identity)
    push("heads.h5", "hf://me/tones")
    with pytest.raises(EncoderError, match="is code of somebody's"):
        predict("hf://me/tones", workshop.data / "audios")


def test_nobody_logged_in(model_hub: Hub, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        PlaceError, match=r"hf://me/tones: nobody is logged in on the hub; log in with: hf auth"
    ):
        push(workshop.heads, "hf://me/tones")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(PlaceError, match="does not accept your token"):
        push(workshop.heads, "hf://me/tones")
    assert model_hub.models == {}


def test_repositories_of_others_stay_as_they_are(model_hub: Hub, workshop: Workshop) -> None:
    model_hub.tokens["hf_of_you"] = "you"
    model_hub.models["you/tones"] = Model()
    for name in ("you/tones", "you/absent"):
        with pytest.raises(PlaceError, match=f"hf://{name}: your token may not write there"):
            push(workshop.heads, f"hf://{name}")
    model_hub.models["you/secret"] = Model(private=True)
    with pytest.raises(AbsentRepositoryError, match="no such repository, or a private one"):
        pull("hf://you/secret")
    assert not any(files_of(model_hub, name) for name in model_hub.models)


def test_a_repository_with_something_else_is_not_written_to(model_hub: Hub, workshop: Workshop) -> None:
    model_hub.models["me/bert"] = Model(commits={"a" * 40: {"config.json": b"{}", "README.md": b"# BERT"}})
    with pytest.raises(OutputError, match=r"holds something else \(config.json\); choose another name"):
        push(workshop.heads, "hf://me/bert")
    with pytest.raises(StoreError, match=r"hf://me/bert: no head there"):
        predict("hf://me/bert", workshop.data / "audios")
    model_hub.models["me/new"] = Model(commits={"a" * 40: {".gitattributes": b"*", "README.md": b"# new"}})
    push(workshop.heads, "hf://me/new")


def test_private_stays_private(model_hub: Hub, workshop: Workshop) -> None:
    push(workshop.heads, "hf://me/mine", private=True)
    assert model_hub.models["me/mine"].private
    assert push(workshop.heads, "hf://me/mine").repository == "me/mine"
    push(workshop.heads, "hf://me/everybodys")
    with pytest.raises(OutputError, match="everybody sees it"):
        push(workshop.heads, "hf://me/everybodys", private=True)


def test_what_is_pulled_is_checked_and_replaces_nothing(model_hub: Hub, workshop: Workshop) -> None:
    push(workshop.heads, "hf://me/tones")
    Path("tones").mkdir()
    Path("tones", "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="there is something here already"):
        pull("hf://me/tones")
    content = bytearray(files_of(model_hub)["head.safetensors"])
    content[-1] ^= 1
    files_of(model_hub)["head.safetensors"] = bytes(content)
    with pytest.raises(StoreError, match=r"its checksum fails"):
        pull("hf://me/tones", "new")
    assert sorted(path.name for path in Path().iterdir()) == ["tones"]


def test_what_a_killed_pull_left_goes_with_the_next(model_hub: Hub, workshop: Workshop) -> None:
    push(workshop.heads, "hf://me/tones")
    writer = f"{local.this_writer().partition('-')[0]}-{2**22 + 1}"  # more than any process's number
    Path(f".tones.{writer}.{0:08x}.partial", "head").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:  # the kill, seen from inside: what is there then
        made = []
        patch.setattr(sharing.shutil, "copyfile", lambda *_: made.extend(Path().iterdir()) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pull("hf://me/tones")
    assert all(local._PARTIAL.fullmatch(path.name) for path in made)
    pull("hf://me/tones")
    assert [path.name for path in Path().iterdir()] == ["tones"]


def test_a_head_that_is_far_too_large_is_not_fetched(
    model_hub: Hub, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(workshop.heads, "hf://me/tones")
    monkeypatch.setattr("palm_cache.prediction.hub_heads.MAX_BYTES", 100)
    with pytest.raises(StoreError, match="bytes, which no head has"):
        pull("hf://me/tones")
    assert not any("resolve" in path for _, path, _ in model_hub.requests)


def test_a_hub_out_of_reach(model_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PlaceError, match=r"the hub cannot be reached .*; check the network"):
        pull("hf://me/tones")


def test_a_commit_that_was_fetched_needs_no_hub(
    model_hub: Hub, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = str(push(workshop.heads, "hf://me/tones"))
    wanted = predict(pinned, workshop.data / "audios")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert predict(pinned, workshop.data / "audios").run == wanted.run
    folder, address = pull(pinned)
    assert str(address) == pinned
    assert predict(folder, workshop.data / "audios").run == wanted.run
    with pytest.raises(PlaceError, match="check the network"):  # what it means now, only the hub knows
        predict("hf://me/tones", workshop.data / "audios")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_cannot_keep_it_is_no_fault_of_the_network(
    model_hub: Hub, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    push(workshop.heads, "hf://me/tones")

    def refuse(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(OutputError, match=f"local cache: {os.strerror(number)}; free some space"):
        pull("hf://me/tones")


@pytest.mark.parametrize(
    "given",
    [
        "hf://tones",
        "hf://me/tones/more",
        "hf://me/../x",
        "hf://me/tones@",
        "hf:me/tones",
        "hf://",
        "hf://../x@1",
    ],
)
def test_addresses_that_are_none(given: str) -> None:
    with pytest.raises(ParameterError, match="write hf://user/name"):
        HubAddress.parse(given)


def test_addresses() -> None:
    assert HubAddress.parse("runs/demo") is None
    assert HubAddress.parse("hf://me/tones") == HubAddress("me/tones")
    assert HubAddress.parse(Path("hf://me/tones@v1.0")) == HubAddress("me/tones", "v1.0")
    assert str(HubAddress("me/tones", "v1.0")) == "hf://me/tones@v1.0"


def test_a_pulled_head_can_be_pushed_on_and_exported(model_hub: Hub, workshop: Workshop) -> None:
    push(workshop.heads, "hf://me/tones")
    folder, _ = pull("hf://me/tones")
    push(folder, "hf://me/again")
    assert files_of(model_hub, "me/again")["head.safetensors"] == files_of(model_hub)["head.safetensors"]
    done = export_head("hf://me/tones", "safetensors")
    assert done.file.parent == Path()
    assert done.file.read_bytes() == files_of(model_hub)["head.safetensors"]


def test_the_examples_in_the_documentation_run(model_hub: Hub) -> None:
    write_palm_folder(Path("Tones"))
    examples = {test.name: test for test in doctest.DocTestFinder().find(sharing)}
    for verb in ("push", "pull"):
        test = examples[f"palm_cache.prediction.sharing.{verb}"]
        assert doctest.DocTestRunner().run(test) == doctest.TestResults(
            failed=0, attempted=len(test.examples)
        )
