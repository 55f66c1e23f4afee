"""What is regressed for a stochastic interpolant: conditional means of its velocity and of its noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.objectives.denoising import training_mode
from gendyn.objectives.dropping import Drop, check_drop, dropped
from gendyn.processes.couplings import Coupling, Stored
from gendyn.processes.fields import Fields
from gendyn.processes.interpolants import Interpolant
from gendyn.tree import constant, expand, pytree, static

Target = Literal["velocity", "v", "eta", "score"]

TARGETS: dict[str, Callable[[Interpolant, Any], tuple[Any, Any]]] = {
    "velocity": lambda process, t: (1.0, process.dgamma(t)),
    "v": lambda process, t: (1.0, 0.0 * t),
    "eta": lambda process, t: (0.0, 1.0 + 0.0 * t),
    "score": lambda process, t: (0.0, -1.0 / process.gamma(t)),
}
"""Kind -> (p, q) with target = p (a' base + b' data) + q noise. velocity = v + gamma' eta; score = -eta/gamma.

(The published code minimises |eta|^2/2 + noise . eta, so that its eta has the other sign; here eta = E[noise | x].)"""


class Estimator(Protocol):
    """How noise is drawn for one example; the loss is averaged over the list of signs."""

    @property
    def signs(self) -> tuple[float, ...]: ...


@constant
class Plain:
    """One draw of the noise. Where q is unbounded (velocity, score at the ends of a bridge) so is the variance."""

    signs = (1.0,)


@constant
class Antithetic:
    """The noise and its negative with the same ends: the unbounded parts of the gradient cancel, at two calls."""

    signs = (1.0, -1.0)


@pytree
class Learned:
    """A network that returns its fields stacked on channels, as `both(x, t, cond) -> (velocity, eta)`."""

    params: Any
    apply: Callable[..., Any] = static()
    process: Interpolant = static()
    predicts: tuple[Target, ...] = static()

    def split(self, x: Array, t: Any, cond: Any) -> dict[str, Array]:
        """Each predicted field, in at least float32."""
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        t = jnp.broadcast_to(jnp.asarray(t, dtype), x.shape[:1])
        value = self.apply(self.params, x, t, cond).astype(dtype)
        wanted = len(self.predicts) * x.shape[-1]
        if value.shape[-1] != wanted:
            raise ValueError(
                f"a network for {len(self.predicts)} fields of {x.shape[-1]} channels returns {wanted} channels; got "
                f"{value.shape[-1]}: build it with out_channels={wanted}."
            )
        return dict(zip(self.predicts, jnp.split(value, len(self.predicts), axis=-1)))

    def singular(self, times: np.ndarray) -> np.ndarray:
        """Times at which what is predicted does not give the velocity: v + gamma' eta with an infinite gamma'."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return ~np.isfinite(self.process.dgamma(np.asarray(times, float))) & ("velocity" not in self.predicts)

    def __call__(self, x: Float[Array, "batch *data"], t: Any, cond: Any = None) -> tuple[Array, Array | None]:
        found = self.split(x, t, cond)
        time = expand(jnp.broadcast_to(jnp.asarray(t, jnp.float32), x.shape[:1]), x)
        eta = found.get("eta")
        if "score" in found:
            eta = -self.process.gamma(time) * found["score"]
        if "velocity" in found:
            return found["velocity"], eta
        assert eta is not None  # checked by the objective
        return found["v"] + self.process.dgamma(time) * eta, eta


@constant
class Interpolation:
    """E_t E[|p (a' base + b' data) + q noise - prediction|^2]/N, summed over the predicted fields (see `TARGETS`).

    Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797). The minimisers are conditional means, so the velocity
    gives the ODE, velocity and eta every SDE. Callable as

        loss(network, params, key, data, cond, base=) -> (per_example, aux);

    the network is apply(params, x, t, cond) and returns the fields stacked on the channel axis. Squared targets are
    left out of the loss (they do not depend on the network and may be unbounded), so it may be negative.

    Args:
        process: the interpolant.
        predicts: "velocity" or "v" (its part without noise), and "eta" or "score" if SDEs are wanted.
        coupling: pairs stored with the data by default; or a rearrangement of the batch's base, such as `Shuffled()`
            for ends that are to be independent.
        estimator: `Plain()` or `Antithetic()`.
        margin: times are uniform on [margin, 1 - margin].
        drop, null: label dropout, as in `Denoising`.

    Example:
        >>> import gendyn as gd, jax, jax.numpy as jnp
        >>> loss = Interpolation(process=gd.processes.INTERPOLANTS["linear_bridge"]())
        >>> apply = lambda params, x, t, cond: params * jnp.concatenate([x, x], -1)
        >>> base, data = jnp.zeros((4, 2)), jnp.ones((4, 2))
        >>> loss(apply, jnp.float32(0), jax.random.key(0), data, base=base)[0].shape
        (4,)
    """

    process: Interpolant
    predicts: tuple[Target, ...] = ("velocity", "eta")
    coupling: Coupling = Stored()
    estimator: Estimator = Antithetic()
    margin: float = 1e-4
    drop: Drop = 0.0
    null: Any = None

    needs = ("base",)
    start = "base"
    """Entry of a batch that samples start from, in the place of a prior."""

    def __post_init__(self) -> None:
        known = [kind for kind in self.predicts if kind in TARGETS]
        dynamics = "velocity" in known or ("v" in known and ("eta" in known or "score" in known))
        if len(known) != len(self.predicts) or not dynamics:
            raise ValueError(
                f'predicts must name fields among {", ".join(TARGETS)}, with "velocity", or "v" and one of "eta", '
                f'"score", among them; got {self.predicts}.'
            )
        if not 0 <= self.margin < 0.5:
            raise ValueError(f"margin must lie in [0, 0.5); got {self.margin}.")
        check_drop(self.drop, self.null)

    def __call__(
        self,
        network: Any,
        params: Any,
        key: PRNGKeyArray,
        data: Float[Array, "batch *data"],
        cond: Any = None,
        *,
        base: Float[Array, "batch *data"],
    ) -> tuple[Float[Array, " batch"], dict[str, Array]]:
        key_t, key_noise, key_pair, key_drop, key_network = jax.random.split(key, 5)
        n = data.shape[0]
        t = jax.random.uniform(key_t, (n,), minval=self.margin, maxval=1 - self.margin)
        base = self.coupling(key_pair, base, data, cond)
        noise = jax.random.normal(key_noise, data.shape, data.dtype)
        cond = dropped(key_drop, cond, n, self.drop, self.null)
        model = self._learned(training_mode(network, key_network), params)
        time = expand(t, data)
        curve = self.process.da(time) * base + self.process.db(time) * data
        total = jnp.zeros(n)
        for sign in self.estimator.signs:
            found = model.split(self.process.state(base, data, sign * noise, t), t, cond)
            total += sum(self._loss(kind, value, curve, sign * noise, time) for kind, value in found.items())
        loss = total / len(self.estimator.signs)
        return loss, {"t": t, "error": loss}

    def _loss(self, kind: str, value: Array, curve: Array, noise: Array, time: Array) -> Array:
        """|value|^2 - 2 target . value per entry: the squared error less its constant."""
        p, q = TARGETS[kind](self.process, time)
        axes = tuple(range(1, value.ndim))
        return jnp.mean(value**2 - 2 * (p * curve + q * noise) * value, axis=axes)

    def denoiser(self, apply: Callable[..., Any], params: Any) -> Fields:
        """What is trained: `Fields`, callable as the velocity, with .eta, .score and .drift(diffusion)."""
        return Fields(both=self._learned(apply, params), process=self.process)

    def _learned(self, apply: Callable[..., Any], params: Any) -> Learned:
        return Learned(params=params, apply=apply, process=self.process, predicts=self.predicts)
