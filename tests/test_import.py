"""`import gendyn` is light: mathematics only, beyond jax."""

import json
import subprocess
import sys

import gendyn

PROBE = """
import json, sys
import jax, jax.numpy, jax.scipy.special, jaxtyping
import gendyn
print(json.dumps({"modules": sorted(sys.modules)}))
"""

HEAVY = {
    "flax", "optax", "orbax", "grain", "diffrax", "equinox", "lineax", "ott", "sklearn", "matplotlib", "PIL", "pyarrow",
    "tyro", "rich", "tensorboardX", "wandb", "torch", "pandas",
}  # fmt: skip


def probe():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_gendyn_loads_nothing_heavy():
    """Seconds depend on the machine; the modules that cost them do not."""
    assert not {name.split(".")[0] for name in probe()["modules"]} & HEAVY


def test_rooms_with_heavy_dependencies_load_at_first_use():
    assert "gendyn.networks" not in probe()["modules"]
    assert gendyn.networks.MLP is not None


def test_public_names_exist_and_unknown_ones_are_refused():
    for name in ("processes", "oracles", "samplers", "control", "objectives", "denoiser", "plan", "load"):
        assert name in gendyn.__all__
        assert getattr(gendyn, name) is not None
    try:
        gendyn.nothing  # noqa: B018
    except AttributeError as error:
        assert "no attribute 'nothing'" in str(error)  # noqa: PT017
    else:
        raise AssertionError("an unknown name must raise AttributeError")
