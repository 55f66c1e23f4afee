"""How published tensors lie, and how the parameters of this room do: PyTorch's layouts, both ways.

conv    [out, in, kh, kw]        <->  kernel (kh, kw, in, out)             convolutions
point   [out, in, 1, 1]          <->  kernel (in, out)                     convolutions of 1x1
patch   [out, in, p, p]          <->  kernel ((p, p, in), out)             convolutions with their own size as stride
linear  [out, in]                <->  kernel (in, out)                     linear layers
qkv     [(head, feature, 3), in] <->  query, key, value (in, (head, feature))
thirds  [(3, head, feature), in] <->  query, key, value (in, (head, feature))
vector  as it is;  first  [1, ...] <->  [...]
"""

from typing import Literal, NamedTuple

import numpy as np

Layout = Literal["conv", "point", "patch", "linear", "qkv", "thirds", "vector", "first"]


class Entry(NamedTuple):
    """One published tensor."""

    name: str
    shape: tuple[int, ...]
    layout: Layout
    paths: tuple[str, ...]  # in the parameter tree: one, or query, key and value
    heads: int = 1  # of a "qkv"

    def split(self, value: np.ndarray) -> list[np.ndarray]:
        """The parameters in a published tensor."""
        match self.layout:
            case "conv":
                return [value.transpose(2, 3, 1, 0)]
            case "point":
                return [value[:, :, 0, 0].T]
            case "patch":
                return [value.transpose(2, 3, 1, 0).reshape(-1, len(value))]
            case "linear":
                return [value.T]
            case "qkv":
                inputs = value.shape[1:2]  # none for a bias
                parts = value.reshape(self.heads, -1, 3, *inputs)
                return [parts[:, :, i].reshape(len(value) // 3, *inputs).T for i in range(3)]
            case "thirds":
                return [part.T for part in np.split(value, 3)]
            case "first":
                return [value[0]]
        return [value]

    def join(self, values: list[np.ndarray]) -> np.ndarray:
        """The published tensor of parameters; the inverse of `split`."""
        match self.layout:
            case "conv":
                return values[0].transpose(3, 2, 0, 1)
            case "point":
                return values[0].T[:, :, None, None]
            case "patch":
                return values[0].reshape(*self.shape[2:], *self.shape[1::-1]).transpose(3, 2, 0, 1)
            case "linear":
                return values[0].T
            case "qkv":
                parts = [value.T.reshape(self.heads, -1, *value.shape[:-1]) for value in values]
                return np.stack(parts, axis=2).reshape(self.shape)
            case "thirds":
                return np.concatenate([value.T for value in values])
            case "first":
                return values[0][None]
        return values[0]
