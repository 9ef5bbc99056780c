// Shades Gaussians, kLanes drawn ones at a time, wherever they lie in their chunk.
//
// A culled Gaussian costs nothing and its coefficients are not read. The coefficients of a Gaussian
// lie in a row; a block of kLanes rows and kLanes columns is loaded and transposed in registers.

#include "cpu/kernels/shade.h"

#include "cpu/simd/pack.h"
#include "cpu/simd/pack_arrays.h"
#include "cpu/simd/shuffle.h"

namespace jgd::cpu::JGD_ISA {
namespace {

// Gaussians whose outputs are cleared before the drawn ones are written; small enough for the cache
// to keep the outputs in between.
constexpr int kChunk = 256;

// Offsets of the drawn Gaussians of a chunk, ascending.
struct Drawn {
  int count = 0;
  int offsets[kChunk];
  void add_if(bool drawn, int offset) {
    offsets[count] = offset;
    count += drawn;
  }
};

// Cuts rows of kColumns numbers into blocks of as many columns as lanes. If kColumns is no multiple
// of the lanes, the last block overlaps the one before, and a single block is cut off.
template <typename T, int kColumns>
struct Blocks {
  static constexpr int kLanes = Simd<T>::kLanes;
  static constexpr int kWidth = kColumns < kLanes ? kColumns : kLanes;
  static constexpr int kCount = (kColumns + kLanes - 1) / kLanes;
  static constexpr int first_column(int block) {
    return block + 1 < kCount ? block * kLanes : kColumns - kWidth;
  }
};

// The rows of kLanes drawn Gaussians, or of fewer at the end, in an array [kChunk][stride].
template <int kColumns, typename T>
struct Rows {
  using B = Blocks<T, kColumns>;
  using V = typename Pack<T>::V;

  // Loads one pack for each column; the lanes beyond the end are 0.
  static void load(const T* data, int64_t stride, const Drawn& drawn, int first, Pack<T>* columns) {
    static const T zeros[kColumns] = {};
    const T* rows[B::kLanes];
    for (int lane = 0; lane < B::kLanes; ++lane) {
      const int k = first + lane;
      rows[lane] = k < drawn.count ? data + drawn.offsets[k] * stride : zeros;
    }
    for (int block = 0; block < B::kCount; ++block) {
      const int column = B::first_column(block);
      V v[B::kLanes];
      for (int lane = 0; lane < B::kLanes; ++lane) {
        v[lane] = load_first<B::kWidth>(rows[lane] + column);
      }
      transpose(v);
      for (int k = 0; k < B::kWidth; ++k) columns[column + k].v = v[k];
    }
  }

  static void store(T* data, int64_t stride, const Drawn& drawn, int first,
                    const Pack<T>* columns) {
    for (int block = 0; block < B::kCount; ++block) {
      const int column = B::first_column(block);
      V v[B::kLanes];
      for (int k = 0; k < B::kLanes; ++k) v[k] = k < B::kWidth ? columns[column + k].v : V{};
      transpose(v);
      for (int lane = 0; lane < B::kLanes && first + lane < drawn.count; ++lane) {
        std::memcpy(data + drawn.offsets[first + lane] * stride + column, &v[lane],
                    B::kWidth * sizeof(T));
      }
    }
  }

  // Adds the columns to the rows in the array, which are not read if they are known to be 0. Even
  // then 0 is added, which changes the sign of -0: the sum over cameras has the same bits as the
  // sum of single cameras.
  static void add(bool is_zero, T* data, int64_t stride, const Drawn& drawn, int first,
                  Pack<T>* columns) {
    Pack<T> before[kColumns] = {};
    if (!is_zero) load(data, stride, drawn, first, before);
    for (int k = 0; k < kColumns; ++k) columns[k] += before[k];
    store(data, stride, drawn, first, columns);
  }

  // Prefetches the rows of the pack that begins at `first`, which are too far apart for the
  // hardware prefetcher.
  static void prefetch(const T* data, int64_t stride, const Drawn& drawn, int first) {
    for (int k = first; k < first + B::kLanes && k < drawn.count; ++k) {
      const char* row = reinterpret_cast<const char*>(data + drawn.offsets[k] * stride);
      for (size_t byte = 0; byte < kColumns * sizeof(T); byte += 64) {
        __builtin_prefetch(row + byte);
      }
    }
  }
};

template <typename T>
Vec3<Pack<T>> load_vec3(const T* data, const Drawn& drawn, int first) {
  Pack<T> v[3];
  Rows<3, T>::load(data, 3, drawn, first, v);
  return {v[0], v[1], v[2]};
}

template <typename T>
Vec3<Pack<T>> offset_from(const Vec3<T>& center, const Vec3<Pack<T>>& mean) {
  return mean - Vec3<Pack<T>>{center.x, center.y, center.z};
}

template <typename T, int kDegree>
void forward(const ShadeSceneForward<T>& args, int64_t begin, int64_t end) {
  constexpr int kLanes = Simd<T>::kLanes;
  constexpr int kUsed = 3 * sh_bases(kDegree);
  using Coefficients = Rows<kUsed, T>;
  const ShadeScene<T>& in = args.in;
  const int64_t stride = 3 * in.n_bases;
  const Pack<T> nan(kNaN<T>);
  for (int64_t i = begin; i < end; i += kChunk) {
    const int n = end - i < kChunk ? static_cast<int>(end - i) : kChunk;
    for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
      const int64_t j = camera * in.n + i;
      Drawn drawn;
      for (int k = 0; k < n; ++k) drawn.add_if(!in.radii || in.radii[j + k] > 0, k);
      std::memset(args.colors + 3 * j, 0, 3 * n * sizeof(T));
      Coefficients::prefetch(in.sh + stride * i, stride, drawn, 0);
      for (int k = 0; k < drawn.count; k += kLanes) {
        Coefficients::prefetch(in.sh + stride * i, stride, drawn, k + kLanes);
        Pack<T> sh[kUsed];
        Coefficients::load(in.sh + stride * i, stride, drawn, k, sh);
        const Vec3<Pack<T>> mean = load_vec3(in.means + 3 * i, drawn, k);
        const Vec3<Pack<T>> color =
            sh_color_of_degree<kDegree>(sh, offset_from(in.centers[camera], mean), in.convention);
        const Vec3<Pack<T>> result =
            select(all_finite(sh, kUsed), color, Vec3<Pack<T>>{nan, nan, nan});
        const Pack<T> channels[3] = {result.x, result.y, result.z};
        Rows<3, T>::store(args.colors + 3 * j, 3, drawn, k, channels);
      }
    }
  }
}

template <typename T>
void add(Vec3<double>& sum, const Vec3<Pack<T>>& v) {
  const typename Pack<T>::V channels[3] = {v.x.v, v.y.v, v.z.v};
  T sums[3];
  store_sums(sums, channels);
  sum.x += sums[0];
  sum.y += sums[1];
  sum.z += sums[2];
}

// Finds the Gaussians with a cotangent. One without was not drawn, possibly because a parameter is
// not finite, and 0 times that parameter would be NaN.
template <typename T>
Drawn find_drawn(const ShadeSceneBackward<T>& args, int64_t j, int n) {
  Drawn drawn;
  const int32_t* radii = args.in.radii;
  for (int k = 0; k < n; ++k) {
    const T* v = args.v_colors + 3 * (j + k);
    const bool visible = !radii || radii[j + k] > 0;
    drawn.add_if(visible & ((v[0] != T(0)) | (v[1] != T(0)) | (v[2] != T(0))), k);
  }
  return drawn;
}

template <typename T, int kDegree>
void backward(const ShadeSceneBackward<T>& args, int64_t begin, int64_t end,
              Vec3<double>* v_offsets) {
  constexpr int kLanes = Simd<T>::kLanes;
  constexpr int kUsed = 3 * sh_bases(kDegree);
  using Coefficients = Rows<kUsed, T>;
  const ShadeScene<T>& in = args.in;
  const int64_t stride = 3 * in.n_bases;
  const Pack<T> zero(0);
  const Vec3<Pack<T>> zero3{zero, zero, zero};
  for (int64_t i = begin; i < end; i += kChunk) {
    const int n = end - i < kChunk ? static_cast<int>(end - i) : kChunk;
    if (args.v_means) std::memset(args.v_means + 3 * i, 0, 3 * n * sizeof(T));
    if (args.v_sh) std::memset(args.v_sh + stride * i, 0, stride * n * sizeof(T));
    for (int64_t camera = 0; camera < in.n_cameras; ++camera) {
      const int64_t j = camera * in.n + i;
      const Drawn drawn = find_drawn(args, j, n);
      Coefficients::prefetch(in.sh + stride * i, stride, drawn, 0);
      for (int k = 0; k < drawn.count; k += kLanes) {
        Coefficients::prefetch(in.sh + stride * i, stride, drawn, k + kLanes);
        Pack<T> sh[kUsed], v_sh[kUsed];
        Coefficients::load(in.sh + stride * i, stride, drawn, k, sh);
        const Vec3<Pack<T>> offset =
            offset_from(in.centers[camera], load_vec3(in.means + 3 * i, drawn, k));
        // Where the cotangent is 0 all gradients are 0; the lanes beyond the end have none either.
        const PackMask<T> finite = all_finite(sh, kUsed);
        const Vec3<Pack<T>> v_color =
            select(finite, load_vec3(args.v_colors + 3 * j, drawn, k), zero3);
        Vec3<Pack<T>> v_offset;
        sh_color_of_degree_vjp<kDegree>(sh, offset, in.convention, v_color, v_sh, v_offset);
        v_offset = select(finite, v_offset, zero3);
        if (args.v_sh) {
          Coefficients::add(camera == 0, args.v_sh + stride * i, stride, drawn, k, v_sh);
        }
        if (v_offsets) add(v_offsets[camera], v_offset);
        if (args.v_means) {
          Pack<T> v_mean[3] = {v_offset.x, v_offset.y, v_offset.z};
          Rows<3, T>::add(camera == 0, args.v_means + 3 * i, 3, drawn, k, v_mean);
        }
      }
    }
  }
}

}  // namespace

#define JGD_KERNELS(T)                                                             \
  {forward<T, 0>, forward<T, 1>, forward<T, 2>, forward<T, 3>, forward<T, 4>}, {   \
    backward<T, 0>, backward<T, 1>, backward<T, 2>, backward<T, 3>, backward<T, 4> \
  }
extern const ShadeKernels<float> kShadeFloat;
extern const ShadeKernels<double> kShadeDouble;
const ShadeKernels<float> kShadeFloat{JGD_KERNELS(float)};
const ShadeKernels<double> kShadeDouble{JGD_KERNELS(double)};

}  // namespace jgd::cpu::JGD_ISA
