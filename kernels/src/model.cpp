#include "model.h"

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>

#include "step.h"

Panels Linear::panels() const {
  return {matrix.form, matrix.rows, matrix.panels, matrix.blocks, matrix.panel_bytes, matrix.data.get()};
}

int Linear::taken() const {
  if (quantised(matrix.form)) return traits(matrix.form).parts == 2 ? kBytes | kHalves : kBytes;
  return matrix.form == Form::wide ? kWideBytes : matrix.form == Form::bf16 ? kBf16 : kFloats;
}

namespace {

int taken_by(const FeedForward& ff) { return ff.up.taken() | (ff.gate ? ff.gate->taken() : 0); }

const float* data_or_null(const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); }

}  // namespace

Engine::Engine(std::shared_ptr<Model> model, std::shared_ptr<Team> team, const Kernels& kernels)
    : model_(std::move(model)), team_(std::move(team)), kernels_(kernels), work_(std::make_unique<Work>()) {
  work_->own.resize((size_t)team_->threads());
}

Engine::~Engine() = default;

void Engine::forward(const std::vector<Part>& parts, Store store) {
  Step step(*model_, *team_, kernels_, *work_, *this, parts, store);
  if (step.tokens() == 0) return;
  team_->run([&](int member) { step.run(member); });
}

std::pair<size_t, double> Engine::read_weights() {
  std::vector<const Matrix*> all;
  auto take = [&](const Linear* linear) { if (linear) all.push_back(&linear->matrix); };
  auto some = [](const std::optional<Linear>& linear) { return linear ? &*linear : nullptr; };
  auto take_all = [&](const FeedForward& ff) { take(some(ff.gate)), take(&ff.up), take(&ff.down); };
  for (const auto& layer : model_->layers) {
    take(&layer->query), take(some(layer->key)), take(some(layer->value)), take(&layer->out);
    if (layer->feed_forward) take_all(*layer->feed_forward);
    if (!layer->experts) continue;
    take(&layer->experts->router), take(some(layer->experts->shared_gate));
    if (layer->experts->shared) take_all(*layer->experts->shared);
    for (int i = 0; i < layer->experts->active; i++) take_all(layer->experts->experts[(size_t)i]);
  }
  take(some(model_->head));
  size_t bytes = 0;
  for (const Matrix* m : all) bytes += m->nbytes();
  std::atomic<double> kept{0};  // or the reading would be for nothing, and left out
  auto began = std::chrono::steady_clock::now();
  team_->run([&](int) {
    for (const Matrix* m : all) {
      int members = team_->active();
      team_->each(members, [&](int i) {
        size_t first = (size_t)m->panels * i / members, last = (size_t)m->panels * (i + 1) / members;
        kept.store(kernels_.read(m->data.get() + first * m->panel_bytes, (last - first) * m->panel_bytes), std::memory_order_relaxed);
      });
    }
  });
  return {bytes, std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count()};
}

void Engine::commit(const std::vector<Part>& parts) {
  const Work& w = *work_;
  if (w.first.size() != parts.size() + 1) throw std::invalid_argument("these are not the parts of the last forward");
  // `each(where it goes, where it is, bytes)` for all that a part's slot was given.
  auto all = [&](size_t part, size_t s, auto&& each) {
    const Slot& slot = (*parts[part].slots)[s];
    const Group& group = (*parts[part].groups)[(size_t)slot.group];
    const Fresh& fresh = w.fresh[s];
    for (int side = 0; side < 2; side++)
      for (int head = 0; head < slot.heads; head++)
        for (int t = w.first[part]; t < w.first[part + 1]; t++) {
          int64_t column = group.column[(size_t)w.grid[(size_t)t]];
          if (column < 0) continue;
          for (int i = 0; i < 3 && fresh.width[i]; i++)
            each(slot.at(i, side, group.x[(size_t)w.grid[(size_t)t]], head, column), fresh.at(i, side, head, t), fresh.width[i]);
        }
  };
  auto one = [&](size_t part, size_t s) { all(part, s, [](uint8_t* to, const uint8_t* from, size_t bytes) { std::memcpy(to, from, bytes); }); };
  std::vector<std::pair<size_t, size_t>> work;
  for (size_t part = 0; part < parts.size(); part++)
    for (size_t s = 0; parts[part].slots && s < parts[part].slots->size(); s++) work.emplace_back(part, s);
  if (w.grid.size() < 4) {  // their lines lie far apart: all are sent for first
    for (auto [part, s] : work)
      all(part, s, [](uint8_t* to, const uint8_t*, size_t bytes) {
        for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(to + i, 1);
      });
  }
  if (w.grid.size() < 64) {  // waking the others would take longer
    for (auto [part, s] : work) one(part, s);
    return;
  }
  team_->share((int)work.size(), [&](int i) { one(work[(size_t)i].first, work[(size_t)i].second); });
}

Step::Step(const Model& model, Team& team, const Kernels& k, Engine::Work& w, const Engine& tables,
           const std::vector<Part>& parts, Store store)
    : model(model), team(team), k(k), w(w), tables(tables), parts(parts), store(store) {
  w.token.clear(), w.position.clear(), w.owner.clear(), w.grid.clear(), w.part_of.clear(), w.row_of.clear();
  w.start.assign(1, 0), w.first.assign(1, 0), w.wanted.clear(), w.logits.clear();
  for (size_t i = 0; i < parts.size(); i++) take((int)i);
  n = (int)w.token.size();
  int top = n ? *std::max_element(w.position.begin(), w.position.end()) : 0;
  for (const Table& table : tables.ropes)
    if (top >= table.rows) throw std::invalid_argument("a rotary table is shorter than the text");
  if (tables.added.data && top >= tables.added.rows) throw std::invalid_argument("the table of positions is shorter than the text");
  make_room();
}

// One list of all tokens that there are: rows of different length and padding cost nothing.
void Step::take(int part) {
  const Part& p = parts[(size_t)part];
  std::vector<int> index((size_t)(p.rows * p.columns), 0);
  for (int64_t b = 0; b < p.rows; b++) {
    for (int64_t t = 0; t < p.columns; t++) {
      int64_t at = b * p.columns + t, position = p.positions[at], token = p.tokens[at];
      if (position < 0) continue;
      if (token < 0 || token >= model.vocabulary) throw std::invalid_argument("token " + std::to_string(token) + " is not in the vocabulary");
      index[(size_t)at] = (int)w.token.size();
      w.token.push_back((int)token);
      w.position.push_back((int)position);
      w.owner.push_back(part);
      w.grid.push_back((int)at);
    }
    w.part_of.push_back(part);
    w.row_of.push_back((int)b);
    w.start.push_back((int)w.token.size());
  }
  w.first.push_back((int)w.token.size());
  if (!p.logits) return;
  for (int64_t b = 0; b < p.rows; b++)
    for (size_t i = 0; i < p.keep.size(); i++) {
      w.wanted.push_back(index[(size_t)(b * p.columns + p.keep[i])]);
      w.logits.push_back(p.logits + ((size_t)b * p.keep.size() + i) * (size_t)model.vocabulary);
    }
}

// Memory for all phases, taken before the members start.
void Step::make_room() {
  int inner = 0, heads = 0;
  for (const auto& layer : model.layers) {
    int kv = layer->key ? 2 * layer->kv_heads * layer->dim : 0;
    stride_ = std::max(stride_, layer->heads * layer->dim + kv);
    heads = std::max(heads, layer->heads * padded(layer->dim));
    auto widest = [&](const FeedForward& ff) { inner = std::max(inner, ff.up.matrix.rows); };
    if (layer->feed_forward) widest(*layer->feed_forward);
    if (layer->experts && layer->experts->shared) widest(*layer->experts->shared);
  }
  stride_ = padded(stride_);
  size_t rows = (size_t)n, width = (size_t)padded(model.width);
  w.x.take(rows * width), w.y.take(rows * (size_t)stride_), w.q.take(rows * (size_t)heads);
  w.attended.take(rows * (size_t)heads), w.h.take(rows * (size_t)padded(inner)), w.up.take(rows * (size_t)padded(inner));
  w.second.take(rows * width), w.hidden.take(std::max(w.wanted.size(), (size_t)1) * width);
  size_t slot_count = 0;
  for (const Part& part : parts) slot_count = std::max(slot_count, part.slots ? part.slots->size() : 0);
  for (const auto& layer : model.layers) slot_count = std::max(slot_count, (size_t)layer->slot + 1);
  w.fresh.resize(std::max(w.fresh.size(), slot_count));
  for (const auto& layer : model.layers)
    if (layer->key) w.fresh[(size_t)layer->slot].reserve(store, layer->kv_heads, layer->dim, n);
  for (Own& own : w.own) own.row.take(width);
}

void Step::run(int member) {
  embed();
  for (size_t i = 0; i < model.layers.size(); i++) layer(*model.layers[i], member, i + 1 == model.layers.size());
  logits(member);
}

void Step::norm_row(const Norm& norm, const float* x, float* out, int count) const {
  k.norm(x, count, norm.weight.data(), data_or_null(norm.bias), norm.epsilon, norm.layer, out);
}

void Step::embed() {
  int width = model.width, stride = padded(width);
  each_row(n, [&](int r) {
    float* x = w.x.data() + (size_t)r * stride;
    std::memset(x, 0, sizeof(float) * (size_t)stride);
    model.embedding.row(w.token[(size_t)r], x);
    if (model.embedding_scale != 1)
      for (int i = 0; i < width; i++) x[i] *= model.embedding_scale;
    if (tables.added.data) k.add(x, tables.added.data + (size_t)w.position[(size_t)r] * width, width, 1);
    if (model.embedding_norm) norm_row(*model.embedding_norm, x, x, width);
  });
}

Activations Step::prepare(const float* x, int rows, int columns, const Norm* norm, int taken, int member) {
  Own& own = w.own[(size_t)member];
  int stride = padded(columns);
  auto one = [&](const Activations& a, int r, Own& mine) {
    const float* row = x + (size_t)r * stride;
    if (norm) norm_row(*norm, row, mine.row.data(), columns), row = mine.row.data();
    k.prepare(row, columns, taken, a, r);
  };
  if (rows <= kFew) {
    Activations a = own.prepared.shape(kFew, columns, taken);
    for (int r = 0; r < rows; r++) one(a, r, own);
    return a;
  }
  // Memory may grow: one member sees to it before anybody writes.
  team.each(1, [&](int) { w.shared.shape(rows, columns, taken); });
  Activations a = w.shared.shape(rows, columns, taken);
  each_row(rows, [&](int r) { one(a, r, own); });
  return a;
}

void Step::multiply(const Linear& linear, const Activations& x, int rows, float* y, int stride, bool add) {
  Panels p = linear.panels();
  each_panels(p.panels, [&](int a, int b) { k.multiply(p, a, b, x, 0, rows, {y, stride, linear.bias_data(), add}); });
}

void Step::layer(const Layer& l, int member, bool last) {
  int width = model.width, stride = padded(width);
  float *x = w.x.data(), *y = w.second.data();
  bool parallel = l.place == Place::parallel || l.place == Place::parallel_one_norm;
  bool straight = l.place == Place::pre;
  attention(l, member, straight ? x : y, straight);
  if (l.place == Place::post)
    each_row(n, [&](int r) {
      k.add(x + (size_t)r * stride, y + (size_t)r * stride, width, 1);
      norm_row(l.attention_norm, x + (size_t)r * stride, x + (size_t)r * stride, width);
    });
  if (l.place == Place::sandwich)
    each_row(n, [&](int r) {
      float* row = w.own[(size_t)member].row.data();
      norm_row(*l.attention_post_norm, y + (size_t)r * stride, row, width);
      k.add(x + (size_t)r * stride, row, width, 1);
    });

  const Norm* before = l.place == Place::post ? nullptr
                       : l.place == Place::parallel_one_norm ? &l.attention_norm : &*l.feed_forward_norm;
  if (last && std::any_of(parts.begin(), parts.end(), [](const Part& p) { return p.tapped; }))
    each_row(n, [&](int r) {
      const Part& part = parts[(size_t)w.owner[(size_t)r]];
      if (!part.tapped) return;
      float* out = part.tapped + (size_t)w.grid[(size_t)r] * width;
      if (before) norm_row(*before, x + (size_t)r * stride, out, width);
      else std::memcpy(out, x + (size_t)r * stride, sizeof(float) * (size_t)width);
    });
  // Beside attention its output is added to, not the stream that both read.
  float* out = straight ? x : parallel ? y : w.second.data();
  bool add = straight || parallel;
  if (l.feed_forward) {
    Activations a = prepare(x, n, width, before, taken_by(*l.feed_forward), member);
    feed_forward(*l.feed_forward, a, n, out, stride, add, member);
  } else {
    // Routers choose by what experts read.
    team.each(1, [&](int) { w.routed.take((size_t)n * (size_t)stride); });
    each_row(n, [&](int r) {
      float* to = w.routed.data() + (size_t)r * stride;
      std::memset(to, 0, sizeof(float) * (size_t)stride);
      if (before) norm_row(*before, x + (size_t)r * stride, to, width);
      else std::memcpy(to, x + (size_t)r * stride, sizeof(float) * (size_t)width);
    });
    experts(*l.experts, w.routed.data(), out, add, member);
  }
  if (straight) return;
  each_row(n, [&](int r) {
    float *to = x + (size_t)r * stride, *from = y + (size_t)r * stride, *row = w.own[(size_t)member].row.data();
    if (l.place == Place::sandwich) norm_row(*l.feed_forward_post_norm, from, row, width), from = row;
    k.add(to, from, width, 1);
    if (l.place == Place::post) norm_row(*l.feed_forward_norm, to, to, width);
  });
}

void Step::feed_forward(const FeedForward& ff, const Activations& x, int rows, float* out, int stride, bool add, int member) {
  int inner = ff.up.matrix.rows, wide = padded(inner);
  float *h = w.h.data(), *up = w.up.data();
  bool together = ff.gate && ff.gate->matrix.form == ff.up.matrix.form;
  if (together) {
    Panels g = ff.gate->panels(), u = ff.up.panels();
    each_panels(g.panels, [&](int a, int b) {
      k.glu(g, u, a, b, x, 0, rows, ff.act, ff.gate->bias_data(), ff.up.bias_data(), h, wide);
    });
  } else {
    multiply(ff.gate ? *ff.gate : ff.up, x, rows, h, wide, false);
    if (ff.gate) multiply(ff.up, x, rows, up, wide, false);
    each_row(rows, [&](int r) {
      k.activate(h + (size_t)r * wide, inner, ff.act);
      if (ff.gate) k.times(h + (size_t)r * wide, up + (size_t)r * wide, inner);
    });
  }
  Activations inside = prepare(h, rows, inner, nullptr, ff.down.taken(), member);
  multiply(ff.down, inside, rows, out, stride, add);
}

void Step::logits(int member) {
  int width = model.width, stride = padded(width), count = (int)w.wanted.size();
  if (std::any_of(parts.begin(), parts.end(), [](const Part& p) { return p.hidden; }))
    each_row(n, [&](int r) {
      const Part& part = parts[(size_t)w.owner[(size_t)r]];
      if (!part.hidden) return;
      const float* x = w.x.data() + (size_t)r * stride;
      float* out = part.hidden + (size_t)w.grid[(size_t)r] * width;
      if (model.final_norm) norm_row(*model.final_norm, x, out, width);
      else std::memcpy(out, x, sizeof(float) * (size_t)width);
    });
  if (!count) return;
  each_row(count, [&](int r) {
    const float* x = w.x.data() + (size_t)w.wanted[(size_t)r] * stride;
    float* out = w.hidden.data() + (size_t)r * stride;
    std::memset(out, 0, sizeof(float) * (size_t)stride);
    if (model.final_norm) norm_row(*model.final_norm, x, out, width);
    else std::memcpy(out, x, sizeof(float) * (size_t)width);
    if (model.logit_scale != 1)
      for (int i = 0; i < width; i++) out[i] *= model.logit_scale;
  });
  Activations a = prepare(w.hidden.data(), count, width, nullptr, model.head->taken(), member);
  Panels p = model.head->panels();
  int piece = std::max(1, p.panels / (16 * team.active()));
  team.each((p.panels + piece - 1) / piece, [&](int i) {
    int first = i * piece, last = std::min(p.panels, first + piece);
    k.multiply(p, first, last, a, 0, count, {nullptr, 0, model.head->bias_data(), false, w.logits.data()});
    if (model.logit_cap > 0)
      for (int r = 0; r < count; r++)
        for (int64_t v = first * 16; v < std::min(model.vocabulary, last * 16); v++) {
          float& logit = w.logits[(size_t)r][v];
          logit = std::tanh(logit / model.logit_cap) * model.logit_cap;
        }
  });
}

