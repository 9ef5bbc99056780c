"""Counts the bytes that a stage has to move at least in float32, which bounds its time."""

# Per Gaussian, SH of degree 3: project 11 numbers to 8 and back, shade 51 to 3 and back, bin four
# passes of a radix sort of 8-byte pairs.
BYTES_PER_GAUSSIAN = {
    "project_forward": 4 * (11 + 8),
    "shade_forward": 4 * (51 + 3),
    "bin": 4 * 16,
    "shade_backward": 4 * (51 + 3 + 51),
    "project_backward": 4 * (11 + 7 + 11),
}
# The CPU's blend writes each splat into 64 bytes, which it reads again with the colour, and makes
# the lists: an index for each (tile, Gaussian) pair, backward a slot of 12 sums as well, all
# written and read once. Per pixel: the three outputs and two residuals; backward reads these and
# the cotangent of the image.
_CPU_BLEND = {
    # Per Gaussian, per (tile, Gaussian) pair, per pixel.
    "blend_forward": (2 * 64 + 12, 2 * 4, 4 * (5 + 2)),
    "blend_backward": (2 * 64 + 12 + 4 * 9, 2 * (8 + 4 * 12), 4 * (4 + 3)),
}


def cpu_bytes(stage: str, n_gaussians: int, n_intersections: int, n_pixels: int) -> int:
    """Return the bytes of a stage on the CPU."""
    per_gaussian, per_pair, per_pixel = _CPU_BLEND.get(
        stage, (BYTES_PER_GAUSSIAN.get(stage, 0), 0, 0)
    )
    return per_gaussian * n_gaussians + per_pair * n_intersections + per_pixel * n_pixels
