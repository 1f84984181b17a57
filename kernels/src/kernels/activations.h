// Rows of activations in the forms that matrices take: bytes with scales, bf16, floats.
#pragma once
#include "numbers.h"

namespace {

// Blocks of 32 numbers, sixteen blocks at a time: what concerns a whole block is one lane of a register.
void to_levels(const float* x, int columns, const Activations& out, int row, bool halves) {
  int blocks = out.padded / 32;
  int8_t* levels = out.levels + (size_t)row * out.padded;
  size_t first_block = (size_t)row * blocks;
  auto part = [&](int c) __attribute__((always_inline)) {
    return columns - c >= 16 ? load(x + c) : columns > c ? load_some(x + c, columns - c) : zero();
  };
  Vf lost = zero();  // 0, or not a number: bytes would hide what is not finite
  for (int b0 = 0; b0 < blocks; b0 += 16) {
    int n = least(16, blocks - b0);
    Vf tops[16], low[16], high[16];
    for (int b = 0; b < 16; b++) {
      Vf lo = b < n ? part(32 * (b0 + b)) : zero(), hi = b < n ? part(32 * (b0 + b) + 16) : zero();
      tops[b] = larger(absolute(lo), absolute(hi));
      lost = lost + ((lo - lo) + (hi - hi));
    }
    Vf top = tops_of(tops), scale = top / set(127.f);
    float by[16];
    store(by, where_greater(top, zero(), set(127.f) / top, zero()));
    for (int b = 0; b < 16; b++) low[b] = high[b] = zero();
    for (int b = 0; b < n; b++) {
      int c = 32 * (b0 + b);
      Vi lo = to_int(part(c) * set(by[b])), hi = to_int(part(c + 16) * set(by[b]));
      store_int8(levels + c, lo);
      store_int8(levels + c + 16, hi);
      low[b] = to_float(lo), high[b] = to_float(hi);
    }
    Vf first = sums_of(low), second = sums_of(high), both = first + second;  // of whole numbers: exact
    size_t at = first_block + b0;
    store_some(out.scales + at, scale, n);
    store_some(out.sums + at, scale * both, n);
    float minus[16];
    store(minus, zero() - both);
    for (int b = 0; b < n; b++) out.minus[at + b] = (int32_t)minus[b];
    if (!halves) continue;
    float of[2][16], scales[16];
    store(of[0], first), store(of[1], second), store(scales, scale);
    for (int i = 0; i < 2 * n; i++) {
      out.minus16[2 * at + i] = -(int32_t)of[i % 2][i / 2];
      out.sums16[2 * at + i] = scales[i / 2] * of[i % 2][i / 2];
    }
  }
  if (sum(lost) != 0)
    for (int b = 0; b < blocks; b++) out.scales[first_block + b] = NAN;
}

void to_wide_levels(const float* x, int columns, const Activations& out, int row) {
  int blocks = out.wide_padded / kWide;
  Vf lost = zero();
  for (int b = 0; b < blocks; b++, x += kWide, columns -= kWide) {
    Vf part[kWide / 16], top = zero();
    for (int i = 0; i < kWide / 16; i++) {
      int left = columns - 16 * i;
      part[i] = left >= 16 ? load(x + 16 * i) : left > 0 ? load_some(x + 16 * i, left) : zero();
      top = larger(top, absolute(part[i]));
      lost = lost + (part[i] - part[i]);
    }
    float peak = largest(top), by = peak > 0 ? 127.f / peak : 0.f;
    Vi total = zero_int();
    for (int i = 0; i < kWide / 16; i++) {
      Vi level = to_int(part[i] * set(by));
      store_int8(out.wide + (size_t)row * out.wide_padded + b * kWide + 16 * i, level);
      total = total + level;
    }
    out.wide_scales[(size_t)row * blocks + b] = peak / 127.f;
    out.wide_minus[(size_t)row * blocks + b] = -sum(total);
  }
  if (sum(lost) != 0)
    for (int b = 0; b < blocks; b++) out.wide_scales[(size_t)row * blocks + b] = NAN;
}

void prepare(const float* x, int columns, int wanted, const Activations& out, int row) {
  if (wanted & kBytes) to_levels(x, columns, out, row, wanted & kHalves);
  if (wanted & kWideBytes) to_wide_levels(x, columns, out, row);
  for (int c = 0; c < out.padded; c += 16) {
    if (!(wanted & (kBf16 | kFloats))) break;
    Vf v = columns - c >= 16 ? load(x + c) : columns > c ? load_some(x + c, columns - c) : zero();
    if (wanted & kBf16) store_bf16(out.bf16 + (size_t)row * out.padded + c, v);
    if (wanted & kFloats) store(out.floats + (size_t)row * out.padded + c, v);
  }
}

}  // namespace
