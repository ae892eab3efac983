"""Record what the packages of CLAP's authors compute, for the tests of palm-cache's readers of their files.

``python -m pipelines.encoders.parity OUT`` in an environment with ``msclap==1.3.4``, ``laion-clap==1.1.7``
and a transformers of version 4 (they know no later one). Weights are filled by
:mod:`pipelines.encoders.fill`, and sizes are cut down where the packages allow it, so that the tests can make
the same models. Nothing is downloaded; set ``HF_HUB_OFFLINE=1`` so that nothing tries.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from pipelines.encoders.fill import fill, waveform

IDS = {
    "bert": [[101, 7, 102], [101, 9, 30, 12, 55, 102]],
    "gpt": [[7, 220, 299], [9, 30, 12, 55, 220, 299], [9, 0, 0, 55, 220, 299]],
    "roberta": [[0, 7, 2], [0, 9, 30, 12, 55, 2]],
}
"""Token ids of prompts, laid out as the packages do; the last of GPT-2's has two exclamation marks."""

SECONDS = {
    "laion": (1.3, 10.0),
    "laion-fused": (1.3, 10.0, 14.0),
    "msclap2022": (1.3, 5.0),
    "msclap2023": (1.3, 7.0),
}

KEPT = (
    "relative_position_index",
    "attn_mask",
    "position_ids",
    "token_type_ids",
    "melW",
    "stft.conv_",
    "attn.bias",
)
"""Parts of names of what is computed and keeps its numbers."""


def refill(model: Any) -> dict[str, Any]:
    """Fill a model's weights; return names and shapes, and the mel bank."""
    state = model.state_dict()
    for name, value in state.items():
        if not any(part in name for part in KEPT):
            value.copy_(torch.from_numpy(fill(name, tuple(value.shape))))
    shapes = {name: list(value.shape) for name, value in state.items()}
    mel = next(value.numpy() for name, value in state.items() if name.endswith("melW"))
    return {"shapes": np.array(json.dumps(shapes)), "mel": mel}


def pad(rows: list[list[int]], length: int, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and attention mask as tables."""
    ids = torch.full((len(rows), length), padding)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return ids, mask


def record_msclap(year: str) -> dict[str, Any]:
    """Record Microsoft's."""
    from msclap.CLAPWrapper import CLAPWrapper
    from msclap.models import clap
    from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

    small: Any
    if year == "2022":
        small = BertModel(BertConfig(vocab_size=300, num_hidden_layers=2, intermediate_size=64))
    else:
        small = GPT2Model(GPT2Config(vocab_size=300, n_layer=2, n_inner=64, n_positions=128))
    wrapper = CLAPWrapper.__new__(CLAPWrapper)
    wrapper.config_as_str = (Path(clap.__file__).parents[1] / f"configs/config_{year}.yml").read_text()
    wrapper.model_fp, wrapper.use_cuda = "nowhere", False
    with (
        mock.patch.object(clap.AutoModel, "from_pretrained", return_value=small),
        mock.patch("msclap.CLAPWrapper.AutoTokenizer"),
        mock.patch("torch.load", return_value={"model": {}}),
    ):
        model, _, args = wrapper.load_clap()
    record = refill(model)
    wrapper.args = args
    audio = []
    for seconds in SECONDS[f"msclap{year}"]:
        sound = torch.from_numpy(waveform(seconds, args.sampling_rate))[None]
        wrapper.read_audio = lambda path, resample, sound=sound: (sound, args.sampling_rate)
        whole = wrapper.load_audio_into_tensor("", args.duration)
        with torch.no_grad():
            audio.append(model.audio_encoder(whole[None])[0][0].numpy())
    kind = "bert" if year == "2022" else "gpt"
    ids, mask = pad(IDS[kind], args.text_len, 0)
    tokens = {"input_ids": ids, "attention_mask": mask}
    if kind == "bert":
        tokens["token_type_ids"] = torch.zeros_like(ids)
    with torch.no_grad():
        text = model.caption_encoder(tokens).numpy()
    return {**record, "audio": np.stack(audio), "text": text}


def record_laion(fused: bool) -> dict[str, Any]:
    """Record LAION's."""
    _stand_in_torchvision()
    from transformers import PreTrainedTokenizerBase, RobertaConfig, RobertaModel

    with mock.patch.object(PreTrainedTokenizerBase, "from_pretrained", return_value=None):
        import laion_clap.hook  # noqa: F401  (its package path is set there)
    from clap_module import htsat, model
    from laion_clap.training import data

    text_config = RobertaConfig(
        vocab_size=300,
        num_hidden_layers=2,
        intermediate_size=64,
        max_position_embeddings=100,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    audio_config = json.loads((Path(model.__file__).parent / "model_configs/HTSAT-tiny.json").read_text())[
        "audio_cfg"
    ]

    def small(config: Any, enable_fusion: bool, fusion_type: str) -> Any:
        return htsat.HTSAT_Swin_Transformer(
            spec_size=256,
            patch_size=4,
            patch_stride=(4, 4),
            num_classes=527,
            embed_dim=16,
            depths=[1, 2, 2, 1],
            num_heads=[4, 8, 16, 32],
            window_size=8,
            config=config,
            enable_fusion=enable_fusion,
            fusion_type=fusion_type,
        )

    with (
        mock.patch.object(model, "create_htsat_model", small),
        mock.patch.object(model.RobertaModel, "from_pretrained", return_value=RobertaModel(text_config)),
    ):
        clap = model.CLAP(
            128,
            audio_config,
            {
                "model_type": "roberta",
                "context_length": 77,
                "vocab_size": 300,
                "width": 768,
                "heads": 8,
                "layers": 12,
            },
            enable_fusion=fused,
            fusion_type="aff_2d" if fused else "None",
        ).eval()
    record = refill(clap)
    audio = []
    for seconds in SECONDS["laion-fused" if fused else "laion"]:
        sound = data.int16_to_float32(data.float32_to_int16(waveform(seconds, 48_000)))
        with mock.patch.object(np.random, "choice", lambda third: third[len(third) // 2]):
            sample = data.get_audio_features(
                {},
                torch.from_numpy(sound).float(),
                480_000,
                data_truncating="fusion" if fused else "rand_trunc",
                data_filling="repeatpad",
                audio_cfg=audio_config,
            )
        with torch.no_grad():
            audio.append(clap.get_audio_embedding([sample])[0].numpy())
    ids, mask = pad(IDS["roberta"], 77, 1)
    with torch.no_grad():
        text = clap.get_text_embedding({"input_ids": ids, "attention_mask": mask}).numpy()
    return {**record, "audio": np.stack(audio), "text": text}


def _stand_in_torchvision() -> None:
    """Give laion-clap the two things that it takes from torchvision, where that is not installed."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    else:
        return

    class Resize:
        def __init__(self, size: list[int]) -> None:
            self.size = size

        def __call__(self, mel: torch.Tensor) -> torch.Tensor:
            # As in the releases of torchvision that LAION trained with: without antialiasing.
            return torch.nn.functional.interpolate(mel[None], size=self.size, mode="bilinear")[0]

    parts = {name: mock.MagicMock() for name in ("", ".transforms", ".ops", ".ops.misc", ".io", ".datasets")}
    parts[".transforms"].Resize, parts[""].transforms = Resize, parts[".transforms"]
    sys.modules.update({f"torchvision{name}": part for name, part in parts.items()})
    sys.modules.setdefault("wandb", mock.MagicMock())


def main() -> None:
    """Record all of them into a folder."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name, record in (
        ("msclap2022", lambda: record_msclap("2022")),
        ("msclap2023", lambda: record_msclap("2023")),
        ("laion", lambda: record_laion(fused=False)),
        ("laion-fused", lambda: record_laion(fused=True)),
    ):
        np.savez_compressed(out / f"{name}.npz", **record())
        print(f"{name}: {(out / f'{name}.npz').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
