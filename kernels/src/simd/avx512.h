// Sixteen numbers in one register: AVX-512 with VNNI, and with BF16 where the compiler was told so.
// The functions here are what kernels/ is written in; every file beside this one gives the same ones.
#pragma once
#include <immintrin.h>

#include <cstdint>

#define OB_INLINE static inline __attribute__((always_inline))

struct Vf { __m512 v; };   // 16 floats
struct Vi { __m512i v; };  // 16 ints of 32 bits
struct Vb { __m512i v; };  // 64 bytes

constexpr int kTile = 12;  // rows of activations that stay in registers beside one panel of weights
constexpr int kQueries = 4;  // queries that share one read of a key
#ifdef __AVX512BF16__
#define OB_PAIRS  // of bf16 are faster to multiply than floats
#endif

OB_INLINE Vf zero() { return {_mm512_setzero_ps()}; }
OB_INLINE Vf set(float x) { return {_mm512_set1_ps(x)}; }
OB_INLINE Vf load(const float* p) { return {_mm512_loadu_ps(p)}; }
OB_INLINE void store(float* p, Vf a) { _mm512_storeu_ps(p, a.v); }
OB_INLINE __mmask16 first(int n) { return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1); }
OB_INLINE Vf load_some(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
OB_INLINE void store_some(float* p, Vf a, int n) { _mm512_mask_storeu_ps(p, first(n), a.v); }
OB_INLINE Vf load_half(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
OB_INLINE Vf load_bf16(const uint16_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}
OB_INLINE Vf load_int8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}
// Sixteen bytes' low or high nibbles.
OB_INLINE Vf load_low(const uint8_t* p) {
  __m128i b = _mm_and_si128(_mm_loadu_si128((const __m128i*)p), _mm_set1_epi8(15));
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(b))};
}
OB_INLINE Vf load_high(const uint8_t* p) {
  __m128i b = _mm_and_si128(_mm_srli_epi16(_mm_loadu_si128((const __m128i*)p), 4), _mm_set1_epi8(15));
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(b))};
}
// To the nearest, ties to even; what is not a number stays one.
OB_INLINE void store_bf16(uint16_t* p, Vf a) {
  __m512i bits = _mm512_castps_si512(a.v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  up = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16)));
}

OB_INLINE Vf operator+(Vf a, Vf b) { return {_mm512_add_ps(a.v, b.v)}; }
OB_INLINE Vf operator-(Vf a, Vf b) { return {_mm512_sub_ps(a.v, b.v)}; }
OB_INLINE Vf operator*(Vf a, Vf b) { return {_mm512_mul_ps(a.v, b.v)}; }
OB_INLINE Vf operator/(Vf a, Vf b) { return {_mm512_div_ps(a.v, b.v)}; }
OB_INLINE Vf fma(Vf a, Vf b, Vf c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
OB_INLINE Vf larger(Vf a, Vf b) { return {_mm512_max_ps(a.v, b.v)}; }
OB_INLINE Vf smaller(Vf a, Vf b) { return {_mm512_min_ps(a.v, b.v)}; }
OB_INLINE Vf absolute(Vf a) { return {_mm512_abs_ps(a.v)}; }
OB_INLINE Vf where_greater(Vf a, Vf b, Vf yes, Vf no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ), no.v, yes.v)};
}
OB_INLINE float sum(Vf a) { return _mm512_reduce_add_ps(a.v); }
OB_INLINE float largest(Vf a) { return _mm512_reduce_max_ps(a.v); }
// 2^n for whole n.
OB_INLINE Vf scale_by_power(Vf a, Vf n) { return {_mm512_scalef_ps(a.v, n.v)}; }
OB_INLINE Vf nearest(Vf a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

OB_INLINE Vi zero_int() { return {_mm512_setzero_si512()}; }
OB_INLINE Vi set_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
OB_INLINE Vi operator+(Vi a, Vi b) { return {_mm512_add_epi32(a.v, b.v)}; }
template <int N> OB_INLINE Vi shifted(Vi a) { return {_mm512_slli_epi32(a.v, N)}; }
OB_INLINE Vf to_float(Vi a) { return {_mm512_cvtepi32_ps(a.v)}; }
OB_INLINE Vi to_int(Vf a) { return {_mm512_cvtps_epi32(a.v)}; }
OB_INLINE Vi bits_of(Vf a) { return {_mm512_castps_si512(a.v)}; }
OB_INLINE int32_t sum(Vi a) { return _mm512_reduce_add_epi32(a.v); }
OB_INLINE void store_int8(int8_t* p, Vi a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(a.v)); }

OB_INLINE Vb load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
OB_INLINE Vb low_nibbles(Vb a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
OB_INLINE Vb high_nibbles(Vb a) { return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))}; }
// Adds 16 to the bytes whose bit is set.
OB_INLINE Vb with_fifth(Vb a, const uint8_t* bits) {
  return {_mm512_mask_add_epi8(a.v, *(const __mmask64*)bits, a.v, _mm512_set1_epi8(16))};
}
// Adds 16 times two bits of every byte of `high`, those from bit `at` on.
template <int at> OB_INLINE Vb with_two(Vb a, Vb high) {
  __m512i two = _mm512_and_si512(_mm512_srli_epi16(high.v, at), _mm512_set1_epi8(3));
  return {_mm512_or_si512(a.v, _mm512_slli_epi16(two, 4))};
}
// To each of 16 sums, the product of four unsigned bytes of `w` and four signed ones of `x`. kBits: what w has at most.
template <int kBits> OB_INLINE Vi dot(Vi sums, Vb w, Vi x) { return {_mm512_dpbusd_epi32(sums.v, w.v, x.v)}; }

// Sixteen rows' pairs of bf16 weights times one pair of bf16 activations.
OB_INLINE Vf dot_bf16(Vf sums, const uint16_t* w, uint32_t pair) {
#ifdef __AVX512BF16__
  return {_mm512_dpbf16_ps(sums.v, (__m512bh)_mm512_loadu_si512(w), (__m512bh)_mm512_set1_epi32((int)pair))};
#else
  __m512i both = _mm512_loadu_si512(w);
  __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
  __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000)));
  __m512 x0 = _mm512_castsi512_ps(_mm512_set1_epi32((int)(pair << 16)));
  __m512 x1 = _mm512_castsi512_ps(_mm512_set1_epi32((int)(pair & 0xffff0000)));
  return {_mm512_fmadd_ps(odd, x1, _mm512_fmadd_ps(even, x0, sums.v))};
#endif
}

#ifdef __AVX512VPOPCNTDQ__
#define OB_COUNTS
// Of eight words: how many bits are set, times 2^32, and how many they share with each of four planes, weighed 1, 2, 4, 8.
OB_INLINE uint64_t counted(const uint64_t* code, const uint64_t* planes, int words) {
  __m512i b = _mm512_loadu_si512(code), sums = _mm512_slli_epi64(_mm512_popcnt_epi64(b), 32);
  auto shared = [&](int j) { return _mm512_popcnt_epi64(_mm512_and_si512(b, _mm512_loadu_si512(planes + j * words))); };
  __m512i low = _mm512_add_epi64(shared(0), _mm512_slli_epi64(shared(1), 1));
  __m512i high = _mm512_add_epi64(_mm512_slli_epi64(shared(2), 2), _mm512_slli_epi64(shared(3), 3));
  return (uint64_t)_mm512_reduce_add_epi64(_mm512_add_epi64(sums, _mm512_add_epi64(low, high)));
}
#endif

#ifdef OB_PAIRS
// Thirty-two bf16 times thirty-two others, into sixteen sums: pair by pair.
OB_INLINE Vf dot_rows(Vf sums, Vb a, Vb b) {
  return {_mm512_dpbf16_ps(sums.v, (__m512bh)a.v, (__m512bh)b.v)};
}
// Two rows of thirty-two as pairs of their first, second, … numbers.
OB_INLINE void as_pairs(const uint16_t* a, const uint16_t* b, Vb pairs[2]) {
  __m512i first = _mm512_loadu_si512(a), second = _mm512_loadu_si512(b);
  __m512i lo = _mm512_unpacklo_epi16(first, second), hi = _mm512_unpackhi_epi16(first, second);
  pairs[0].v = _mm512_permutex2var_epi64(lo, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), hi);
  pairs[1].v = _mm512_permutex2var_epi64(lo, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), hi);
}
OB_INLINE Vb both_of(uint32_t pair) { return {_mm512_set1_epi32((int)pair)}; }
#endif

OB_INLINE void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

// Rows become columns.
OB_INLINE void transpose(Vf r[16]) {
  __m512 a[16], b[16];
  for (int i = 0; i < 8; i++) {
    a[2 * i] = _mm512_unpacklo_ps(r[2 * i].v, r[2 * i + 1].v);
    a[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i].v, r[2 * i + 1].v);
  }
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 2; j++) {
      __m512d x = _mm512_castps_pd(a[4 * i + j]), y = _mm512_castps_pd(a[4 * i + 2 + j]);
      b[4 * i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
      b[4 * i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
    }
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 4; j++) {
      a[8 * i + j] = _mm512_shuffle_f32x4(b[8 * i + j], b[8 * i + 4 + j], 0x88);
      a[8 * i + 4 + j] = _mm512_shuffle_f32x4(b[8 * i + j], b[8 * i + 4 + j], 0xdd);
    }
  for (int j = 0; j < 8; j++) {
    r[j].v = _mm512_shuffle_f32x4(a[j], a[8 + j], 0x88);
    r[8 + j].v = _mm512_shuffle_f32x4(a[j], a[8 + j], 0xdd);
  }
}

// Each of sixteen registers brought down to one number by `op`, which may take them in any order: pairs of registers are
// taken together crosswise, until one is left.
template <class Op> OB_INLINE Vf crosswise(const Vf r[16], Op op) {
  Vf a[8], b[4], c[2];
  for (int i = 0; i < 8; i++)
    a[i] = op(Vf{_mm512_unpacklo_ps(r[i].v, r[i + 8].v)}, Vf{_mm512_unpackhi_ps(r[i].v, r[i + 8].v)});
  for (int i = 0; i < 4; i++)
    b[i] = op(Vf{_mm512_unpacklo_ps(a[i].v, a[i + 4].v)}, Vf{_mm512_unpackhi_ps(a[i].v, a[i + 4].v)});
  auto quarters = [&](Vf x, Vf y) {
    return op(Vf{_mm512_shuffle_f32x4(x.v, y.v, 0x88)}, Vf{_mm512_shuffle_f32x4(x.v, y.v, 0xdd)});
  };
  for (int i = 0; i < 2; i++) c[i] = quarters(b[i], b[i + 2]);
  __m512i order = _mm512_setr_epi32(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15);
  return {_mm512_permutexvar_ps(order, quarters(c[0], c[1]).v)};
}
