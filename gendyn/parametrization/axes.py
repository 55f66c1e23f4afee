"""Logical names for the axes of parameters, and the role that follows from them.

A *width* axis is one that a user makes longer to get a larger network; every other axis is *finite*. That
distinction is all that width transfer (muP), sharding and initialisation need to know about a parameter:

    kernel                       output axis finite     output axis a width
    all input axes finite        scalar                 input   (patch embedding, class table)
    an input axis is a width     output (readout)       hidden  (everything in between)

    a single width axis          vector  (biases, gains)

Layout: **the last axis of a kernel is its fan-out and all axes before it are contracted**: Dense kernels are
(in, out), convolutions (spatial, ..., in, out), tables (rows, out). So fans are read off the shape. A name
may occur twice in one parameter (a square kernel from "embed" to "embed").
"""

WIDTH: dict[str, str] = {
    "embed": "the residual stream between blocks",
    "mlp": "hidden features inside a block, between its two kernels",
    "heads": "attention heads times features per head, flattened",
    "conditioning": "the vector made from noise level and conditions, and the tokens beside it",
    "modulation": "shifts, scales and gates of one block, stacked",
}

FINITE: dict[str, str] = {
    "data": "channels (or coordinates) of the data, as input or output",
    "patch": "pixels times channels of one patch",
    "time": "sinusoidal features of the noise-level label",
    "classes": "rows of a class table, the null class last where it has one",
    "condition": "entries of a vector, or of a token, that the network is told",
    "augment": "entries of the label that says how an example was augmented",
    "position": "rows of a learned positional table",
    "spatial": "one extent of a convolution kernel",
    "head_dim": "features of one attention head, where a network grows by adding heads",
    "layers": "identical blocks stacked along one axis: neither fan-in nor fan-out",
}

AXES: dict[str, str] = WIDTH | FINITE

ROLES = ("input", "vector", "hidden", "output", "scalar")


def role(axes: tuple[str, ...]) -> str:
    """The role of a parameter from its axes, by the table at the head of this file.

    A leading "layers" axis (stacked blocks) is ignored.

    Args:
        axes: one name per dimension, kernels laid out (..., in, out).

    Returns:
        One of `ROLES`.

    Raises:
        ValueError: if a name is not in the vocabulary.

    >>> [role(axes) for axes in (("time", "mlp"), ("embed", "mlp"), ("embed", "data"), ("embed",), ("data",))]
    ['input', 'hidden', 'output', 'vector', 'scalar']

    Tensor Programs V (Yang et al. 2022, arXiv:2203.03466), Table 8.
    """
    unknown = [name for name in axes if name not in AXES]
    if unknown:
        raise ValueError(
            f"axes must be names of gendyn.parametrization.axes ({', '.join(AXES)}), got {unknown[0]!r}; "
            "add it there as a width or as a finite axis."
        )
    own = [name in WIDTH for name in axes if name != "layers"]
    return named(len(own) > 1, any(own[:-1]), any(own[-1:]))


def named(kernel: bool, grows_in: bool, grows_out: bool) -> str:
    """The role of a kernel by whether its two sides grow, or of anything else by whether it does.

    >>> named(True, True, False), named(False, False, True)
    ('output', 'vector')
    """
    if not kernel:
        return "vector" if grows_out else "scalar"
    if grows_in:
        return "hidden" if grows_out else "output"
    return "input" if grows_out else "scalar"
