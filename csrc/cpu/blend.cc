// Tiles are independent and claimed one by one. The gradient of a splat is the sum of what its
// tiles left in the slots of its instances, in slot order: the same bits for any number of threads.

#include "cpu/blend.h"

#include <algorithm>
#include <limits>
#include <memory>

#include "cpu/bin.h"
#include "cpu/blend_tile.h"
#include "math/blend.h"
#include "stages/load.h"

namespace jgd::cpu {
namespace {

constexpr int64_t kSplatGrain = 1024;
constexpr int64_t kAlignment = 64;

// One aligned piece of scratch memory for each worker.
template <typename T>
class Scratch {
 public:
  Scratch(int64_t n_workers, int64_t size)
      : pitch_((size * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment),
        bytes_(make_array<unsigned char>(n_workers * pitch_ + kAlignment)) {}
  T* of(int64_t worker) const {
    const auto address = reinterpret_cast<uintptr_t>(bytes_.get());
    const uintptr_t aligned = (address + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<T*>(aligned + worker * pitch_);
  }

 private:
  int64_t pitch_;
  std::unique_ptr<unsigned char[]> bytes_;
};

// What the tiles of one camera share.
template <typename T>
struct CameraInputs {
  ImageSplats<T> splats;
  const int32_t* order;
  const T* colors;
  const T* background;

  CameraInputs(const BlendInputs<T>& in, int64_t b, int64_t camera)
      : splats(in.splats, b, camera),
        order(in.order.at(in.splats.batch, b) + camera * in.splats.n),
        colors(in.colors_of(b, camera)),
        background(in.background_of(b, camera)) {}
};

template <typename T>
Tile<T> make_tile(const BlendInputs<T>& in, const CameraInputs<T>& camera,
                  const TileIndex<T>& index, const TileLists<T>& lists, int64_t tile, T* scratch) {
  return {index.splats(),
          lists.ids(tile),
          lists.size(tile),
          camera.colors,
          camera.background,
          in.n_channels,
          static_cast<int>(tile % index.n_tiles_x()) * kTileSize,
          static_cast<int>(tile / index.n_tiles_x()) * kTileSize,
          in.splats.width,
          in.splats.height,
          scratch};
}

template <typename T>
T* camera_of(const Batched<T>& array, const BatchShape& batch, int64_t b, int64_t offset) {
  return array.data ? array.at(batch, b) + offset : nullptr;
}

// Adds the gradients of a splat, from the moments of its instances.
template <typename T>
class SplatGradients {
 public:
  SplatGradients(const BlendBackward<T>& args, int64_t b, int64_t camera)
      : n_channels_(args.in.n_channels) {
    const BatchShape& batch = args.in.splats.batch;
    const int64_t first = camera * args.in.splats.n;
    v_means2d_ = camera_of(args.v_means2d, batch, b, 2 * first);
    v_means2d_abs_ = camera_of(args.v_means2d_abs, batch, b, 2 * first);
    v_depths_ = camera_of(args.v_depths, batch, b, first);
    v_conics_ = camera_of(args.v_conics, batch, b, 3 * first);
    v_opacities_ = camera_of(args.v_opacities, batch, b, first);
    v_colors_ = camera_of(args.v_colors, batch, b, args.in.shared_colors ? 0 : first * n_channels_);
    v_background_ = camera_of(args.v_background, batch, b,
                              args.in.shared_background ? 0 : camera * n_channels_);
  }

  // Shared colours and background collect from all cameras, so only the first one clears them.
  void clear(const BlendBackward<T>& args, int64_t camera) const {
    const int64_t n = args.in.splats.n;
    const auto zero = [](T* data, int64_t size) {
      if (data) std::fill(data, data + size, T(0));
    };
    zero(v_means2d_, 2 * n);
    zero(v_means2d_abs_, 2 * n);
    zero(v_depths_, n);
    zero(v_conics_, 3 * n);
    zero(v_opacities_, n);
    if (camera == 0 || !args.in.shared_colors) zero(v_colors_, n * n_channels_);
    if (camera == 0 || !args.in.shared_background) zero(v_background_, n_channels_);
  }

  void add(const ImageSplats<T>& splats, int64_t id, const T* moments, int64_t n_instances) const {
    const int64_t slot_size = kMoments + n_channels_;
    T m[kMoments] = {};
    for (int64_t i = 0; i < n_instances; ++i) {
      for (int j = 0; j < kMoments; ++j) m[j] += moments[i * slot_size + j];
    }
    const SplatGradient<T> g =
        splat_gradient(load_sym2(splats.conics, id), splats.opacities[id], m);
    v_means2d_[2 * id] += g.mean2d.x;
    v_means2d_[2 * id + 1] += g.mean2d.y;
    v_conics_[3 * id] += g.conic.xx;
    v_conics_[3 * id + 1] += g.conic.xy;
    v_conics_[3 * id + 2] += g.conic.yy;
    v_opacities_[id] += g.opacity;
    v_depths_[id] += g.depth;
    if (v_means2d_abs_) {
      v_means2d_abs_[2 * id] += g.mean2d_abs.x;
      v_means2d_abs_[2 * id + 1] += g.mean2d_abs.y;
    }
    if (!v_colors_) return;
    for (int64_t d = 0; d < n_channels_; ++d) {
      T sum = T(0);
      for (int64_t i = 0; i < n_instances; ++i) sum += moments[i * slot_size + kMoments + d];
      v_colors_[id * n_channels_ + d] += sum;
    }
  }

  void add_background(const double* sum) const {
    for (int64_t d = 0; d < n_channels_; ++d) v_background_[d] += static_cast<T>(sum[d]);
  }
  bool wants_background() const { return v_background_ != nullptr; }

 private:
  int64_t n_channels_;
  T* v_means2d_;
  T* v_means2d_abs_;
  T* v_depths_;
  T* v_conics_;
  T* v_opacities_;
  T* v_colors_;
  T* v_background_;
};

template <typename T>
void forward_camera(ThreadPool& pool, const BlendForward<T>& args, int64_t b, int64_t camera,
                    const Scratch<T>& scratch) {
  const BlendInputs<T>& in = args.in;
  const CameraInputs<T> inputs(in, b, camera);
  const BatchShape& batch = in.splats.batch;
  const int64_t first_pixel = camera * in.splats.width * in.splats.height;
  const TileIndex<T> index(pool, in.splats, inputs.splats, inputs.order, inputs.colors,
                           in.n_channels);
  const int32_t n_isects = static_cast<int32_t>(
      std::min<int64_t>(index.n_instances(), std::numeric_limits<int32_t>::max()));
  *camera_of(args.n_isects, batch, b, camera) = n_isects;
  *camera_of(args.n_isects_listed, batch, b, camera) = n_isects;
  const std::vector<int64_t> groups = index.groups(sizeof(int32_t));
  for (size_t g = 0; g + 1 < groups.size(); ++g) {
    const TileLists<T> lists(pool, index, groups[g], groups[g + 1], /*with_slots=*/false);
    const auto blend_tiles = [&](int64_t worker, int64_t begin, int64_t end) {
      for (int64_t tile = groups[g] + begin; tile < groups[g] + end; ++tile) {
        blend_kernels<T>().forward({make_tile(in, inputs, index, lists, tile, scratch.of(worker)),
                                    camera_of(args.image, batch, b, first_pixel * in.n_channels),
                                    camera_of(args.depth, batch, b, first_pixel),
                                    camera_of(args.weight, batch, b, first_pixel),
                                    camera_of(args.transmittance, batch, b, first_pixel),
                                    camera_of(args.last, batch, b, first_pixel),
                                    camera_of(args.median, batch, b, first_pixel)});
      }
    };
    parallel_for(pool, groups[g + 1] - groups[g], 1, blend_tiles);
  }
}

template <typename T>
void backward_camera(ThreadPool& pool, const BlendBackward<T>& args, int64_t b, int64_t camera,
                     const Scratch<T>& scratch) {
  const BlendInputs<T>& in = args.in;
  const CameraInputs<T> inputs(in, b, camera);
  const BatchShape& batch = in.splats.batch;
  const int64_t first_pixel = camera * in.splats.width * in.splats.height;
  const SplatGradients<T> gradients(args, b, camera);
  gradients.clear(args, camera);
  const TileIndex<T> index(pool, in.splats, inputs.splats, inputs.order, inputs.colors,
                           in.n_channels);
  const int64_t slot_size = kMoments + in.n_channels;
  std::vector<double> v_background(in.n_channels, 0.0);
  const std::vector<int64_t> groups =
      index.groups(sizeof(int32_t) + sizeof(uint32_t) + slot_size * sizeof(T));
  for (size_t g = 0; g + 1 < groups.size(); ++g) {
    const int64_t n_tiles = groups[g + 1] - groups[g];
    const TileLists<T> lists(pool, index, groups[g], groups[g + 1], /*with_slots=*/true);
    const auto moments = make_array<T>(lists.n_instances() * slot_size);
    std::vector<T> v_tile_background;
    if (gradients.wants_background()) v_tile_background.assign(n_tiles * in.n_channels, T(0));
    parallel_for(pool, n_tiles, 1, [&](int64_t worker, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t tile = groups[g] + i;
        blend_kernels<T>().backward(
            {make_tile(in, inputs, index, lists, tile, scratch.of(worker)),
             camera_of(args.depth, batch, b, first_pixel),
             camera_of(args.weight, batch, b, first_pixel),
             camera_of(args.transmittance, batch, b, first_pixel),
             camera_of(args.last, batch, b, first_pixel),
             camera_of(args.v_image, batch, b, first_pixel * in.n_channels),
             camera_of(args.v_depth, batch, b, first_pixel),
             camera_of(args.v_weight, batch, b, first_pixel), lists.slots(tile), moments.get(),
             args.v_means2d_abs.data != nullptr,
             v_tile_background.empty() ? nullptr : &v_tile_background[i * in.n_channels]});
      }
    });
    parallel_for(pool, index.n_splats(), kSplatGrain, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t id = begin; id < end; ++id) {
        const int64_t n_instances = lists.slot_end(id) - lists.slot_begin(id);
        if (n_instances == 0) continue;
        gradients.add(inputs.splats, id, moments.get() + lists.slot_begin(id) * slot_size,
                      n_instances);
      }
    });
    for (size_t i = 0; i < v_tile_background.size(); ++i) {
      v_background[i % in.n_channels] += v_tile_background[i];
    }
  }
  if (gradients.wants_background()) gradients.add_background(v_background.data());
}

// Cameras run one after the other, each on all threads: shared gradients collect in their order.
template <typename T, typename Body>
void for_each_camera(ThreadPool& pool, const BlendInputs<T>& in, const Body& body) {
  const Scratch<T> scratch(max_workers(pool), tile_scratch(in.n_channels));
  for (int64_t b = 0; b < in.splats.batch.count(); ++b) {
    for (int64_t camera = 0; camera < in.splats.n_cameras; ++camera) body(b, camera, scratch);
  }
}

}  // namespace

template <typename T>
void blend_forward(ThreadPool& pool, const BlendForward<T>& args) {
  for_each_camera(pool, args.in, [&](int64_t b, int64_t camera, const Scratch<T>& scratch) {
    forward_camera(pool, args, b, camera, scratch);
  });
}

template <typename T>
void blend_backward(ThreadPool& pool, const BlendBackward<T>& args) {
  for_each_camera(pool, args.in, [&](int64_t b, int64_t camera, const Scratch<T>& scratch) {
    backward_camera(pool, args, b, camera, scratch);
  });
}

#define JGD_INSTANTIATE(T)                                               \
  template void blend_forward<T>(ThreadPool&, const BlendForward<T>&);   \
  template void blend_backward<T>(ThreadPool&, const BlendBackward<T>&);
JGD_INSTANTIATE(float)
JGD_INSTANTIATE(double)
#undef JGD_INSTANTIATE

}  // namespace jgd::cpu
