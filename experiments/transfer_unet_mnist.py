"""Does a learning rate tuned on a narrow U-Net serve a wide one, on MNIST?

Run:      gendyn transfer transfer_unet_mnist --data PATH/TO/mnist --over width=8,16,32 --repeats 3
          gendyn transfer transfer_unet_mnist --data PATH/TO/mnist --over width=8,16,32 --repeats 3 --rule sp \
              --out transfer/transfer_unet_mnist_sp                                                    (the control)
          gendyn train transfer_unet_mnist --data PATH/TO/mnist --from-transfer transfer/transfer_unet_mnist
Takes:    a day on CPU cores for eight times the width; run at toy size only.
Expect:   not measured yet.
Writes:   transfer/transfer_unet_mnist: the table of all runs, also by noise level, the figure, the best learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import gendyn as gd
from experiments import transfer_dit_mnist


@dataclass(frozen=True, kw_only=True)
class Config(transfer_dit_mnist.Config):
    """transfer_dit_mnist with a convolutional U-Net: skip concatenations and a convolutional readout."""

    width: int = 8
    base_width: int = 8
    batch_size: int = 32

    def network(self, width: int, **scales: float) -> gd.networks.Network:
        sizes = {"width": width, "multipliers": (1, 2), "blocks": 1, "attention": (), "groups": 4, "num_classes": 10}
        return gd.networks.functional(partial(gd.networks.UNet, 2, 1, **sizes, **scales))
