// Many queries of one text: keys and values are laid out for them first.
#pragma once
#include "attention.h"

namespace {

// One key or value as floats, zeros past `dim`.
OB_INLINE void decode(const Attend& a, const uint8_t* p, const uint16_t* scale, const uint16_t* low, int c, Vf* out) {
  switch (a.store) {
    case Store::f32: *out = chunk<Store::f32, false>(p, c, a.dim); return;
    case Store::bf16: *out = a.dim % 16 ? chunk<Store::bf16, false>(p, c, a.dim) : load_bf16((const uint16_t*)p + c); return;
    case Store::int8: *out = chunk<Store::int8, false>(p, c, a.dim) * set(one_bf16(*scale)); return;
    default:
      *out = fma(chunk<Store::int4, false>(p, c, a.dim), set(one_bf16(*scale)), set(one_bf16(*low)));
      if (a.dim - c < 16) *out = some(*out, a.dim - c);
  }
}

constexpr int kBlock = 64;  // keys that are laid out together

struct Yes { static constexpr bool value = true; };
struct No { static constexpr bool value = false; };

// `each(run, j, n, at)` for n keys of a run from its j-th on whose scores stand at `at` and after, within one sixteen.
template <class F> OB_INLINE void each_sixteen(const Attend& a, const Span& span, int low, int high, F&& each) {
  each_part(a, span, low, high, [&](const Run& run, int from, int to) __attribute__((always_inline)) {
    for (int j = from; j < to;) {
      int at = span.at(run.position + j), n = least(16 - at % 16, to - j);
      each(run, j, n, at);
      j += n;
    }
  });
}

// Sixteen words of each of `n` keys, `row(k)`, become lanes of sixteen registers at `block`, a lane a key; others stay.
template <class F> OB_INLINE void into_lanes(float* block, size_t stride, int lane, int n, F&& row) {
  Vf square[16];
  for (int k = 0; k < 16; k++) square[k] = n == 16 ? zero() : load(block + (size_t)k * stride);
  if (n < 16) transpose(square);
  for (int k = 0; k < n; k++) square[lane + k] = row(k);
  transpose(square);
  for (int k = 0; k < 16; k++) store(block + (size_t)k * stride, square[k]);
}

// Keys turned so that one register holds a number of sixteen of them, [block][dim][64]; values as floats, [key][dim].
OB_INLINE void lay_out(const Attend& a, const Span& span, int low, int high, float* keys, float* values) {
  int padded = (a.dim + 15) / 16 * 16;
  size_t width = width_of(a.store, a.dim);
  each_sixteen(a, span, low, high, [&](const Run& run, int j, int n, int at) {
    int lane = at % 16;
    for (int c = 0; c < padded; c += 16) {
      float* block = keys + ((size_t)(at / kBlock) * padded + c) * kBlock + at % kBlock - lane;
      into_lanes(block, kBlock, lane, n, [&](int k) {
        size_t key = (size_t)(j + k);
        Vf numbers, value;
        decode(a, run.v + key * width, run.v_scale + key, run.v_low + key, c, &value);
        store(values + (size_t)(at + k) * padded + c, value);
        decode(a, run.k + key * width, run.k_scale + key, run.k_low + key, c, &numbers);
        return numbers;
      });
    }
  });
}

// The same as pairs of bf16, where the processor multiplies those: keys [block][dim / 2][64][2], values [key / 2][dim][2].
OB_INLINE void lay_out_pairs(const Attend& a, const Span& span, int low, int high, uint16_t* keys, uint16_t* values) {
  each_sixteen(a, span, low, high, [&](const Run& run, int j, int n, int at) {
    int lane = at % 16;
    for (int c = 0; c < a.dim; c += 32) {  // pairs are moved and never computed with
      uint16_t* block = keys + ((size_t)(at / kBlock) * a.dim + c) * kBlock + 2 * (at % kBlock - lane);
      into_lanes((float*)block, kBlock, lane, n,
                 [&](int k) { return load((const float*)(run.k + 2 * ((size_t)(j + k) * a.dim + c))); });
    }
    for (int k = 0; k < n; k++) {
      const uint16_t* v = (const uint16_t*)run.v + (size_t)(j + k) * a.dim;
      uint16_t* pair = values + (size_t)((at + k) / 2) * 2 * a.dim;
      if ((at + k) % 2 == 0 && k + 1 < n) {
        for (int d = 0; d < a.dim; d++) pair[2 * d] = v[d], pair[2 * d + 1] = v[a.dim + d];
        k++;
      } else {
        for (int d = 0; d < a.dim; d++) pair[2 * d + (at + k) % 2] = v[d];
      }
    }
  });
}

// Scores of `kCount` queries, then what they see of the values; keys and values laid out, as pairs of bf16 or floats.
template <int kCount, bool kPairs>
OB_INLINE void attend_block(const Attend& a, const Span& span, const Query* q, const float* keys, const float* values,
                            float* scratch) {
  int padded = (a.dim + 15) / 16 * 16, low = INT32_MAX, high = -1;
  float* scores[kCount];
  uint16_t *pairs = (uint16_t*)(scratch + (size_t)kCount * (span.count + kBlock)), *query[kCount], *weight[kCount];
  for (int i = 0; i < kCount; i++) {
    scores[i] = scratch + (size_t)i * (span.count + kBlock);
    low = least(low, q[i].low), high = most(high, q[i].high);
    if constexpr (kPairs) {
      query[i] = pairs, weight[i] = pairs + padded, pairs += padded + span.count + kBlock;
      for (int c = 0; c < padded; c += 16) store_bf16(query[i] + c, load(q[i].q + c));
    }
  }
  // Blocks that none of these queries sees are neither scored nor summed.
  int from = (span.padded + most(low, span.pinned) - span.base) / kBlock * kBlock;
  int to = least(span.count, span.padded + most(0, high + 1 - span.base));
  Span mine = span;
  mine.count = (to + 15) / 16 * 16;
  for (int block = 0; block < mine.count; block += kBlock) {
    Vf sums[kCount][4];
    bool seen = block < span.padded || block + kBlock > from;
    for (int i = 0; i < kCount; i++)
      for (int c = 0; c < 4; c++) sums[i][c] = seen ? zero() : set(kNone);
    const float* k = keys + (size_t)block * padded;
    const uint16_t* k2 = (const uint16_t*)keys + (size_t)block * padded;
    if constexpr (kPairs) {
      for (int d = 0; seen && d < padded; d += 2, k2 += 2 * kBlock)
        for (int i = 0; i < kCount; i++)
          for (int c = 0; c < 4; c++) sums[i][c] = dot_bf16(sums[i][c], k2 + 32 * c, *(const Pair*)(query[i] + d));
    } else {
      for (int d = 0; seen && d < padded; d++, k += kBlock) {
        Vf four[4];
        for (int c = 0; c < 4; c++) four[c] = load(k + 16 * c);
        for (int i = 0; i < kCount; i++)
          for (int c = 0; c < 4; c++) sums[i][c] = fma(four[c], set(q[i].q[d]), sums[i][c]);
      }
    }
    for (int i = 0; i < kCount; i++)
      for (int c = 0; c < 4; c++) store(scores[i] + block + 16 * c, sums[i][c]);
  }
  float by[kCount];
  for (int i = 0; i < kCount; i++) {
    by[i] = softmax(a, q[i], mine, scores[i]);
    if constexpr (kPairs)
      for (int j = 0; j < mine.count; j += 16) store_bf16(weight[i] + j, load(scores[i] + j));
  }
  for (int c0 = 0; c0 < padded; c0 += 64) {
    int chunks = least(4, (padded - c0) / 16);
    Vf sums[kCount][4];
    for (int i = 0; i < kCount; i++)
      for (int c = 0; c < 4; c++) sums[i][c] = zero();
    auto add_up = [&](int j0, int j1, auto all) {
      int count = all.value ? 4 : chunks;
      if constexpr (kPairs) {
        for (int j = j0; j < j1; j += 2) {
          const uint16_t* v = (const uint16_t*)values + (size_t)j * padded + 2 * c0;
          for (int c = 0; c < count; c++)
            for (int i = 0; i < kCount; i++)
              sums[i][c] = dot_bf16(sums[i][c], v + 32 * c, *(const Pair*)(weight[i] + j));
        }
      } else {
        for (int j = j0; j < j1; j++) {
          const float* v = values + (size_t)j * padded + c0;
          for (int c = 0; c < count; c++) {
            Vf numbers = load(v + 16 * c);
            for (int i = 0; i < kCount; i++) sums[i][c] = fma(numbers, set(scores[i][j]), sums[i][c]);
          }
        }
      }
    };
    for (int part = 0; part < 2; part++) {
      int j0 = part ? most(span.padded, from) : 0, j1 = part ? mine.count : least(span.padded, mine.count);
      if (chunks == 4) add_up(j0, j1, Yes{});
      else add_up(j0, j1, No{});
    }
    for (int i = 0; i < kCount; i++)
      for (int c = 0; c < chunks; c++)
        store_some(q[i].out + c0 + 16 * c, sums[i][c] * set(by[i]), a.dim - c0 - 16 * c);
  }
}

template <bool kPairs> void attend_laid_out(const Attend& a) {
  int padded = (a.dim + 15) / 16 * 16, low = INT32_MAX, high = -1;
  for (int i = 0; i < a.count; i++) low = least(low, a.queries[i].low), high = most(high, a.queries[i].high);
  Span span = span_of(a, 0, a.count);
  size_t numbers = (size_t)((span.count + kBlock - 1) / kBlock) * kBlock * padded;
  float *keys = a.scratch, *values = keys + numbers, *scores = values + numbers;
  // A place without a key keeps a number: 0 · what memory held before could be no number.
  std::memset(keys, 0, numbers * 2 * sizeof(float));
  if constexpr (kPairs) lay_out_pairs(a, span, low, high, (uint16_t*)keys, (uint16_t*)values);
  else lay_out(a, span, low, high, keys, values);
  int i = 0;
  if constexpr (kQueries >= 4)
    for (; i + 4 <= a.count; i += 4) attend_block<4, kPairs>(a, span, a.queries + i, keys, values, scores);
  for (; i < a.count; i++) attend_block<1, kPairs>(a, span, a.queries + i, keys, values, scores);
}

void attend_many(const Attend& a) {
#ifdef OB_PAIRS
  if (a.store == Store::bf16 && a.dim % 32 == 0) return attend_laid_out<true>(a);
#endif
  attend_laid_out<false>(a);
}

}  // namespace
