"""Every coupling keeps both marginals: within a batch it only decides which row goes with which."""

import jax
import numpy as np
import pytest

from gendyn.processes import couplings


@pytest.fixture(params=sorted(couplings.COUPLINGS))
def coupling(request):
    return couplings.COUPLINGS[request.param]()


def test_the_base_points_are_rearranged_never_changed_or_repeated(coupling):
    base, data = jax.random.normal(jax.random.key(0), (2, 16, 3))
    paired = np.asarray(coupling(jax.random.key(1), base, data, None))
    assert sorted(map(tuple, paired)) == sorted(map(tuple, np.asarray(base)))
