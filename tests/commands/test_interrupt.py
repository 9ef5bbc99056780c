"""Tests Ctrl-C while modules are imported, where Python may lose it: the command ends at once."""

import os
import signal
import subprocess
import sys

import pytest

from jax_gsplat_depth._common.extras import require

# Where an exception is printed and forgotten.
IN_A_CALLBACK = """
import signal, weakref

class Thing: pass

def interrupt():
    thing = Thing()
    ref = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing
"""

# Read by Python when it starts: comes before all of the package.
WHEN_JAX_IS_IMPORTED = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "jax":
            {interrupt}

sys.meta_path.insert(0, Finder())
"""

AS_SCRIPT = """
import sys
sys.argv[0] = "/usr/bin/jax-gsplat-depth"
from jax_gsplat_depth.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("interrupt", ["interrupt()", "signal.raise_signal(signal.SIGINT)"])
@pytest.mark.parametrize("how", [["-m", "jax_gsplat_depth.cli"], ["-c", AS_SCRIPT]])
def test_ctrl_c_while_jax_is_imported(tmp_path, how, interrupt):
    code = IN_A_CALLBACK + WHEN_JAX_IS_IMPORTED.format(interrupt=interrupt)
    (tmp_path / "sitecustomize.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *how, "info", "none.ply"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, "jax-gsplat-depth: stopped\n")


def test_other_programs_keep_their_ctrl_c():
    code = (
        "import signal, sys; sys.argv[0] = 'mine.py'; import jax_gsplat_depth;"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_ctrl_c_while_a_library_is_imported(tmp_path, monkeypatch):
    (tmp_path / "a_library.py").write_text(IN_A_CALLBACK + "interrupt()\ncomplete = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        require("a_library")
    assert sys.modules.pop("a_library").complete
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_somebody_else_is_called_at_once(tmp_path, monkeypatch):
    (tmp_path / "a_library.py").write_text("import signal; signal.raise_signal(signal.SIGINT)\n")
    monkeypatch.syspath_prepend(tmp_path)
    came = []
    previous = signal.signal(signal.SIGINT, lambda *_: came.append("a_library" in sys.modules))
    try:
        require("a_library")
    finally:
        signal.signal(signal.SIGINT, previous)
    del sys.modules["a_library"]
    assert came == [True]
