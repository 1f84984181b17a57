// Draws inputs and compares the kernels of every set of instructions that this machine has with the portable ones.
//
//   check [rounds [seed [name]]]
//
// Whole numbers, roundings and sums in the same order must come out equal to the last bit; other floats within a
// bound that their own sizes give, since a fused product is rounded once and a portable one twice. What a set computes
// must not depend, to the last bit, on how many rows or queries it computes at once.
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "guarded.h"
#include "half.h"
#include "machine.h"

#ifdef OB_avx2_evex
extern const Kernels kAvx2Evex;
#endif

namespace {

std::mt19937_64 source;
std::string what;  // is being compared
long compared = 0;

int64_t whole(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(source); }
bool coin() { return whole(0, 1) == 1; }
float normal(float scale = 1) { return std::normal_distribution<float>(0, scale)(source); }

template <class T> Guarded<T> room(size_t count) { return Guarded<T>(count, coin()); }

Guarded<float> floats(size_t count, float scale = 1) {
  Guarded<float> r = room<float>(count);
  for (size_t i = 0; i < count; i++) r[i] = normal(scale);
  return r;
}

[[noreturn]] void failed(size_t at, double got, double wanted, double bound) {
  std::printf("FAILED: %s: number %zu is %.9g, not %.9g (± %.3g)\n", what.c_str(), at, got, wanted, bound);
  std::exit(1);
}

template <class T> void same(const T* got, const T* wanted, size_t count) {
  compared += (long)count;
  for (size_t i = 0; i < count; i++)
    if (std::memcmp(got + i, wanted + i, sizeof(T)) && !(got[i] != got[i] && wanted[i] != wanted[i]))
      failed(i, (double)got[i], (double)wanted[i], 0);
}

void near(const float* got, const float* wanted, size_t count, const std::function<double(size_t)>& bound) {
  compared += (long)count;
  for (size_t i = 0; i < count; i++)
    if (!(std::fabs((double)got[i] - wanted[i]) <= bound(i)) && got[i] != wanted[i] &&
        !(got[i] != got[i] && wanted[i] != wanted[i]))
      failed(i, got[i], wanted[i], bound(i));
}

// ---- Activations -------------------------------------------------------------------------------------------------

struct Rows {
  int count, blocks, wides = (blocks * 32 + kWide - 1) / kWide;
  Guarded<int8_t> levels = room<int8_t>((size_t)count * blocks * 32);
  Guarded<float> scales = room<float>((size_t)count * blocks), sums = room<float>((size_t)count * blocks);
  Guarded<float> sums16 = room<float>((size_t)count * blocks * 2);
  Guarded<int32_t> minus = room<int32_t>((size_t)count * blocks), minus16 = room<int32_t>((size_t)count * blocks * 2);
  Guarded<int8_t> wide = room<int8_t>((size_t)count * wides * kWide);
  Guarded<float> wide_scales = room<float>((size_t)count * wides);
  Guarded<int32_t> wide_minus = room<int32_t>((size_t)count * wides);
  Guarded<uint16_t> bf16 = room<uint16_t>((size_t)count * blocks * 32);
  Guarded<float> numbers = room<float>((size_t)count * blocks * 32);

  Activations view() {
    return {blocks * 32, levels, scales, sums, sums16, minus, minus16, wide, wide_scales, wide_minus, wides * kWide,
            bf16, numbers};
  }

  static int8_t level() { return (int8_t)(coin() ? whole(-127, 127) : coin() ? 127 : -127); }
  // Whole numbers as levels, with scales of 1: whatever is computed from them in floats is exact.
  void draw_whole() {
    for (int b = 0; b < count * wides; b++) {
      wide_scales[b] = 1, wide_minus[b] = 0;
      for (int i = 0; i < kWide; i++) wide_minus[b] -= wide[b * kWide + i] = level();
    }
    for (int b = 0; b < count * blocks; b++) {
      scales[b] = 1;
      int32_t halves[2] = {};
      for (int i = 0; i < 32; i++) {
        levels[32 * b + i] = level();
        halves[i / 16] += levels[32 * b + i];
      }
      for (int h = 0; h < 2; h++) sums16[2 * b + h] = (float)halves[h], minus16[2 * b + h] = -halves[h];
      sums[b] = (float)(halves[0] + halves[1]), minus[b] = -(halves[0] + halves[1]);
    }
  }
};

constexpr int kAll = kBytes | kHalves | kBf16 | kFloats | kWideBytes;

void prepare(const Kernels& k) {
  int columns = (int)whole(1, 200), blocks = (columns + 63) / 64 * 2;
  Guarded<float> x = floats((size_t)columns, std::exp2((float)whole(-60, 60)));
  if (coin()) x[whole(0, columns - 1)] = 0;
  if (coin()) std::memset(x, 0, sizeof(float) * (size_t)columns);
  Rows a{2, blocks}, b{2, blocks};
  k.prepare(x, columns, kAll, a.view(), 1);
  kPortable.prepare(x, columns, kAll, b.view(), 1);
  same(a.levels + 32 * blocks, b.levels + 32 * blocks, 32 * (size_t)blocks);
  same(a.scales + blocks, b.scales + blocks, (size_t)blocks);
  same(a.sums + blocks, b.sums + blocks, (size_t)blocks);
  same(a.sums16 + 2 * blocks, b.sums16 + 2 * blocks, 2 * (size_t)blocks);
  same(a.minus + blocks, b.minus + blocks, (size_t)blocks);
  same(a.minus16 + 2 * blocks, b.minus16 + 2 * blocks, 2 * (size_t)blocks);
  same(a.wide + kWide * a.wides, b.wide + kWide * a.wides, kWide * (size_t)a.wides);
  same(a.wide_scales + a.wides, b.wide_scales + a.wides, (size_t)a.wides);
  same(a.wide_minus + a.wides, b.wide_minus + a.wides, (size_t)a.wides);
  if (coin()) x[whole(0, columns - 1)] = coin() ? NAN : coin() ? INFINITY : -1e-40f;
  k.prepare(x, columns, kBf16 | kFloats, a.view(), 1);
  kPortable.prepare(x, columns, kBf16 | kFloats, b.view(), 1);
  same(a.bf16 + 32 * blocks, b.bf16 + 32 * blocks, 32 * (size_t)blocks);
  same(a.numbers + 32 * blocks, b.numbers + 32 * blocks, 32 * (size_t)blocks);
  // Bytes would hide what is not finite: then no scale of the row is a number.
  x[whole(0, columns - 1)] = coin() ? NAN : coin() ? INFINITY : -INFINITY;
  k.prepare(x, columns, kBytes | kWideBytes, a.view(), 1);
  std::vector<float> lost((size_t)blocks, NAN);
  same(a.scales + blocks, lost.data(), (size_t)blocks);
  same(a.wide_scales + a.wides, lost.data(), (size_t)a.wides);
}

// ---- Products ----------------------------------------------------------------------------------------------------

struct Format {
  const char* kind;
  int numbers, bytes, halves[2];  // of a block; where its float16 numbers stand
};

constexpr Format kFormats[] = {
    {"Q4_0", 32, 18, {0, -1}},     {"Q4_1", 32, 20, {0, 2}},       {"Q5_0", 32, 22, {0, -1}},
    {"Q5_1", 32, 24, {0, 2}},      {"Q8_0", 32, 34, {0, -1}},      {"Q2_K", 256, 84, {80, 82}},
    {"Q3_K", 256, 110, {108, -1}}, {"Q4_K", 256, 144, {0, 2}},     {"Q5_K", 256, 176, {0, 2}},
    {"Q6_K", 256, 210, {208, -1}}, {"q8_0", 32, 0, {-1, -1}},      {"bf16", 1, 0, {-1, -1}},
    {"f32", 1, 0, {-1, -1}},       {"wide", 1, 0, {-1, -1}},
};

Matrix draw(const Format& f, int rows, int columns) {
  if (!f.bytes) return pack_floats(f.kind, floats((size_t)rows * columns), rows, columns);
  std::vector<uint8_t> bytes((size_t)rows * (columns / f.numbers) * f.bytes);
  for (uint8_t& b : bytes) b = (uint8_t)whole(0, 255);
  for (size_t at = 0; at < bytes.size(); at += (size_t)f.bytes)
    for (int half : f.halves)
      if (half >= 0) {
        uint16_t h = to_half(normal(0.1f));
        std::memcpy(&bytes[at + (size_t)half], &h, 2);
      }
  return pack_blocks(f.kind, bytes.data(), rows, (int64_t)bytes.size() / rows, columns);
}

// A matrix in guarded memory.
struct Weights {
  Matrix m;
  Guarded<uint8_t> bytes = Guarded<uint8_t>(m.nbytes(), coin());

  explicit Weights(Matrix matrix) : m(std::move(matrix)) { std::memcpy(bytes, m.data.get(), m.nbytes()); }
  Panels view() const { return {m.form, m.rows, m.panels, m.blocks, m.panel_bytes, bytes}; }

  // Scales of 1 and whole minima.
  void make_whole() {
    FormTraits t = traits(m.form);
    uint16_t one = to_half(1);
    for (int p = 0; p < m.panels; p++)
      for (int i = 0; m.form == Form::wide && i < m.blocks * 16; i++)
        std::memcpy(bytes + p * m.panel_bytes + 2 * i, &one, 2);
    for (int p = 0; p < m.panels && t.bits; p++)
      for (int b = 0; b < m.blocks; b++)
        for (int i = 0; i < (int)scale_bytes(t) / 2; i++) {
          uint16_t h = to_half(i < 16 * t.parts ? 1.f : (float)whole(-4, 4));
          size_t pair = (size_t)(b / 2) * 2 * (scale_bytes(t) + level_bytes(t));
          std::memcpy(bytes + p * m.panel_bytes + pair + b % 2 * scale_bytes(t) + 2 * i, &h, 2);
        }
  }
  // Σ |w x| of one row: what the bound of a sum's rounding is in proportion to.
  double size(int row, const float* x) const {
    std::vector<float> w((size_t)m.columns);
    m.row(row, w.data());
    double all = 0;
    for (int c = 0; c < m.columns; c++) all += std::fabs((double)w[(size_t)c] * x[c]);
    return all;
  }
};

void multiply(const Kernels& k, const Format& f, bool exact) {
  int columns = f.numbers * (int)whole(1, f.numbers == 1 ? 300 : f.numbers == 32 ? 8 : 1), rows = (int)whole(1, 40);
  int count = (int)whole(1, 27), stride = rows + (int)whole(0, 3);
  Weights w(draw(f, rows, columns)), up(draw(f, rows, columns));
  Rows x{count, (columns + 63) / 64 * 2};
  Guarded<float> numbers = floats((size_t)count * columns);
  for (int r = 0; r < count; r++) kPortable.prepare(numbers + r * columns, columns, kAll, x.view(), r);
  if (exact) x.draw_whole(), w.make_whole(), up.make_whole();
  size_t cells = (size_t)count * stride;
  Guarded<float> a = floats(cells), b = room<float>(cells), alone = room<float>(cells), bias = floats((size_t)rows);
  if (exact)
    for (size_t i = 0; i < cells; i++) a[i] = std::nearbyint(a[i]);
  if (exact)
    for (int i = 0; i < rows; i++) bias[i] = std::nearbyint(bias[i]);
  std::memcpy(b, a, 4 * cells), std::memcpy(alone, a, 4 * cells);
  const float* added = coin() ? bias.data() : nullptr;
  bool add = coin();
  int seam = (int)whole(0, w.m.panels);
  k.multiply(w.view(), 0, seam, x.view(), 0, count, {a, stride, added, add});
  k.multiply(w.view(), seam, w.m.panels, x.view(), 0, count, {a, stride, added, add});
  kPortable.multiply(w.view(), 0, w.m.panels, x.view(), 0, count, {b, stride, added, add});
  for (int r = 0; r < count; r++) k.multiply(w.view(), 0, w.m.panels, x.view(), r, r + 1, {alone, stride, added, add});
  same(alone.data(), a.data(), cells);
  auto bound = [&](size_t i) {
    int r = (int)i / stride, c = (int)i % stride;
    return exact || c >= rows ? 0. : 3e-6 * (w.size(c, numbers + r * columns) + 1);
  };
  near(a, b, cells, bound);

  what += ", gated";
  Act act = exact ? Act::relu : (Act)whole(0, 3);
  Panels g = w.view(), u = up.view();
  k.glu(g, u, 0, g.panels, x.view(), 0, count, act, added, bias, a, stride);
  for (int r = 0; r < count; r++) k.glu(g, u, 0, g.panels, x.view(), r, r + 1, act, added, bias, alone, stride);
  kPortable.glu(g, u, 0, g.panels, x.view(), 0, count, act, added, bias, b, stride);
  same(alone.data(), a.data(), cells);
  near(a, b, cells, [&](size_t i) {
    int r = (int)i / stride, c = (int)i % stride;
    if (exact || c >= rows) return 0.;
    return 1e-5 * (w.size(c, numbers + r * columns) + 4) * (up.size(c, numbers + r * columns) + 4);
  });
}

// ---- Rows --------------------------------------------------------------------------------------------------------

void rows(const Kernels& k) {
  size_t n = (size_t)whole(1, 70);
  float scale = std::exp2((float)whole(-6, 6));
  auto both = [&](double bound, const std::function<void(const Kernels&, float*)>& run) {
    Guarded<float> a = floats(n, scale), b = room<float>(n);
    std::memcpy(b, a, 4 * n);
    run(k, a), run(kPortable, b);
    near(a, b, n, [&](size_t i) { return bound * (std::fabs(b[i]) + scale * (1 + scale)); });
  };
  Guarded<float> y = floats(n, scale), bias = floats(n), kept = room<float>(n);
  int count = (int)n;
  for (Act act : {Act::silu, Act::gelu, Act::gelu_tanh, Act::relu}) {
    what = "activate " + std::to_string((int)act);
    both(1e-6, [&](const Kernels& t, float* x) { t.activate(x, count, act); });
  }
  what = "times";
  both(0, [&](const Kernels& t, float* x) { t.times(x, y, count); });
  what = "add";
  both(3e-7, [&](const Kernels& t, float* x) { t.add(x, y, count, 0.37f); });
  what = "rotate";
  if (n > 1) both(3e-7, [&](const Kernels& t, float* x) { t.rotate(x, bias, count / 2); });
  for (bool layer : {false, true}) {
    what = layer ? "layer norm" : "rms norm";
    const float* added = coin() ? bias.data() : nullptr;
    // A mean of few numbers may be much larger than what deviates from it.
    both(2e-4, [&](const Kernels& t, float* x) { t.norm(x, count, y, added, 0.01f, layer, x); });
  }
  what = "log sum";
  if (coin()) y[whole(0, count - 1)] = -INFINITY;
  if (coin()) y[whole(0, count - 1)] = 50;
  float peaks[2];
  double totals[2];
  k.log_sum(y, count, &peaks[0], &totals[0]), kPortable.log_sum(y, count, &peaks[1], &totals[1]);
  same(&peaks[0], &peaks[1], 1);
  if (std::fabs(totals[0] - totals[1]) > 1e-5 * totals[1]) failed(0, totals[0], totals[1], 1e-5 * totals[1]);
  what = "mix";
  std::vector<Guarded<float>> scores;
  std::vector<const float*> given;
  for (int s = (int)whole(1, 5); s > 0; s--) scores.push_back(floats(n, scale));
  for (Guarded<float>& s : scores) {
    if (coin()) s[whole(0, count - 1)] = coin() ? -INFINITY : -1e4f;
    given.push_back(s);
  }
  both(1e-6, [&](const Kernels& t, float* x) { t.mix(given.data(), bias, bias, (int)std::min(n, given.size()), 0, count, x); });
  what = "read";
  Guarded<float> data = floats(4 * n, scale);
  float got = (float)k.read((uint8_t*)data.data(), 16 * n), wanted = (float)kPortable.read((uint8_t*)data.data(), 16 * n);
  near(&got, &wanted, 1, [&](size_t) { return 1e-4 * scale; });
}

// ---- Keys of a datastore -----------------------------------------------------------------------------------------

void codes(const Kernels& k) {
  int width = coin() ? (int)whole(1, 140) : 576, words = (width + 63) / 64, count = (int)whole(1, 20);
  float scale = std::exp2((float)whole(-6, 6));
  Guarded<float> q = floats((size_t)width, scale);
  Guarded<uint16_t> key = room<uint16_t>((size_t)width);
  for (int i = 0; i < width; i++) key[i] = to_half(normal(scale));
  what = "apart";
  float mine = k.apart(q, key, width), wanted = kPortable.apart(q, key, width);
  near(&mine, &wanted, 1, [&](size_t) { return 1e-5 * wanted; });
  what = "ask";
  if (whole(0, 9) == 0)
    for (int i = 0; i < width; i++) q[i] = from_half(key[i]);  // nothing between the least and the largest
  Guarded<int8_t> levels[2] = {room<int8_t>(64 * (size_t)words), room<int8_t>(64 * (size_t)words)};
  Guarded<uint64_t> planes[2] = {room<uint64_t>((size_t)kPlanes * words), room<uint64_t>((size_t)kPlanes * words)};
  Asked asked[2];
  k.ask(q, key, width, levels[0], planes[0], &asked[0]), kPortable.ask(q, key, width, levels[1], planes[1], &asked[1]);
  same(planes[0].data(), planes[1].data(), (size_t)kPlanes * words);
  for (float Asked::*part : {&Asked::low, &Asked::step, &Asked::total}) same(&(asked[0].*part), &(asked[1].*part), 1);
  near(&asked[0].square, &asked[1].square, 1, [&](size_t) { return 1e-5 * asked[1].square; });
  what = "estimate";
  Guarded<uint64_t> keys = room<uint64_t>((size_t)count * words);
  for (size_t i = 0; i < keys.size(); i++) keys[i] = source();
  Guarded<float> sizes = floats(2 * (size_t)count, scale), a = room<float>((size_t)count), b = room<float>((size_t)count);
  k.estimate(asked[1], keys, sizes, count, a), kPortable.estimate(asked[1], keys, sizes, count, b);
  same(a.data(), b.data(), (size_t)count);
}

// ---- Keys and values ---------------------------------------------------------------------------------------------

size_t width_of(Store store, int dim) {
  return store == Store::f32 ? 4 * (size_t)dim : store == Store::bf16 ? 2 * (size_t)dim : store == Store::int8 ? dim : dim / 2;
}

// Vectors as `keep` writes them.
struct Kept {
  int count;
  size_t width;
  Guarded<uint8_t> numbers = room<uint8_t>(count * width);
  Guarded<uint16_t> scale = room<uint16_t>((size_t)count), low = room<uint16_t>((size_t)count);

  void keep(const Kernels& k, const float* x, int dim, Store store) {
    for (int i = 0; i < count; i++) k.keep(x + i * dim, dim, store, numbers + i * width, scale + i, low + i);
  }
};

void keep(const Kernels& k) {
  Store store = (Store)whole(0, 3);
  int dim = (int)whole(1, 40) * 2, count = 3;
  Guarded<float> x = floats((size_t)count * dim, std::exp2((float)whole(-40, 40)));
  if (coin()) std::memset(x, 0, 4 * (size_t)dim);
  Kept a{count, width_of(store, dim)}, b{count, width_of(store, dim)};
  a.keep(k, x, dim, store), b.keep(kPortable, x, dim, store);
  same(a.numbers.data(), b.numbers.data(), a.numbers.size());
  same(a.scale.data(), b.scale.data(), (size_t)count);
  same(a.low.data(), b.low.data(), (size_t)count);
}

// ---- Attention ---------------------------------------------------------------------------------------------------

struct Scene {
  Store store = (Store)whole(0, 3);
  int dim = coin() ? (int)whole(1, 4) * 32 : (int)whole(1, 45) * 2, wide = (dim + 15) / 16 * 16;
  int keys = (int)whole(1, coin() ? 40 : whole(0, 9) ? 300 : 4000), count = (int)whole(1, 13);
  int pinned = coin() ? 0 : (int)whole(0, 20), window = coin() ? 0 : (int)whole(1, 150);
  bool causal = coin();
  float cap = coin() ? 0.f : 5.f;
  Kept k{keys, width_of(store, dim)}, v{keys, width_of(store, dim)};
  Guarded<float> q = room<float>((size_t)count * wide), bias = floats(2 * (size_t)keys);
  std::vector<Query> queries;
  std::vector<Run> runs;

  Scene() {
    k.keep(kPortable, floats((size_t)keys * dim), dim, store), v.keep(kPortable, floats((size_t)keys * dim), dim, store);
    bool biased = coin(), sinks = coin();
    for (int i = 0; i < count; i++) {
      for (int d = 0; d < wide; d++) q[i * wide + d] = d < dim ? normal() : 0.f;
      int p = std::max(0, keys - 1 - (int)whole(0, 9));
      int low = window ? std::max(0, p - window + 1) : 0, high = causal ? p : window ? std::min(keys - 1, p + window - 1) : keys - 1;
      int front = std::min(pinned, (causal ? p : keys - 1) + 1);
      const float* distance = biased ? bias + keys : nullptr;
      queries.push_back({q + i * wide, nullptr, distance, sinks ? normal() : -INFINITY, p, low, high, front});
    }
    for (int at = 0; at < keys;) {
      int n = (int)whole(1, keys - at);
      runs.push_back(run(at, n));
      at += n;
    }
  }
  Run run(int at, int n) {
    return {k.numbers + at * k.width, v.numbers + at * v.width, k.scale + at, v.scale + at, k.low + at, v.low + at, n, at};
  }

  Guarded<float> attend(const Kernels& t, const std::vector<Run>& seen, bool many, bool alone) {
    Guarded<float> out = room<float>((size_t)count * dim);
    size_t need = attend_scratch(dim, wide + (pinned + 15) / 16 * 16 + keys, many);
    Guarded<float> scratch((need + 15) / 16 * 16, true);
    for (int i = 0; i < count; i++) queries[(size_t)i].out = out + i * dim;
    for (int i = 0; i < count; i += alone ? 1 : count) {
      Attend a{&queries[(size_t)i], alone ? 1 : count, seen.data(), (int)seen.size(), store, dim, pinned, 0.3f, cap, scratch};
      many ? t.attend_many(a) : t.attend(a);
    }
    return out;
  }
};

void attend(const Kernels& k) {
  Scene s;
  what += ", store " + std::to_string((int)s.store);
  size_t n = (size_t)s.count * s.dim;
  Guarded<float> wanted = s.attend(kPortable, s.runs, false, false), got = s.attend(k, s.runs, false, false);
  // A set that multiplies pairs of bf16 faster than floats takes queries and weights so, where keys are.
  bool rounded = std::strstr(k.name, "bf16") && s.store == Store::bf16;
  auto bound = [&](size_t) { return rounded ? 3e-2 : 2e-5; };
  near(got, wanted, n, bound);
  what += ", queries alone";
  same(s.attend(k, s.runs, false, true).data(), got.data(), n);
  what += ", one run";
  same(s.attend(k, {s.run(0, s.keys)}, false, false).data(), got.data(), n);
  what += ", many";
  Guarded<float> many = s.attend(k, s.runs, true, false);
  near(many, wanted, n, bound);
  what += ", alone";
  same(s.attend(k, s.runs, true, true).data(), many.data(), n);
}

void check(const Kernels& k, int rounds) {
  compared = 0;
  for (int round = 0; round < rounds; round++) {
    what = "prepare";
    prepare(k);
    for (const Format& f : kFormats)
      for (bool exact : {false, true})
        if (!exact || (std::strcmp(f.kind, "bf16") && std::strcmp(f.kind, "f32"))) {
          what = std::string(exact ? "whole numbers, " : "") + f.kind;
          multiply(k, f, exact);
        }
    rows(k);
    codes(k);
    for (int i = 0; i < 4; i++) {
      what = "keep";
      keep(k);
      what = "attend";
      attend(k);
    }
  }
  std::printf("%-18s %ld numbers agree\n", k.name, compared);
}

}  // namespace

int main(int count, char** arguments) {
  int rounds = count > 1 ? std::atoi(arguments[1]) : 20;
  unsigned long seed = count > 2 ? std::strtoul(arguments[2], nullptr, 10) : 1;
  std::vector<const Kernels*> tables = kernels_here();
#ifdef OB_avx2_evex
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl")) tables.push_back(&kAvx2Evex);
#endif
  bool met = false;
  for (const Kernels* k : tables) {
    if (count > 3 && std::string(k->name) != arguments[3]) continue;
    met = true;
    source.seed(seed);
    check(*k, rounds);
  }
  if (!met) std::printf("FAILED: no kernels called %s here\n", arguments[3]);
  return met ? 0 : 1;
}
