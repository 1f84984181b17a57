// The kernels, written once over simd/*.h and compiled for each set of instructions.
//
// Every sum runs in an order that depends on the numbers alone, never on how many rows are computed at once: so a
// token comes out the same, to the last bit, alone and among others.
#pragma once
#include <cmath>
#include <cstring>

#include "isa.h"

namespace {

constexpr float kNone = -INFINITY;

OB_INLINE int least(int a, int b) { return a < b ? a : b; }
OB_INLINE int most(int a, int b) { return a > b ? a : b; }

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

// ---- Activations -------------------------------------------------------------------------------------------------

void to_levels(const float* x, int columns, const Activations& out, int row) {
  int blocks = out.padded / 32;
  int8_t* levels = out.levels + (size_t)row * out.padded;
  size_t at = (size_t)row * blocks;
  for (int b = 0; b < blocks; b++) {
    int left = columns - 32 * b;
    Vf lo = left >= 16 ? load(x + 32 * b) : left > 0 ? load_some(x + 32 * b, left) : zero();
    Vf hi = left >= 32 ? load(x + 32 * b + 16) : left > 16 ? load_some(x + 32 * b + 16, left - 16) : zero();
    float top = largest(larger(absolute(lo), absolute(hi)));
    float scale = top / 127.f, by = top > 0 ? 127.f / top : 0.f;
    Vi a = to_int(lo * set(by)), c = to_int(hi * set(by));
    store_int8(levels + 32 * b, a);
    store_int8(levels + 32 * b + 16, c);
    int32_t first = sum(a), second = sum(c);
    out.scales[at + b] = scale;
    out.sums[at + b] = scale * (float)(first + second);
    out.minus[at + b] = -(first + second);
    out.sums16[2 * (at + b)] = scale * (float)first;
    out.sums16[2 * (at + b) + 1] = scale * (float)second;
    out.minus16[2 * (at + b)] = -first;
    out.minus16[2 * (at + b) + 1] = -second;
  }
}

void to_wide_levels(const float* x, int columns, const Activations& out, int row) {
  int blocks = out.wide_padded / kWide;
  for (int b = 0; b < blocks; b++, x += kWide, columns -= kWide) {
    Vf part[kWide / 16], top = zero();
    for (int i = 0; i < kWide / 16; i++) {
      int left = columns - 16 * i;
      part[i] = left >= 16 ? load(x + 16 * i) : left > 0 ? load_some(x + 16 * i, left) : zero();
      top = larger(top, absolute(part[i]));
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
}

void prepare(const float* x, int columns, int wanted, const Activations& out, int row) {
  if (wanted & kBytes) to_levels(x, columns, out, row);
  if (wanted & kWideBytes) to_wide_levels(x, columns, out, row);
  for (int c = 0; c < out.padded; c += 16) {
    if (!(wanted & (kBf16 | kFloats))) break;
    Vf v = columns - c >= 16 ? load(x + c) : columns > c ? load_some(x + c, columns - c) : zero();
    if (wanted & kBf16) store_bf16(out.bf16 + (size_t)row * out.padded + c, v);
    if (wanted & kFloats) store(out.floats + (size_t)row * out.padded + c, v);
  }
}

// Four bytes, or two bf16, that are read as one word: straight from memory into all lanes.
typedef int32_t __attribute__((may_alias)) Four;
typedef uint32_t __attribute__((may_alias)) Pair;

// ---- Products ----------------------------------------------------------------------------------------------------

// Eight registers of levels, each four consecutive inputs of 16 rows.
template <Form kForm> OB_INLINE void levels_of(const uint8_t* p, Vb w[8]) {
  constexpr int bits = traits(kForm).bits;
  if constexpr (bits == 8) {
    for (int j = 0; j < 8; j++) w[j] = load_bytes(p + 64 * j);
    return;
  }
  for (int j = 0; j < 4; j++) {
    Vb both = load_bytes(p + 64 * j);
    w[j] = low_nibbles(both);
    w[4 + j] = high_nibbles(both);
  }
  if constexpr (bits == 5) {
    for (int j = 0; j < 8; j++) w[j] = with_fifth(w[j], p + 256 + 8 * j);
  }
  if constexpr (bits == 6) {
    Vb lo = load_bytes(p + 256), hi = load_bytes(p + 320);
    w[0] = with_two<0>(w[0], lo), w[1] = with_two<2>(w[1], lo), w[2] = with_two<4>(w[2], lo), w[3] = with_two<6>(w[3], lo);
    w[4] = with_two<0>(w[4], hi), w[5] = with_two<2>(w[5], hi), w[6] = with_two<4>(w[6], hi), w[7] = with_two<6>(w[7], hi);
  }
}

constexpr size_t kAhead = 3072;  // bytes that weights are asked for before they are needed

// One panel times `kRows` rows of activations.
template <Form kForm, int kRows>
OB_INLINE void tile(const Panels& w, int panel, const Activations& x, int row, Vf sums[kRows]) {
  constexpr FormTraits t = traits(kForm);
  const uint8_t* start = w.data + (size_t)panel * w.panel_bytes;
  for (int m = 0; m < kRows; m++) sums[m] = zero();
  if constexpr (kForm == Form::f32) {
    const float* p = (const float*)start;
    for (int c = 0; c < w.blocks * 32; c++) {
      Vf v = load(p + (size_t)c * 16);
      for (int m = 0; m < kRows; m++) sums[m] = fma(v, set(x.floats[(size_t)(row + m) * x.padded + c]), sums[m]);
    }
    return;
  } else if constexpr (kForm == Form::wide) {
    const uint16_t* scales = (const uint16_t*)start;
    const uint8_t* p = start + wide_scales(w.blocks);
    const int8_t* levels = x.wide + (size_t)row * x.wide_padded;
    for (int b = 0; b < w.blocks; b++, scales += 16, p += kWide * 16) {
      Vi s[kRows];
      for (int m = 0; m < kRows; m++) s[m] = shifted<7>(set_int(x.wide_minus[(size_t)(row + m) * w.blocks + b]));
      for (int j = 0; j < kWide / 4; j++) {
        Vb v = load_bytes(p + 64 * j);
        for (int m = 0; m < kRows; m++)
          s[m] = dot<8>(s[m], v, set_int(((const Four*)(levels + (size_t)m * x.wide_padded + b * kWide))[j]));
      }
      for (int m = 0; m < kRows; m++)
        sums[m] = fma(to_float(s[m]), load_half(scales) * set(x.wide_scales[(size_t)(row + m) * w.blocks + b]), sums[m]);
    }
    return;
  } else if constexpr (kForm == Form::bf16) {
    const uint16_t* p = (const uint16_t*)start;
    const uint16_t* a = x.bf16 + (size_t)row * x.padded;
    Vf odd[kRows];  // two chains of sums, so that one is not waited for
    for (int m = 0; m < kRows; m++) odd[m] = zero();
    for (int c = 0; c < w.blocks * 32; c += 4, p += 64) {
      prefetch(p + 1024);
      prefetch(p + 1056);
      for (int m = 0; m < kRows; m++) {
        const Pair* pairs = (const Pair*)(a + (size_t)m * x.padded + c);
        sums[m] = dot_bf16(sums[m], p, pairs[0]);
        odd[m] = dot_bf16(odd[m], p + 32, pairs[1]);
      }
    }
    for (int m = 0; m < kRows; m++) sums[m] = sums[m] + odd[m];
    return;
  } else {
    constexpr size_t pair = 2 * (scale_bytes(t) + level_bytes(t));
    const int8_t* levels = x.levels + (size_t)row * x.padded;
    auto block = [&](const uint8_t* both, int b, int second) __attribute__((always_inline)) {
      const uint16_t* scales = (const uint16_t*)(both + second * scale_bytes(t));
      for (size_t ahead = second * pair / 2; ahead < (second + 1) * pair / 2; ahead += 64) prefetch(both + kAhead + ahead);
      Vb v[8];
      levels_of<kForm>(both + 2 * scale_bytes(t) + second * level_bytes(t), v);
      for (int m = 0; m < kRows; m++) {
        size_t at = (size_t)(row + m) * w.blocks + b;
        const Four* four = (const Four*)(levels + (size_t)m * x.padded + 32 * b);
        Vf scale = set(x.scales[at]);
        if constexpr (t.parts == 1) {
          Vi s = t.minima ? zero_int() : shifted<t.zero>(set_int(x.minus[at]));
          if constexpr (kRows <= 2) {  // whole numbers: any order gives the same
            Vi other = zero_int();
            for (int j = 0; j < 4; j++) {
              s = dot<t.bits>(s, v[j], set_int(four[j]));
              other = dot<t.bits>(other, v[4 + j], set_int(four[4 + j]));
            }
            s = s + other;
          } else {
            for (int j = 0; j < 8; j++) s = dot<t.bits>(s, v[j], set_int(four[j]));
          }
          sums[m] = fma(to_float(s), load_half(scales) * scale, sums[m]);
          if constexpr (t.minima) sums[m] = fma(load_half(scales + 16), set(x.sums[at]), sums[m]);
        } else {
          for (int half = 0; half < 2; half++) {
            Vi s = t.minima ? zero_int() : shifted<t.zero>(set_int(x.minus16[2 * at + half]));
            for (int j = 0; j < 4; j++) s = dot<t.bits>(s, v[4 * half + j], set_int(four[4 * half + j]));
            sums[m] = fma(to_float(s), load_half(scales + 16 * half) * scale, sums[m]);
            if constexpr (t.minima)
              sums[m] = fma(load_half(scales + 32 + 16 * half), set(x.sums16[2 * at + half]), sums[m]);
          }
        }
      }
    };
    for (int b = 0; b < w.blocks; b += 2) {
      const uint8_t* both = start + (size_t)(b / 2) * pair;
      block(both, b, 0);
      block(both, b + 1, 1);
    }
  }
}

template <int kRows> OB_INLINE void put(const Output& out, int row, int panel, int rows, Vf* sums) {
  int n = rows - 16 * panel;
  Vf bias = out.bias ? load_some(out.bias + 16 * panel, n) : zero();
  for (int m = 0; m < kRows; m++) {
    float* y = out.y + (size_t)(row + m) * out.stride + 16 * panel;
    Vf v = out.bias ? sums[m] + bias : sums[m];
    if (n >= 16) store(y, out.add ? load(y) + v : v);
    else store_some(y, out.add ? load_some(y, n) + v : v, n);
  }
}

template <Form kForm>
void multiply_form(const Panels& w, int first, int last, const Activations& x, int row0, int row1, const Output& out) {
  for (int panel = first; panel < last; panel++) {
    int m = row0;
    auto rows = [&]<int kRows>() {
      for (; m + kRows <= row1; m += kRows) {
        Vf sums[kRows];
        tile<kForm, kRows>(w, panel, x, m, sums);
        put<kRows>(out, m, panel, w.rows, sums);
      }
    };
    if constexpr (kTile >= 12 && (quantised(kForm) || kForm == Form::wide)) rows.template operator()<12>();
    if constexpr (kTile >= 8) rows.template operator()<8>();
    if constexpr (kTile >= 4) rows.template operator()<4>();
    if constexpr (kTile >= 2) rows.template operator()<2>();
    rows.template operator()<1>();
  }
}

template <Form kForm>
void glu_form(const Panels& gate, const Panels& up, int first, int last, const Activations& x, int row0, int row1,
              Act act, const float* gate_bias, const float* up_bias, float* h, int stride) {
  for (int panel = first; panel < last; panel++) {
    int m = row0, n = gate.rows - 16 * panel;
    auto rows = [&]<int kRows>() {
      for (; m + kRows <= row1; m += kRows) {
        Vf g[kRows], u[kRows];
        tile<kForm, kRows>(gate, panel, x, m, g);
        tile<kForm, kRows>(up, panel, x, m, u);
        for (int i = 0; i < kRows; i++) {
          if (gate_bias) g[i] = g[i] + load_some(gate_bias + 16 * panel, n);
          if (up_bias) u[i] = u[i] + load_some(up_bias + 16 * panel, n);
          store_some(h + (size_t)(m + i) * stride + 16 * panel, act_of(g[i], act) * u[i], n);
        }
      }
    };
    if constexpr (kTile >= 12 && (quantised(kForm) || kForm == Form::wide)) rows.template operator()<12>();
    if constexpr (kTile >= 8) rows.template operator()<8>();
    if constexpr (kTile >= 4) rows.template operator()<4>();
    if constexpr (kTile >= 2) rows.template operator()<2>();
    rows.template operator()<1>();
  }
}

#define OB_FORMS(call)                               \
  switch (form) {                                    \
    case Form::f32: return call<Form::f32>;          \
    case Form::bf16: return call<Form::bf16>;        \
    case Form::q8: return call<Form::q8>;            \
    case Form::q4: return call<Form::q4>;            \
    case Form::q4_min: return call<Form::q4_min>;    \
    case Form::q5: return call<Form::q5>;            \
    case Form::q5_min: return call<Form::q5_min>;    \
    case Form::q6: return call<Form::q6>;            \
    case Form::q3: return call<Form::q3>;            \
    case Form::wide: return call<Form::wide>;        \
    default: return call<Form::q2_min>;              \
  }

decltype(&multiply_form<Form::f32>) multiply_of(Form form) { OB_FORMS(multiply_form) }
decltype(&glu_form<Form::f32>) glu_of(Form form) { OB_FORMS(glu_form) }

void multiply(const Panels& w, int first, int last, const Activations& x, int row0, int row1, const Output& out) {
  multiply_of(w.form)(w, first, last, x, row0, row1, out);
}

// Both matrices are of one form.
void glu(const Panels& gate, const Panels& up, int first, int last, const Activations& x, int row0, int row1, Act act,
         const float* gate_bias, const float* up_bias, float* h, int stride) {
  glu_of(gate.form)(gate, up, first, last, x, row0, row1, act, gate_bias, up_bias, h, stride);
}

// ---- Rows --------------------------------------------------------------------------------------------------------

void activate(float* x, int count, Act act) {
  for (int i = 0; i < count; i += 16) store_some(x + i, act_of(load_some(x + i, count - i), act), count - i);
}

void times(float* x, const float* y, int count) {
  for (int i = 0; i < count; i += 16)
    store_some(x + i, load_some(x + i, count - i) * load_some(y + i, count - i), count - i);
}

// The first n, then zeros.
OB_INLINE Vf some(Vf a, int n) {
  if (n >= 16) return a;
  float kept[16];
  store(kept, a);
  return load_some(kept, n);
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

// ---- Keys and values ---------------------------------------------------------------------------------------------

constexpr float kUp = 1.f + 1.f / 128.f;      // see openbook/lm/cache/codecs.py, whose arithmetic this is
constexpr float kLeast = 1.1754943508e-38f;

OB_INLINE float one_bf16(uint16_t b) {
  uint32_t whole = (uint32_t)b << 16;
  float f;
  std::memcpy(&f, &whole, 4);
  return f;
}

OB_INLINE float rounded(float x, uint16_t* bits) {
  uint16_t sixteen[16];
  store_bf16(sixteen, set(x));
  *bits = sixteen[0];
  return one_bf16(*bits);
}

void keep(const float* x, int dim, Store store_as, uint8_t* data, uint16_t* scale_out, uint16_t* low_out) {
  if (store_as == Store::f32) {
    std::memcpy(data, x, 4 * (size_t)dim);
    return;
  }
  if (store_as == Store::bf16) {
    for (int i = 0; i < dim; i += 16) {
      uint16_t sixteen[16];
      store_bf16(sixteen, load_some(x + i, dim - i));
      std::memcpy(data + 2 * i, sixteen, 2 * (size_t)least(16, dim - i));
    }
    return;
  }
  float top = -INFINITY, bottom = INFINITY;
  for (int i = 0; i < dim; i++) top = x[i] > top ? x[i] : top, bottom = x[i] < bottom ? x[i] : bottom;
  if (store_as == Store::int8) {
    float widest = top > -bottom ? top : -bottom;
    float scale = rounded(std::fmax(widest * (kUp / 127.f), kLeast), scale_out);
    for (int i = 0; i < dim; i++) data[i] = (uint8_t)(int8_t)std::nearbyint(x[i] / scale);
    return;
  }
  float low = rounded(bottom, low_out);
  float scale = rounded(std::fmax((top - low) * (kUp / 15.f), kLeast), scale_out);
  auto step = [&](float f) {
    float s = std::nearbyint((f - low) / scale);
    return (uint8_t)(s < 0 ? 0 : s > 15 ? 15 : s);
  };
  for (int i = 0; i < dim / 2; i++) data[i] = (uint8_t)(step(x[i]) | step(x[dim / 2 + i]) << 4);
}

OB_INLINE size_t width_of(Store s, int dim) {
  return s == Store::f32 ? 4 * (size_t)dim : s == Store::bf16 ? 2 * (size_t)dim : s == Store::int8 ? dim : dim / 2;
}

// Sixteen numbers of a key or value from `c` on, before scale and low; zeros past `dim`.
template <Store kStore, bool kEven> OB_INLINE Vf chunk(const uint8_t* p, int c, int dim) {
  if constexpr (kEven) {
    if constexpr (kStore == Store::f32) return load((const float*)p + c);
    if constexpr (kStore == Store::bf16) return load_bf16((const uint16_t*)p + c);
    if constexpr (kStore == Store::int8) return load_int8((const int8_t*)p + c);
    if constexpr (kStore == Store::int4) return c < dim / 2 ? load_low(p + c) : load_high(p + c - dim / 2);
  }
  float sixteen[16] = {};
  for (int i = 0; i < least(16, dim - c); i++) {
    if constexpr (kStore == Store::f32) std::memcpy(sixteen + i, p + 4 * (size_t)(c + i), 4);
    if constexpr (kStore == Store::bf16) sixteen[i] = one_bf16(((const uint16_t*)p)[c + i]);
    if constexpr (kStore == Store::int8) sixteen[i] = (float)((const int8_t*)p)[c + i];
    if constexpr (kStore == Store::int4)
      sixteen[i] = (float)(c + i < dim / 2 ? p[c + i] & 15 : p[c + i - dim / 2] >> 4);
  }
  return load(sixteen);
}

// ---- Attention ---------------------------------------------------------------------------------------------------
//
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

// Which keys of a run somebody of the tile may see, as [from, to).
struct Part {
  int from, to;
};

OB_INLINE void parts_of(const Run& run, const Span& span, int low, int high, Part parts[2]) {
  int end = run.position + run.count;
  parts[0] = {0, most(0, least(end, span.pinned) - run.position)};
  int from = most(run.position, most(low, span.pinned)), to = least(end, high + 1);
  parts[1] = {from - run.position, to > from ? to - run.position : from - run.position};
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
  for (int r = 0; r < a.run_count; r++) {
    const Run& run = a.runs[r];
    Part parts[2];
    parts_of(run, span, low, high, parts);
    for (Part part : parts)
      for (int j = part.from; j < part.to; j += 16) {
        int n = least(16, part.to - j);
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
  }
  float by[kCount];
  for (int i = 0; i < kCount; i++) by[i] = softmax(a, q[i], span, scores[i]);
  for (int c0 = 0; c0 < chunks; c0 += 4) {
    Vf sums[kCount][4];
    float lows[kCount] = {};
    for (int i = 0; i < kCount; i++)
      for (int c = 0; c < 4; c++) sums[i][c] = zero();
    for (int r = 0; r < a.run_count; r++) {
      const Run& run = a.runs[r];
      Part parts[2];
      parts_of(run, span, low, high, parts);
      for (Part part : parts) {
        int at = span.at(run.position + part.from) - part.from;
        for (int j = part.from; j < part.to; j++) {
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
      }
    }
    for (int i = 0; i < kCount; i++)
      for (int c = 0; c < least(4, chunks - c0); c++)
        store_some(q[i].out + 16 * (c0 + c), (sums[i][c] + set(lows[i])) * set(by[i]), dim - 16 * (c0 + c));
  }
}

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
  Part parts[2];
  for (int r = 0; r < a.run_count; r++) {
    const Run& run = a.runs[r];
    parts_of(run, span, low, high, parts);
    for (Part part : parts)
      for (int j = part.from; j < part.to; j += 16) {
        int n = least(16, part.to - j);
        Vf products[kCount][16];
        for (int k = 0; k < 16; k++) {
          const uint8_t* key = run.k + (size_t)(j + (k < n ? k : 0)) * 2 * a.dim;
          for (int i = 0; i < kCount; i++) products[i][k] = zero();
          for (int c = 0; c < chunks; c++) {
            Vb numbers = load_bytes(key + 64 * c);
            for (int i = 0; i < kCount; i++)
              products[i][k] = dot_rows(products[i][k], numbers, load_bytes((const uint8_t*)(query + i * a.dim + 32 * c)));
          }
        }
        for (int i = 0; i < kCount; i++) store_some(scores[i] + span.at(run.position + j), sums_of(products[i]), n);
      }
  }
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
    for (int r = 0; r < a.run_count; r++) {
      const Run& run = a.runs[r];
      parts_of(run, span, low, high, parts);
      for (Part part : parts) {
        int at = span.at(run.position + part.from) - part.from, j = part.from;
        const uint16_t* v = (const uint16_t*)run.v;
        if (j < part.to && (at + j) % 2) {
          bool partner = waiting && place == at + j - 1;
          if (!partner) settle();
          weigh(partner ? waiting : nothing, v + (size_t)j * a.dim, at + j - 1);
          waiting = nullptr;
          j++;
        }
        if (j < part.to) settle();
        for (; j + 2 <= part.to; j += 2) weigh(v + (size_t)j * a.dim, v + (size_t)(j + 1) * a.dim, at + j);
        if (j < part.to) waiting = v + (size_t)j * a.dim, place = at + j;
      }
    }
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

// Keys turned so that one register holds a number of sixteen of them, [block][dim][64]; values as floats, [key][dim].
OB_INLINE void lay_out(const Attend& a, const Span& span, int low, int high, float* keys, float* values) {
  int padded = (a.dim + 15) / 16 * 16;
  size_t width = width_of(a.store, a.dim);
  for (int r = 0; r < a.run_count; r++) {
    const Run& run = a.runs[r];
    Part parts[2];
    parts_of(run, span, low, high, parts);
    for (Part part : parts)
      for (int j = part.from; j < part.to;) {
        int at = span.at(run.position + j), lane = at % 16, n = least(16 - lane, part.to - j);
        for (int c = 0; c < padded; c += 16) {
          Vf square[16];
          float* block = keys + (size_t)(at / kBlock) * padded * kBlock + (size_t)c * kBlock + at % kBlock - lane;
          for (int k = 0; k < 16; k++) square[k] = n == 16 ? zero() : load(block + (size_t)k * kBlock);
          if (n < 16) transpose(square);
          for (int k = 0; k < n; k++) {
            size_t key = (size_t)(j + k);
            decode(a, run.k + key * width, run.k_scale + key, run.k_low + key, c, square + lane + k);
            Vf value;
            decode(a, run.v + key * width, run.v_scale + key, run.v_low + key, c, &value);
            store(values + (size_t)(at + k) * padded + c, value);
          }
          transpose(square);
          for (int k = 0; k < 16; k++) store(block + (size_t)k * kBlock, square[k]);
        }
        j += n;
      }
  }
}

// The same as pairs of bf16, where the processor multiplies those: keys [block][dim / 2][64][2], values [key / 2][dim][2].
OB_INLINE void lay_out_pairs(const Attend& a, const Span& span, int low, int high, uint16_t* keys, uint16_t* values) {
  for (int r = 0; r < a.run_count; r++) {
    const Run& run = a.runs[r];
    Part parts[2];
    parts_of(run, span, low, high, parts);
    for (Part part : parts)
      for (int j = part.from; j < part.to;) {
        int at = span.at(run.position + j), lane = at % 16, n = least(16 - lane, part.to - j);
        for (int c = 0; c < a.dim; c += 32) {
          Vf square[16];  // sixteen keys' pairs, moved and never computed with
          uint16_t* block = keys + ((size_t)(at / kBlock) * a.dim + c) * kBlock + 2 * (at % kBlock - lane);
          for (int k = 0; k < 16; k++) square[k] = n == 16 ? zero() : load((const float*)(block + (size_t)k * 2 * kBlock));
          if (n < 16) transpose(square);
          for (int k = 0; k < n; k++) square[lane + k] = load((const float*)(run.k + 2 * ((size_t)(j + k) * a.dim + c)));
          transpose(square);
          for (int k = 0; k < 16; k++) store((float*)(block + (size_t)k * 2 * kBlock), square[k]);
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
        j += n;
      }
  }
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

// ---- Vocabularies ------------------------------------------------------------------------------------------------

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
  double all = 0;
  for (int64_t i = 0; i < count; i += 1024) {  // short sums in floats, the long one in doubles
    Vf part = zero();
    for (int64_t j = i; j < i + 1024 && j < whole; j += 16) {
      Vf v = load(scores + j) - set(peak);
      part = part + where_greater(v, set(-87.f), exp(v), where_greater(set(-87.f), v, zero(), v));
    }
    all += sum(part);
  }
  for (int64_t i = whole; i < count; i++) all += std::exp(scores[i] - peak);
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
  return {name, prepare, multiply, glu, activate, times, norm, add, rotate, keep, attend, attend_many, log_sum, mix, read};
}

}  // namespace
