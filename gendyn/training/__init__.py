"""Training: values in, a run directory out.

    Experiment --build--> (state, step, batches)          three things a loop needs, shared by everyone
    fit(experiment, folder)                               the loop: logs, checkpoints, pictures, interrupts
    load(folder)                                          process, denoiser, shape, decoding; anywhere

The state is one frozen tree, donated and saved whole; the step is (state, batch) -> (state, metrics) and nothing else;
batch k and the noise of step k are functions of (seed, k), so a run that was killed anywhere ends in the same bits.
"""

from gendyn.training import ema
from gendyn.training.checkpoint import Checkpoints
from gendyn.training.experiment import Config, Experiment, Sampling, resolve
from gendyn.training.logs import MetricsLog, ProgressLine, read_metrics
from gendyn.training.loop import Diverged, Outcome, fit
from gendyn.training.reflow import Reflow, reflow
from gendyn.training.rounds import Round
from gendyn.training.runs import Model, differences, load, load_config_class, open_run, read_config, read_experiment
from gendyn.training.sampling import called, class_labels, conditions, guided, plan_for, sample, starts
from gendyn.training.schedules import SCHEDULES, adamw, schedule
from gendyn.training.step import TrainState, abstract_state, build, compiled_step, init_state, train_step
from gendyn.training.two_sided import clock_options, compared

__all__ = [
    "SCHEDULES",
    "Checkpoints",
    "Config",
    "Diverged",
    "Experiment",
    "MetricsLog",
    "Model",
    "Outcome",
    "ProgressLine",
    "Reflow",
    "Round",
    "Sampling",
    "TrainState",
    "abstract_state",
    "adamw",
    "build",
    "called",
    "class_labels",
    "clock_options",
    "compared",
    "compiled_step",
    "conditions",
    "differences",
    "ema",
    "fit",
    "guided",
    "init_state",
    "load",
    "load_config_class",
    "open_run",
    "plan_for",
    "read_config",
    "read_experiment",
    "read_metrics",
    "reflow",
    "resolve",
    "sample",
    "schedule",
    "starts",
    "train_step",
]
