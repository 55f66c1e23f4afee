"""Can an interpolant turn one class of MNIST into another, and does an SDE do it better than the ODE?

Run:      gendyn train interpolant_two_sets --data PATH/TO/mnist --out runs/two_sets
          gendyn sample runs/two_sets --sampler interpolant_em --nfe 40 --diffusion of_gamma=0.5
          python -m experiments.interpolant_two_sets runs/two_sets      (the table and the figure)
          (a folder with train.parquet and test.parquet in Hugging Face layout)
Takes:    with --steps 1500, nine minutes on two busy CPU cores, and five of measuring. The default was not run.
Expect:   from that run, 500 threes of the test set (seed 0), the share that a classifier by neighbours takes for eights
          (0.88 of real test eights) and Frechet distance on pixels (14 of as many real ones): ODE with 4, 10 and 40
          calls 0.85, 0.83, 0.75 and 58, 42, 44; SDE of eps = gamma with 10 and 40 calls 0.76, 0.74 and 44, 37; of
          eps = 4 gamma with 40 calls 0.57 and 49. So a little noise helps the distance, given calls, and much noise
          hurts. Strokes are frayed. With a bridge for a latent and the velocity predicted the same network did not
          transport (share 0.12 after 40 calls): its velocity is unbounded at both ends.
Writes:   RUN/samples/*.png while training; RUN/two_sets.png, RUN/two_sets.json.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

import numpy as np

import gendyn as gd
from gendyn.data.loader import take
from gendyn.files import write_json

PLANS = (
    *((("flow_heun", nfe), None) for nfe in (4, 10, 40)),
    *((("interpolant_em", nfe), 1.0) for nfe in (10, 40)),
    (("interpolant_em", 40), 4.0),
)
"""What the report compares: (sampler, calls), and eps/gamma of the SDE, if it is one."""


def one_class(folder, split, label, limit):
    """The images of one class, without labels."""
    images = gd.data.image_parquet(folder, split, limit=limit)
    return gd.data.arrays(images.data[images.labels == label])


def pairs(folder, split, base, data, limit):
    """Images of class `data`, each with one of class `base`."""
    return gd.data.paired(one_class(folder, split, data, limit), one_class(folder, split, base, limit))


@dataclass(frozen=True, kw_only=True)
class Config:
    """Linear path with a latent sin^2, whose slope is finite at both ends; v and eta in one network."""

    data: str = "data/mnist"
    """Folder with train.parquet and test.parquet."""
    start: int = 3
    """Class that samples start from."""
    end: int = 8
    """Class that they end in."""
    limit: int | None = None
    """Read only so many images of each split, all classes together."""
    coupling: str = "shuffled"
    """How the two classes are paired in a batch: shuffled (independent) or minibatch_ot."""
    scale: float = 0.5
    """Of the latent: gamma = scale sin^2(pi t)."""
    patch: int = 7
    width: int = 128
    depth: int = 4
    heads: int = 4
    batch_size: int = 64
    steps: int = 2000
    learning_rate: float = 1e-3
    warmup: int = 100
    seed: int = 0

    def experiment(self) -> gd.training.Experiment:
        network = partial(gd.networks.DiT, (28, 28, 1), out_channels=2, patch=self.patch)
        rate = gd.training.schedule("cosine", self.learning_rate, steps=self.steps, warmup=self.warmup)
        latent = gd.processes.interpolants.SineSquared(scale=self.scale)
        return gd.training.Experiment(
            network=gd.networks.functional(partial(network, width=self.width, depth=self.depth, heads=self.heads)),
            objective=gd.objectives.Interpolation(
                process=gd.processes.Interpolant(latent=latent),
                predicts=("v", "eta"),
                estimator=gd.objectives.interpolation.Plain(),
                coupling=gd.processes.couplings.COUPLINGS[self.coupling](),
            ),
            source=partial(pairs, self.data, "train", self.start, self.end, self.limit),
            test=partial(pairs, self.data, "test", self.start, self.end, self.limit),
            shape=(28, 28, 1),
            batch_size=self.batch_size,
            steps=self.steps,
            optimizer=gd.training.adamw(rate),
            schedule=rate,
            seed=self.seed,
            sampling=gd.training.Sampling(sampler="flow_heun", nfe=20),
            sample_every=max(self.steps // 4, 1),
        )


def judge(folder):
    """Classes of images in [-1, 1], by a classifier trained on 10,000 MNIST images."""
    from sklearn.neighbors import KNeighborsClassifier

    train = gd.data.image_parquet(folder, "train", limit=10_000)
    known = KNeighborsClassifier(3).fit(train.data.reshape(len(train.data), -1) / 127.5 - 1, train.labels)
    return lambda x: known.predict(x.reshape(len(x), -1))


def report(run, num=500, seed=0):
    """Share of the end class, Frechet distance beside its floor, and distance travelled, of several plans."""
    model = gd.load(run)
    config, experiment = model.config, model.experiment
    classes, start = judge(config.data), gd.training.starts(experiment, num)
    train, test = (take(s, np.arange(len(s)))["data"] for s in (experiment.source(), experiment.test()))
    rows, shown = [], [start]
    for (sampler, nfe), noise in PLANS:
        options = {} if noise is None else {"diffusion": gd.processes.fields.OfGamma(scale=noise)}
        sampling = gd.training.Sampling(sampler=sampler, nfe=nfe, options=options)
        plan = gd.training.plan_for(model.process, sampling)
        D = gd.training.called(model.denoiser, plan, sampling)
        x = gd.training.sample(D, plan, model.shape, num=num, starts=start, seed=seed)
        frechet = gd.metrics.report(x, None, train, test)["frechet"]
        row = {"sampler": sampler, "nfe": nfe, "noise": noise, "share": float(np.mean(classes(x) == config.end))}
        row |= {"frechet": frechet.measure.value, "floor": frechet.floor.value}
        rows.append(row | {"moved": float(np.sqrt(np.mean((x - start) ** 2)))})
        shown.append(x)
        print(rows[-1], flush=True)
    share = float(np.mean(classes(test) == config.end))
    print(f"share of real test images: {share}")
    write_json(f"{run}/two_sets.json", {"plans": rows, "share_of_real": share, "num": num, "seed": seed})
    gd.plots.save_png(f"{run}/two_sets.png", gd.data.to_uint8(np.concatenate([x[:14] for x in shown])), columns=14)


if __name__ == "__main__":
    report(*sys.argv[1:])
