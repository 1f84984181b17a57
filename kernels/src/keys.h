// Where keys and values lie: in a cache that somebody else owns, and those of this forward, which are put there last.
#pragma once
#include <cstdint>
#include <vector>

#include "isa.h"

// One slot of a cache, `[2, X, heads, C, width]` a part: X rows of C columns, or X blocks of C positions.
struct Slot {
  int group = 0;  // of slots that hold the same positions
  int heads = 0, dim = 0;
  uint8_t* parts[3] = {};  // numbers, scales, lows
  size_t side[3] = {}, across[3] = {}, head[3] = {}, width[3] = {};  // bytes from one to the next

  uint8_t* at(int part, int side_, int64_t x, int head_, int64_t column) const {
    return parts[part] + side_ * side[part] + (size_t)x * across[part] + head_ * head[part] + (size_t)column * width[part];
  }
};

// Consecutive positions that lie one after the other: in the cache's own memory, or (`base` from 0 on) in that of a text
// which rows of several caches begin with.
struct Held {
  int64_t x, column;
  int count, position;
  int base = -1;
};

// What the slots of one group hold before a forward, row by row, in the order of positions; where new tokens go.
struct Group {
  std::vector<std::vector<Held>> rows;
  std::vector<std::vector<Held>> begun;  // what rows begin with; or nothing
  std::vector<int64_t> x, column;  // of every token of the forward; column -1: not kept
};

// Reads the columns' positions (`stride` numbers a row, -1: nothing there), those before `next[row]`. With `blocks`, column j of a row lies in
// block blocks[row · per_row + j / block] at j % block; else in its own row.
void hold(Group& group, const int64_t* positions, int64_t rows, int64_t columns, int64_t stride, const int64_t* next,
          const int64_t* blocks, int64_t per_row, int64_t block);

// Keys and values of the tokens of one forward, as a store writes them: `[2, heads, tokens]` vectors a part.
struct Fresh {
  std::vector<uint8_t> bytes;
  uint8_t* parts[3] = {};
  size_t width[3] = {};
  int heads = 0, tokens = 0;

  void reserve(Store store, int heads_, int dim, int tokens_);
  uint8_t* at(int part, int side, int head, int token) const {
    return parts[part] + (((size_t)side * heads + head) * tokens + token) * width[part];
  }
};
