"""Image files: decoding with pillow, and folders of images.

Every image is decoded once, when the source is opened, to `uint8` of one shape [height, width, channels].
An image that does not decode is never dropped in silence: it is named and counted.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gendyn.data.sources import Arrays, CorruptData, arrays, existing

logger = logging.getLogger(__name__)

Size = int | tuple[int, int]
Channels = Literal[1, 3]
OnCorrupt = Literal["raise", "skip"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
GREY_MODES = frozenset({"1", "L", "LA", "La"})
# What pillow raises for a damaged file, whichever codec notices first.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image before decoding: a name for messages; file or bytes (None in an empty row); label."""

    name: str
    content: Path | bytes | None
    label: int | None = None


def image_folder(
    path: str | Path,
    *,
    size: Size | None = None,
    channels: Channels | None = None,
    on_corrupt: OnCorrupt = "raise",
) -> Arrays:
    """A folder of images [height, width, 1 or 3] in [-1, 1]; its sub-folders, by name, are the classes.

    Without sub-folders there are no labels. `size` (an int for squares, or (height, width)) crops to the
    centre and resizes; `channels` turns all images grey (1) or coloured (3); without them all must agree.
    Raises FileNotFoundError where there is nothing to read, ValueError at the first image of another shape,
    and CorruptData for files that do not decode, unless on_corrupt="skip": then they are logged, and listed
    in `source.skipped`.

    Cost: one pass over the files, then height x width x channels bytes an image.
    """
    pictures, classes = folder_pictures(existing(path))
    return from_pictures(
        pictures,
        size=size,
        channels=channels,
        on_corrupt=on_corrupt,
        class_names=classes,
        num_classes=len(classes) or None,
    )


def folder_pictures(root: Path) -> tuple[list[Picture], tuple[str, ...]]:
    """The images of a folder in order of their paths, and the names of the classes."""
    files = sorted(file for file in root.rglob("*") if _is_image(file, root))
    if not files:
        raise FileNotFoundError(f"no images in {root.absolute()}: looked for files ending in {sorted(SUFFIXES)}")
    classes = _classes(root, files)
    return [_picture(root, file, classes) for file in files], classes


def from_pictures(
    pictures: Iterable[Picture],
    *,
    size: Size | None = None,
    channels: Channels | None = None,
    on_corrupt: OnCorrupt = "raise",
    **extra: Any,
) -> Arrays:
    """Decode all pictures; options as in `image_folder`, `extra` as in `arrays`.

    One after another: for images of 32x32 pixels pillow holds the interpreter lock so often that threads
    double the time (measured, two cores: 48 us an image alone, 90 us in a pool).
    """
    pixels: list[np.ndarray] = []
    labels: list[int] = []
    first, corrupt = "", {}
    for picture in pictures:
        try:
            image = decode(picture.content, size=size, channels=channels)
        except DECODING_ERRORS as error:
            corrupt[picture.name] = str(error)
            continue
        first = first or picture.name
        _check_shape(picture.name, image, first, pixels)
        pixels.append(image)
        labels += [] if picture.label is None else [picture.label]
    _report(corrupt, len(pixels), on_corrupt)
    return arrays(np.stack(pixels), labels or None, skipped=tuple(corrupt), **extra)


def decode(
    content: Path | bytes | None, *, size: Size | None = None, channels: Channels | None = None
) -> UInt8[np.ndarray, "height width channels"]:
    """One image as pixels. Grey images keep one channel; alpha is dropped; raises one of DECODING_ERRORS."""
    if content is None:
        raise ValueError("no image")
    with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
        if image.mode[0] in "IF":
            raise ValueError(f"mode {image.mode} has more than 8 bits a channel; convert it to 8")
        grey = image.mode in GREY_MODES if channels is None else channels == 1
        mode = "L" if grey else "RGB"
        image.load()
        pixels = image if image.mode == mode else image.convert(mode)
    if size is not None:
        pixels = _fit(pixels, *((size, size) if isinstance(size, int) else size))
    return np.atleast_3d(np.asarray(pixels))


def _fit(image: Image.Image, height: int, width: int) -> Image.Image:
    """The largest centred window of the proportions height : width, on whole pixels, resized.

    Of squares the same as "center-crop" in the `dataset_tool.py` of the StyleGAN and EDM releases.
    """
    wide = min(image.width, max(1, round(image.height * width / height)))
    high = min(image.height, max(1, round(image.width * height / width)))
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    return image.crop((left, top, left + wide, top + high)).resize((width, height), Image.Resampling.LANCZOS)


def _check_shape(name: str, image: np.ndarray, first: str, pixels: list[np.ndarray]) -> None:
    if pixels and image.shape != pixels[0].shape:
        raise ValueError(
            f"all images must have one shape: {name} is {_times(image)}, but {first} is {_times(pixels[0])} "
            "(height x width x channels); pass size= to crop and resize, channels= for grey (1) or colour (3)"
        )


def _report(corrupt: Mapping[str, str], num_good: int, on_corrupt: OnCorrupt) -> None:
    """A warning or an error about the images that did not decode, if there are any."""
    total = len(corrupt) + num_good
    if not total:
        raise ValueError("a source needs at least one image, got none")
    if not corrupt:
        return
    names = ", ".join(list(corrupt)[:5]) + (", ..." if len(corrupt) > 5 else "")
    found = f"{len(corrupt)} of {total} images do not decode: {names} (the first: {next(iter(corrupt.values()))})"
    if on_corrupt != "skip":
        raise CorruptData(f'{found}; mend them, or pass on_corrupt="skip" to leave them out')
    if not num_good:
        raise CorruptData(f"{found}; nothing is left")
    logger.warning("%s; left out, and listed in source.skipped", found)


def _is_image(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.suffix.lower() in SUFFIXES and not hidden and file.is_file()


def _classes(root: Path, files: list[Path]) -> tuple[str, ...]:
    """The names of all sub-folders, empty ones too: a split that lacks a class must number the rest alike."""
    loose = [file for file in files if file.parent == root]
    if len(loose) == len(files):
        return ()
    if loose:
        raise ValueError(
            f"{root} holds images both beside and inside its sub-folders ({loose[0].name} is beside them); "
            "move each into the sub-folder of its class, or all into one folder"
        )
    return tuple(sorted(folder.name for folder in root.iterdir() if folder.is_dir() and folder.name[0] != "."))


def _picture(root: Path, file: Path, classes: tuple[str, ...]) -> Picture:
    inside = file.relative_to(root)
    label = classes.index(inside.parts[0]) if classes else None
    return Picture(name=str(inside), content=file, label=label)


def _times(image: np.ndarray) -> str:
    return "x".join(map(str, image.shape))
