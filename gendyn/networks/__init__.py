"""Networks: from a noisy state, a noise level and a class to a prediction of the same shape.

All networks of the room are one picture, and differ only in what a block is:

    x ---- stem ----> h --[ + branch ]--[ + branch ]-- ... --> norm -- readout --> output
                               ^             ^
    label -- sinusoids -- conditioning ------+---- ...           shift, scale (and gate) of every branch
    cond  -- class table ------^

    net(x, label, cond=None, *, key=None)
        x      [batch, *data], channels last
        label  a scalar or [batch], any real number
        cond   None, or integer classes [batch]
        key    switches dropout on

The readout starts at zero and so does every residual branch: an untrained network is the zero function. The
names in the picture are names in the parameter tree: `stem`, `conditioning`, `modulation`, `readout`, and `out`
for the last kernel of every residual branch. Each parameter carries `axes` and a `role`
(`gendyn.parametrization.axes`).

Modules are written with flax.nnx and leave this room as a `Network` of pure functions (`functional`).
Adding a network is one file and one line in `NETWORKS`.
"""

from gendyn.networks.bridge import Network, Params, functional, initialise
from gendyn.networks.dit import DiT
from gendyn.networks.embeddings import grid_sinusoids, sinusoids
from gendyn.networks.mlp import MLP
from gendyn.networks.unet import UNet

NETWORKS = {"mlp": MLP, "unet": UNet, "dit": DiT}

__all__ = [
    "MLP",
    "NETWORKS",
    "DiT",
    "Network",
    "Params",
    "UNet",
    "functional",
    "grid_sinusoids",
    "initialise",
    "sinusoids",
]
