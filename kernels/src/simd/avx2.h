// Sixteen numbers in two registers: AVX2 with FMA and F16C, and with VNNI where the compiler was told so.
#pragma once
#include <immintrin.h>

#include <cstdint>

#define OB_INLINE static inline __attribute__((always_inline))

struct Vf { __m256 a, b; };   // 16 floats
struct Vi { __m256i a, b; };  // 16 ints of 32 bits
struct Vb { __m256i a, b; };  // 64 bytes

constexpr int kTile = 4;
constexpr int kQueries = 2;

OB_INLINE Vf zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
OB_INLINE Vf set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
OB_INLINE Vf load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
OB_INLINE void store(float* p, Vf x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
// The first n of 16 lanes.
OB_INLINE Vi first(int n) {
  static const int32_t lanes[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
  const __m256i* p = (const __m256i*)(lanes + 16 - n);
  return {_mm256_loadu_si256(p), _mm256_loadu_si256(p + 1)};
}
OB_INLINE Vf load_some(const float* p, int n) {
  if (n >= 16) return load(p);
  Vi mask = first(n);
  return {_mm256_maskload_ps(p, mask.a), _mm256_maskload_ps(p + 8, mask.b)};
}
OB_INLINE void store_some(float* p, Vf x, int n) {
  if (n >= 16) return store(p, x);
  Vi mask = first(n);
  _mm256_maskstore_ps(p, mask.a, x.a), _mm256_maskstore_ps(p + 8, mask.b, x.b);
}
OB_INLINE Vf load_half(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p + 1))};
}
OB_INLINE __m256 bf16_to_float(const uint16_t* p) {
  __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
OB_INLINE Vf load_bf16(const uint16_t* p) { return {bf16_to_float(p), bf16_to_float(p + 8)}; }
// Sixteen signed bytes.
OB_INLINE Vf bytes_to_float(__m128i x) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(x, 8)))};
}
OB_INLINE Vf load_int8(const int8_t* p) { return bytes_to_float(_mm_loadu_si128((const __m128i*)p)); }
// Sixteen bytes' low or high nibbles.
OB_INLINE Vf load_low(const uint8_t* p) {
  return bytes_to_float(_mm_and_si128(_mm_loadu_si128((const __m128i*)p), _mm_set1_epi8(15)));
}
OB_INLINE Vf load_high(const uint8_t* p) {
  return bytes_to_float(_mm_and_si128(_mm_srli_epi16(_mm_loadu_si128((const __m128i*)p), 4), _mm_set1_epi8(15)));
}
OB_INLINE __m256i float_to_bf16(__m256 x) {
  __m256i bits = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
}
// To the nearest, ties to even; what is not a number stays one.
OB_INLINE void store_bf16(uint16_t* p, Vf x) {
  __m256i both = _mm256_packus_epi32(float_to_bf16(x.a), float_to_bf16(x.b));
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(both, 0xd8));
}

OB_INLINE Vf operator+(Vf x, Vf y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
OB_INLINE Vf operator-(Vf x, Vf y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
OB_INLINE Vf operator*(Vf x, Vf y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
OB_INLINE Vf operator/(Vf x, Vf y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
OB_INLINE Vf fma(Vf x, Vf y, Vf z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
OB_INLINE Vf larger(Vf x, Vf y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
OB_INLINE Vf smaller(Vf x, Vf y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
OB_INLINE Vf absolute(Vf x) {
  __m256 sign = _mm256_set1_ps(-0.f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
OB_INLINE Vf where_greater(Vf x, Vf y, Vf yes, Vf no) {
  return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ)),
          _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ))};
}
OB_INLINE float sum(Vf x) {
  __m256 eight = _mm256_add_ps(x.a, x.b);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
OB_INLINE float largest(Vf x) {
  __m256 eight = _mm256_max_ps(x.a, x.b);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

OB_INLINE Vi zero_int() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
OB_INLINE Vi set_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
OB_INLINE Vi operator+(Vi x, Vi y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
template <int N> OB_INLINE Vi shifted(Vi x) { return {_mm256_slli_epi32(x.a, N), _mm256_slli_epi32(x.b, N)}; }
OB_INLINE Vf to_float(Vi x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
OB_INLINE Vi to_int(Vf x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
OB_INLINE Vi bits_of(Vf x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
OB_INLINE int32_t sum(Vi x) {
  __m256i eight = _mm256_add_epi32(x.a, x.b);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
OB_INLINE void store_int8(int8_t* p, Vi x) {
  __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
  _mm_storeu_si128((__m128i*)p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

OB_INLINE Vf nearest(Vf x) {
  constexpr int how = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, how), _mm256_round_ps(x.b, how)};
}
// x · 2^n for whole n from −126 to 127.
OB_INLINE Vf scale_by_power(Vf x, Vf n) {
  Vi power = shifted<23>(to_int(n) + set_int(127));
  return x * Vf{_mm256_castsi256_ps(power.a), _mm256_castsi256_ps(power.b)};
}

OB_INLINE Vb load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
OB_INLINE Vb low_nibbles(Vb x) {
  __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
OB_INLINE Vb high_nibbles(Vb x) { return low_nibbles({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)}); }
// Adds 16 to the bytes whose bit is set; here of 32 bytes.
OB_INLINE __m256i with_fifth(__m256i x, uint32_t bits) {
  __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  __m256i own = _mm256_set1_epi64x((int64_t)0x8040201008040201);
  __m256i mine = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), spread), own);
  return _mm256_or_si256(x, _mm256_and_si256(_mm256_cmpeq_epi8(mine, own), _mm256_set1_epi8(16)));
}
OB_INLINE Vb with_fifth(Vb x, const uint8_t* bits) {
  uint32_t both[2];
  __builtin_memcpy(both, bits, 8);
  return {with_fifth(x.a, both[0]), with_fifth(x.b, both[1])};
}
// Adds 16 times two bits of every byte of `high`, those from bit `at` on.
template <int at> OB_INLINE __m256i with_two(__m256i x, __m256i high) {
  __m256i two = _mm256_and_si256(_mm256_srli_epi16(high, at), _mm256_set1_epi8(3));
  return _mm256_or_si256(x, _mm256_slli_epi16(two, 4));
}
template <int at> OB_INLINE Vb with_two(Vb x, Vb high) { return {with_two<at>(x.a, high.a), with_two<at>(x.b, high.b)}; }

// To each of 8 sums, the product of four unsigned bytes of `w` and four signed ones of `x`. kBits: what w has at most.
template <int kBits> OB_INLINE __m256i dot(__m256i sums, __m256i w, __m256i x) {
#if defined(__AVXVNNI__)
  return _mm256_dpbusd_avx_epi32(sums, w, x);
#elif defined(__AVX512VNNI__) && defined(__AVX512VL__)  // the same instruction in another encoding, for checks
  return _mm256_dpbusd_epi32(sums, w, x);
#else
  if constexpr (kBits <= 6)  // two products of at most 63 · 128 fit 16 bits
    return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
  __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
  __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(x, 8));
  return _mm256_add_epi32(sums, _mm256_add_epi32(even, odd));
#endif
}
template <int kBits> OB_INLINE Vi dot(Vi sums, Vb w, Vi x) {
  return {dot<kBits>(sums.a, w.a, x.a), dot<kBits>(sums.b, w.b, x.b)};
}

// Eight rows' pairs of bf16 weights times one pair of bf16 activations.
OB_INLINE __m256 dot_bf16(__m256 sums, const uint16_t* w, __m256 x0, __m256 x1) {
  __m256i both = _mm256_loadu_si256((const __m256i*)w);
  __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
  __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32((int)0xffff0000)));
  return _mm256_fmadd_ps(odd, x1, _mm256_fmadd_ps(even, x0, sums));
}
OB_INLINE Vf dot_bf16(Vf sums, const uint16_t* w, uint32_t pair) {
  __m256 x0 = _mm256_castsi256_ps(_mm256_set1_epi32((int)(pair << 16)));
  __m256 x1 = _mm256_castsi256_ps(_mm256_set1_epi32((int)(pair & 0xffff0000)));
  return {dot_bf16(sums.a, w, x0, x1), dot_bf16(sums.b, w + 16, x0, x1)};
}

OB_INLINE void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

// Rows become columns, of 8 by 8.
OB_INLINE void transpose(__m256 r[8]) {
  __m256 s[8];
  for (int i = 0; i < 4; i++) {
    s[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    s[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 2; j++) {
      r[4 * i + 2 * j] = _mm256_shuffle_ps(s[4 * i + j], s[4 * i + 2 + j], 0x44);
      r[4 * i + 2 * j + 1] = _mm256_shuffle_ps(s[4 * i + j], s[4 * i + 2 + j], 0xee);
    }
  for (int i = 0; i < 4; i++) {
    s[i] = _mm256_permute2f128_ps(r[i], r[4 + i], 0x20);
    s[4 + i] = _mm256_permute2f128_ps(r[i], r[4 + i], 0x31);
  }
  for (int i = 0; i < 8; i++) r[i] = s[i];
}
OB_INLINE void transpose(Vf r[16]) {
  __m256 square[4][8];
  for (int i = 0; i < 8; i++) {
    square[0][i] = r[i].a, square[1][i] = r[8 + i].a;
    square[2][i] = r[i].b, square[3][i] = r[8 + i].b;
  }
  for (int i = 0; i < 4; i++) transpose(square[i]);
  for (int i = 0; i < 8; i++) r[i] = {square[0][i], square[1][i]}, r[8 + i] = {square[2][i], square[3][i]};
}

// Each of sixteen registers brought down to one number by `op`, which may take them in any order.
template <class Op> OB_INLINE Vf crosswise(Vf r[16], Op op) {
  transpose(r);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) r[i] = op(r[i], r[i + half]);
  return r[0];
}
