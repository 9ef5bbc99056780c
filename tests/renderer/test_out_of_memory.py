"""Tests that a lack of memory inside a kernel is an error like any other, and nothing breaks by it.

``tests/cpp/stages/out_of_memory_test.cc`` makes every single allocation fail; here the system does.
"""

import json
import pathlib
import subprocess
import sys

import pytest

# Gaussians that touch all 512 rows of tiles of a high image, which takes 8 bytes for each of them
# and each row: more than is left to the process. A scene of ten of them is small.
SCRIPT = """
import json, resource, sys
import jax, jax.numpy as jnp, numpy as np
import jax_gsplat_depth as jgd

jax.config.update("jax_platforms", "cpu")
n = 100_000
large = jgd.Gaussians(
    jnp.zeros((n, 3)), jnp.ones((n, 4)), jnp.full((n, 3), 1e3), jnp.full(n, 0.02),
    colors=jnp.ones((n, 3)),
)
small = jax.tree.map(lambda x: x[:10], large)
K = jnp.array([[8192.0, 0, 32], [0, 8192, 4096], [0, 0, 1]])
camera = jgd.Camera(jnp.eye(4).at[2, 3].set(3e3), K, width=64, height=8192)

def image(gaussians):
    return jgd.render(gaussians, camera).image

run = jax.jit(image if sys.argv[1] == "forward" else jax.grad(lambda g: image(g).sum()))
expected = jax.tree.map(np.asarray, run(small))
run.lower(large).compile()
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 150 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
errors = []
for _ in range(3):
    try:
        jax.block_until_ready(run(large))
    except jax.errors.JaxRuntimeError as error:
        errors.append(str(error))
again = jax.tree.map(np.asarray, run(small))
same = jax.tree.map(np.array_equal, again, expected)
print(json.dumps([errors, all(jax.tree.leaves(same))]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="needs Linux")
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_lack_of_memory_is_an_error(direction):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, direction], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    errors, same = json.loads(done.stdout)
    assert len(errors) == 3
    for error in errors:
        assert error.startswith("RESOURCE_EXHAUSTED: jgd_blend_fwd: out of memory: "), error
        assert error.endswith(" bytes were wanted for the tiles that the splats touch"), error
    assert same
