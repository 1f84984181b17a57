#include "keys.h"

#include <algorithm>

void hold(Group& group, const int64_t* positions, int64_t rows, int64_t columns, int64_t stride, const int64_t* next,
          const int64_t* blocks, int64_t per_row, int64_t block) {
  group.rows.resize((size_t)rows);
  for (int64_t r = 0; r < rows; r++) {
    std::vector<Held>& runs = group.rows[(size_t)r];
    if ((size_t)r < group.begun.size()) runs = group.begun[(size_t)r];
    else runs.clear();
    bool ordered = true;
    for (int64_t j = 0; j < columns; j++) {
      int64_t position = positions[r * stride + j];
      if (position < 0 || position >= next[r]) continue;
      int64_t x = blocks ? blocks[r * per_row + j / block] : r, column = blocks ? j % block : j;
      if (!runs.empty()) {
        Held& last = runs.back();
        if (last.base < 0 && last.x == x && last.column + last.count == column && last.position + last.count == position) {
          last.count++;
          continue;
        }
        ordered = ordered && last.position < position;
      }
      runs.push_back({x, column, 1, (int)position, -1});
    }
    // A ring goes round: what was written last stands before what is older.
    if (!ordered) std::sort(runs.begin(), runs.end(), [](const Held& a, const Held& b) { return a.position < b.position; });
  }
}

void Fresh::reserve(Store store, int heads_, int dim, int tokens_) {
  heads = heads_;
  tokens = tokens_;
  size_t count = 2 * (size_t)heads * (size_t)tokens;
  size_t numbers = store == Store::f32 ? 4 * (size_t)dim : store == Store::bf16 ? 2 * (size_t)dim
                   : store == Store::int8 ? (size_t)dim : (size_t)dim / 2;
  width[0] = numbers;
  width[1] = store == Store::int8 || store == Store::int4 ? 2 : 0;
  width[2] = store == Store::int4 ? 2 : 0;
  size_t starts[4] = {0};
  for (int part = 0; part < 3; part++) starts[part + 1] = starts[part] + (count * width[part] + 63) / 64 * 64;
  if (bytes.size() < starts[3] + 64) bytes.resize(starts[3] + 64);
  uint8_t* start = (uint8_t*)(((uintptr_t)bytes.data() + 63) / 64 * 64);
  for (int part = 0; part < 3; part++) parts[part] = start + starts[part];
}
