"""What is regressed.

An objective draws a noise level, noises the data, and compares the network's prediction with its target:

    loss = E over t ~ noise_levels of  weight(t) |prediction - (a data + b noise)|^2.

The density of the noise level and the weight are two separate values, because papers state them separately and a
reader must be able to find both. Any objective is a function (network, params, key, data, cond) -> (per_example, aux)
with no mean inside; the mean belongs to the training step, where masks and device axes are known.

An objective that reads more than data and condition names it in `needs`, and receives it as a keyword argument:
entries of the batch ("base", the other end of a stored pair), and "step", the number of optimiser steps done.
"""

from gendyn.objectives import curricula, interpolation, noise_levels, weights
from gendyn.objectives.augmented import Augmented
from gendyn.objectives.consistency import ConsistencyDistillation, ConsistencyTraining
from gendyn.objectives.consistency_function import ConsistencyFunction
from gendyn.objectives.denoising import Denoising
from gendyn.objectives.interpolation import Interpolation
from gendyn.objectives.restoration import Restoration, Restorer

OBJECTIVES = {
    "denoising": Denoising,
    "interpolation": Interpolation,
    "restoration": Restoration,
    "consistency_training": ConsistencyTraining,
    "consistency_distillation": ConsistencyDistillation,
}

NOISE_LEVELS = {
    "lognormal": noise_levels.LogNormal,
    "logit_normal": noise_levels.LogitNormal,
    "uniform_t": noise_levels.UniformT,
    "uniform_lam": noise_levels.UniformLam,
    "cosine": noise_levels.Cosine,
    "u_shaped": noise_levels.UShaped,
    "shifted": noise_levels.Shifted,
    "nodes": noise_levels.Nodes,
}
"""Name -> density; wrap any of them in `noise_levels.Stratified`."""

WEIGHTS = {
    "edm": weights.EDM,
    "snr": weights.SNR,
    "min_snr": weights.MinSNR,
    "soft_min_snr": weights.SoftMinSNR,
    "sigmoid": weights.Sigmoid,
    "uniform": weights.Uniform,
}

__all__ = [
    "NOISE_LEVELS",
    "OBJECTIVES",
    "WEIGHTS",
    "Augmented",
    "ConsistencyDistillation",
    "ConsistencyFunction",
    "ConsistencyTraining",
    "Denoising",
    "Interpolation",
    "Restoration",
    "Restorer",
    "curricula",
    "interpolation",
    "noise_levels",
    "weights",
]
