// float16 and bf16 by hand, for code that runs once a number.
#pragma once
#include <cstdint>
#include <cstring>

static inline uint32_t bits_of(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return bits;
}

static inline float float_of(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

static inline float from_half(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
  if (exponent == 0) return float_of(bits_of((float)mantissa * 5.9604644775390625e-8f) | sign);  // · 2^-24
  return float_of(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13);
}

// To the nearest, ties to even; too large becomes infinite.
static inline uint16_t to_half(float f) {
  uint32_t bits = bits_of(f), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
  if (rest < 0x38800000) {  // subnormal: adding 0.5 leaves the rounded mantissa in the low bits
    uint32_t sum = bits_of(float_of(rest) + 0.5f);
    return (uint16_t)(sign | (sum - 0x3f000000));
  }
  return (uint16_t)(sign | ((rest + 0xfff + (rest >> 13 & 1) - 0x38000000) >> 13));
}

static inline float from_bf16(uint16_t b) { return float_of((uint32_t)b << 16); }

static inline uint16_t to_bf16(float f) {
  uint32_t bits = bits_of(f);
  if (f != f) return (uint16_t)((bits | 0x400000) >> 16);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float half_at(const uint8_t* p) { return from_half((uint16_t)(p[0] | p[1] << 8)); }
