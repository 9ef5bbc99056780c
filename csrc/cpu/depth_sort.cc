// Sorts splats by depth: a stable radix sort, least significant digit first.
//
// The items are cut into pieces. Where the items of a piece with a given digit go follows from the
// counts of all pieces, so that the pieces can be moved at the same time. A stable sort has only
// one result, however the pieces are cut.

#include "cpu/depth_sort.h"

#include <algorithm>
#include <utility>

#include "math/blend.h"

namespace jgd::cpu {
namespace {

constexpr const char* kPurpose = "sorting the splats by depth";

constexpr int64_t kPiece = 16384;
// Bits of a digit: few items get few counters, because all of them are cleared and added up.
int digit_bits(int64_t n) { return n < 4096 ? 8 : 11; }

template <typename Key>
struct Item {
  Key key;
  int32_t id;
};

template <typename Key>
struct Piece {
  Item<Key>* items;
  int64_t n;
};

template <typename Body>
void for_each_piece(ThreadPool& pool, int64_t n_pieces, const Body& body) {
  parallel_for(pool, n_pieces, 1, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) body(piece);
  });
}

// Collects the drawn splats in a piece for every kPiece indices. The others stand at the end of the
// piece's part of `items`, in reverse.
template <typename T, typename Key>
Vector<Piece<Key>> find_items(ThreadPool& pool, const ImageSplats<T>& splats, int64_t n,
                              Item<Key>* items) {
  Vector<Piece<Key>> pieces((n + kPiece - 1) / kPiece, kPurpose);
  for_each_piece(pool, pieces.size(), [&](int64_t piece) {
    const int64_t begin = piece * kPiece;
    const int64_t end = std::min(n, begin + kPiece);
    Item<Key>* drawn = items + begin;
    Item<Key>* culled = items + end;
    for (int64_t id = begin; id < end; ++id) {
      if (splats.drawable(id)) {
        *drawn++ = {depth_key(splats.depths[id]), static_cast<int32_t>(id)};
      } else {
        (--culled)->id = static_cast<int32_t>(id);
      }
    }
    pieces[piece] = {items + begin, drawn - (items + begin)};
  });
  return pieces;
}

// One pass by the digit at `shift`; `move(place, item)` puts an item where it belongs.
template <typename Key, typename Move>
void sort_by_digit(ThreadPool& pool, const Vector<Piece<Key>>& pieces, int shift,
                   Vector<int64_t>& places, const Move& move) {
  const int64_t n_digits = pieces.empty() ? 0 : places.size() / pieces.size();
  const auto digit = [shift, n_digits](const Item<Key>& item) {
    return static_cast<int64_t>(item.key >> shift) & (n_digits - 1);
  };
  std::fill(places.begin(), places.end(), 0);
  for_each_piece(pool, pieces.size(), [&](int64_t piece) {
    int64_t* counts = &places[piece * n_digits];
    for (int64_t i = 0; i < pieces[piece].n; ++i) ++counts[digit(pieces[piece].items[i])];
  });
  int64_t place = 0;
  for (int64_t d = 0; d < n_digits; ++d) {
    for (size_t i = d; i < places.size(); i += n_digits) place += std::exchange(places[i], place);
  }
  for_each_piece(pool, pieces.size(), [&](int64_t piece) {
    int64_t* next = &places[piece * n_digits];
    for (int64_t i = 0; i < pieces[piece].n; ++i) {
      const Item<Key> item = pieces[piece].items[i];
      move(next[digit(item)]++, item);
    }
  });
}

}  // namespace

template <typename T>
void depth_order(ThreadPool& pool, const ImageSplats<T>& splats, int64_t n, int32_t* order) {
  using Key = decltype(depth_key(T(0)));
  constexpr int kKeyBits = 8 * sizeof(Key);
  const auto items = make_array<Item<Key>>(n, kPurpose);
  const auto other = make_array<Item<Key>>(n, kPurpose);
  Vector<Piece<Key>> pieces = find_items(pool, splats, n, items.get());
  int64_t n_drawn = 0;
  for (const Piece<Key>& piece : pieces) n_drawn += piece.n;
  int32_t* culled = order + n_drawn;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const int64_t end = std::min<int64_t>(kPiece, n - i * kPiece);
    for (int64_t k = end; k > pieces[i].n; --k) *culled++ = pieces[i].items[k - 1].id;
  }

  const int bits = digit_bits(n);
  Vector<int64_t> places(pieces.size() << bits, kPurpose);
  Item<Key>* from = items.get();
  Item<Key>* to = other.get();
  for (int shift = 0; shift < kKeyBits; shift += bits) {
    if (shift + bits >= kKeyBits) {
      sort_by_digit(pool, pieces, shift, places,
                    [&](int64_t place, const Item<Key>& item) { order[place] = item.id; });
      break;
    }
    sort_by_digit(pool, pieces, shift, places,
                  [&](int64_t place, const Item<Key>& item) { to[place] = item; });
    std::swap(from, to);
    for (size_t i = 0; i < pieces.size(); ++i) {  // the pieces have no gaps from now on
      const int64_t begin = std::min<int64_t>(i * kPiece, n_drawn);
      pieces[i] = {from + begin, std::min<int64_t>(kPiece, n_drawn - begin)};
    }
  }
}

template void depth_order<float>(ThreadPool&, const ImageSplats<float>&, int64_t, int32_t*);
template void depth_order<double>(ThreadPool&, const ImageSplats<double>&, int64_t, int32_t*);

}  // namespace jgd::cpu
