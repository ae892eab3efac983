"""One head in one file, as it is written, and as strangers may write it."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from palm_cache.errors import DamagedStoreError, StoreError
from palm_cache.store import shared
from palm_cache.store.heads import Origin
from palm_cache.store.shared import card_of, pack, portable, read_shared
from palm_cache.types.runs import Calibration, FittedHead, Run

HEAD = FittedHead(
    run=Run("Tones", "clap:laion/x", "palm", 4, 1, 0, "lr=0.005"),
    state={"class_embeddings": torch.eye(2, 5), "steps": torch.tensor(3)},
    class_names=("low `tone`", "hohe Töne"),
    template="{c}",
    hyperparameters={"lr": 0.005},
    test_views="first",
    fingerprint="f" * 64,
    digest="d" * 64,
    n_train=8,
    n_params=12,
    fit_seconds=0.25,
    calibration=Calibration(2.5, 8, 4, 0.7, 0.6),
)
ORIGIN = Origin(Path("x.zarr"), {"encoder": "clap", "dim": 5}, 2)


def card() -> dict[str, Any]:
    return {**card_of(HEAD, ORIGIN), "state": sorted(HEAD.state)}


def write(path: Path, card: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> Path:
    path.write_bytes(pack(card, dict(HEAD.state) if tensors is None else tensors)[0])
    return path


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    file = write(tmp_path / "head.safetensors", card(), {**HEAD.state, "temperature": torch.tensor(2.5)})
    head, origin, _ = read_shared(file)
    assert {name: value.tolist() for name, value in head.state.items()} == {
        name: value.tolist() for name, value in HEAD.state.items()
    }
    fields = [name for name in FittedHead.__dataclass_fields__ if name != "state"]
    assert [getattr(head, name) for name in fields] == [getattr(HEAD, name) for name in fields]
    assert (origin.identity, origin.views) == (ORIGIN.identity, ORIGIN.views)


def test_the_same_head_gives_the_same_bytes() -> None:
    assert len({pack(card(), dict(HEAD.state))[0] for _ in range(20)}) == 1


def test_no_bit_can_change_unseen(tmp_path: Path) -> None:
    content = write(tmp_path / "head.safetensors", card()).read_bytes()
    draw = random.Random(0)
    for number in range(400):
        damaged = bytearray(content)
        if number % 4:
            damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        else:
            del damaged[draw.randrange(len(content)) :]
        file = tmp_path / "damaged.safetensors"
        file.write_bytes(damaged)
        try:
            head, _, _ = read_shared(file)
        except StoreError:
            continue
        # What is left is another spelling of the same: a space or a letter's case in JSON's escapes.
        assert torch.equal(head.state["class_embeddings"], HEAD.state["class_embeddings"])
        assert (head.class_names, head.run, head.calibration) == (
            HEAD.class_names,
            HEAD.run,
            HEAD.calibration,
        )


def changed(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda card: card.update(fields)


def changed_encoder(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda card: card["encoder"].update(fields)


@pytest.mark.parametrize(
    "change",
    [
        changed(dataset="../../escaped"),
        changed(dataset=["Tones"]),
        changed(run="palm"),
        changed(run="palm-4shots-fold1-seed0/../.."),
        changed(run="../../x-4shots-fold1-seed0"),
        changed(run="/tmp/x-4shots-fold1-seed0"),
        changed(run="palm@/x-4shots-fold1-seed0"),
        changed(run="C:\\x\\palm-4shots-fold1-seed0"),
        changed(run="palm\0-4shots-fold1-seed0"),
        changed(run="palm\x1b[2J-4shots-fold1-seed0"),
        changed(classes="low"),
        changed(classes=["a", "a"]),
        changed(classes=[]),
        changed(classes=["a", 3]),
        changed(classes=["a" * 2000]),
        changed(template=None),
        changed(n_train=-1),
        changed(n_train=True),
        changed(hyperparameters=7),
        changed(fit_seconds=float("nan")),
        changed(calibration={"temperature": -1.0}),
        changed(calibration={"temperature": 1.0, "more": 2}),
        changed(state=["class_embeddings", "absent"]),
        changed(state="class_embeddings"),
        changed(encoder="clap"),
        changed_encoder(spec="clap:/etc/model"),
        changed_encoder(spec="pengi:../base.pth"),
        changed_encoder(spec="clap:a/../../../etc"),
        changed_encoder(spec="mini+clap:laion/x"),
        changed_encoder(spec="clap:laion/x\x1b[2J"),
        changed_encoder(spec="onnx:C:\\model.onnx"),
        changed_encoder(fingerprint=None),
        changed_encoder(identity=[1]),
        changed_encoder(views=10**9),
        changed_encoder(views=0),
    ],
)
def test_a_card_that_is_none_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    strange = json.loads(json.dumps(card()))
    change(strange)
    file = write(tmp_path / "head.safetensors", strange)
    with pytest.raises(DamagedStoreError, match=r"head.safetensors: not a readable head \("):
        read_shared(file)


@pytest.mark.parametrize(
    "change", [changed(classes=["a", "\ud800"]), changed(hyperparameters={"note": "\ud800"})]
)
def test_half_a_character_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """JSON can say it in ASCII; nothing that is made of it could be printed or written."""
    strange = json.loads(json.dumps(card()))
    change(strange)
    sealed = {**strange, "sha256": shared._digest(strange, HEAD.state)}
    file = tmp_path / "head.safetensors"
    file.write_bytes(save(dict(HEAD.state), metadata={"card": json.dumps(sealed)}))
    with pytest.raises(DamagedStoreError, match="surrogates not allowed"):
        read_shared(file)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    bad = {**HEAD.state, "class_embeddings": torch.full((2, 5), torch.nan)}
    with pytest.raises(DamagedStoreError, match="class_embeddings holds NaN or infinity"):
        read_shared(write(tmp_path / "head.safetensors", card(), bad))


def test_files_that_are_no_heads_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "head.safetensors"
    with pytest.raises(StoreError, match="no such file"):
        read_shared(file)
    deep = "[" * 100_000 + "]" * 100_000
    for content in (
        b"",
        pickle.dumps(HEAD.class_names),
        save({"weight": torch.ones(2)}),
        save({"weight": torch.ones(2)}, metadata={"card": "no JSON"}),
        save({"weight": torch.ones(2)}, metadata={"card": "[]"}),
        save({"weight": torch.ones(2)}, metadata={"card": '{"format_version": 1}'}),
        save({"weight": torch.ones(2)}, metadata={"card": deep}),
        b"\xff" * 8 + b"{}",
    ):
        file.write_bytes(content)
        with pytest.raises(DamagedStoreError, match="not a readable head"):
            read_shared(file)


def test_a_later_format_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="format 2, this palm-cache reads 1; update it"):
        read_shared(write(tmp_path / "head.safetensors", {**card(), "format_version": 2}))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("mini", "mini"),
        ("clap:laion/clap-htsat-unfused@main", "clap:laion/clap-htsat-unfused@main"),
        ("pengi:base.pth", "pengi:base.pth"),
        ("pengi:/home/me/base.pth", "pengi:base.pth"),
        ("clap:~/models/x/", "clap:x"),
        ("clap:./x", "clap:x"),
        ("onnx:C:\\models\\bird.onnx", "onnx:bird.onnx"),
        ("python:my_module:Birds", "python:my_module:Birds"),
    ],
)
def test_specs_lose_the_folders_of_their_machine(spec: str, expected: str) -> None:
    assert portable(spec) == expected == portable(expected)
