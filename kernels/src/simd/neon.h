// Sixteen numbers in four registers: NEON of 64-bit ARM, and with dot products where the compiler was told so.
#pragma once
#include <arm_neon.h>

#include <cstdint>

#ifdef __ARM_BIG_ENDIAN
#error "bytes are taken as a little-endian processor stores them"
#endif

#define OB_INLINE static inline __attribute__((always_inline))

struct Vf { float32x4_t v[4]; };  // 16 floats
struct Vi { int32x4_t v[4]; };    // 16 ints of 32 bits
struct Vb { uint8x16_t v[4]; };   // 64 bytes

constexpr int kTile = 4;
constexpr int kQueries = 2;

#define OB_EACH for (int i = 0; i < 4; i++)

OB_INLINE Vf set(float x) { return {{vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x)}}; }
OB_INLINE Vf zero() { return set(0); }
OB_INLINE Vf load(const float* p) { return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}}; }
OB_INLINE void store(float* p, Vf x) { OB_EACH vst1q_f32(p + 4 * i, x.v[i]); }
OB_INLINE Vf load_some(const float* p, int n) {
  if (n >= 16) return load(p);
  float sixteen[16] = {};
  for (int i = 0; i < n; i++) sixteen[i] = p[i];
  return load(sixteen);
}
OB_INLINE void store_some(float* p, Vf x, int n) {
  if (n >= 16) return store(p, x);
  float sixteen[16];
  store(sixteen, x);
  for (int i = 0; i < n; i++) p[i] = sixteen[i];
}
OB_INLINE Vf load_half(const uint16_t* p) {
  Vf r;
  OB_EACH r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
  return r;
}
OB_INLINE Vf load_bf16(const uint16_t* p) {
  Vf r;
  OB_EACH r.v[i] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16));
  return r;
}
// Sixteen signed bytes.
OB_INLINE Vf bytes_to_float(int8x16_t x) {
  int16x8_t lo = vmovl_s8(vget_low_s8(x)), hi = vmovl_high_s8(x);
  return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))), vcvtq_f32_s32(vmovl_high_s16(lo)),
           vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))), vcvtq_f32_s32(vmovl_high_s16(hi))}};
}
OB_INLINE Vf load_int8(const int8_t* p) { return bytes_to_float(vld1q_s8(p)); }
// Sixteen bytes' low or high nibbles.
OB_INLINE Vf load_low(const uint8_t* p) {
  return bytes_to_float(vreinterpretq_s8_u8(vandq_u8(vld1q_u8(p), vdupq_n_u8(15))));
}
OB_INLINE Vf load_high(const uint8_t* p) { return bytes_to_float(vreinterpretq_s8_u8(vshrq_n_u8(vld1q_u8(p), 4))); }
// To the nearest, ties to even; what is not a number stays one.
OB_INLINE void store_bf16(uint16_t* p, Vf x) {
  OB_EACH {
    uint32x4_t bits = vreinterpretq_u32_f32(x.v[i]), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint32x4_t up = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    up = vbslq_u32(vceqq_f32(x.v[i], x.v[i]), up, vorrq_u32(bits, vdupq_n_u32(0x400000)));
    vst1_u16(p + 4 * i, vshrn_n_u32(up, 16));
  }
}

OB_INLINE Vf operator+(Vf x, Vf y) { OB_EACH x.v[i] = vaddq_f32(x.v[i], y.v[i]); return x; }
OB_INLINE Vf operator-(Vf x, Vf y) { OB_EACH x.v[i] = vsubq_f32(x.v[i], y.v[i]); return x; }
OB_INLINE Vf operator*(Vf x, Vf y) { OB_EACH x.v[i] = vmulq_f32(x.v[i], y.v[i]); return x; }
OB_INLINE Vf operator/(Vf x, Vf y) { OB_EACH x.v[i] = vdivq_f32(x.v[i], y.v[i]); return x; }
OB_INLINE Vf fma(Vf x, Vf y, Vf z) { OB_EACH z.v[i] = vfmaq_f32(z.v[i], x.v[i], y.v[i]); return z; }
OB_INLINE Vf where_greater(Vf x, Vf y, Vf yes, Vf no) {
  OB_EACH no.v[i] = vbslq_f32(vcgtq_f32(x.v[i], y.v[i]), yes.v[i], no.v[i]);
  return no;
}
// Not vmaxq and vminq: where one is not a number, the second of the two is meant.
OB_INLINE Vf larger(Vf x, Vf y) { return where_greater(x, y, x, y); }
OB_INLINE Vf smaller(Vf x, Vf y) { return where_greater(y, x, x, y); }
OB_INLINE Vf absolute(Vf x) { OB_EACH x.v[i] = vabsq_f32(x.v[i]); return x; }
OB_INLINE float sum(Vf x) {
  return vaddvq_f32(vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3])));
}
OB_INLINE float largest(Vf x) {
  return vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(x.v[0], x.v[2]), vmaxnmq_f32(x.v[1], x.v[3])));
}

OB_INLINE Vi set_int(int32_t x) { return {{vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x)}}; }
OB_INLINE Vi zero_int() { return set_int(0); }
OB_INLINE Vi operator+(Vi x, Vi y) { OB_EACH x.v[i] = vaddq_s32(x.v[i], y.v[i]); return x; }
template <int N> OB_INLINE Vi shifted(Vi x) { OB_EACH x.v[i] = vshlq_n_s32(x.v[i], N); return x; }
OB_INLINE Vf to_float(Vi x) { Vf r; OB_EACH r.v[i] = vcvtq_f32_s32(x.v[i]); return r; }
OB_INLINE Vi to_int(Vf x) { Vi r; OB_EACH r.v[i] = vcvtnq_s32_f32(x.v[i]); return r; }
OB_INLINE Vi bits_of(Vf x) { Vi r; OB_EACH r.v[i] = vreinterpretq_s32_f32(x.v[i]); return r; }
OB_INLINE int32_t sum(Vi x) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[2]), vaddq_s32(x.v[1], x.v[3])));
}
OB_INLINE void store_int8(int8_t* p, Vi x) {
  int16x8_t lo = vcombine_s16(vqmovn_s32(x.v[0]), vqmovn_s32(x.v[1]));
  int16x8_t hi = vcombine_s16(vqmovn_s32(x.v[2]), vqmovn_s32(x.v[3]));
  vst1q_s8(p, vcombine_s8(vqmovn_s16(lo), vqmovn_s16(hi)));
}

OB_INLINE Vf nearest(Vf x) { OB_EACH x.v[i] = vrndnq_f32(x.v[i]); return x; }
// x · 2^n for whole n from −126 to 127.
OB_INLINE Vf scale_by_power(Vf x, Vf n) {
  Vi power = shifted<23>(to_int(n) + set_int(127));
  OB_EACH x.v[i] = vmulq_f32(x.v[i], vreinterpretq_f32_s32(power.v[i]));
  return x;
}

OB_INLINE Vb load_bytes(const uint8_t* p) {
  return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
}
OB_INLINE Vb low_nibbles(Vb x) { OB_EACH x.v[i] = vandq_u8(x.v[i], vdupq_n_u8(15)); return x; }
OB_INLINE Vb high_nibbles(Vb x) { OB_EACH x.v[i] = vshrq_n_u8(x.v[i], 4); return x; }
// Adds 16 to the bytes whose bit is set.
OB_INLINE Vb with_fifth(Vb x, const uint8_t* bits) {
  uint8x16_t own = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
  OB_EACH {
    uint8x16_t mine = vcombine_u8(vdup_n_u8(bits[2 * i]), vdup_n_u8(bits[2 * i + 1]));
    x.v[i] = vorrq_u8(x.v[i], vandq_u8(vtstq_u8(mine, own), vdupq_n_u8(16)));
  }
  return x;
}
// Adds 16 times two bits of every byte of `high`, those from bit `at` on.
template <int at> OB_INLINE Vb with_two(Vb x, Vb high) {
  OB_EACH {
    uint8x16_t from = high.v[i];
    if constexpr (at > 0) from = vshrq_n_u8(from, at);
    x.v[i] = vorrq_u8(x.v[i], vshlq_n_u8(vandq_u8(from, vdupq_n_u8(3)), 4));
  }
  return x;
}
// To each of 4 sums, the product of four signed bytes of `w` and of `x`.
OB_INLINE int32x4_t dot_signed(int32x4_t sums, int8x16_t w, int8x16_t x) {
#ifdef __ARM_FEATURE_DOTPROD
  return vdotq_s32(sums, w, x);
#else
  int32x4_t lo = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x))), hi = vpaddlq_s16(vmull_high_s8(w, x));
  return vaddq_s32(sums, vpaddq_s32(lo, hi));
#endif
}
// To each of 16 sums, the product of four unsigned bytes of `w` and four signed ones of `x`. kBits: what w has at most.
template <int kBits> OB_INLINE Vi dot(Vi sums, Vb w, Vi x) {
  OB_EACH {
    int8x16_t four = vreinterpretq_s8_s32(x.v[i]);
    if constexpr (kBits < 8) {
      sums.v[i] = dot_signed(sums.v[i], vreinterpretq_s8_u8(w.v[i]), four);
    } else {  // w = (w − 128) − (−128), both signed; the second is the same for all i where x is
      int8x16_t less = vreinterpretq_s8_u8(veorq_u8(w.v[i], vdupq_n_u8(128)));
      int32x4_t off = dot_signed(vdupq_n_s32(0), vdupq_n_s8(-128), four);
      sums.v[i] = vsubq_s32(dot_signed(sums.v[i], less, four), off);
    }
  }
  return sums;
}

// Sixteen rows' pairs of bf16 weights times one pair of bf16 activations.
OB_INLINE Vf dot_bf16(Vf sums, const uint16_t* w, uint32_t pair) {
  float32x4_t x0 = vreinterpretq_f32_u32(vdupq_n_u32(pair << 16));
  float32x4_t x1 = vreinterpretq_f32_u32(vdupq_n_u32(pair & 0xffff0000));
  OB_EACH {
    uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16(w + 8 * i));
    float32x4_t even = vreinterpretq_f32_u32(vshlq_n_u32(both, 16));
    float32x4_t odd = vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000)));
    sums.v[i] = vfmaq_f32(vfmaq_f32(sums.v[i], even, x0), odd, x1);
  }
  return sums;
}

OB_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

// Rows become columns, of 4 by 4.
OB_INLINE void transpose(float32x4_t r[4]) {
  float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r[0], r[1])), b = vreinterpretq_f64_f32(vtrn2q_f32(r[0], r[1]));
  float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r[2], r[3])), d = vreinterpretq_f64_f32(vtrn2q_f32(r[2], r[3]));
  r[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c)), r[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
  r[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c)), r[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}
OB_INLINE void transpose(Vf r[16]) {
  for (int i = 0; i < 4; i++)
    for (int j = 0; j <= i; j++) {
      float32x4_t here[4], there[4];
      for (int k = 0; k < 4; k++) here[k] = r[4 * i + k].v[j], there[k] = r[4 * j + k].v[i];
      transpose(here), transpose(there);
      for (int k = 0; k < 4; k++) r[4 * i + k].v[j] = there[k], r[4 * j + k].v[i] = here[k];
    }
}

// Each of sixteen registers brought down to one number by `op`, which may take them in any order.
template <class Op> OB_INLINE Vf crosswise(Vf r[16], Op op) {
  transpose(r);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) r[i] = op(r[i], r[i + half]);
  return r[0];
}
