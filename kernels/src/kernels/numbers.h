// Functions of sixteen numbers at once, and words of several numbers that are read as one.
#pragma once
#include <cmath>
#include <cstring>

#include "../isa.h"

namespace {

constexpr float kNone = -INFINITY;

OB_INLINE int least(int a, int b) { return a < b ? a : b; }
OB_INLINE int most(int a, int b) { return a > b ? a : b; }

// The first n, then zeros.
OB_INLINE Vf some(Vf a, int n) {
  if (n >= 16) return a;
  float kept[16];
  store(kept, a);
  return load_some(kept, n);
}

OB_INLINE Vf sums_of(Vf r[16]) { return crosswise(r, [](Vf a, Vf b) __attribute__((always_inline)) { return a + b; }); }
OB_INLINE Vf tops_of(Vf r[16]) { return crosswise(r, [](Vf a, Vf b) __attribute__((always_inline)) { return larger(a, b); }); }

// e^x by 2^n · 2^f, |f| ≤ ½, the second by its series to x⁶/6!: off by two units in the last place.
OB_INLINE Vf exp(Vf x) {
  x = larger(smaller(x, set(88.f)), set(-87.f));
  Vf t = x * set(1.44269504088896341f), n = nearest(t), f = t - n;
  Vf p = fma(set(1.5403530e-4f), f, set(1.3333558e-3f));
  p = fma(p, f, set(9.6181291e-3f));
  p = fma(p, f, set(5.5504109e-2f));
  p = fma(p, f, set(2.4022651e-1f));
  p = fma(p, f, set(6.9314718e-1f));
  p = fma(p, f, set(1.f));
  return scale_by_power(p, n);
}

OB_INLINE Vf tanh(Vf x) { return set(1.f) - set(2.f) / (exp(x + x) + set(1.f)); }

// Abramowitz and Stegun 7.1.26: off by 1.5e-7.
OB_INLINE Vf erf(Vf x) {
  Vf a = absolute(x), t = set(1.f) / fma(set(0.3275911f), a, set(1.f));
  Vf p = fma(set(1.061405429f), t, set(-1.453152027f));
  p = fma(p, t, set(1.421413741f));
  p = fma(p, t, set(-0.284496736f));
  p = fma(p, t, set(0.254829592f));
  Vf r = set(1.f) - p * t * exp(zero() - a * a);
  return where_greater(x, zero(), r, zero() - r);
}

OB_INLINE Vf act_of(Vf x, Act act) {
  switch (act) {
    case Act::silu: return x / (set(1.f) + exp(zero() - x));
    case Act::gelu: return x * set(0.5f) * (set(1.f) + erf(x * set(0.70710678f)));
    case Act::gelu_tanh: {
      Vf inner = set(0.79788456f) * fma(set(0.044715f) * x * x, x, x);
      return x * set(0.5f) * (set(1.f) + tanh(inner));
    }
    default: return larger(x, zero());
  }
}

// Four bytes, or two bf16, that are read as one word: straight from memory into all lanes.
typedef int32_t __attribute__((may_alias)) Four;
typedef uint32_t __attribute__((may_alias)) Pair;

}  // namespace
