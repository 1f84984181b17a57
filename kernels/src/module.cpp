// What Python sees.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <tuple>

#include "lists.h"
#include "machine.h"
#include "model.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T> T* pointer(uintptr_t address) { return reinterpret_cast<T*>(address); }

std::vector<float> copied(const Vector& v) { return {v.data(), v.data() + v.shape(0)}; }

Linear linear(const Matrix& matrix, const std::optional<Vector>& bias) {
  Linear made{matrix, bias ? copied(*bias) : std::vector<float>{}};
  if (bias && (int)made.bias.size() != matrix.rows) throw std::invalid_argument("a bias has one number for each row");
  if (bias) made.bias.resize((size_t)matrix.panels * 16);
  return made;
}

// `parts`: (address, bytes from side to side, row to row, head to head, column to column) of each.
Slot slot(int group, int heads, int dim, const std::vector<std::vector<uintptr_t>>& parts) {
  Slot made;
  made.group = group, made.heads = heads, made.dim = dim;
  if (parts.size() > 3) throw std::invalid_argument("a slot has three parts at most");
  for (size_t i = 0; i < parts.size(); i++) {
    if (parts[i].size() != 5) throw std::invalid_argument("a part is an address and four strides");
    made.parts[i] = pointer<uint8_t>(parts[i][0]);
    made.side[i] = parts[i][1], made.across[i] = parts[i][2], made.head[i] = parts[i][3], made.width[i] = parts[i][4];
  }
  return made;
}

// A cache as the kernels see it, and what it holds and is to hold in one forward.
struct Keys {
  Store store = Store::f32;
  std::vector<Slot> slots;
  std::vector<Group> groups;
  std::vector<std::vector<Slot>> bases;

  void add_slot(int group, int heads, int dim, const std::vector<std::vector<uintptr_t>>& parts) {
    slots.push_back(slot(group, heads, dim, parts));
    if ((size_t)group >= groups.size()) groups.resize((size_t)group + 1);
  }

  // A text that rows begin with, slot by slot; returns its number.
  int add_base(const std::vector<std::vector<std::vector<uintptr_t>>>& parts) {
    if (parts.size() != slots.size()) throw std::invalid_argument("a text's keys have the slots of the cache");
    bases.emplace_back();
    for (size_t s = 0; s < parts.size(); s++) bases.back().push_back(slot(slots[s].group, slots[s].heads, slots[s].dim, parts[s]));
    return (int)bases.size() - 1;
  }

  // A row begins with `count` positions from `position` on, which lie in the base from `column` on.
  void begin(int group, int64_t row, int base, int64_t column, int count, int position) {
    if (base < 0 || (size_t)base >= bases.size() || row < 0) throw std::invalid_argument("no such text, or row");
    Group& g = groups.at((size_t)group);
    if (g.begun.size() <= (size_t)row) g.begun.resize((size_t)row + 1);
    g.begun[(size_t)row].push_back({0, column, count, position, base});
  }

  // Where the new tokens of a grid go: `columns` of each, or one after the other from `start` on. `block`: see `hold`.
  void place(int group, uintptr_t columns, int64_t start, int64_t rows, int64_t count, int64_t block) {
    Group& g = groups.at((size_t)group);
    g.x.resize((size_t)(rows * count)), g.column.resize((size_t)(rows * count));
    for (int64_t r = 0; r < rows; r++)
      for (int64_t t = 0; t < count; t++) {
        int64_t at = r * count + t, column = columns ? pointer<const int64_t>(columns)[at] : start + t;
        g.x[(size_t)at] = block ? column / block : r;
        g.column[(size_t)at] = block && column >= 0 ? column % block : column;
      }
  }
};

Part part(int64_t rows, int64_t columns, uintptr_t tokens, uintptr_t positions, std::vector<int> keep, uintptr_t logits,
          uintptr_t hidden, uintptr_t tapped, const Keys* keys) {
  return {rows, columns, pointer<const int64_t>(tokens), pointer<const int64_t>(positions), std::move(keep),
          pointer<float>(logits), pointer<float>(hidden), pointer<float>(tapped),
          keys ? &keys->slots : nullptr, keys ? &keys->groups : nullptr, keys ? &keys->bases : nullptr};
}

// Positions of new tokens, one after the other from each row's next one where there is none yet (`next`, or from 0);
// refuses a token that is not in the vocabulary, but where its position says that it is none. Returns the highest
// position and one.
int64_t ready(const Engine& engine, uintptr_t tokens, uintptr_t positions, bool given, uintptr_t next, int64_t rows,
              int64_t columns) {
  const int64_t *t = pointer<const int64_t>(tokens), *from = pointer<const int64_t>(next);
  int64_t *p = pointer<int64_t>(positions), top = 0;
  for (int64_t i = 0; i < rows * columns; i++) {
    if (!given) p[i] = (from ? from[i / columns] : 0) + i % columns;
    top = std::max(top, p[i] + 1);
    if (p[i] >= 0 && (t[i] < 0 || t[i] >= engine.vocabulary()))
      throw std::invalid_argument("token " + std::to_string(t[i]) + " is not in the vocabulary of " +
                                  std::to_string(engine.vocabulary()));
  }
  return top;
}

// Each `f(i)` once, of work on so many numbers: by the team where waking it costs less than it saves.
void spread(Team& team, int64_t numbers, int count, const std::function<void(int)>& f) {
  if (numbers >= (1 << 20)) return team.share(count, f);
  for (int i = 0; i < count; i++) f(i);
}

// The largest score of each row, and log Σ exp(score − largest).
std::pair<std::vector<float>, std::vector<double>> log_sums(const Kernels& k, Team& team, const float* scores,
                                                            int64_t rows, int64_t count, int64_t stride) {
  constexpr int64_t kPiece = 1 << 13;
  int pieces = (int)((count + kPiece - 1) / kPiece);
  std::vector<float> top((size_t)(rows * pieces));
  std::vector<double> total((size_t)(rows * pieces)), all((size_t)rows);
  std::vector<float> peaks((size_t)rows);
  spread(team, rows * count, (int)rows * pieces, [&](int i) {
    int64_t row = i / pieces, from = i % pieces * kPiece;
    k.log_sum(scores + row * stride + from, std::min(kPiece, count - from), &top[(size_t)i], &total[(size_t)i]);
  });
  for (int64_t r = 0; r < rows; r++) {  // pieces in order, so that the sum does not depend on who did which
    float peak = -INFINITY;
    double sum = 0;
    for (int i = 0; i < pieces; i++) peak = std::max(peak, top[(size_t)(r * pieces + i)]);
    for (int i = 0; i < pieces; i++) sum += total[(size_t)(r * pieces + i)] * std::exp((double)top[(size_t)(r * pieces + i)] - peak);
    peaks[(size_t)r] = peak;
    all[(size_t)r] = std::log(sum);
  }
  return {peaks, all};
}

// The mixture's log-probabilities, and each source's log-normaliser.
std::vector<double> mix(Team& team, const std::string& isa, uintptr_t scores, int64_t rows, int64_t count, int64_t stride,
                        const std::vector<double>& log_w, uintptr_t out) {
  const Kernels& k = kernels_named(isa);
  const float* s = pointer<const float>(scores);
  if ((int64_t)log_w.size() != rows || rows < 1) throw std::invalid_argument("a weight for each source, and one source at least");
  std::vector<float> peaks;
  std::vector<double> z;
  std::tie(peaks, z) = log_sums(k, team, s, rows, count, stride);
  std::vector<const float*> at;
  std::vector<float> shift;
  for (int64_t r = 0; r < rows; r++) {
    at.push_back(s + r * stride);
    shift.push_back((float)(log_w[(size_t)r] - z[(size_t)r]));
    z[(size_t)r] += peaks[(size_t)r];
  }
  constexpr int64_t kPiece = 1 << 12;
  spread(team, rows * count, (int)((count + kPiece - 1) / kPiece), [&](int i) {
    k.mix(at.data(), peaks.data(), shift.data(), (int)rows, i * kPiece, std::min(count, (i + 1) * kPiece), pointer<float>(out));
  });
  return z;
}

// log Σ exp of each row of scores.
std::vector<double> normalisers(Team& team, const std::string& isa, uintptr_t scores, int64_t rows, int64_t count,
                                int64_t stride) {
  auto [peaks, sums] = log_sums(kernels_named(isa), team, pointer<const float>(scores), rows, count, stride);
  for (size_t r = 0; r < sums.size(); r++) sums[r] += peaks[r];
  return sums;
}

// Bytes a second that the team reads from memory, the best of `runs` passes over `bytes`.
double bandwidth(Team& team, const std::string& isa, size_t bytes, int runs) {
  const Kernels& k = kernels_named(isa);
  std::unique_ptr<uint8_t[]> data(new uint8_t[bytes]);
  std::memset(data.get(), 1, bytes);
  constexpr size_t kPiece = 1 << 20;
  double best = 0;
  std::atomic<double> kept{0};
  for (int run = 0; run < runs; run++) {
    auto began = std::chrono::steady_clock::now();
    team.run([&](int) {
      team.each((int)(bytes / kPiece), [&](int i) { kept.store(k.read(data.get() + (size_t)i * kPiece, kPiece), std::memory_order_relaxed); });
    });
    std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    best = std::max(best, (double)bytes / took.count());
  }
  return best;
}

void bind_parts(nb::module_& m) {
  nb::class_<Matrix>(m, "Matrix")
      .def_static("blocks", [](const std::string& kind, Bytes rows, int64_t columns) {
        return pack_blocks(kind, rows.data(), (int64_t)rows.shape(0), (int64_t)rows.shape(1), columns);
      }, "kind"_a, "rows"_a, "columns"_a, nb::call_guard<nb::gil_scoped_release>())
      .def_static("floats", [](const std::string& kind, Floats values) {
        return pack_floats(kind, values.data(), (int64_t)values.shape(0), (int64_t)values.shape(1));
      }, "kind"_a, "values"_a, nb::call_guard<nb::gil_scoped_release>())
      .def_ro("rows", &Matrix::rows)
      .def_ro("columns", &Matrix::columns)
      .def_ro("kind", &Matrix::kind)
      .def_prop_ro("nbytes", &Matrix::nbytes)
      .def("row", [](const Matrix& matrix, int row, uintptr_t out) {
        if (row < 0 || row >= matrix.rows) throw std::out_of_range("no such row");
        matrix.row(row, pointer<float>(out));
      }, "row"_a, "out"_a);
  nb::class_<Linear>(m, "Linear").def("__init__", [](Linear* self, const Matrix& matrix, std::optional<Vector> bias) {
    new (self) Linear(linear(matrix, bias));
  }, "matrix"_a, "bias"_a = nb::none());
  nb::class_<Norm>(m, "Norm").def("__init__", [](Norm* self, Vector weight, std::optional<Vector> bias, float epsilon, bool layer) {
    new (self) Norm{copied(weight), bias ? copied(*bias) : std::vector<float>{}, epsilon, layer};
  }, "weight"_a, "bias"_a = nb::none(), "epsilon"_a = 1e-5f, "layer"_a = false);
  nb::class_<FeedForward>(m, "FeedForward").def("__init__", [](FeedForward* self, const Linear& up, const Linear& down, std::optional<Linear> gate, int act) {
    new (self) FeedForward{gate, up, down, (Act)act};
  }, "up"_a, "down"_a, "gate"_a = nb::none(), "act"_a = 0);
  nb::class_<Experts>(m, "Experts")
      .def(nb::init<>())
      .def_rw("experts", &Experts::experts)
      .def_rw("router", &Experts::router)
      .def_rw("balance", &Experts::balance)
      .def_rw("active", &Experts::active)
      .def_rw("renormalise", &Experts::renormalise)
      .def_rw("noisy", &Experts::noisy)
      .def_rw("shared", &Experts::shared)
      .def_rw("shared_gate", &Experts::shared_gate);
}

void bind_layer(nb::module_& m) {
  nb::class_<Layer>(m, "Layer")
      .def(nb::init<>())
      .def_prop_rw("place", [](const Layer& l) { return (int)l.place; }, [](Layer& l, int place) { l.place = (Place)place; })
      .def_rw("attention_norm", &Layer::attention_norm)
      .def_rw("feed_forward_norm", &Layer::feed_forward_norm)
      .def_rw("attention_post_norm", &Layer::attention_post_norm)
      .def_rw("feed_forward_post_norm", &Layer::feed_forward_post_norm)
      .def_rw("query_norm", &Layer::query_norm)
      .def_rw("key_norm", &Layer::key_norm)
      .def_rw("norm_projection", &Layer::norm_projection)
      .def_rw("norm_after_rope", &Layer::norm_after_rope)
      .def_rw("query", &Layer::query)
      .def_rw("key", &Layer::key)
      .def_rw("value", &Layer::value)
      .def_rw("out", &Layer::out)
      .def_rw("slot", &Layer::slot)
      .def_rw("heads", &Layer::heads)
      .def_rw("kv_heads", &Layer::kv_heads)
      .def_rw("dim", &Layer::dim)
      .def_rw("causal", &Layer::causal)
      .def_rw("window", &Layer::window)
      .def_rw("pinned", &Layer::pinned)
      .def_rw("chunk", &Layer::chunk)
      .def_rw("scale", &Layer::scale)
      .def_rw("cap", &Layer::cap)
      .def_rw("sinks", &Layer::sinks)
      .def_rw("rope", &Layer::rope)
      .def_rw("bias", &Layer::bias)
      .def_rw("feed_forward", &Layer::feed_forward)
      .def_rw("experts", &Layer::experts);
  nb::class_<Model>(m, "Model")
      .def(nb::init<>())
      .def_rw("width", &Model::width)
      .def_rw("vocabulary", &Model::vocabulary)
      .def_rw("embedding", &Model::embedding)
      .def_rw("embedding_scale", &Model::embedding_scale)
      .def_rw("embedding_norm", &Model::embedding_norm)
      .def_rw("final_norm", &Model::final_norm)
      .def_rw("head", &Model::head)
      .def_rw("logit_scale", &Model::logit_scale)
      .def_rw("logit_cap", &Model::logit_cap)
      .def("add_layer", [](Model& model, const Layer& layer) { model.layers.push_back(std::make_shared<Layer>(layer)); });
}

void bind_engine(nb::module_& m) {
  nb::class_<Team>(m, "Team").def(nb::init<int>(), "threads"_a).def_prop_ro("threads", &Team::threads);
  nb::class_<Keys>(m, "Keys")
      .def("__init__", [](Keys* self, int store) { new (self) Keys{(Store)store, {}, {}, {}}; }, "store"_a)
      .def("add_slot", &Keys::add_slot, "group"_a, "heads"_a, "dim"_a, "parts"_a)
      .def("add_base", &Keys::add_base, "parts"_a)
      .def("begin", &Keys::begin, "group"_a, "row"_a, "base"_a, "column"_a, "count"_a, "position"_a)
      .def("hold", [](Keys& keys, int group, uintptr_t positions, int64_t rows, int64_t columns, int64_t stride, uintptr_t next, uintptr_t blocks, int64_t per_row, int64_t block) {
        hold(keys.groups.at((size_t)group), pointer<const int64_t>(positions), rows, columns, stride, pointer<const int64_t>(next), pointer<const int64_t>(blocks), per_row, block);
      }, "group"_a, "positions"_a, "rows"_a, "columns"_a, "stride"_a, "next"_a, "blocks"_a = 0, "per_row"_a = 0, "block"_a = 0)
      .def("place", &Keys::place, "group"_a, "columns"_a, "start"_a, "rows"_a, "count"_a, "block"_a = 0);
  nb::class_<Part>(m, "Part").def("__init__", [](Part* self, int64_t rows, int64_t columns, uintptr_t tokens, uintptr_t positions, std::vector<int> keep, uintptr_t logits, uintptr_t hidden, uintptr_t tapped, const Keys* keys) {
    new (self) Part(part(rows, columns, tokens, positions, std::move(keep), logits, hidden, tapped, keys));
  }, "rows"_a, "columns"_a, "tokens"_a, "positions"_a, "keep"_a, "logits"_a = 0, "hidden"_a = 0, "tapped"_a = 0, "keys"_a.none() = nb::none(), nb::keep_alive<1, 10>());
  nb::class_<Engine>(m, "Engine")
      .def("forward", [](Engine& engine, const std::vector<Part>& parts, int store) { engine.forward(parts, (Store)store); }, "parts"_a, "store"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("ready", &ready, "tokens"_a, "positions"_a, "given"_a, "next"_a, "rows"_a, "columns"_a)
      .def("read_weights", &Engine::read_weights, nb::call_guard<nb::gil_scoped_release>())
      .def("commit", [](Engine& engine, const std::vector<Part>& parts) { engine.commit(parts); }, "parts"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("__init__", [](Engine* self, std::shared_ptr<Model> model, std::shared_ptr<Team> team, const std::string& isa) {
        new (self) Engine(model, team, kernels_named(isa));
      }, "model"_a, "team"_a, "isa"_a = "")
      .def("rope", [](Engine& engine, size_t index, uintptr_t data, int rows, int width) {
        if (engine.ropes.size() <= index) engine.ropes.resize(index + 1);
        engine.ropes[index] = {pointer<const float>(data), rows, width, 0};
      }, "index"_a, "data"_a, "rows"_a, "width"_a)
      .def("bias", [](Engine& engine, size_t index, uintptr_t data, int rows, int zero) {
        if (engine.biases.size() <= index) engine.biases.resize(index + 1);
        engine.biases[index] = {pointer<const float>(data), rows, 0, zero};
      }, "index"_a, "data"_a, "rows"_a, "zero"_a)
      .def("added", [](Engine& engine, uintptr_t data, int rows, int width) {
        engine.added = {pointer<const float>(data), rows, width, 0};
      }, "data"_a, "rows"_a, "width"_a);
}

void bind_lists(nb::module_& m) {
  nb::class_<Lists>(m, "Lists")
      .def("__init__", [](Lists* self, int width, int64_t count, uintptr_t mean, uintptr_t centres, std::pair<uintptr_t, uintptr_t> of_centres, uintptr_t starts, uintptr_t rows, std::pair<uintptr_t, uintptr_t> of_keys, const std::string& isa) {
        auto coded = [](auto of) { return Coded{pointer<const uint64_t>(of.first), pointer<const float>(of.second)}; };
        new (self) Lists(width, count, pointer<const uint16_t>(mean), pointer<const uint16_t>(centres), coded(of_centres),
                         pointer<const int64_t>(starts), pointer<const int64_t>(rows), coded(of_keys), kernels_named(isa));
      }, "width"_a, "count"_a, "mean"_a, "centres"_a, "of_centres"_a, "starts"_a, "rows"_a, "of_keys"_a, "isa"_a = "")
      .def("candidates", [](const Lists& lists, uintptr_t q, int64_t queries, int probes, int count, uintptr_t live, uintptr_t found) {
        for (int64_t i = 0; i < queries; i++)
          lists.candidates(pointer<const float>(q) + i * lists.width(), probes, count, pointer<const uint8_t>(live), pointer<int64_t>(found) + i * count);
      }, "q"_a, "queries"_a, "probes"_a, "count"_a, "live"_a, "found"_a, nb::call_guard<nb::gil_scoped_release>());
  m.def("distances", [](uintptr_t q, int64_t queries, int width, uintptr_t rows, int64_t count, const std::vector<std::pair<int64_t, uintptr_t>>& segments, uintptr_t out, const std::string& isa) {
    std::vector<std::pair<int64_t, const uint16_t*>> keys;
    for (auto [first, address] : segments) keys.emplace_back(first, pointer<const uint16_t>(address));
    for (int64_t i = 0; i < queries; i++)
      distances(kernels_named(isa), pointer<const float>(q) + i * width, width, pointer<const int64_t>(rows) + i * count, count, keys, pointer<float>(out) + i * count);
  }, "q"_a, "queries"_a, "width"_a, "rows"_a, "count"_a, "segments"_a, "out"_a, "isa"_a = "", nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);  // threads may still hold a model when Python ends
  bind_parts(m);
  bind_layer(m);
  bind_engine(m);
  bind_lists(m);
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const Kernels* k : kernels_here()) names.push_back(k->name);
    return names;
  });
  m.def("mix", &mix, "team"_a, "isa"_a, "scores"_a, "rows"_a, "count"_a, "stride"_a, "log_w"_a, "out"_a, nb::call_guard<nb::gil_scoped_release>());
  m.def("normalisers", &normalisers, "team"_a, "isa"_a, "scores"_a, "rows"_a, "count"_a, "stride"_a, nb::call_guard<nb::gil_scoped_release>());
  m.def("bandwidth", &bandwidth, "team"_a, "isa"_a = "", "bytes"_a = (size_t)1 << 28, "runs"_a = 5, nb::call_guard<nb::gil_scoped_release>());
}
