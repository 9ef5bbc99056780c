// The splat operands that bin and blend have in common.
#pragma once

#include <cstdint>
#include <limits>

#include "ffi/checks.h"
#include "math/tile.h"
#include "stages/bin.h"

namespace jgd {

template <typename T>
SplatInputs<T> bind_splats(Binder& bind, int64_t width, int64_t height, bool three_sigma,
                           const xla::ffi::AnyBuffer& means2d, const xla::ffi::AnyBuffer& depths,
                           const xla::ffi::AnyBuffer& conics, const xla::ffi::AnyBuffer& opacities,
                           const xla::ffi::AnyBuffer& radii) {
  SplatInputs<T> in;
  in.n_cameras = core_dim(means2d, 3, 0);
  in.n = core_dim(means2d, 3, 1);
  in.batch = bind.batch();
  in.means2d = bind.in<T>("means2d", means2d, {in.n_cameras, in.n, 2});
  in.depths = bind.in<T>("depths", depths, {in.n_cameras, in.n});
  in.conics = bind.in<T>("conics", conics, {in.n_cameras, in.n, 3});
  in.opacities = bind.in<T>("opacities", opacities, {in.n_cameras, in.n});
  in.radii = bind.in<int32_t>("radii", radii, {in.n_cameras, in.n});
  bind.require(
      fits_int32(in.n) && in.n_cameras >= 1 && is_image_side(width) && is_image_side(height),
      kBadSizes);
  in.width = static_cast<int>(width);
  in.height = static_cast<int>(height);
  in.three_sigma = three_sigma;
#ifdef JGD_BACKEND_CUDA
  // Splats and tiles of all images are numbered with 32 bits, to be sorted in one go, and a block
  // is launched for each tile.
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
