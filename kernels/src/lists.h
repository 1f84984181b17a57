// Keys of a datastore in lists about centres: names those that may be nearest to a query (openbook/book/approximate.py).
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "isa.h"

// Codes, and what goes with each: see kernels/codes.h.
struct Coded {
  const uint64_t* codes;
  const float* sizes;
};

class Lists {
 public:
  // Memory that whoever makes this keeps: the centres' mean [M] and centres [L, M] in 16 bits, the centres' codes about
  // the mean, where each list starts [L + 1], and the keys' rows [N] and codes, list by list.
  Lists(int width, int64_t count, const uint16_t* mean, const uint16_t* centres, Coded of_centres, const int64_t* starts,
        const int64_t* rows, Coded of_keys, const Kernels& kernels);

  // `count` rows that may be among the nearest, −1 past the last: of the `probes` lists whose centres are nearest.
  // `live`: a byte a row, zero for those that do not count; null: all do.
  void candidates(const float* q, int probes, int count, const uint8_t* live, int64_t* found) const;

  int width() const { return width_; }

 private:
  using Near = std::pair<float, int64_t>;
  std::vector<Near> nearest_lists(const float* q, int probes, struct Asking& asking) const;

  int width_;
  int64_t count_;
  const uint16_t *mean_, *centres_;
  Coded of_centres_;
  const int64_t *starts_, *rows_;
  Coded of_keys_;
  const Kernels& kernels_;
};

// Exact squared distances of the keys in these rows; infinite where a row is −1. `segments`: each one's first row and keys.
void distances(const Kernels& kernels, const float* q, int width, const int64_t* rows, int64_t count,
               const std::vector<std::pair<int64_t, const uint16_t*>>& segments, float* out);
