"""Samplers as tables.

Every fixed-grid sampler of this field is affine in the state, the past network outputs and the fresh noise, once its
grid is fixed. So a solver here is a function on the host, (process, grid) -> SamplerPlan, that writes the coefficients
in float64, and one compiled loop executes them all:

    y = ex x + em . history + en . draws + ec
    m = oy y + om D(y, t);  history <- (m, history[:-1])         if the row calls the network
    x = sx x + sm . history + sn . draws + sc

A plan can be printed, stacked under `vmap`, differentiated, tuned and saved, and another solver, grid or coefficient
reuses the compiled program. Solvers read (alpha, sigma) at the nodes and nothing else, so each serves every process.
To add a solver: one file with one such function, and one line in `recipes.SAMPLERS`.
"""

from gendyn.samplers import grids, statistics, straightness, study, tuning
from gendyn.samplers.adaptive import Solution, decode, encode, odeint, sdeint
from gendyn.samplers.brownian import brownian
from gendyn.samplers.consistency import consistency
from gendyn.samplers.ddim import ancestral, ddim
from gendyn.samplers.deis import deis, lms
from gendyn.samplers.dpm_solver import dpm_solver, dpmpp
from gendyn.samplers.dpm_solver_v3 import PRESETS, dpm_solver_v3, preset
from gendyn.samplers.euler import euler
from gendyn.samplers.euler_maruyama import euler_maruyama
from gendyn.samplers.exponential_sde import seeds
from gendyn.samplers.flow import clock, flow_ab, flow_rk, times
from gendyn.samplers.grids import GRIDS, Grid
from gendyn.samplers.heun import Churn, heun
from gendyn.samplers.interpolant_sde import interpolant_em, interpolant_heun
from gendyn.samplers.ipndm import ipndm
from gendyn.samplers.langevin import langevin, run_with_langevin
from gendyn.samplers.likelihood import (
    Exact,
    Hutchinson,
    LogLikelihood,
    bits_per_dim,
    dequantize,
    flow_log_likelihood,
    log_likelihood,
)
from gendyn.samplers.orders import fast_orders
from gendyn.samplers.plan import PlanInfo, Row, SamplerPlan, assemble, stack
from gendyn.samplers.recipes import FITTED, FLOW_SAMPLERS, MAPS, SAMPLERS, Recipe, plan
from gendyn.samplers.reuse import run_reusing_encoder
from gendyn.samplers.run import run, run_eager
from gendyn.samplers.runge_kutta import TABLEAUX, Tableau, deis_rk, dpm2
from gendyn.samplers.sde_dpm import sde_dpmpp
from gendyn.samplers.splitting import ancestral_split, dpm2_ancestral, dpmpp_2s_ancestral
from gendyn.samplers.storage import difference, load, save
from gendyn.samplers.transforms import analytical_first_step, final_denoise
from gendyn.samplers.tuning import MovingGrid, tune
from gendyn.samplers.unipc import unipc

__all__ = [
    "FITTED",
    "FLOW_SAMPLERS",
    "GRIDS",
    "MAPS",
    "PRESETS",
    "SAMPLERS",
    "TABLEAUX",
    "Churn",
    "Exact",
    "Grid",
    "Hutchinson",
    "LogLikelihood",
    "MovingGrid",
    "PlanInfo",
    "Recipe",
    "Row",
    "SamplerPlan",
    "Solution",
    "Tableau",
    "analytical_first_step",
    "ancestral",
    "ancestral_split",
    "assemble",
    "bits_per_dim",
    "brownian",
    "clock",
    "consistency",
    "ddim",
    "decode",
    "deis",
    "deis_rk",
    "dequantize",
    "difference",
    "dpm2",
    "dpm2_ancestral",
    "dpm_solver",
    "dpm_solver_v3",
    "dpmpp",
    "dpmpp_2s_ancestral",
    "encode",
    "euler",
    "euler_maruyama",
    "fast_orders",
    "final_denoise",
    "flow_ab",
    "flow_log_likelihood",
    "flow_rk",
    "grids",
    "heun",
    "interpolant_em",
    "interpolant_heun",
    "ipndm",
    "langevin",
    "lms",
    "load",
    "log_likelihood",
    "odeint",
    "plan",
    "preset",
    "run",
    "run_eager",
    "run_reusing_encoder",
    "run_with_langevin",
    "save",
    "sde_dpmpp",
    "sdeint",
    "seeds",
    "stack",
    "statistics",
    "straightness",
    "study",
    "times",
    "tune",
    "tuning",
    "unipc",
]
