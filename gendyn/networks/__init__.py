"""Networks: from a noisy state, a noise level and conditions to a prediction of the same shape.

All networks of the room are one picture, and differ only in what a block is:

    x ---- stem ----> h --[ + branch ]--[ + branch ]-- ... --> norm -- readout --> output
                               ^             ^
    label -- sinusoids -- conditioning ------+---- ...           shift, scale (and gate) of every branch
    cond  -- embeddings -------^

    net(x, label, cond=None, *, key=None)
        x      [batch, *data], channels last
        label  a scalar or [batch], any real number
        cond   None, integer classes [batch], or a mapping of conditions by name (`gendyn.networks.conditions`)
        key    switches dropout on

The readout starts at zero and so does every residual branch: an untrained network is the zero function. The
names in the picture are names in the parameter tree: `stem`, `conditioning`, `modulation`, `readout`, and `out`
for the last kernel of every residual branch. Each parameter carries `axes` and a `role`
(`gendyn.parametrization.axes`). `EDMUNet` starts as it was published, near zero, and its cond may say more.

Modules are written with flax.nnx and leave this room as a `Network` of pure functions (`functional`). What any block
returns is had by its name (`features`); U-Nets can be called in two halves (`halves`).
Adding a network is one file and one line in `NETWORKS`.
"""

from gendyn.networks.bridge import Network, Params, functional, initialise
from gendyn.networks.conditions import Classes, Condition, Conditions, Image, Tokens, Vector, null
from gendyn.networks.dit import DiT
from gendyn.networks.dit_sizes import DIT_SIZES, dit
from gendyn.networks.edm import EDMUNet
from gendyn.networks.edm_layout import ADM, DDPMPP, FAMILIES, NCSNPP, Family
from gendyn.networks.embeddings import grid_sinusoids, sinusoids
from gendyn.networks.features import feature_shapes, features
from gendyn.networks.halves import Encoded
from gendyn.networks.mlp import MLP
from gendyn.networks.stacking import stack_blocks, unstack_blocks
from gendyn.networks.unet import UNet

NETWORKS = {"mlp": MLP, "unet": UNet, "dit": DiT, "edm": EDMUNet}

__all__ = [
    "ADM",
    "DDPMPP",
    "DIT_SIZES",
    "FAMILIES",
    "MLP",
    "NCSNPP",
    "NETWORKS",
    "Classes",
    "Condition",
    "Conditions",
    "DiT",
    "EDMUNet",
    "Encoded",
    "Family",
    "Image",
    "Network",
    "Params",
    "Tokens",
    "UNet",
    "Vector",
    "dit",
    "feature_shapes",
    "features",
    "functional",
    "grid_sinusoids",
    "initialise",
    "null",
    "sinusoids",
    "stack_blocks",
    "unstack_blocks",
]
