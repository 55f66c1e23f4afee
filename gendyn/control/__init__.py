"""Functions from denoiser to denoiser.

A model is the call D(x, t, cond). Everything that steers it is a function that takes such a call and returns one, so
steering composes with every sampler and with itself:

    D = gd.denoiser(...);   D = gd.control.cfg(D, weight=2.0, null=10);   gd.samplers.run(plan, D, x_T, cond=classes)

The wrappers are pytrees whose weights are leaves: sweeping a guidance weight does not recompile.
"""

from gendyn.control.anchor import Anchored, anchored, restore
from gendyn.control.guidance import Guided, autoguidance, cfg
from gendyn.control.skips import skip_tuning

__all__ = ["Anchored", "Guided", "anchored", "autoguidance", "cfg", "restore", "skip_tuning"]
