// Sums the moments of splats over their tiles and makes gradients of them, kLanes splats at a time.
//
// The slots of consecutive splats are consecutive too: everything is read and written in order.

#include "cpu/kernels/splat_gradient.h"

#include "cpu/simd/pack.h"
#include "cpu/simd/pack_arrays.h"
#include "cpu/simd/shuffle.h"

namespace jgd::cpu::JGD_ISA {
namespace {

// Numbers of a slot that are added as vectors: the moments and the first channels.
template <typename T>
inline constexpr int kRow = (kMoments + Simd<T>::kLanes - 1) / Simd<T>::kLanes * Simd<T>::kLanes;

static_assert(kMoments + kSlotPadding >= kRow<float>);
static_assert(kMoments + kSlotPadding >= kRow<double>);

// Adds the first kRow numbers of the slots of splat `id`, in the order of the slots. Where a slot
// is shorter, numbers behind it are read as well and never used.
template <typename T>
void sum_slots(const SplatGradientSums<T>& args, int64_t id, typename Simd<T>::V* row) {
  constexpr int kVectors = kRow<T> / Simd<T>::kLanes;
  const int64_t slot_size = kMoments + args.n_channels;
  for (int i = 0; i < kVectors; ++i) row[i] = typename Simd<T>::V{};
  for (int64_t slot = args.slot_begin[id]; slot < args.slot_begin[id + 1]; ++slot) {
    for (int i = 0; i < kVectors; ++i) {
      const T* moments = args.moments + slot * slot_size + i * Simd<T>::kLanes;
      row[i] += *reinterpret_cast<const typename Simd<T>::Unaligned*>(moments);
    }
  }
}

// Writes the gradient of the colour of splat `id`, from its row as far as the row goes.
template <typename T>
void put_colors(const SplatGradientSums<T>& args, int64_t id, const T* row) {
  const int64_t slot_size = kMoments + args.n_channels;
  T* v = args.v_colors + id * args.n_channels;
  for (int64_t d = 0; d < args.n_channels; ++d) {
    T sum = T(0);
    if (kMoments + d < kRow<T>) {
      sum = row[kMoments + d];
    } else {
      for (int64_t slot = args.slot_begin[id]; slot < args.slot_begin[id + 1]; ++slot) {
        sum += args.moments[slot * slot_size + kMoments + d];
      }
    }
    v[d] = args.add_colors ? v[d] + sum : sum;
  }
}

// Writes the fields of n records, or adds to them.
template <int kFields, typename T>
void put(T* data, int64_t i, int n, const Pack<T> (&fields)[kFields], bool add) {
  Pack<T> values[kFields];
  if (add) load_fields<kFields>(data + kFields * i, n, values);
  for (int f = 0; f < kFields; ++f) values[f] = add ? values[f] + fields[f] : fields[f];
  store_fields<kFields>(data + kFields * i, n, values);
}

template <typename T>
void sum(const SplatGradientSums<T>& args, int64_t begin, int64_t end) {
  constexpr int kLanes = Simd<T>::kLanes;
  constexpr int kVectors = kRow<T> / kLanes;
  for (int64_t id = begin; id < end; id += kLanes) {
    const int n = pack_size<T>(id, end);
    typename Simd<T>::V rows[kLanes][kVectors] = {};
    PackInt<T> n_slots(0);
    for (int lane = 0; lane < n; ++lane) {
      sum_slots(args, id + lane, rows[lane]);
      n_slots.i[lane] = args.slot_begin[id + lane + 1] > args.slot_begin[id + lane];
      if (args.v_colors) put_colors(args, id + lane, reinterpret_cast<const T*>(rows[lane]));
    }
    Pack<T> m[kRow<T>];
    for (int i = 0; i < kVectors; ++i) {
      typename Simd<T>::V columns[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) columns[lane] = rows[lane][i];
      transpose(columns);
      for (int lane = 0; lane < kLanes; ++lane) m[i * kLanes + lane] = Pack<T>(columns[lane]);
    }
    // The parameters of a splat that was not drawn may be anything.
    const PackMask<T> drawn = n_slots > PackInt<T>(0);
    const Sym2<Pack<T>> conic = select(drawn, load_sym2(args.conics, id, n), Sym2<Pack<T>>{});
    const Pack<T> opacity = select(drawn, load(args.opacities, id, n), Pack<T>(1));
    const SplatGradient<Pack<T>> g = splat_gradient(conic, opacity, m);
    put(args.v_means2d, id, n, {g.mean2d.x, g.mean2d.y}, args.add);
    put(args.v_conics, id, n, {g.conic.xx, g.conic.xy, g.conic.yy}, args.add);
    put(args.v_opacities, id, n, {g.opacity}, args.add);
    put(args.v_depths, id, n, {g.depth}, args.add);
    if (args.v_means2d_abs) {
      put(args.v_means2d_abs, id, n, {g.mean2d_abs.x, g.mean2d_abs.y}, args.add);
    }
  }
}

}  // namespace

extern const SplatGradientKernels<float> kSplatGradientFloat;
extern const SplatGradientKernels<double> kSplatGradientDouble;
const SplatGradientKernels<float> kSplatGradientFloat{sum<float>};
const SplatGradientKernels<double> kSplatGradientDouble{sum<double>};

}  // namespace jgd::cpu::JGD_ISA
