// Keys of a datastore: how far a query is from them, exactly, and by what a bit a number says of them.
//
// A code has a bit for each number of a key less its centre: whether it is above zero (RaBitQ, Gao 2024, arXiv
// 2405.12497, without the rotation). With s = ±1 as the bits say, and r the key less its centre,
//     r·x ≈ |r|² / |r|₁ · s·x       for the query less the centre, x, which is taken in sixteen steps: four planes of bits,
// so that s·x is counted and not multiplied.
#pragma once
#include <bit>

#include "numbers.h"

namespace {

OB_INLINE Vf load_half_some(const uint16_t* p, int n) {
  if (n >= 16) return load_half(p);
  uint16_t sixteen[16] = {};
  std::memcpy(sixteen, p, 2 * (size_t)n);
  return load_half(sixteen);
}

float apart(const float* q, const uint16_t* key, int width) {
  Vf total = zero(), other = zero();
  int i = 0;
  for (; i + 32 <= width; i += 32) {
    Vf a = load(q + i) - load_half(key + i), b = load(q + i + 16) - load_half(key + i + 16);
    total = fma(a, a, total), other = fma(b, b, other);
  }
  for (; i < width; i += 16) {
    Vf a = load_some(q + i, width - i) - load_half_some(key + i, width - i);
    total = fma(a, a, total);
  }
  return sum(total + other);
}

// The query less a centre, in steps: `levels` has room for 64 bytes a word of a code, `planes` for kPlanes words of it.
void ask(const float* q, const uint16_t* centre, int width, int8_t* levels, uint64_t* planes, Asked* out) {
  constexpr float kSteps = (1 << kPlanes) - 1;
  int words = (width + 63) / 64;
  float top = -INFINITY, bottom = INFINITY, square = 0;
  Vf tops = set(top), bottoms = set(bottom), squares = zero();
  for (int i = 0; i < width; i += 16) {
    int n = width - i;
    Vf x = load_some(q + i, n) - load_half_some(centre + i, n);
    squares = fma(x, x, squares);  // past the end both are zero
    if (n >= 16) {
      tops = larger(tops, x), bottoms = smaller(bottoms, x);
    } else {
      float some[16];
      store(some, x);
      for (int j = 0; j < n; j++) top = std::fmax(top, some[j]), bottom = std::fmin(bottom, some[j]);
    }
  }
  top = std::fmax(top, largest(tops));
  bottom = std::fmin(bottom, -largest(zero() - bottoms));
  square = sum(squares);
  float step = top > bottom ? (top - bottom) / kSteps : 1.f;
  Vf low = set(bottom), by = set(1.f / step);
  std::memset(levels, 0, 64 * (size_t)words);
  for (int i = 0; i < width; i += 16) {
    int n = width - i;
    Vf x = (load_some(q + i, n) - load_half_some(centre + i, n) - low) * by;
    store_int8(levels + i, to_int(larger(smaller(some(x, n), set(kSteps)), zero())));
  }
  int64_t sum_of_levels = 0;
  for (int w = 0; w < words; w++) {
    uint64_t plane[kPlanes] = {};
    for (int at = 0; at < 8; at++) {
      uint64_t eight;
      std::memcpy(&eight, levels + 64 * w + 8 * at, 8);
      // One bit of each of eight bytes, moved together: byte k's is bit k.
      for (int j = 0; j < kPlanes; j++)
        plane[j] |= ((eight >> j & 0x0101010101010101ull) * 0x0102040810204080ull >> 56) << 8 * at;
    }
    for (int j = 0; j < kPlanes; j++) {
      planes[j * words + w] = plane[j];
      sum_of_levels += (int64_t)std::popcount(plane[j]) << j;
    }
  }
  *out = {planes, words, bottom, step, bottom * (float)width + step * (float)sum_of_levels, square};
}

template <int kWords> OB_INLINE float inner(const Asked& x, const uint64_t* code) {
  int words = kWords ? kWords : x.words, ones = 0, levels = 0, w = 0;
#ifdef OB_COUNTS
  static_assert(kPlanes == 4);
  for (; w + 8 <= words; w += 8) {
    uint64_t both = counted(code + w, x.planes + w, words);
    ones += (int)(both >> 32), levels += (int)(uint32_t)both;
  }
#endif
  for (; w < words; w++) {
    uint64_t b = code[w];
    ones += std::popcount(b);
    for (int j = 0; j < kPlanes; j++) levels += std::popcount(b & x.planes[j * words + w]) << j;
  }
  return 2.f * (x.low * (float)ones + x.step * (float)levels) - x.total;
}

// Squared distances, about. `sizes`: |r|² and |r|² / |r|₁ of each key.
template <int kWords> OB_INLINE void estimate_of(const Asked& x, const uint64_t* codes, const float* sizes, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i++)
    out[i] = sizes[2 * i] + x.square - 2.f * sizes[2 * i + 1] * inner<kWords>(x, codes + i * x.words);
}

void estimate(const Asked& x, const uint64_t* codes, const float* sizes, int64_t count, float* out) {
  x.words == 9 ? estimate_of<9>(x, codes, sizes, count, out) : estimate_of<0>(x, codes, sizes, count, out);
}

}  // namespace
