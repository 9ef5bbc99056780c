// Declares the scratch arrays of each op on the GPU, and with them the size of its workspace.
//
// This is plain C++: the size is needed where the call is compiled, possibly on a machine without
// CUDA.
#pragma once

#include <cstdint>
#include <cstring>

#include "math/blend.h"
#include "math/constants.h"
#include "math/tile.h"
#include "math/vec.h"
#include "stages/workspace.h"

namespace jgd::cuda {

// The numbers that the sizes depend on. An image is one camera of one batch element.
struct CallSizes {
  int64_t n_batch = 1;
  int64_t n_cameras = 1;
  int64_t n = 0;  // Gaussians
  int64_t width = 1;
  int64_t height = 1;
  int64_t n_channels = 0;
  int64_t capacity = 0;  // pairs in the lists of one image
  bool deterministic = false;

  // The first three, from the inputs of a stage.
  template <typename Inputs>
  static CallSizes of(const Inputs& in) {
    CallSizes sizes;
    sizes.n_batch = in.batch.count();
    sizes.n_cameras = in.n_cameras;
    sizes.n = in.n;
    return sizes;
  }

  int64_t n_images() const { return n_batch * n_cameras; }
  int64_t n_tiles() const {
    return int64_t{tile_count(static_cast<int>(width))} * tile_count(static_cast<int>(height));
  }
};

// An array with a second one of the same size to sort into.
template <typename T>
struct DoubleArray {
  T* current;  // holds the data, before and after
  T* other;
  DoubleArray() = default;
  DoubleArray(Workspace& w, int64_t n) : current(w.take<T>(n)), other(w.take<T>(n)) {}
  DoubleArray(T* first, T* second) : current(first), other(second) {}
};

// Enough for sort_pairs and inclusive_sum of n items. CUB's one-sweep radix sort keeps 1 KiB for
// each tile of 2800 or more items, its scan less; histograms and counters take the constant.
inline int64_t sort_temporary_bytes(int64_t n) { return (int64_t{1} << 20) + n; }

struct Temporary {
  void* data;
  int64_t bytes;
  Temporary(Workspace& w, int64_t n)
      : data(w.take<char>(sort_temporary_bytes(n))), bytes(sort_temporary_bytes(n)) {}
};

// Project and shade, backward: the gradient of each camera from blocks of Gaussians, which are as
// large as shared memory has room for their coefficients.
template <typename T>
inline constexpr int kCameraGradientThreads = 512 / sizeof(T);
constexpr int kCameraGradientSize = 16;  // R [9], t [3], fx, fy, cx, cy

template <typename T>
struct CameraGradientArrays {
  T* partial;  // [batch, camera, block, kCameraGradientSize]
  CameraGradientArrays(Workspace& w, const CallSizes& s)
      : partial(w.take<T>(s.n_images() * n_camera_gradient_blocks(s.n) * kCameraGradientSize)) {}
  static int64_t n_camera_gradient_blocks(int64_t n) {
    return (n + kCameraGradientThreads<T> - 1) / kCameraGradientThreads<T>;
  }
};

// Bin: keys and ids of all images, sorted by depth, then by image.
template <typename T>
struct DepthOrderArrays {
  using Key = decltype(depth_key(T(0)));
  DoubleArray<Key> keys;
  DoubleArray<uint32_t> image_keys;
  DoubleArray<uint32_t> ids;
  Temporary temporary;
  DepthOrderArrays(Workspace& w, const CallSizes& s)
      : keys(w, s.n_images() * s.n),
        image_keys(w, s.n_images() * s.n),
        ids(w, s.n_images() * s.n),
        temporary(w, s.n_images() * s.n) {}
};

// The fields of a splat that blending reads: one sector.
template <typename T>
struct alignas(16) TileSplat {
  Vec2<T> center;  // pixels
  Exponent<T> exponent;
  T depth;
  int32_t id;  // index of the Gaussian, or -1: not drawn
};

// The extent of one image's lists. The nearest `n_listed_ranks` splats are in the tile lists. The
// next ones, up to `end_rank`, are not, and tiles that are not finished by then search them.
struct ImageLists {
  int64_t n_pairs;  // all (splat, tile) pairs of the image
  int64_t n_listed;  // the pairs in the lists
  int32_t n_listed_ranks;
  int32_t end_rank;
};

template <typename T>
struct TileListArrays {
  TileSplat<T>* splats;  // [image, rank]
  uint32_t* first_rank;  // [image, id] the rank that draws an id
  int64_t* pairs;  // [image, rank] the number of pairs, later summed over all up to this one
  ImageLists* images;  // [image]
  DoubleArray<uint32_t> tiles;  // [image, capacity] image * n_tiles + tile, sorted
  DoubleArray<uint32_t> ranks;  // [image, capacity] in the order of tiles
  int64_t* tile_begin;  // [image * n_tiles + 1] position in `ranks`
  Temporary temporary;
  TileListArrays(Workspace& w, const CallSizes& s)
      : splats(w.take<TileSplat<T>>(s.n_images() * s.n)),
        first_rank(w.take<uint32_t>(s.n_images() * s.n)),
        pairs(w.take<int64_t>(s.n_images() * s.n)),
        images(w.take<ImageLists>(s.n_images())),
        tiles(w, s.n_images() * s.capacity),
        ranks(w, s.n_images() * s.capacity),
        tile_begin(w.take<int64_t>(s.n_images() * s.n_tiles() + 1)),
        temporary(w, s.n_images() * (s.capacity > s.n ? s.capacity : s.n)) {}
};

// Blend, backward: sums over pixels for each Gaussian of each image, [kMoments + D].
constexpr int kBackgroundBlocks = 64;

template <typename T>
struct GradientArrays {
  using Bits = decltype(depth_key(T(0)));
  T* moments;  // [image, id, kMoments + D]
  Bits* magnitude;  // likewise; bits of the largest |term|, if deterministic
  int64_t* fixed;  // likewise; the sum in units derived from magnitude
  double* background;  // [image, block, D]
  GradientArrays(Workspace& w, const CallSizes& s) {
    const int64_t n = s.n_images() * s.n * (kMoments + s.n_channels);
    moments = s.deterministic ? nullptr : w.take<T>(n);
    magnitude = s.deterministic ? w.take<Bits>(n) : nullptr;
    fixed = s.deterministic ? w.take<int64_t>(n) : nullptr;
    background = w.take<double>(s.n_images() * kBackgroundBlocks * s.n_channels);
  }
};

// Weights: over the pixels, for each Gaussian of each image.
template <typename T>
struct WeightArrays {
  using Bits = decltype(depth_key(T(0)));
  Bits* largest;   // [image, id] bits of the largest weight
  int64_t* total;  // [image, id] the sum of the weights, in a unit of the kernel
  WeightArrays(Workspace& w, const CallSizes& s)
      : largest(w.take<Bits>(s.n_images() * s.n)), total(w.take<int64_t>(s.n_images() * s.n)) {}
};

template <typename T>
int64_t workspace_bytes_of(const char* target, const CallSizes& sizes) {
  Workspace w;
  const auto is = [&](const char* name) { return std::strcmp(target, name) == 0; };
  if (is("jgd_project_bwd") || is("jgd_shade_bwd")) CameraGradientArrays<T>(w, sizes);
  if (is("jgd_bin_fwd")) DepthOrderArrays<T>(w, sizes);
  if (is("jgd_blend_fwd") || is("jgd_blend_bwd") || is("jgd_weights_fwd")) {
    TileListArrays<T>(w, sizes);
  }
  if (is("jgd_blend_bwd")) GradientArrays<T>(w, sizes);
  if (is("jgd_weights_fwd")) WeightArrays<T>(w, sizes);
  return w.used();
}

// The size of the workspace of an op of csrc/ffi/ops.inc, for float or double.
inline int64_t workspace_bytes(const char* target, bool is_double, const CallSizes& sizes) {
  return is_double ? workspace_bytes_of<double>(target, sizes)
                   : workspace_bytes_of<float>(target, sizes);
}

}  // namespace jgd::cuda
