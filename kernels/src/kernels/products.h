// Matrices in panels of sixteen rows times rows of activations: what most of a model's time goes to.
#pragma once
#include "numbers.h"

namespace {

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
    float* y = (out.rows ? out.rows[row + m] : out.y + (size_t)(row + m) * out.stride) + 16 * panel;
    Vf v = out.bias ? sums[m] + bias : sums[m];
    if (n >= 16) store(y, out.add ? load(y) + v : v);
    else store_some(y, out.add ? load_some(y, n) + v : v, n);
  }
}

// Rows from `m` to `last`, as many at once as fit beside one panel: `each.operator()<kRows>(first of them)`.
template <bool kWideTiles, class F> OB_INLINE void in_tiles(int m, int last, F&& each) {
  auto rows = [&]<int kRows>() {
    for (; m + kRows <= last; m += kRows) each.template operator()<kRows>(m);
  };
  if constexpr (kTile >= 12 && kWideTiles) rows.template operator()<12>();
  if constexpr (kTile >= 8) rows.template operator()<8>();
  if constexpr (kTile >= 4) rows.template operator()<4>();
  if constexpr (kTile >= 2) rows.template operator()<2>();
  rows.template operator()<1>();
}

template <Form kForm> constexpr bool kOfBytes = quantised(kForm) || kForm == Form::wide;

template <Form kForm>
void multiply_form(const Panels& w, int first, int last, const Activations& x, int row0, int row1, const Output& out) {
  for (int panel = first; panel < last; panel++)
    in_tiles<kOfBytes<kForm>>(row0, row1, [&]<int kRows>(int m) {
      Vf sums[kRows];
      tile<kForm, kRows>(w, panel, x, m, sums);
      put<kRows>(out, m, panel, w.rows, sums);
    });
}

template <Form kForm>
void glu_form(const Panels& gate, const Panels& up, int first, int last, const Activations& x, int row0, int row1,
              Act act, const float* gate_bias, const float* up_bias, float* h, int stride) {
  for (int panel = first; panel < last; panel++)
    in_tiles<kOfBytes<kForm>>(row0, row1, [&]<int kRows>(int m) {
      int n = gate.rows - 16 * panel;
      Vf g[kRows], u[kRows];
      tile<kForm, kRows>(gate, panel, x, m, g);
      tile<kForm, kRows>(up, panel, x, m, u);
      for (int i = 0; i < kRows; i++) {
        if (gate_bias) g[i] = g[i] + load_some(gate_bias + 16 * panel, n);
        if (up_bias) u[i] = u[i] + load_some(up_bias + 16 * panel, n);
        store_some(h + (size_t)(m + i) * stride + 16 * panel, act_of(g[i], act) * u[i], n);
      }
    });
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

}  // namespace
