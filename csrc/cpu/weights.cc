// Finds the weights of each image on all threads; kernels/ walks one tile.
//
// As in blend.cc, each tile of a splat stores what it adds in a slot of its own, and the slots are
// added in their order: the same bits for any number of threads.

#include "cpu/weights.h"

#include <algorithm>

#include "cpu/dispatch.h"
#include "cpu/memory.h"
#include "cpu/tile_lists.h"
#include "cpu/tile_loop.h"

namespace jgd::cpu {
namespace {

constexpr const char* kPurpose = "the weights of the splats in each tile";

constexpr int64_t kSplatGrain = 8192;

// The statistics of one camera's splats; null if they are not wanted.
template <typename T>
struct Statistics {
  T* largest;
  T* total;
  int32_t* n_pixels;
  Vector<double> sums;  // behind total: thousands of tiles may add to a splat

  Statistics(const WeightsForward<T>& args, int64_t b, int64_t camera)
      : largest(of(args, args.largest, b, camera)),
        total(of(args, args.total, b, camera)),
        n_pixels(of(args, args.n_pixels, b, camera)),
        sums(largest ? args.in.splats.n : 0, kPurpose) {
    if (!largest) return;
    std::fill_n(largest, args.in.splats.n, T(0));
    std::fill_n(n_pixels, args.in.splats.n, 0);
  }

  void add(const TileLists<T>& lists, const SplatWeights<T>* parts, int64_t begin, int64_t end) {
    for (int64_t id = begin; id < end; ++id) {
      for (int64_t slot = lists.slot_begin()[id]; slot < lists.slot_begin()[id + 1]; ++slot) {
        largest[id] = std::max(largest[id], parts[slot].largest);
        sums[id] += static_cast<double>(parts[slot].total);
        n_pixels[id] += parts[slot].n_pixels;
      }
      total[id] = static_cast<T>(sums[id]);
    }
  }

 private:
  template <typename Number>
  static Number* of(const WeightsForward<T>& args, const Batched<Number>& array, int64_t b,
                    int64_t camera) {
    return camera_of(array, args.in.splats.batch, b, camera * args.in.splats.n);
  }
};

template <typename T>
void weights_camera(ThreadPool& pool, const WeightsForward<T>& args, int64_t b, int64_t camera) {
  const BlendInputs<T>& in = args.in;
  const CameraInputs<T> inputs(in, b, camera);
  const BatchShape& batch = in.splats.batch;
  const int64_t first_pixel = camera * in.splats.width * in.splats.height;
  const TileIndex<T> index(pool, in.splats, inputs.splats, inputs.order, inputs.colors,
                           in.n_channels);
  Statistics<T> statistics(args, b, camera);
  const bool counted = statistics.largest != nullptr;
  TileWeights<T> outputs{};
  outputs.k = args.k;
  outputs.ids = camera_of(args.ids, batch, b, first_pixel * args.k);
  outputs.weights = camera_of(args.weights, batch, b, first_pixel * args.k);
  const Vector<int64_t> groups =
      index.groups(sizeof(int32_t) + (counted ? sizeof(uint32_t) + sizeof(SplatWeights<T>) : 0));
  for (size_t g = 0; g + 1 < groups.size(); ++g) {
    const TileLists<T> lists(pool, index, groups[g], groups[g + 1], /*with_slots=*/counted);
    const auto parts = make_array<SplatWeights<T>>(counted ? lists.n_instances() : 0, kPurpose);
    for_each_tile(pool, index, groups[g], groups[g + 1], [&](int64_t, int64_t tile) {
      TileWeights<T> weights = outputs;
      weights.tile = make_tile(in, inputs, index, lists, tile, static_cast<T*>(nullptr));
      if (counted) {
        weights.slots = lists.slots(tile);
        weights.parts = parts.get();
      }
      kernels<T>().weights->tile(weights);
    });
    if (!counted) continue;
    parallel_for(pool, in.splats.n, kSplatGrain, [&](int64_t, int64_t begin, int64_t end) {
      statistics.add(lists, parts.get(), begin, end);
    });
  }
}

}  // namespace

template <typename T>
void weights_forward(ThreadPool& pool, const WeightsForward<T>& args) {
  for (int64_t b = 0; b < args.in.splats.batch.count(); ++b) {
    for (int64_t camera = 0; camera < args.in.splats.n_cameras; ++camera) {
      weights_camera(pool, args, b, camera);
    }
  }
}

#define JGD_INSTANTIATE(T) template void weights_forward<T>(ThreadPool&, const WeightsForward<T>&);
JGD_INSTANTIATE(float)
JGD_INSTANTIATE(double)
#undef JGD_INSTANTIATE

}  // namespace jgd::cpu
