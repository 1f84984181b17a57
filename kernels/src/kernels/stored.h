// Keys and values as caches store them.
#pragma once
#include "numbers.h"

namespace {

constexpr float kUp = 1.f + 1.f / 128.f;      // see openbook/lm/cache/codecs.py, whose arithmetic this is
constexpr float kLeast = 1.1754943508e-38f;

OB_INLINE float one_bf16(uint16_t b) {
  uint32_t whole = (uint32_t)b << 16;
  float f;
  std::memcpy(&f, &whole, 4);
  return f;
}

OB_INLINE float rounded(float x, uint16_t* bits) {
  uint16_t sixteen[16];
  store_bf16(sixteen, set(x));
  *bits = sixteen[0];
  return one_bf16(*bits);
}

void keep(const float* x, int dim, Store store_as, uint8_t* data, uint16_t* scale_out, uint16_t* low_out) {
  if (store_as == Store::f32) {
    std::memcpy(data, x, 4 * (size_t)dim);
    return;
  }
  if (store_as == Store::bf16) {
    for (int i = 0; i < dim; i += 16) {
      uint16_t sixteen[16];
      store_bf16(sixteen, load_some(x + i, dim - i));
      std::memcpy(data + 2 * i, sixteen, 2 * (size_t)least(16, dim - i));
    }
    return;
  }
  float top = -INFINITY, bottom = INFINITY;
  for (int i = 0; i < dim; i++) top = x[i] > top ? x[i] : top, bottom = x[i] < bottom ? x[i] : bottom;
  if (store_as == Store::int8) {
    float widest = top > -bottom ? top : -bottom;
    float scale = rounded(std::fmax(widest * (kUp / 127.f), kLeast), scale_out);
    for (int i = 0; i < dim; i++) data[i] = (uint8_t)(int8_t)std::nearbyint(x[i] / scale);
    return;
  }
  float low = rounded(bottom, low_out);
  float scale = rounded(std::fmax((top - low) * (kUp / 15.f), kLeast), scale_out);
  auto step = [&](float f) {
    float s = std::nearbyint((f - low) / scale);
    return (uint8_t)(s < 0 ? 0 : s > 15 ? 15 : s);
  };
  for (int i = 0; i < dim / 2; i++) data[i] = (uint8_t)(step(x[i]) | step(x[dim / 2 + i]) << 4);
}

OB_INLINE size_t width_of(Store s, int dim) {
  return s == Store::f32 ? 4 * (size_t)dim : s == Store::bf16 ? 2 * (size_t)dim : s == Store::int8 ? dim : dim / 2;
}

// Sixteen numbers of a key or value from `c` on, before scale and low; zeros past `dim`.
template <Store kStore, bool kEven> OB_INLINE Vf chunk(const uint8_t* p, int c, int dim) {
  if constexpr (kEven) {
    if constexpr (kStore == Store::f32) return load((const float*)p + c);
    if constexpr (kStore == Store::bf16) return load_bf16((const uint16_t*)p + c);
    if constexpr (kStore == Store::int8) return load_int8((const int8_t*)p + c);
    if constexpr (kStore == Store::int4) return c < dim / 2 ? load_low(p + c) : load_high(p + c - dim / 2);
  }
  float sixteen[16] = {};
  for (int i = 0; i < least(16, dim - c); i++) {
    if constexpr (kStore == Store::f32) std::memcpy(sixteen + i, p + 4 * (size_t)(c + i), 4);
    if constexpr (kStore == Store::bf16) sixteen[i] = one_bf16(((const uint16_t*)p)[c + i]);
    if constexpr (kStore == Store::int8) sixteen[i] = (float)((const int8_t*)p)[c + i];
    if constexpr (kStore == Store::int4)
      sixteen[i] = (float)(c + i < dim / 2 ? p[c + i] & 15 : p[c + i - dim / 2] >> 4);
  }
  return load(sixteen);
}

}  // namespace
