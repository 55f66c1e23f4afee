"""The EDM family as values: what sets DDPM++, NCSN++ and ADM apart, and the table of blocks that follows.

    stem -> encoder rows -> decoder rows (each joining row takes the newest unused skip) -> readout

A row bears the name that published checkpoints give it ("16x16_block0", "8x8_down", "16x16_aux_residual").
"""

from dataclasses import dataclass
from math import sqrt
from typing import Literal, NamedTuple


@dataclass(frozen=True)
class Family:
    """What sets one network of the family apart from another, besides sizes.

    Attributes:
        published: the class in the EDM release, whose parameter names `edm_names` speaks.
        embedding: frequencies of the noise label, 10000^(-i/(n/2 - 1)) ("endpoint"), 10000^(-i/(n/2)) ("plain"),
            or drawn once from N(0, 16^2) and kept with the weights ("fourier").
        features: of the noise label, in units of the width.
        order: of the label's features: "sincos" or "cossin".
        classes: one-hot rows times sqrt(their number) added to the features, with a bias ("before" the two layers of
            the conditioning), or added as they are, without, to the second layer's output ("after").
        encoder: the picture enters the encoder once ("standard"), at every level through a 1x1 convolution ("skip"),
            or as a pyramid of learned halvings ("residual").
        decoder: read out at the finest level ("standard") or at every level and summed ("skip").
        taps: of the resampling filter, normalised to sum 1 before use; an even number of them.
        modulation: of a block by the conditioning: "shift" before the second norm, or "scale_shift" after it.
        skip: a block that resamples puts a 1x1 convolution on its skip path even if no channels change ("dense"), or
            resamples only ("bare").
        gain: factor after every residual sum, also after the attention's.
        eps: of the group norms.
        head_dim: features per attention head, channels // head_dim heads, none below; None is one head.
        attends: decoder blocks that attend at a resolution with attention: the "last" or "every".
        stem: channels of the first convolution: the "width", or those of the finest "level".
        initial: "xavier" (last kernels of branches times 1e-5) or "kaiming" (last kernels zero, biases drawn).
    """

    published: str
    embedding: Literal["endpoint", "plain", "fourier"]
    features: int
    order: Literal["sincos", "cossin"]
    classes: Literal["before", "after"]
    encoder: Literal["standard", "skip", "residual"]
    decoder: Literal["standard", "skip"]
    taps: tuple[float, ...]
    modulation: Literal["shift", "scale_shift"]
    skip: Literal["dense", "bare"]
    gain: float
    eps: float
    head_dim: int | None
    attends: Literal["last", "every"]
    stem: Literal["width", "level"]
    initial: Literal["xavier", "kaiming"]

    def __post_init__(self) -> None:
        if len(self.taps) % 2 or not sum(self.taps):
            raise ValueError(f"a resampling filter has an even number of taps with a sum, got {self.taps}.")

    def heads(self, channels: int) -> int:
        """Attention heads at so many channels; zero means that there is no attention."""
        return 1 if self.head_dim is None else channels // self.head_dim


DDPMPP = Family(
    published="SongUNet",
    embedding="endpoint",
    features=1,
    order="sincos",
    classes="before",
    encoder="standard",
    decoder="standard",
    taps=(1, 1),
    modulation="shift",
    skip="dense",
    gain=sqrt(0.5),
    eps=1e-6,
    head_dim=None,
    attends="last",
    stem="width",
    initial="xavier",
)
"""DDPM++ of Song et al. 2021 (arXiv:2011.13456), as in the release of Karras et al. 2022 (arXiv:2206.00364)."""

NCSNPP = Family(**{**vars(DDPMPP), "embedding": "fourier", "features": 2, "encoder": "residual", "taps": (1, 3, 3, 1)})
"""NCSN++ of Song et al. 2021 (arXiv:2011.13456), as in the same release."""

ADM = Family(
    published="DhariwalUNet",
    embedding="plain",
    features=1,
    order="cossin",
    classes="after",
    encoder="standard",
    decoder="standard",
    taps=(1, 1),
    modulation="scale_shift",
    skip="bare",
    gain=1.0,
    eps=1e-5,
    head_dim=64,
    attends="every",
    stem="level",
    initial="kaiming",
)
"""ADM of Dhariwal and Nichol 2021 (arXiv:2105.05233), as in the same release."""

FAMILIES = {"ddpmpp": DDPMPP, "ncsnpp": NCSNPP, "adm": ADM}


def named(family: str | Family) -> Family:
    """The family of this name."""
    if isinstance(family, Family):
        return family
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)} or a Family, got {family!r}.")
    return FAMILIES[family]


class Row(NamedTuple):
    """One entry of the encoder or decoder."""

    name: str
    inputs: int  # channels that come, the joined skip included
    outputs: int
    kind: Literal["block", "image_down", "image_skip", "image_residual", "image_up", "readout"] = "block"
    resample: Literal["down", "up"] | None = None
    heads: int = 0
    joins: bool = False  # concatenates the newest unused skip
    reads: Literal["embed", "data"] = "embed"  # what comes: features, or the picture itself


def layout(
    family: Family,
    resolution: int,
    channels: int,
    outputs: int,
    widths: tuple[int, ...],
    stem: int,
    blocks: int,
    attention: tuple[int, ...],
) -> tuple[list[Row], list[Row]]:
    """Encoder and decoder rows.

    Args:
        resolution: of the finest level.
        channels, outputs: of the picture that comes and goes.
        widths: channels of each level, finest first. stem: channels of the first convolution.
        blocks: encoder blocks per level; the decoder has one more.
        attention: resolutions with self-attention.

    >>> encoder, decoder = layout(DDPMPP, 8, 3, 3, (8, 16), 8, 1, (4,))
    >>> [row.name for row in encoder]
    ['8x8_block0', '4x4_down', '4x4_block0']
    >>> [(row.inputs, row.heads) for row in decoder]
    [(16, 1), (16, 0), (32, 0), (24, 1), (16, 0), (24, 0), (16, 0), (8, 0)]
    """
    sides = [resolution >> level for level in range(len(widths))]
    encoder, skips = _encoder(family, sides, channels, widths, stem, blocks, attention)
    return encoder, _decoder(family, sides, outputs, widths, skips, blocks, attention)


def _encoder(
    family: Family,
    sides: list[int],
    image: int,
    widths: tuple[int, ...],
    c: int,
    blocks: int,
    attention: tuple[int, ...],
) -> tuple[list[Row], list[int]]:
    """The rows, and the channels of the skips they leave (the stem's first)."""
    rows, skips = [], [c]
    for level, (side, width) in enumerate(zip(sides, widths)):
        at = f"{side}x{side}"
        if level:
            rows.append(Row(f"{at}_down", c, c, resample="down"))
            skips.append(c)
            if family.encoder == "skip":
                rows.append(Row(f"{at}_aux_down", image, image, "image_down", reads="data"))
                rows.append(Row(f"{at}_aux_skip", image, c, "image_skip", reads="data"))
            elif family.encoder == "residual":
                reads: Literal["data", "embed"] = "data" if level == 1 else "embed"
                rows.append(Row(f"{at}_aux_residual", image, c, "image_residual", reads=reads))
                image = c
        for i in range(blocks):
            rows.append(Row(f"{at}_block{i}", c, width, heads=family.heads(width) if side in attention else 0))
            skips.append(width)
            c = width
    return rows, skips


def _decoder(
    family: Family,
    sides: list[int],
    outputs: int,
    widths: tuple[int, ...],
    skips: list[int],
    blocks: int,
    attention: tuple[int, ...],
) -> list[Row]:
    rows, c, last = [], skips[-1], len(widths) - 1
    for level in reversed(range(len(widths))):
        at, width = f"{sides[level]}x{sides[level]}", widths[level]
        if level == last:
            rows += [Row(f"{at}_in0", c, c, heads=family.heads(c)), Row(f"{at}_in1", c, c)]
        else:
            rows.append(Row(f"{at}_up", c, c, resample="up"))
        for i in range(blocks + 1):
            attends = sides[level] in attention and (family.attends == "every" or i == blocks)
            rows.append(Row(f"{at}_block{i}", c + skips.pop(), width, heads=family.heads(width) * attends, joins=True))
            c = width
        if family.decoder == "skip" and level != last:
            rows.append(Row(f"{at}_aux_up", outputs, outputs, "image_up"))
        if family.decoder == "skip" or level == 0:
            rows.append(Row(at, c, outputs, "readout"))
    return rows
