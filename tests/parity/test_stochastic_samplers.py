"""Every stochastic array of k-diffusion in samplers_open.npz at 1e-8 of its maximum, with the draws that it was given.

The file's noise bank holds unit draws in order of use. What differs between a bank and a plan is bookkeeping: a
two-stage step of ours draws in its last row, and `sde_dpmpp` in single steps takes the noises of the two halves of a
step where the published code, fed from a bank, takes independent noises for the stage and for the whole step.
"""

import re
from functools import partial

import numpy as np
import pytest

import gendyn as gd
from gendyn.samplers import grids

TOLERANCE = 1e-8
EDM = gd.processes.EDM()
S = gd.samplers


def in_order(plan, bank):
    """One draw per step, in the order of the rows that use one."""
    used = iter(bank)
    return [next(used) if plan.sn[i].any() else 0 * bank[0] for i in range(plan.rows)]


def whole_and_half(plan, bank):
    """Draws (half, rest) of each step from published (stage, step) pairs: step = (a half + b rest)/sqrt(a^2 + b^2)."""
    noise, used = [], iter(bank)
    for i in range(1, plan.rows, 2):
        rest, carried = plan.sn[i]
        stage, whole = next(used), next(used)
        noise += [stage, (np.hypot(rest, carried) * whole - carried * stage) / rest]
    return [*noise, 0 * bank[0]]


PUBLISHED = {
    "k_euler_ancestral": (1, partial(S.ancestral_split, solver=S.ddim), in_order),
    "k_dpm_2_ancestral": (2, S.dpm2_ancestral, in_order),
    "k_dpmpp_2s_ancestral": (2, S.dpmpp_2s_ancestral, in_order),
    "k_dpmpp_2m_sde_midpoint": (1, partial(S.sde_dpmpp, lower_order_final=False), in_order),
    "k_dpmpp_2m_sde_heun": (1, partial(S.sde_dpmpp, rule="taylor", lower_order_final=False), in_order),
    "k_dpmpp_3m_sde": (1, partial(S.sde_dpmpp, order=3, rule="taylor", lower_order_final=False), in_order),
    "k_dpmpp_sde": (2, partial(S.sde_dpmpp, kind="singlestep"), whole_and_half),
}
"""Name in the file -> (calls per step before the last, builder, how the bank is read)."""


@pytest.fixture(scope="module")
def data(shared):
    return np.load(shared / "parity" / "samplers_open.npz")


def parse(key):
    """(d, sampler, eta, nfe) of a stochastic output of k-diffusion, None for the other arrays."""
    found = re.match(r"d(\d+)__edm0__(k_(?:.*_ancestral|.*_sde.*?))(?:_eta([\d.]+))?__nfe(\d+)$", key)
    return found and (int(found[1]), found[2], float(found[3] or 1.0), int(found[4]))


def error(data, key):
    d, sampler, eta, nfe = parse(key)
    calls, build, read = PUBLISHED[sampler]
    plan = build(EDM, grids.karras(EDM, -(-nfe // calls)), eta=eta)
    assert plan.nfe == nfe
    weights, means, stds = (data[f"d{d}__gmm__{name}"] for name in ("weights", "means", "stds"))
    D = gd.oracles.GaussianMixture(weights, means, stds**2).denoiser(EDM)
    x = S.run_eager(plan, D, 80.0 * data[f"d{d}__z"], noise=read(plan, data[f"d{d}__noise_bank"]))
    return np.abs(x - data[key]).max() / np.abs(data[key]).max()


def test_published_stochastic_outputs(data):
    keys = [key for key in data.files if parse(key)]
    off = {key: value for key in keys if not (value := error(data, key)) < TOLERANCE}
    assert not off, "\n".join(f"{key}: {value:.1e}" for key, value in off.items())
    assert len(keys) == 24
