// A few queries over keys that are read where they lie.
#pragma once
#include "stored.h"

namespace {

// Scores of a query stand in a row by the position of their key: the pinned first ones, then those from `base` on, a
// multiple of 16. So a softmax adds in the same order however the keys lie in memory.

struct Span {
  int pinned, padded, base, count;  // pinned positions, rounded up; first of the others; scores a row, padded

  int at(int position) const { return position < pinned ? position : padded + position - base; }
};

OB_INLINE Span span_of(const Attend& a, int first, int last) {
  int low = INT32_MAX, high = -1;
  for (int i = first; i < last; i++) low = least(low, a.queries[i].low), high = most(high, a.queries[i].high);
  Span s;
  s.pinned = a.pinned;
  s.padded = (s.pinned + 15) / 16 * 16;
  s.base = most(low, s.pinned) / 16 * 16;
  s.count = s.padded + (high < s.base ? 0 : (high - s.base) / 16 * 16 + 16);
  return s;
}

// From scores to weights, e^(s − largest), in place; returns one over their sum. −inf stands where there is no key.
OB_INLINE float softmax(const Attend& a, const Query& q, const Span& span, float* s) {
  Vf top = set(q.sink);
  // What this query may not see, though another of its tile may.
  int past = span.padded - span.base, from = past + most(q.low, span.pinned), to = past + q.high + 1;
  for (int i = q.front; i < span.padded; i++) s[i] = kNone;
  for (int i = span.padded; i < least(from, span.count); i++) s[i] = kNone;
  for (int i = most(to, span.padded); i < span.count; i++) s[i] = kNone;
  for (int i = 0; i < span.count; i += 16) {
    Vf raw = load(s + i), v = raw * set(a.scale);
    if (a.cap > 0) v = tanh(v * set(1.f / a.cap)) * set(a.cap);
    if (q.bias) {
      float sixteen[16];
      for (int j = 0; j < 16; j++) {
        int position = i + j < span.padded ? i + j : span.base + i + j - span.padded;
        sixteen[j] = s[i + j] > kNone ? q.bias[q.position - position] : 0.f;
      }
      v = v + load(sixteen);
    }
    v = where_greater(raw, set(kNone), v, raw);
    store(s + i, v);
    top = larger(top, v);
  }
  float peak = largest(top);
  if (peak == kNone) peak = 0;  // no key at all: nothing is added below
  Vf total = zero(), by = set(peak), least_of = set(-3e38f);
  for (int i = 0; i < span.count; i += 16) {
    Vf v = load(s + i), e = exp(v - by);
    e = where_greater(v, least_of, e, where_greater(least_of, v, zero(), v));  // what is not a number stays one
    store(s + i, e);
    total = total + e;
  }
  float all = sum(total);
  if (q.sink > kNone) all += std::exp(q.sink - peak);
  return all == 0 ? 0.f : 1.f / all;
}

// `each(run, from, to)` for the keys that somebody who sees `low` to `high`, and the pinned, may see.
template <class F> OB_INLINE void each_part(const Attend& a, const Span& span, int low, int high, F&& each) {
  for (int r = 0; r < a.run_count; r++) {
    const Run& run = a.runs[r];
    int end = run.position + run.count, front = least(end, span.pinned) - run.position;
    if (front > 0) each(run, 0, front);
    int from = most(run.position, most(low, span.pinned)), to = least(end, high + 1);
    if (from < to) each(run, from - run.position, to - run.position);
  }
}

template <Store kStore, bool kEven, int kCount>
void attend_tile(const Attend& a, const Query* q) {
  int dim = a.dim, chunks = (dim + 15) / 16;
  size_t width = width_of(kStore, dim);
  Span span = span_of(a, (int)(q - a.queries), (int)(q - a.queries) + kCount);
  int low = INT32_MAX, high = -1;
  for (int i = 0; i < kCount; i++) low = least(low, q[i].low), high = most(high, q[i].high);
  float* scores[kCount];
  float totals[kCount] = {};
  for (int i = 0; i < kCount; i++) {
    scores[i] = a.scratch + (size_t)i * span.count;
    for (int j = 0; j < span.count; j += 16) store(scores[i] + j, set(kNone));
    if constexpr (kStore == Store::int4)
      for (int c = 0; c < chunks; c++) totals[i] += sum(load(q[i].q + 16 * c));
  }
  each_part(a, span, low, high, [&](const Run& run, int from, int to) __attribute__((always_inline)) {
    for (int j = from; j < to; j += 16) {
      int n = least(16, to - j);
      Vf products[kCount][16];
      for (int k = 0; k < 16; k++) {
        Vf s[kCount];
        for (int i = 0; i < kCount; i++) s[i] = zero();
        const uint8_t* key = run.k + (size_t)(j + (k < n ? k : 0)) * width;
        for (int c = 0; c < chunks; c++) {
          Vf numbers = chunk<kStore, kEven>(key, 16 * c, dim);
          for (int i = 0; i < kCount; i++) s[i] = fma(numbers, load(q[i].q + 16 * c), s[i]);
        }
        for (int i = 0; i < kCount; i++) products[i][k] = s[i];
      }
      for (int i = 0; i < kCount; i++) {
        Vf s = sums_of(products[i]);
        if constexpr (kStore == Store::int8 || kStore == Store::int4) {
          float scale[16] = {}, lows[16] = {};
          for (int k = 0; k < n; k++) {
            scale[k] = one_bf16(run.k_scale[j + k]);
            if constexpr (kStore == Store::int4) lows[k] = one_bf16(run.k_low[j + k]);
          }
          s = s * load(scale);
          if constexpr (kStore == Store::int4) s = fma(load(lows), set(totals[i]), s);
        }
        store_some(scores[i] + span.at(run.position + j), s, n);
      }
    }
  });
  float by[kCount];
  for (int i = 0; i < kCount; i++) by[i] = softmax(a, q[i], span, scores[i]);
  for (int c0 = 0; c0 < chunks; c0 += 4) {
    Vf sums[kCount][4];
    float lows[kCount] = {};
    for (int i = 0; i < kCount; i++)
      for (int c = 0; c < 4; c++) sums[i][c] = zero();
    each_part(a, span, low, high, [&](const Run& run, int from, int to) __attribute__((always_inline)) {
      int at = span.at(run.position + from) - from;
      for (int j = from; j < to; j++) {
        float weight[kCount], scale = 1;
        if constexpr (kStore == Store::int8 || kStore == Store::int4) scale = one_bf16(run.v_scale[j]);
        for (int i = 0; i < kCount; i++) {
          weight[i] = scores[i][at + j];
          if constexpr (kStore == Store::int4) lows[i] = weight[i] * one_bf16(run.v_low[j]) + lows[i];
          if constexpr (kStore == Store::int8 || kStore == Store::int4) weight[i] *= scale;
        }
        const uint8_t* value = run.v + (size_t)j * width;
        if (chunks - c0 >= 4) {
          for (int c = 0; c < 4; c++) {
            Vf numbers = chunk<kStore, kEven>(value, 16 * (c0 + c), dim);
            for (int i = 0; i < kCount; i++) sums[i][c] = fma(numbers, set(weight[i]), sums[i][c]);
          }
        } else {
          for (int c = 0; c < chunks - c0; c++) {
            Vf numbers = chunk<kStore, kEven>(value, 16 * (c0 + c), dim);
            for (int i = 0; i < kCount; i++) sums[i][c] = fma(numbers, set(weight[i]), sums[i][c]);
          }
        }
      }
    });
    for (int i = 0; i < kCount; i++)
      for (int c = 0; c < least(4, chunks - c0); c++)
        store_some(q[i].out + 16 * (c0 + c), (sums[i][c] + set(lows[i])) * set(by[i]), dim - 16 * (c0 + c));
  }
}

constexpr int kKeysAhead = 32;  // keys and values that are asked for before they are needed

#ifdef OB_PAIRS
// The same for keys and values in bf16 whose pairs are fast to multiply. Two values that are weighed together stand at an
// even position and the next, wherever they lie.
template <int kCount> void attend_pairs(const Attend& a, const Query* q) {
  int chunks = a.dim / 32, low = INT32_MAX, high = -1;
  Span span = span_of(a, (int)(q - a.queries), (int)(q - a.queries) + kCount);
  float* scores[kCount];
  uint16_t *query = (uint16_t*)(a.scratch + (size_t)kCount * span.count), *weights = query + kCount * a.dim;
  uint16_t* nothing = weights + (size_t)kCount * span.count;
  std::memset(nothing, 0, 2 * (size_t)a.dim);
  for (int i = 0; i < kCount; i++) {
    low = least(low, q[i].low), high = most(high, q[i].high);
    scores[i] = a.scratch + (size_t)i * span.count;
    for (int j = 0; j < span.count; j += 16) store(scores[i] + j, set(kNone));
    for (int c = 0; c < a.dim; c += 16) store_bf16(query + i * a.dim + c, load(q[i].q + c));
  }
  each_part(a, span, low, high, [&](const Run& run, int from, int to) __attribute__((always_inline)) {
    for (int j = from; j < to; j += 16) {
      int n = least(16, to - j);
      Vf products[kCount][16];
      for (int k = 0; k < 16; k++) {
        const uint8_t* key = run.k + (size_t)(j + (k < n ? k : 0)) * 2 * a.dim;
        for (int c = 0; c < chunks; c++) prefetch(key + kKeysAhead * 2 * (size_t)a.dim + 64 * c);
        for (int i = 0; i < kCount; i++) products[i][k] = zero();
        for (int c = 0; c < chunks; c++) {
          Vb numbers = load_bytes(key + 64 * c);
          for (int i = 0; i < kCount; i++)
            products[i][k] = dot_rows(products[i][k], numbers, load_bytes((const uint8_t*)(query + i * a.dim + 32 * c)));
        }
      }
      for (int i = 0; i < kCount; i++) store_some(scores[i] + span.at(run.position + j), sums_of(products[i]), n);
    }
  });
  float by[kCount];
  for (int i = 0; i < kCount; i++) {
    by[i] = softmax(a, q[i], span, scores[i]);
    for (int j = 0; j < span.count; j += 16) store_bf16(weights + (size_t)i * span.count + j, load(scores[i] + j));
  }
  for (int c0 = 0; c0 < chunks; c0 += 2) {
    int count = least(2, chunks - c0);
    Vf sums[kCount][4];
    for (int i = 0; i < kCount; i++)
      for (int c = 0; c < 4; c++) sums[i][c] = zero();
    auto weigh = [&](const uint16_t* even, const uint16_t* odd, int at) {
      for (int c = 0; c < count; c++) {
        Vb pairs[2];
        as_pairs(even + 32 * (c0 + c), odd + 32 * (c0 + c), pairs);
        for (int i = 0; i < kCount; i++) {
          Vb weight = both_of(*(const Pair*)(weights + (size_t)i * span.count + at));
          sums[i][2 * c] = dot_rows(sums[i][2 * c], pairs[0], weight);
          sums[i][2 * c + 1] = dot_rows(sums[i][2 * c + 1], pairs[1], weight);
        }
      }
    };
    const uint16_t* waiting = nullptr;  // a value at an even position, and where its weight stands
    int place = 0;
    auto settle = [&] {
      if (waiting) weigh(waiting, nothing, place);
      waiting = nullptr;
    };
    each_part(a, span, low, high, [&](const Run& run, int from, int to) __attribute__((always_inline)) {
      int at = span.at(run.position + from) - from, j = from;
      const uint16_t* v = (const uint16_t*)run.v;
      if ((at + j) % 2) {
        bool partner = waiting && place == at + j - 1;
        if (!partner) settle();
        weigh(partner ? waiting : nothing, v + (size_t)j * a.dim, at + j - 1);
        waiting = nullptr;
        j++;
      }
      if (j < to) settle();
      for (; j + 2 <= to; j += 2) {
        for (int c = 0; c < 2 * count; c++) prefetch(v + (size_t)(j + kKeysAhead) * a.dim + 32 * (2 * c0 + c));
        weigh(v + (size_t)j * a.dim, v + (size_t)(j + 1) * a.dim, at + j);
      }
      if (j < to) waiting = v + (size_t)j * a.dim, place = at + j;
    });
    settle();
    for (int i = 0; i < kCount; i++)
      for (int c = 0; c < 2 * count; c++) store(q[i].out + 32 * c0 + 16 * c, sums[i][c] * set(by[i]));
  }
}

void attend_all_pairs(const Attend& a) {
  int i = 0;
  for (; i + 4 <= a.count; i += 4) attend_pairs<4>(a, a.queries + i);
  if (a.count - i == 3) attend_pairs<3>(a, a.queries + i);
  if (a.count - i == 2) attend_pairs<2>(a, a.queries + i);
  if (a.count - i == 1) attend_pairs<1>(a, a.queries + i);
}

#endif

template <Store kStore, bool kEven> void attend_all(const Attend& a) {
  int i = 0;
  if constexpr (kQueries >= 4)
    for (; i + 4 <= a.count; i += 4) attend_tile<kStore, kEven, 4>(a, a.queries + i);
  if constexpr (kQueries >= 2)
    for (; i + 2 <= a.count; i += 2) attend_tile<kStore, kEven, 2>(a, a.queries + i);
  for (; i < a.count; i++) attend_tile<kStore, kEven, 1>(a, a.queries + i);
}

void attend(const Attend& a) {
#ifdef OB_PAIRS
  if (a.store == Store::bf16 && a.dim % 32 == 0) return attend_all_pairs(a);
#endif
  bool even = a.dim % (a.store == Store::int4 ? 32 : 16) == 0;
  switch (a.store) {
    case Store::f32: return even ? attend_all<Store::f32, true>(a) : attend_all<Store::f32, false>(a);
    case Store::bf16: return even ? attend_all<Store::bf16, true>(a) : attend_all<Store::bf16, false>(a);
    case Store::int8: return even ? attend_all<Store::int8, true>(a) : attend_all<Store::int8, false>(a);
    default: return even ? attend_all<Store::int4, true>(a) : attend_all<Store::int4, false>(a);
  }
}

}  // namespace
