// One forward on its way: what all members of the team work on, and the phases they go through together.
#pragma once
#include <algorithm>
#include <stdexcept>

#include "memory.h"
#include "model.h"

constexpr int kFew = 8;    // rows that every member prepares for itself, rather than wait for each other
constexpr int kMany = 12;  // new tokens of a row from which on its keys are laid out for them

inline int padded(int n) { return (n + 15) / 16 * 16; }

// Activations of some rows, in memory of their own.
struct Prepared {
  Memory<int8_t> levels, wide;
  Memory<float> wide_scales, scales, sums, sums16, floats;
  Memory<int32_t> wide_minus, minus, minus16;
  Memory<uint16_t> bf16;

  Activations shape(int rows, int columns, int taken) {
    Activations a{};
    a.padded = (columns + 63) / 64 * 64;
    size_t all = (size_t)rows * a.padded;
    if (taken & kBytes) {
      a.levels = levels.take(all);
      a.scales = scales.take(all / 32), a.sums = sums.take(all / 32), a.minus = minus.take(all / 32);
      a.sums16 = sums16.take(all / 16), a.minus16 = minus16.take(all / 16);
    }
    a.wide_padded = (columns + kWide - 1) / kWide * kWide;
    if (taken & kWideBytes) {
      size_t bytes = (size_t)rows * a.wide_padded;
      a.wide = wide.take(bytes), a.wide_scales = wide_scales.take(bytes / kWide), a.wide_minus = wide_minus.take(bytes / kWide);
    }
    if (taken & kBf16) a.bf16 = bf16.take(all);
    if (taken & kFloats) a.floats = floats.take(all);
    return a;
  }
};

// A piece of attention: the queries `first` to `last` of a row that read one head's keys.
struct Share {
  int row, head, first, last;
};

// What one member has for itself.
struct Own {
  Prepared prepared;
  Memory<float> row, scratch;
  std::vector<Query> queries;
  std::vector<Run> runs;
  std::vector<Share> shares;
};

struct Engine::Work {
  Prepared shared, expert;
  Memory<float> x, y, q, attended, h, up, second, hidden, routed, scores;
  std::vector<Own> own;
  std::vector<Fresh> fresh;
  // Of each token: which part it is of, and its place in the part's grid. Of each row: the part, its number there, and
  // its first token; of each part, the same. Of each row of logits: the token, and where they go.
  std::vector<int> token, position, owner, grid, part_of, row_of, start, first, wanted;
  std::vector<float*> logits;
  // Of experts: which tokens each has, and where a token's share of it is.
  std::vector<int> chosen, first_of, rows_of;
  std::vector<float> weight;
};

class Step {
 public:
  Step(const Model& model, Team& team, const Kernels& k, Engine::Work& w, const Engine& tables,
       const std::vector<Part>& parts, Store store);
  void run(int member);
  int tokens() const { return (int)w.token.size(); }

 private:
  void take(int part);
  void make_room();
  void embed();
  void layer(const Layer& layer, int member, bool last);
  void attention(const Layer& layer, int member, float* out, bool add);
  void finish_heads(const Layer& layer, int token, int first, int last);
  void attend(const Layer& layer, int member);
  int pieces(const Layer& layer, int row) const;
  void attend_row(const Layer& layer, int member, int row, int head, int first, int last);
  void runs_of(const Layer& layer, Own& own, int row, int head, bool& gaps);
  void feed_forward(const FeedForward& ff, const Activations& x, int rows, float* out, int stride, bool add, int member);
  void experts(const Experts& experts, const float* in, float* out, bool add, int member);
  void logits(int member);

  // Rows of `columns` floats, normed if there is a norm, as products of `taken` want them.
  Activations prepare(const float* x, int rows, int columns, const Norm* norm, int taken, int member);
  void multiply(const Linear& linear, const Activations& x, int rows, float* y, int stride, bool add);
  void norm_row(const Norm& norm, const float* x, float* out, int count) const;
  template <class F> void each_row(int rows, F&& f) {
    int piece = std::max(1, rows / (8 * team.active()));
    team.each((rows + piece - 1) / piece, [&](int i) {
      for (int r = i * piece; r < std::min(rows, (i + 1) * piece); r++) f(r);
    });
  }
  // Of many rows a member takes a quarter of its share at a time: one whose core does something else for a while keeps
  // the others waiting for a piece, not for all of it. It changes no number.
  template <class F> void each_panels(int panels, F&& f) {
    int pieces = team.active() * (n < kMany ? 1 : 4), piece = std::max(1, (panels + pieces - 1) / pieces);
    team.each((panels + piece - 1) / piece, [&](int i) { f(i * piece, std::min(panels, (i + 1) * piece)); });
  }

  const Model& model;
  Team& team;
  const Kernels& k;
  Engine::Work& w;
  const Engine& tables;
  const std::vector<Part>& parts;
  Store store;
  int n = 0;
  int stride_ = 0;  // floats of a row of y: queries, keys, values of the widest layer
};
