// Attention of one layer: queries, keys and values of the new tokens, then each query over what it may see.
#include <cmath>
#include <cstring>

#include "step.h"

void Step::attention(const Layer& l, int member, float* out, bool add) {
  const Norm* before = l.place == Place::post ? nullptr : &l.attention_norm;
  int taken = l.query.taken() | (l.key ? l.key->taken() | l.value->taken() : 0);
  Activations a = prepare(w.x.data(), n, model.width, before, taken, member);
  // Queries, keys, values side by side; their panels are one list of work.
  const Linear* parts[3] = {&l.query, l.key ? &*l.key : nullptr, l.value ? &*l.value : nullptr};
  int panels[4] = {0}, columns[3] = {0};
  for (int i = 0; i < 3; i++) {
    panels[i + 1] = panels[i] + (parts[i] ? parts[i]->matrix.panels : 0);
    if (i) columns[i] = columns[i - 1] + (parts[i - 1] ? parts[i - 1]->matrix.rows : 0);
  }
  auto project = [&](int first, int last) {
    for (int i = 0; i < 3; i++) {
      int from = std::max(first, panels[i]) - panels[i], to = std::min(last, panels[i + 1]) - panels[i];
      if (parts[i] && from < to)
        k.multiply(parts[i]->panels(), from, to, a, 0, n, {w.y.data() + columns[i], stride_, parts[i]->bias_data(), false});
    }
  };
  int heads = l.heads + (l.key ? 2 * l.kv_heads : 0), each = l.dim / 16;
  if (n < kMany && l.dim % 16 == 0 && !l.norm_projection) {
    // Whoever has made a head turns it: one phase less to wait for.
    int share = (heads + team.active() - 1) / team.active();
    team.each((heads + share - 1) / share, [&](int i) {
      int first = i * share, last = std::min(heads, first + share);
      project(first * each, last * each);
      for (int t = 0; t < n; t++) finish_heads(l, t, first, last);
    });
  } else {
    each_panels(panels[3], project);
    each_row(n, [&](int t) {
      float* y = w.y.data() + (size_t)t * stride_;
      if (l.norm_projection && l.query_norm) norm_row(*l.query_norm, y, y, l.heads * l.dim);
      if (l.norm_projection && l.key && l.key_norm)
        norm_row(*l.key_norm, y + l.heads * l.dim, y + l.heads * l.dim, l.kv_heads * l.dim);
      finish_heads(l, t, 0, heads);
    });
  }
  attend(l, member);
  Activations mixed = prepare(w.attended.data(), n, l.heads * l.dim, nullptr, l.out.taken(), member);
  multiply(l.out, mixed, n, out, padded(model.width), add);
}

// Heads `first` to `last` of a token's queries, keys and values, as they came out of their products: normed, turned, and
// put where attention looks for them.
void Step::finish_heads(const Layer& l, int token, int first, int last) {
  int dim = l.dim, wide = padded(dim);
  auto turn = [&](float* x, const std::optional<Norm>& norm) {
    bool by_head = norm && !l.norm_projection;
    if (by_head && !l.norm_after_rope) norm_row(*norm, x, x, dim);
    if (l.rope >= 0) {
      const Table& table = tables.ropes[(size_t)l.rope];
      k.rotate(x, table.data + (size_t)w.position[(size_t)token] * table.width, table.width / 2);
    }
    if (by_head && l.norm_after_rope) norm_row(*norm, x, x, dim);
  };
  for (int h = first; h < last; h++) {
    float* x = w.y.data() + (size_t)token * stride_ + h * dim;
    if (h < l.heads) {
      turn(x, l.query_norm);
      float* q = w.q.data() + ((size_t)token * l.heads + h) * wide;
      std::memcpy(q, x, sizeof(float) * (size_t)dim);
      std::memset(q + dim, 0, sizeof(float) * (size_t)(wide - dim));
      continue;
    }
    Fresh& fresh = w.fresh[(size_t)l.slot];
    int side = h - l.heads >= l.kv_heads, head = (h - l.heads) % l.kv_heads;
    if (!side) turn(x, l.key_norm);
    k.keep(x, dim, store, fresh.at(0, side, head, token), (uint16_t*)fresh.at(1, side, head, token),
           (uint16_t*)fresh.at(2, side, head, token));
  }
}

// What a row's queries may find, in the order of positions: what its cache holds, then the tokens of this forward.
void Step::runs_of(const Layer& l, Own& own, int row, int head, bool& gaps) {
  own.runs.clear();
  gaps = false;
  int next = 0;
  auto push = [&](const Run& run) {
    gaps = gaps || run.position != next;
    next = run.position + run.count;
    own.runs.push_back(run);
  };
  const Part& part = parts[(size_t)w.part_of[(size_t)row]];
  if (part.slots && !part.slots->empty()) {
    const Slot& slot = (*part.slots)[(size_t)l.slot];
    for (const Held& held : (*part.groups)[(size_t)slot.group].rows[(size_t)w.row_of[(size_t)row]]) {
      const Slot& from = held.base < 0 ? slot : (*part.bases)[(size_t)held.base][(size_t)l.slot];
      auto at = [&](int part, int side) { return from.parts[part] ? from.at(part, side, held.x, head, held.column) : nullptr; };
      push({at(0, 0), at(0, 1), (const uint16_t*)at(1, 0), (const uint16_t*)at(1, 1), (const uint16_t*)at(2, 0),
            (const uint16_t*)at(2, 1), held.count, held.position});
    }
  }
  const Fresh& fresh = w.fresh[(size_t)l.slot];
  for (int t = w.start[(size_t)row]; t < w.start[(size_t)row + 1];) {
    int end = t + 1;
    while (end < w.start[(size_t)row + 1] && w.position[(size_t)end] == w.position[(size_t)end - 1] + 1) end++;
    auto at = [&](int part, int side) { return fresh.at(part, side, head, t); };
    push({at(0, 0), at(0, 1), (const uint16_t*)at(1, 0), (const uint16_t*)at(1, 1), (const uint16_t*)at(2, 0),
          (const uint16_t*)at(2, 1), end - t, w.position[(size_t)t]});
    t = end;
  }
}

// Into how many pieces a row's queries are parted: as many as leave every member something to do while the last are
// being done. It changes no number. But queries are taken together wherever it can be: each piece reads the same keys
// again.
int Step::pieces(const Layer& l, int row) const {
  int count = w.start[(size_t)row + 1] - w.start[(size_t)row], members = team.active();
  if (members == 1) return 1;
  if (count >= kMany) return std::clamp(4 * members * count / (n * l.kv_heads), 1, 4);
  int heads = (int)w.part_of.size() * l.kv_heads;
  return heads < members ? std::min(count * (l.heads / l.kv_heads), (members + heads - 1) / heads) : 1;
}

void Step::attend(const Layer& l, int member) {
  int groups_ = l.heads / l.kv_heads, rows = (int)w.part_of.size();
  std::vector<Share>& shares = w.own[(size_t)member].shares;  // every member makes the same list for itself
  shares.clear();
  for (int row = 0; row < rows; row++) {
    int all = pieces(l, row), count = (w.start[(size_t)row + 1] - w.start[(size_t)row]) * groups_;
    for (int head = 0; head < l.kv_heads; head++)
      for (int piece = all - 1; piece >= 0; piece--)  // the last of a text see the most
        shares.push_back({row, head, (int)((int64_t)count * piece / all), (int)((int64_t)count * (piece + 1) / all)});
  }
  team.each((int)shares.size(), [&](int i) {
    const Share& share = shares[(size_t)i];
    attend_row(l, member, share.row, share.head, share.first, share.last);
  });
}

void Step::attend_row(const Layer& l, int member, int row, int head, int first, int last) {
  if (first == last) return;
  Own& own = w.own[(size_t)member];
  bool gaps;
  runs_of(l, own, row, head, gaps);
  int groups_ = l.heads / l.kv_heads, wide = padded(l.dim), end = own.runs.back().position + own.runs.back().count - 1;
  own.queries.clear();
  int lowest = INT32_MAX, highest = -1;
  for (int i = first; i < last; i++) {
    int t = w.start[(size_t)row] + i / groups_, h = head * groups_ + i % groups_, p = w.position[(size_t)t];
    Query q{};
    q.q = w.q.data() + ((size_t)t * l.heads + h) * wide;
    q.out = w.attended.data() + (size_t)t * padded(l.heads * l.dim) + (size_t)h * l.dim;
    if (l.bias >= 0) {
      const Table& table = tables.biases[(size_t)l.bias];
      q.bias = table.data + (size_t)h * table.rows + table.zero;
    }
    q.sink = l.sinks.empty() ? -INFINITY : l.sinks[(size_t)h];
    q.position = p;
    q.low = std::max(0, l.window ? p - l.window + 1 : 0);
    if (l.chunk) q.low = std::max(q.low, p / l.chunk * l.chunk);
    q.high = l.causal ? p : l.window ? std::min(end, p + l.window - 1) : end;
    if (l.chunk) q.high = std::min(q.high, p / l.chunk * l.chunk + l.chunk - 1);
    q.front = std::min(l.pinned, (l.causal ? p : end) + 1);  // both ways, pinned positions past the window are seen too
    lowest = std::min(lowest, q.low), highest = std::max(highest, q.high);
    own.queries.push_back(q);
  }
  bool many = !gaps && w.start[(size_t)row + 1] - w.start[(size_t)row] >= kMany;
  int span = padded(l.pinned) + std::max(0, highest - lowest) + 1;
  Attend a{own.queries.data(), (int)own.queries.size(), own.runs.data(), (int)own.runs.size(), store, l.dim, l.pinned,
           l.scale, l.cap, own.scratch.take(attend_scratch(l.dim, span, many))};
  if (many) k.attend_many(a);
  else k.attend(a);
}
