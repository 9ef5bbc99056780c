// Declares and binds the splat operands that bin and blend have in common.
#pragma once

#include <cstdint>
#include <limits>

#include "ffi/binder.h"
#include "math/tile.h"
#include "stages/bin.h"

namespace jgd {

struct SplatOperands {
  Operand means2d, depths, conics, opacities, radii;

  explicit SplatOperands(Binder& bind)
      : means2d(bind.operand("means2d", 3)),
        depths(bind.operand("depths", 2)),
        conics(bind.operand("conics", 3)),
        opacities(bind.operand("opacities", 2)),
        radii(bind.operand("radii", 2)) {}
};

template <typename T>
SplatInputs<T> bind_splats(Binder& bind, const SplatOperands& operands, int64_t width,
                           int64_t height, bool three_sigma) {
  SplatInputs<T> in;
  in.n_cameras = operands.means2d.core_dim(0);
  in.n = operands.means2d.core_dim(1);
  in.batch = bind.batch();
  in.means2d = bind.in<T>(operands.means2d, {in.n_cameras, in.n, 2});
  in.depths = bind.in<T>(operands.depths, {in.n_cameras, in.n});
  in.conics = bind.in<T>(operands.conics, {in.n_cameras, in.n, 3});
  in.opacities = bind.in<T>(operands.opacities, {in.n_cameras, in.n});
  in.radii = bind.in<int32_t>(operands.radii, {in.n_cameras, in.n});
  bind.require(
      fits_int32(in.n) && in.n_cameras >= 1 && is_image_side(width) && is_image_side(height),
      kBadSizes);
  in.width = static_cast<int>(width);
  in.height = static_cast<int>(height);
  in.three_sigma = three_sigma;
#ifdef JGD_BACKEND_CUDA
  // Splats and tiles of all images are numbered with 32 bits, so that one sort serves them all, and
  // a block is launched for each tile.
  const int64_t n_images = in.batch.count() * in.n_cameras;
  if (!bind.ok()) return in;
  bind.require(n_images * in.n <= std::numeric_limits<int32_t>::max(),
               "2^31 or more splats (cameras times Gaussians) in one call: split the batch");
  bind.require(
      n_images * tile_count(in.width) * tile_count(in.height) < std::numeric_limits<int32_t>::max(),
      "2^31 or more tiles of all images in one call: split the batch");
#endif
  return in;
}

}  // namespace jgd
