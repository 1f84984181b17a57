// Sixteen numbers in plain C++: what any compiler takes, and the meaning of every function in the files beside it.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

// Not forced, as beside: sixteen numbers unrolled everywhere take a compiler a minute and are no faster.
#define OB_INLINE static inline

struct Vf { float v[16]; };
struct Vi { int32_t v[16]; };
struct Vb { uint8_t v[64]; };

constexpr int kTile = 2;
constexpr int kQueries = 1;

#define OB_EACH for (int i = 0; i < 16; i++)

OB_INLINE float from_half(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff, bits;
  if (exponent == 0) {  // zero or subnormal: mantissa · 2^-24, exact in a float
    float f = (float)mantissa * 5.9604644775390625e-8f;
    std::memcpy(&bits, &f, 4);
    bits |= sign;
  } else {
    bits = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | mantissa << 13;
  }
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
OB_INLINE float from_bf16(uint16_t b) {
  uint32_t bits = (uint32_t)b << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
OB_INLINE uint16_t to_bf16_one(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  if (f != f) return (uint16_t)((bits | 0x400000) >> 16);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

OB_INLINE Vf set(float x) { Vf r; OB_EACH r.v[i] = x; return r; }
OB_INLINE Vf zero() { return set(0); }
OB_INLINE Vf load(const float* p) { Vf r; std::memcpy(r.v, p, 64); return r; }
OB_INLINE void store(float* p, Vf a) { std::memcpy(p, a.v, 64); }
OB_INLINE Vf load_some(const float* p, int n) { Vf r = zero(); std::memcpy(r.v, p, 4 * (n < 16 ? n : 16)); return r; }
OB_INLINE void store_some(float* p, Vf a, int n) { std::memcpy(p, a.v, 4 * (n < 16 ? n : 16)); }
OB_INLINE Vf load_half(const uint16_t* p) { Vf r; OB_EACH r.v[i] = from_half(p[i]); return r; }
OB_INLINE Vf load_bf16(const uint16_t* p) { Vf r; OB_EACH r.v[i] = from_bf16(p[i]); return r; }
OB_INLINE Vf load_int8(const int8_t* p) { Vf r; OB_EACH r.v[i] = p[i]; return r; }
OB_INLINE Vf load_low(const uint8_t* p) { Vf r; OB_EACH r.v[i] = (float)(p[i] & 15); return r; }
OB_INLINE Vf load_high(const uint8_t* p) { Vf r; OB_EACH r.v[i] = (float)(p[i] >> 4); return r; }
OB_INLINE void store_bf16(uint16_t* p, Vf a) { OB_EACH p[i] = to_bf16_one(a.v[i]); }

OB_INLINE Vf operator+(Vf a, Vf b) { OB_EACH a.v[i] += b.v[i]; return a; }
OB_INLINE Vf operator-(Vf a, Vf b) { OB_EACH a.v[i] -= b.v[i]; return a; }
OB_INLINE Vf operator*(Vf a, Vf b) { OB_EACH a.v[i] *= b.v[i]; return a; }
OB_INLINE Vf operator/(Vf a, Vf b) { OB_EACH a.v[i] /= b.v[i]; return a; }
// Rounded twice here: a fused one in software would be slow.
OB_INLINE Vf fma(Vf a, Vf b, Vf c) { OB_EACH c.v[i] = a.v[i] * b.v[i] + c.v[i]; return c; }
OB_INLINE Vf larger(Vf a, Vf b) { OB_EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
OB_INLINE Vf smaller(Vf a, Vf b) { OB_EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
OB_INLINE Vf absolute(Vf a) { OB_EACH a.v[i] = std::fabs(a.v[i]); return a; }
OB_INLINE Vf where_greater(Vf a, Vf b, Vf yes, Vf no) {
  OB_EACH no.v[i] = a.v[i] > b.v[i] ? yes.v[i] : no.v[i];
  return no;
}
OB_INLINE float sum(Vf a) {
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
  return a.v[0];
}
OB_INLINE float largest(Vf a) {
  float most = a.v[0];
  OB_EACH most = most > a.v[i] ? most : a.v[i];
  return most;
}
OB_INLINE Vf scale_by_power(Vf a, Vf n) {
  OB_EACH {
    int power = (int)n.v[i];
    power = power < -126 ? -126 : power > 127 ? 127 : power;
    uint32_t bits = (uint32_t)(power + 127) << 23;
    float two;
    std::memcpy(&two, &bits, 4);
    a.v[i] *= two;
  }
  return a;
}
OB_INLINE Vf nearest(Vf a) { OB_EACH a.v[i] = std::nearbyint(a.v[i]); return a; }

OB_INLINE Vi set_int(int32_t x) { Vi r; OB_EACH r.v[i] = x; return r; }
OB_INLINE Vi zero_int() { return set_int(0); }
OB_INLINE Vi operator+(Vi a, Vi b) { OB_EACH a.v[i] += b.v[i]; return a; }
template <int N> OB_INLINE Vi shifted(Vi a) { OB_EACH a.v[i] = (int32_t)((uint32_t)a.v[i] << N); return a; }
OB_INLINE Vf to_float(Vi a) { Vf r; OB_EACH r.v[i] = (float)a.v[i]; return r; }
OB_INLINE Vi to_int(Vf a) { Vi r; OB_EACH r.v[i] = a.v[i] == a.v[i] ? (int32_t)std::nearbyint(a.v[i]) : 0; return r; }
OB_INLINE Vi bits_of(Vf a) { Vi r; std::memcpy(r.v, a.v, 64); return r; }
OB_INLINE int32_t sum(Vi a) { int32_t s = 0; OB_EACH s += a.v[i]; return s; }
OB_INLINE void store_int8(int8_t* p, Vi a) {
  OB_EACH p[i] = (int8_t)(a.v[i] < -128 ? -128 : a.v[i] > 127 ? 127 : a.v[i]);
}

OB_INLINE Vb load_bytes(const uint8_t* p) { Vb r; std::memcpy(r.v, p, 64); return r; }
OB_INLINE Vb low_nibbles(Vb a) { for (int i = 0; i < 64; i++) a.v[i] &= 15; return a; }
OB_INLINE Vb high_nibbles(Vb a) { for (int i = 0; i < 64; i++) a.v[i] >>= 4; return a; }
OB_INLINE Vb with_fifth(Vb a, const uint8_t* bits) {
  for (int i = 0; i < 64; i++) a.v[i] += (uint8_t)((bits[i / 8] >> (i % 8) & 1) * 16);
  return a;
}
template <int at> OB_INLINE Vb with_two(Vb a, Vb high) {
  for (int i = 0; i < 64; i++) a.v[i] |= (uint8_t)((high.v[i] >> at & 3) << 4);
  return a;
}
template <int kBits> OB_INLINE Vi dot(Vi sums, Vb w, Vi x) {
  OB_EACH {
    for (int k = 0; k < 4; k++) sums.v[i] += (int32_t)w.v[4 * i + k] * (int8_t)((uint32_t)x.v[i] >> (8 * k));
  }
  return sums;
}
OB_INLINE Vf dot_bf16(Vf sums, const uint16_t* w, uint32_t pair) {
  float x0 = from_bf16((uint16_t)pair), x1 = from_bf16((uint16_t)(pair >> 16));
  OB_EACH sums.v[i] = from_bf16(w[2 * i + 1]) * x1 + (from_bf16(w[2 * i]) * x0 + sums.v[i]);
  return sums;
}
OB_INLINE void prefetch(const void*) {}
OB_INLINE void transpose(Vf r[16]) {
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < i; j++) {
      float kept = r[i].v[j];
      r[i].v[j] = r[j].v[i];
      r[j].v[i] = kept;
    }
}

// Each of sixteen registers brought down to one number by `op`, which may take them in any order.
template <class Op> OB_INLINE Vf crosswise(Vf r[16], Op op) {
  transpose(r);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) r[i] = op(r[i], r[i + half]);
  return r[0];
}
