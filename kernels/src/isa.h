// What a set of instructions has to offer: the kernels, as a table of plain functions over plain memory.
//
// Nothing of the standard library crosses this border. Each isa_*.cpp is compiled for its own processor; a template
// that two of them instantiate could be linked once, with instructions that the other's processor lacks.
#pragma once
#include <cstddef>
#include <cstdint>

#include "matrix.h"

// A matrix without its owner.
struct Panels {
  Form form;
  int rows, panels, blocks;
  size_t panel_bytes;
  const uint8_t* data;
};

// Rows of numbers as a matrix takes them: bytes with a scale for 32 or kWide of them, bf16, or floats.
// Halves: sums of sixteen too, for matrices with two scales a block.
enum Taken { kBytes = 1, kBf16 = 2, kFloats = 4, kWideBytes = 8, kHalves = 16 };

struct Activations {
  int padded;        // numbers a row, a multiple of 64
  int8_t* levels;    // [rows, padded]
  float* scales;     // [rows, padded / 32]
  float* sums;       // [rows, padded / 32], of the numbers themselves
  float* sums16;     // [rows, padded / 16]
  int32_t* minus;    // [rows, padded / 32], minus the sum of the levels
  int32_t* minus16;  // [rows, padded / 16]
  int8_t* wide;          // [rows, wide_padded]
  float* wide_scales;    // [rows, wide_padded / kWide]
  int32_t* wide_minus;   // [rows, wide_padded / kWide]
  int wide_padded;
  uint16_t* bf16;    // [rows, padded]
  float* floats;     // [rows, padded]
};

// Where products go: rows of `stride` floats, or each row where `rows` says; `bias` a number for each output, or null.
struct Output {
  float* y;
  int stride;
  const float* bias;
  bool add;
  float* const* rows = nullptr;
};

enum class Act : int { silu, gelu, gelu_tanh, relu };
enum class Store : int { f32, bf16, int8, int4 };

// Keys and values of one head at consecutive positions.
struct Run {
  const uint8_t *k, *v;
  const uint16_t *k_scale, *v_scale, *k_low, *v_low;  // bf16, a number a key, where the store has them
  int count, position;
};

// One query and what it may see: positions from `low` to `high`, and of the pinned ones those below `front`.
struct Query {
  const float* q;     // dim numbers, then zeros up to a multiple of 16
  float* out;         // dim numbers
  const float* bias;  // bias[distance], or null
  float sink;         // -inf: none
  int position, low, high, front;
};

struct Attend {
  const Query* queries;
  int count;
  const Run* runs;
  int run_count;
  Store store;
  int dim, pinned;
  float scale, cap;  // cap 0: none
  float* scratch;    // attend_scratch() floats, aligned to 64 bytes
};

// A query less a centre, in 2^kPlanes steps from `low`: bit j of each is in plane j. `total`: their sum; `square`: of
// the numbers themselves.
constexpr int kPlanes = 4;
struct Asked {
  const uint64_t* planes;  // [kPlanes, words]
  int words;
  float low, step, total, square;
};

struct Kernels {
  const char* name;
  void (*prepare)(const float* x, int columns, int wanted, const Activations& out, int row);
  void (*multiply)(const Panels& w, int first, int last, const Activations& x, int row0, int row1, const Output& out);
  void (*glu)(const Panels& gate, const Panels& up, int first, int last, const Activations& x, int row0, int row1,
              Act act, const float* gate_bias, const float* up_bias, float* h, int stride);
  void (*activate)(float* x, int count, Act act);
  void (*times)(float* x, const float* y, int count);
  // x / rms(x) · weight, or (x − mean) / deviation · weight + bias; layer: the second.
  void (*norm)(const float* x, int count, const float* weight, const float* bias, float epsilon, bool layer, float* out);
  void (*add)(float* x, const float* y, int count, float scale);
  void (*rotate)(float* x, const float* cos_sin, int half);  // pairs (i, i + half), cosines then sines
  void (*keep)(const float* x, int dim, Store store, uint8_t* data, uint16_t* scale, uint16_t* low);
  void (*attend)(const Attend& what);  // each key is read where it lies
  void (*attend_many)(const Attend& what);  // keys are laid out for many queries first
  // Softmaxes of scores, mixed: log Σ_s exp(scores_s − peak_s + shift_s), for words first to last. The largest score
  // of each source goes first, or a large one would leave no digits for the rest.
  void (*log_sum)(const float* scores, int64_t count, float* most, double* total);
  void (*mix)(const float* const* scores, const float* peak, const float* shift, int sources, int64_t first, int64_t last, float* out);
  // Of keys in 16 bits: see kernels/codes.h.
  float (*apart)(const float* q, const uint16_t* key, int width);
  void (*ask)(const float* q, const uint16_t* centre, int width, int8_t* levels, uint64_t* planes, Asked* out);
  void (*estimate)(const Asked& asked, const uint64_t* codes, const float* sizes, int64_t count, float* out);
  double (*read)(const uint8_t* data, size_t bytes);  // reads memory, for measuring
};

size_t attend_scratch(int dim, int span, bool many);  // floats for keys that lie `span` positions apart

extern const Kernels kPortable, kAvx2, kAvx2Vnni, kAvx512, kAvx512Bf16, kNeon, kNeonDot;
