"""Compiles and calls C++: the bare kernel, the limits of the machine, an empty FFI call.

The host's compiler does it when the benchmark runs, with the flags that CMakeLists.txt gives the
kernels of the same instruction set.
"""

import ctypes
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parent
_SOURCES = _HERE / "cpp"
_FLAGS = ("-std=c++17", "-ffp-contract=off", "-shared", "-fPIC", "-O3")

# Columns of the splats that the bare kernel reads, and of the sums that it writes for each.
SPLAT_COLUMNS, GRADIENT_COLUMNS = 10, 9
TILE = 16

_Float = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")
_Double = np.ctypeslib.ndpointer(np.float64, flags="C_CONTIGUOUS")
_Int = np.ctypeslib.ndpointer(np.int32, flags="C_CONTIGUOUS")
_Long = np.ctypeslib.ndpointer(np.int64, flags="C_CONTIGUOUS")
_Count = ctypes.c_int64


def isa_flags(isa: str) -> list[str]:
    """Return the compiler flags that CMakeLists.txt gives an instruction set.

    Raises:
        ValueError: The file has no instruction set of this name.
    """
    text = (_ROOT / "CMakeLists.txt").read_text()
    found = re.search(rf"jgd_add_isa\({re.escape(isa)}\b([^)]*)\)", text)
    if not found:
        raise ValueError(f"CMakeLists.txt has no instruction set {isa!r}")
    return found.group(1).split()


def compile_kernels(isa: str, folder: Path) -> Path:
    """Compile all but the empty call for an instruction set; return the library's path.

    Raises:
        OSError: There is no compiler.
        subprocess.CalledProcessError: The compiler failed.
    """
    flags = [f"-DJGD_ISA={isa}", "-Wno-psabi", *isa_flags(isa), f"-I{_ROOT / 'csrc'}"]
    names = ("bare_kernel.cc", "machine_limits.cc", "drawn_pairs.cc")
    return _compile(folder / f"kernels_{isa}.so", names, flags)


def compile_empty_call(folder: Path) -> Path:
    """Compile the empty FFI call; return the library's path. Raises like ``compile_kernels``."""
    import jax

    flags = ["-isystem", jax.ffi.include_dir()]
    return _compile(folder / "empty_call.so", ["empty_call.cc"], flags)


def _compile(path, names, flags):
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    sources = [str(_SOURCES / name) for name in names]
    command = [*compiler, *_FLAGS, *flags, *sources, "-o", str(path)]
    # Standard output is for the table.
    subprocess.run(command, check=True, stdout=sys.stderr)
    return path


class Kernels:
    """The library of ``compile_kernels``; its calls release the GIL, so threads run in parallel."""

    def __init__(self, path: Path | str):
        """Load the library at ``path``."""
        self._library = ctypes.CDLL(str(path))
        for name, result, *arguments in (
            ("bare_forward", None, _Float, _Count, _Count, _Float),
            ("bare_backward", None, _Float, _Count, _Count, _Float, _Float, _Float),
            ("multiply_adds", _Count, _Count, ctypes.c_float, ctypes.c_float, _Float),
            ("triad", None, _Double, _Double, _Double, ctypes.c_double, _Count),
            (
                *("drawn_pairs", None, _Float, _Float, _Float, _Int, _Int),
                *(_Count, ctypes.c_int, ctypes.c_int, _Long),
            ),
        ):
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments

    def forward(self, splats: np.ndarray, repeats: int = 1) -> np.ndarray:
        """Blend splats into a tile.

        Args:
            splats: ``[n, 10]`` x, y, the factors of dx^2, dx dy and dy^2 in log2(alpha), the
                log2 of the opacity, depth and three colours.
            repeats: Number of times to do it.

        Returns:
            ``[6, 16, 16]`` transmittance, weight, weighted depth and three colours.
        """
        state = np.empty((6, TILE, TILE), np.float32)
        self._library.bare_forward(splats, len(splats), repeats, state)
        return state

    def backward(
        self,
        splats: np.ndarray,
        v_image: np.ndarray,
        transmittance: np.ndarray,
        repeats: int = 1,
    ) -> np.ndarray:
        """Pull a tile's cotangent back to its splats.

        Args:
            splats: As for ``forward``.
            v_image: ``[3, 16, 16]`` derivative with respect to the colours.
            transmittance: ``[16, 16]`` final transmittance of ``forward``.
            repeats: Number of times to do it.

        Returns:
            ``[n, 9]`` sums over the pixels of v_sigma times 1, dx, dy, dx^2, dx dy and dy^2, and
            of w v_image.
        """
        gradients = np.empty((len(splats), GRADIENT_COLUMNS), np.float32)
        self._library.bare_backward(splats, len(splats), repeats, v_image, transmittance, gradients)
        return gradients

    def multiply_adds(self, n: int) -> int:
        """Run multiply-adds in registers; return their number of floating-point operations."""
        return self._library.multiply_adds(n, 0.999, 0.001, np.empty(10, np.float32))

    def triad(self, a: np.ndarray, b: np.ndarray, c: np.ndarray, factor: float) -> None:
        """Set a to b + factor c, float64."""
        self._library.triad(a, b, c, factor, len(a))

    def drawn_pairs(
        self,
        means2d: np.ndarray,
        conics: np.ndarray,
        opacities: np.ndarray,
        radii: np.ndarray,
        order: np.ndarray,
        width: int,
        height: int,
    ) -> tuple[int, int]:
        """Count the (pixel, splat) pairs with alpha >= 1/255 in a pixel that has not ended.

        The arguments are those of ``jgd.Splats`` and the order of ``jgd.Bins``.

        Returns:
            That number, and the number of pairs in the vectors of pixels with such a pair.
        """
        counts = np.empty(2, np.int64)
        self._library.drawn_pairs(
            means2d, conics, opacities, radii, order, len(order), width, height, counts
        )
        return int(counts[0]), int(counts[1])
