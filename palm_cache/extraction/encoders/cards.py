"""The cards of the encoders that come with palm-cache; nothing heavy is imported to list them."""

from __future__ import annotations

from dataclasses import dataclass

CODE = "code_sha256"
"""Of a recipe: the hash of the code of an encoder of somebody's own."""

CLASS, OPTION = "class", "option"
"""Of a recipe: the name of the class of an encoder that is not ours, and what its spec says besides, if that
is no file or folder: weights are known by their hash, wherever they lie."""


@dataclass(frozen=True, slots=True)
class EncoderCard:
    """What is known of an encoder without loading its weights."""

    name: str
    spec: str = ""
    """How it is asked for."""
    description: str = ""
    example: str = ""
    source: str = ""
    """Where weights come from."""
    window: str = ""
    """What it reads at once, and at which rate."""
    dim: str = ""
    """Length of an embedding."""
    reads_text: bool = False
    """Whether it embeds prompts; without, it serves all heads that read none."""
    licence: str = ""
    """Of the weights, as far as known; the code here is palm-cache's own."""
    needs: str = ""
    """What must be installed beside palm-cache."""
    citation: str = ""
    place: str = ""
    """Module and class, for one that comes with palm-cache."""
    model_types: tuple[str, ...] = ()
    """What transformers calls its models, which lie in directories or on a hub."""
    weights: tuple[tuple[str, ...], ...] = ()
    """How names of weights begin, all of one tuple, in a file that is for this encoder and no other."""


_CARDS = (
    EncoderCard(
        name="mini",
        spec="mini",
        description="small dual encoder trained on synthesised sounds: demo, tests, offline use",
        example="mini",
        source="part of palm-cache",
        window="2 s, up to six of them, 16 kHz",
        dim="512",
        reads_text=True,
        licence="MIT",
        place="palm_cache.extraction.encoders.mini:MiniEncoder",
    ),
    EncoderCard(
        name="clap",
        spec="clap:HUB_ID[@REVISION] or clap:DIRECTORY",
        description="contrastive language-audio pretraining through transformers",
        example="clap:laion/clap-htsat-unfused",
        source="any ClapModel checkpoint; e.g. https://huggingface.co/laion/clap-htsat-unfused",
        window="10 s, fused ones 30 s, 48 kHz",
        dim="512",
        reads_text=True,
        licence="see the model's page",
        citation="Wu et al., ICASSP 2023, arXiv:2211.06687",
        place="palm_cache.extraction.encoders.clap:ClapEncoder",
        model_types=("clap",),
        weights=(("audio_model.audio_encoder.", "text_model."),),
    ),
    EncoderCard(
        name="laion",
        spec="laion:CHECKPOINT",
        description="LAION's own CLAP checkpoints, fused or not, HTSAT tiny or base",
        example="laion:music_audioset_epoch_15_esc_90.14.pt",
        source="https://huggingface.co/lukewys/laion_clap",
        window="10 s, fused ones 30 s, 48 kHz",
        dim="512",
        reads_text=True,
        licence="see its page",
        citation="Wu et al., ICASSP 2023, arXiv:2211.06687",
        place="palm_cache.extraction.encoders.laion:LaionEncoder",
        weights=(("audio_branch.", "text_branch."),),
    ),
    EncoderCard(
        name="msclap",
        spec="msclap:CHECKPOINT",
        description="Microsoft's CLAP of 2023 (HTSAT, GPT-2) or 2022 (Cnn14, BERT)",
        example="msclap:CLAP_weights_2023.pth",
        source="https://huggingface.co/microsoft/msclap",
        window="7 s (2022: 5 s), 44.1 kHz",
        dim="1024",
        reads_text=True,
        licence="see its page",
        citation="Elizalde et al., ICASSP 2023 and 2024, arXiv:2206.04769, arXiv:2309.05767",
        place="palm_cache.extraction.encoders.msclap:MsClapEncoder",
        weights=(
            ("caption_encoder.base.h.", "audio_encoder.base.htsat."),
            ("caption_encoder.", "audio_encoder.base.conv_block1."),
        ),
    ),
    EncoderCard(
        name="hf",
        spec="hf:HUB_ID[@REVISION][#layer=N] or hf:DIRECTORY[#layer=N]",
        description="audio encoders of transformers: AST, wav2vec2, HuBERT, WavLM, Whisper's ...",
        example="hf:MIT/ast-finetuned-audioset-10-10-0.4593",
        source="the hub; e.g. https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593",
        window="AST 10.24 s, others up to 30 s, mostly 16 kHz",
        dim="768 to 1280",
        licence="see the model's page",
        place="palm_cache.extraction.encoders.hf:HfEncoder",
    ),
    EncoderCard(
        name="pe-audio",
        spec="pe-audio:HUB_ID[@REVISION] or pe-audio:DIRECTORY",
        description="Perception Encoder Audio through transformers, any length, trained with a sigmoid",
        example="pe-audio:facebook/pe-a-frame-large",
        source="the hub; e.g. https://huggingface.co/facebook/pe-a-frame-large",
        window="up to 30 s, 48 kHz",
        dim="1024",
        reads_text=True,
        licence="apache-2.0, says the model's page",
        citation="Vyas et al., Pushing the Frontier of Audiovisual Perception, 2025",
        place="palm_cache.extraction.encoders.pe_audio:PeAudioEncoder",
        model_types=("pe_audio", "pe_audio_video"),
        weights=(("text_audio_head.", "audio_encoder."),),
    ),
    EncoderCard(
        name="onnx",
        spec="onnx:FILE.onnx",
        description="any ONNX graph from waveform to vector, described by FILE.json beside it",
        example="onnx:perch_v2.onnx",
        source="Perch 2, BirdNET, YAMNet ... exported to ONNX; or your own model",
        window="as FILE.json says",
        dim="the graph's",
        licence="as FILE.json says",
        needs="pip install 'palm-cache[onnx]' (on NVIDIA's GPUs: onnxruntime-gpu)",
        place="palm_cache.extraction.encoders.onnx:OnnxEncoder",
    ),
    EncoderCard(
        name="pengi",
        spec="pengi:CHECKPOINT",
        description="the audio-language model of the PALM paper",
        example="pengi:base.pth",
        source="the authors' base.pth, 2.2 GB: https://zenodo.org/records/8387083",
        window="7 s, 44.1 kHz",
        dim="1024",
        reads_text=True,
        licence="see the record",
        citation="Deshmukh et al., NeurIPS 2023, arXiv:2305.11834",
        place="palm_cache.extraction.encoders.pengi:PengiEncoder",
        weights=(("caption_decoder.",), ("caption_encoder.base.encoder.layers.", "audio_encoder.")),
    ),
)

OWN = EncoderCard(
    name="python",
    spec="python:MODULE:CLASS[:SOURCE]",
    description="an encoder of your own: a class in a module that Python finds",
    example="python:my_encoder:Birds:birds.pt",
    source="you; docs/pages/own-encoder.md has an example",
    window="its own",
    dim="its own",
    licence="its own",
    needs="what its module imports",
)

CARDS = {card.name: card for card in _CARDS}
"""By the encoder's name, which a spec begins with."""


def card_of_model(model_type: object) -> EncoderCard:
    """Return the card of the encoder for a kind of model of transformers: its own, else that of ``hf:``."""
    return next((card for card in CARDS.values() if model_type in card.model_types), CARDS["hf"])
