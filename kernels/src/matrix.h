// Weights as the kernels want them: panels of 16 output rows.
//
// A panel holds, for 32 inputs at a time, scales of the 16 rows (float16), minima where the form has them, and the
// levels turned so that one read of 64 bytes brings four consecutive inputs of all 16 rows: what a dot product of
// bytes takes. Two such blocks stand together, first the scales of both, then the levels: so levels begin on cache
// lines, and a panel is read from its start to its end.
//
//   value of a level q:   scale · (q − zero)      or      scale · q + minimum
//
// `wide` panels are of 8 bits with one scale for 128 inputs, all scales first: coarser, and a third faster to multiply
// where that is not waited for memory. bf16 panels hold pairs of inputs of 16 rows, f32 panels single inputs of 16 rows.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

enum class Form { f32, bf16, q8, q4, q4_min, q5, q5_min, q6, q3, q2_min, wide, none };

constexpr int kWide = 128;  // inputs that share a scale in the form `wide`

struct FormTraits {
  int bits;   // of a stored level
  int parts;  // scales a block of 32 inputs: 1, or 2 for blocks of 16
  bool minima;
  int zero;  // log2 of the level that stands for 0
};

constexpr FormTraits traits(Form form) {
  switch (form) {
    case Form::q8: return {8, 1, false, 7};
    case Form::q4: return {4, 1, false, 3};
    case Form::q4_min: return {4, 1, true, 0};
    case Form::q5: return {5, 1, false, 4};
    case Form::q5_min: return {5, 1, true, 0};
    case Form::q6: return {6, 2, false, 5};
    case Form::q3: return {4, 2, false, 2};
    case Form::q2_min: return {4, 2, true, 0};
    default: return {0, 0, false, 0};
  }
}

constexpr size_t scale_bytes(FormTraits t) { return (size_t)t.parts * 32 * (t.minima ? 2 : 1); }
constexpr size_t level_bytes(FormTraits t) { return (size_t)t.bits * 64; }
constexpr size_t wide_scales(int blocks) { return ((size_t)blocks * 32 + 63) / 64 * 64; }  // bytes
constexpr bool quantised(Form form) { return traits(form).bits != 0; }

struct Matrix {
  Form form = Form::none;
  std::string kind;  // what it was made of: "Q4_1", "bf16", …
  int rows = 0, columns = 0;
  int panels = 0, blocks = 0;  // of 16 rows, of 32 columns (an even number); what is missing to fill the last is zero
  size_t panel_bytes = 0;
  std::shared_ptr<uint8_t> data;

  const uint8_t* panel(int i) const { return data.get() + (size_t)i * panel_bytes; }
  size_t nbytes() const { return (size_t)panels * panel_bytes; }
  void row(int index, float* out) const;  // its numbers, for embeddings and tests
};

// Rows of GGUF blocks (`kind` as GGUF names it), or of floats ("f32", "bf16", "q8_0", "wide": rounded to it here).
// Throws std::invalid_argument for a kind or size that cannot be.
Matrix pack_blocks(const std::string& kind, const uint8_t* blocks, int64_t rows, int64_t row_bytes, int64_t columns);
Matrix pack_floats(const std::string& kind, const float* values, int64_t rows, int64_t columns);
