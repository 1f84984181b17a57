#include "lists.h"

#include <algorithm>
#include <cmath>

struct Asking {
  explicit Asking(int width) : levels((size_t)(width + 63) / 64 * 64), planes((size_t)(width + 63) / 64 * kPlanes) {}
  std::vector<int8_t> levels;
  std::vector<uint64_t> planes;
  std::vector<float> estimates;
  Asked asked{};

  void about(const Kernels& k, const float* q, const uint16_t* centre, int width) {
    k.ask(q, centre, width, levels.data(), planes.data(), &asked);
  }
  const float* estimate(const Kernels& k, const Coded& of, int64_t from, int64_t count) {
    estimates.resize((size_t)std::max(count, (int64_t)estimates.size()));
    k.estimate(asked, of.codes + from * asked.words, of.sizes + 2 * from, count, estimates.data());
    return estimates.data();
  }
};

namespace {

constexpr int kShortlist = 4;  // centres looked at exactly, for each list that is looked into

// The nearest of what was shown to it, by distance and then number: a heap with the farthest on top.
struct Kept {
  using Near = std::pair<float, int64_t>;
  size_t most;
  std::vector<Near> heap{};

  bool takes(float d) const { return heap.size() < most || d <= heap.front().first; }
  void show(Near near) {
    if (heap.size() == most) {
      if (!(near < heap.front())) return;
      std::pop_heap(heap.begin(), heap.end());
      heap.pop_back();
    }
    heap.push_back(near);
    std::push_heap(heap.begin(), heap.end());
  }
};

}  // namespace

Lists::Lists(int width, int64_t count, const uint16_t* mean, const uint16_t* centres, Coded of_centres,
             const int64_t* starts, const int64_t* rows, Coded of_keys, const Kernels& kernels)
    : width_(width), count_(count), mean_(mean), centres_(centres), of_centres_(of_centres), starts_(starts),
      rows_(rows), of_keys_(of_keys), kernels_(kernels) {}

// By the centres' codes first, then exactly.
std::vector<Lists::Near> Lists::nearest_lists(const float* q, int probes, Asking& asking) const {
  asking.about(kernels_, q, mean_, width_);
  const float* about = asking.estimate(kernels_, of_centres_, 0, count_);
  Kept some{(size_t)std::min<int64_t>(count_, (int64_t)kShortlist * probes)}, kept{(size_t)std::min<int64_t>(count_, probes)};
  for (int64_t i = 0; i < count_; i++)
    if (some.takes(about[i])) some.show({about[i], i});
  for (const Near& near : some.heap) kept.show({kernels_.apart(q, centres_ + near.second * width_, width_), near.second});
  std::sort(kept.heap.begin(), kept.heap.end());
  return kept.heap;
}

void Lists::candidates(const float* q, int probes, int count, const uint8_t* live, int64_t* found) const {
  Asking asking(width_);
  Kept kept{(size_t)count};
  kept.heap.reserve((size_t)count);
  for (const Near& list : nearest_lists(q, probes, asking)) {
    int64_t from = starts_[list.second], size = starts_[list.second + 1] - from;
    asking.about(kernels_, q, centres_ + list.second * width_, width_);
    const float* about = asking.estimate(kernels_, of_keys_, from, size);
    for (int64_t i = 0; i < size; i++)
      if (kept.takes(about[i]) && (!live || live[rows_[from + i]])) kept.show({about[i], rows_[from + i]});
  }
  std::fill(found, found + count, -1);
  for (const Near& near : kept.heap) *found++ = near.second;
}

void distances(const Kernels& kernels, const float* q, int width, const int64_t* rows, int64_t count,
               const std::vector<std::pair<int64_t, const uint16_t*>>& segments, float* out) {
  constexpr int64_t kAhead = 4;  // keys on their way from memory: they lie anywhere
  auto key = [&](int64_t row) {
    auto segment = std::upper_bound(segments.begin(), segments.end(), row, [](int64_t r, const auto& s) { return r < s.first; }) - 1;
    return segment->second + (row - segment->first) * width;
  };
  auto fetch = [&](int64_t i) {
    if (i >= count || rows[i] < 0) return;
    const char* p = (const char*)key(rows[i]);
    for (int at = 0; at < 2 * width; at += 64) __builtin_prefetch(p + at);
  };
  for (int64_t i = 0; i < kAhead; i++) fetch(i);
  for (int64_t i = 0; i < count; i++) {
    fetch(i + kAhead);
    out[i] = rows[i] < 0 ? INFINITY : kernels.apart(q, key(rows[i]), width);
  }
}
