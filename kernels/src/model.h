// A transformer as data, and one forward of it: all layers in one call, by one team.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "isa.h"
#include "keys.h"
#include "matrix.h"
#include "team.h"

struct Norm {
  std::vector<float> weight, bias;  // bias empty: none
  float epsilon = 1e-5f;
  bool layer = false;
};

struct Linear {
  Matrix matrix;
  std::vector<float> bias;  // empty, or as long as the matrix has rows, filled to whole panels

  Panels panels() const;
  const float* bias_data() const { return bias.empty() ? nullptr : bias.data(); }
  int taken() const;  // which form of activations
};

struct FeedForward {
  std::optional<Linear> gate;
  Linear up, down;
  Act act = Act::silu;
};

struct Experts {
  std::vector<FeedForward> experts;
  Linear router;
  std::vector<float> balance;  // added to scores where experts are chosen
  int active = 1;
  bool renormalise = true, noisy = false;
  std::optional<FeedForward> shared;
  std::optional<Linear> shared_gate;
};

enum class Place : int { pre, post, sandwich, parallel, parallel_one_norm };

struct Layer {
  Place place = Place::pre;
  Norm attention_norm;
  std::optional<Norm> feed_forward_norm, attention_post_norm, feed_forward_post_norm, query_norm, key_norm;
  bool norm_projection = false, norm_after_rope = false;
  Linear query, out;
  std::optional<Linear> key, value;  // of a layer that makes its own
  int slot = 0, heads = 1, kv_heads = 1, dim = 1;
  bool causal = true;
  int window = 0, pinned = 0, chunk = 0;  // 0: none
  float scale = 1, cap = 0;
  std::vector<float> sinks;
  int rope = -1, bias = -1;  // which table, or none
  std::optional<FeedForward> feed_forward;
  std::optional<Experts> experts;
};

// Numbers by position (`rope`: dims/2 cosines, then as many sines; `added`: width) or by distance (`bias`).
struct Table {
  const float* data = nullptr;
  int rows = 0, width = 0, zero = 0;  // zero: the row of distance 0
};

struct Model {
  int width = 0, vocabulary = 0;
  std::vector<std::shared_ptr<Layer>> layers;
  Matrix embedding;
  float embedding_scale = 1;
  std::optional<Norm> embedding_norm, final_norm;
  std::optional<Linear> head;
  float logit_scale = 1, logit_cap = 0;
};

// Tokens of several rows that go on in one cache, `[rows, columns]` with position -1 where there is none.
struct Part {
  int64_t rows = 0, columns = 0;
  const int64_t *tokens = nullptr, *positions = nullptr;
  std::vector<int> keep;      // columns whose logits are wanted
  float* logits = nullptr;    // [rows, keep, vocabulary]
  float* hidden = nullptr;    // [rows, columns, width], after the last norm; or null
  float* tapped = nullptr;    // [rows, columns, width], what the last layer's feed-forward read; or null
  const std::vector<Slot>* slots = nullptr;    // of the cache; null: what was before is not there, and nothing is kept
  const std::vector<Group>* groups = nullptr;
  const std::vector<std::vector<Slot>>* bases = nullptr;  // slots of the texts that rows begin with
};

class Engine {
 public:
  struct Work;  // memory that is kept from forward to forward

  Engine(std::shared_ptr<Model> model, std::shared_ptr<Team> team, const Kernels& kernels);
  ~Engine();

  std::vector<Table> ropes, biases;
  Table added;

  int vocabulary() const { return model_->vocabulary; }

  // Reads all weights that a step of a text reads, and does nothing with them: bytes, and the seconds that it took.
  std::pair<size_t, double> read_weights();

  // Parts of several texts in one go: the weights are read once for all of them, and no number of one depends on the
  // others. All caches store their numbers alike. Throws std::invalid_argument for tokens or positions outside the
  // tables.
  void forward(const std::vector<Part>& parts, Store store);

  // Puts what the last forward made for these parts of it, which are all, into their caches, where `groups` say by now.
  // Until then the caches are as they were.
  void commit(const std::vector<Part>& parts);

 private:
  std::shared_ptr<Model> model_;
  std::shared_ptr<Team> team_;
  const Kernels& kernels_;
  std::unique_ptr<Work> work_;
};
