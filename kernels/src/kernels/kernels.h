// The kernels, written once over simd/*.h and compiled for each set of instructions.
//
// Every sum runs in an order that depends on the numbers alone, never on how many rows are computed at once: so a
// token comes out the same, to the last bit, alone and among others.
#pragma once
#include "activations.h"
#include "attention_many.h"
#include "codes.h"
#include "products.h"
#include "rows.h"
#include "vocabulary.h"

namespace {

double read(const uint8_t* data, size_t bytes) {
  Vf a = zero(), b = zero(), c = zero(), d = zero();
  const float* p = (const float*)data;
  for (size_t i = 0; i + 64 <= bytes / 4; i += 64) {
    a = larger(a, load(p + i));
    b = larger(b, load(p + i + 16));
    c = larger(c, load(p + i + 32));
    d = larger(d, load(p + i + 48));
  }
  return sum(a + b + c + d);
}

constexpr Kernels table(const char* name) {
  return {name, prepare, multiply, glu, activate, times, norm, add, rotate, keep, attend, attend_many, log_sum, mix, apart, ask, estimate,
          read};
}

}  // namespace
