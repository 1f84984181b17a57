// What happens to one row of numbers: norms, activation functions, rotations.
#pragma once
#include "numbers.h"

namespace {

void activate(float* x, int count, Act act) {
  for (int i = 0; i < count; i += 16) store_some(x + i, act_of(load_some(x + i, count - i), act), count - i);
}

void times(float* x, const float* y, int count) {
  for (int i = 0; i < count; i += 16)
    store_some(x + i, load_some(x + i, count - i) * load_some(y + i, count - i), count - i);
}

void norm(const float* x, int count, const float* weight, const float* bias, float epsilon, bool layer, float* out) {
  Vf squares = zero(), total = zero();
  float mean = 0;
  if (layer) {
    for (int i = 0; i < count; i += 16) total = total + load_some(x + i, count - i);
    mean = sum(total) / (float)count;
  }
  for (int i = 0; i < count; i += 16) {
    int n = count - i;
    Vf v = load_some(x + i, n);
    if (layer) v = some(v - set(mean), n);
    squares = fma(v, v, squares);
  }
  Vf by = set(1.f / std::sqrt(sum(squares) / (float)count + epsilon)), centre = set(mean);
  for (int i = 0; i < count; i += 16) {
    int n = count - i;
    Vf v = (load_some(x + i, n) - centre) * by * load_some(weight + i, n);
    if (bias) v = v + load_some(bias + i, n);
    store_some(out + i, v, n);
  }
}

void add(float* x, const float* y, int count, float scale) {
  for (int i = 0; i < count; i += 16)
    store_some(x + i, fma(load_some(y + i, count - i), set(scale), load_some(x + i, count - i)), count - i);
}

void rotate(float* x, const float* cos_sin, int half) {
  for (int i = 0; i < half; i += 16) {
    int n = half - i;
    Vf a = load_some(x + i, n), b = load_some(x + half + i, n);
    Vf c = load_some(cos_sin + i, n), s = load_some(cos_sin + half + i, n);
    store_some(x + i, a * c - b * s, n);
    store_some(x + half + i, fma(b, c, a * s), n);
  }
}

}  // namespace
