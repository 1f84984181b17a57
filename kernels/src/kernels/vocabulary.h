// Softmaxes over a vocabulary, and their mixture.
#pragma once
#include "numbers.h"

namespace {

// The logarithm: a guess from the exponent, then twice Halley's step, each of which triples the digits.
OB_INLINE Vf log(Vf x) {
  Vf y = fma(to_float(bits_of(x)), set(8.2629582e-8f), set(-88.029692f));  // bits · ln 2 / 2^23 − 127 ln 2
  for (int i = 0; i < 2; i++) {
    Vf e = exp(y);
    y = y + set(2.f) * (x - e) / (x + e);
  }
  return y;
}

void log_sum(const float* scores, int64_t count, float* most_of, double* total) {
  Vf top = set(-INFINITY);
  int64_t whole = count / 16 * 16;
  for (int64_t i = 0; i < whole; i += 16) top = larger(top, load(scores + i));
  float peak = largest(top);
  for (int64_t i = whole; i < count; i++) peak = scores[i] > peak ? scores[i] : peak;
  float by = peak == -INFINITY ? 0 : peak;  // where no token can be, their sum is 0
  double all = 0;
  for (int64_t i = 0; i < count; i += 1024) {  // short sums in floats, the long one in doubles
    Vf part = zero();
    for (int64_t j = i; j < i + 1024 && j < whole; j += 16) {
      Vf v = load(scores + j) - set(by);
      part = part + where_greater(v, set(-87.f), exp(v), where_greater(set(-87.f), v, zero(), v));
    }
    all += sum(part);
  }
  for (int64_t i = whole; i < count; i++) all += std::exp(scores[i] - by);
  *most_of = peak;
  *total = all;
}

void mix(const float* const* scores, const float* peak, const float* shift, int sources, int64_t first, int64_t last, float* out) {
  for (int64_t i = first; i < last; i += 16) {
    int n = (int)(last - i < 16 ? last - i : 16);
    Vf top = load_some(scores[0] + i, n) - set(peak[0]) + set(shift[0]);
    for (int s = 1; s < sources; s++) top = larger(top, load_some(scores[s] + i, n) - set(peak[s]) + set(shift[s]));
    if (sources > 1) {
      Vf total = zero();
      for (int s = 0; s < sources; s++) {
        Vf v = load_some(scores[s] + i, n) - set(peak[s]) + set(shift[s]) - top;
        total = total + where_greater(v, set(-87.f), exp(v), where_greater(set(-87.f), v, zero(), v));
      }
      top = where_greater(top, set(-3e38f), top + log(total), top);
    }
    store_some(out + i, top, n);
  }
}

}  // namespace
