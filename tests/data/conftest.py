"""Small grey images and their files."""

import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def png():
    """Pixels to the bytes of a PNG file."""

    def encode(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    return encode


@pytest.fixture
def pixels(rng):
    """Six grey images of 5x4."""
    return rng.integers(0, 256, [6, 5, 4], dtype=np.uint8)
