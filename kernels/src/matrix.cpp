// From a file's blocks to panels. Plain code, but every start waits for it: four levels are put at once.
#include "matrix.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <stdexcept>
#include <vector>

#if defined(__linux__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

#include "half.h"

namespace {

// The levels of one row's next block, its scales and what is added; `parts` of each 32 levels.
struct Block {
  uint8_t level[256];
  float scale[16], low[16];
};

using Unpack = void (*)(const uint8_t*, Block&);

struct Kind {
  const char* name;
  Form form;
  int bytes, numbers;  // of a block in the file
  Unpack unpack;
};

void nibbles(const uint8_t* q, uint8_t* level) {
  for (int i = 0; i < 16; i++) {
    level[i] = q[i] & 15;
    level[16 + i] = q[i] >> 4;
  }
}

void fifths(const uint8_t* bits, uint8_t* level) {
  uint32_t high = bits[0] | bits[1] << 8 | bits[2] << 16 | (uint32_t)bits[3] << 24;
  for (int i = 0; i < 32; i++) level[i] |= (uint8_t)((high >> i & 1) << 4);
}

void q4_0(const uint8_t* p, Block& b) {
  b.scale[0] = half_at(p);
  nibbles(p + 2, b.level);
}

void q4_1(const uint8_t* p, Block& b) {
  b.scale[0] = half_at(p);
  b.low[0] = half_at(p + 2);
  nibbles(p + 4, b.level);
}

void q5_0(const uint8_t* p, Block& b) {
  b.scale[0] = half_at(p);
  nibbles(p + 6, b.level);
  fifths(p + 2, b.level);
}

void q5_1(const uint8_t* p, Block& b) {
  b.scale[0] = half_at(p);
  b.low[0] = half_at(p + 2);
  nibbles(p + 8, b.level);
  fifths(p + 4, b.level);
}

void q8_0(const uint8_t* p, Block& b) {
  b.scale[0] = half_at(p);
  for (int i = 0; i < 32; i++) b.level[i] = p[2 + i] ^ 0x80;
}

void q2_k(const uint8_t* p, Block& b) {
  const uint8_t *scales = p, *q = p + 16;
  float d = half_at(p + 80), low = half_at(p + 82);
  for (int i = 0; i < 256; i++) b.level[i] = q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
  for (int i = 0; i < 16; i++) {
    b.scale[i] = d * (float)(scales[i] & 15);
    b.low[i] = -low * (float)(scales[i] >> 4);
  }
}

void q3_k(const uint8_t* p, Block& b) {
  const uint8_t *high = p, *q = p + 32, *s = p + 96;
  float d = half_at(p + 108);
  for (int i = 0; i < 256; i++) {
    int two = q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    b.level[i] = (uint8_t)(two + 4 * (high[i % 32] >> (i / 32) & 1));
  }
  for (int i = 0; i < 16; i++) {
    int four = i < 8 ? s[i] & 15 : s[i - 8] >> 4, two = s[8 + i % 4] >> (2 * (i / 4)) & 3;
    b.scale[i] = d * (float)((four | two << 4) - 32);
  }
}

// The eight 6-bit scales and minima of Q4_K and Q5_K.
void six_bits(const uint8_t* p, Block& b) {
  float d = half_at(p), low = half_at(p + 2);
  const uint8_t* s = p + 4;
  for (int i = 0; i < 8; i++) {
    int scale = i < 4 ? s[i] & 63 : (s[i + 4] & 15) | (s[i - 4] >> 6) << 4;
    int least = i < 4 ? s[i + 4] & 63 : s[i + 4] >> 4 | (s[i] >> 6) << 4;
    b.scale[i] = d * (float)scale;
    b.low[i] = -low * (float)least;
  }
}

void q4_k(const uint8_t* p, Block& b) {
  six_bits(p, b);
  for (int i = 0; i < 256; i++) b.level[i] = p[16 + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
}

void q5_k(const uint8_t* p, Block& b) {
  six_bits(p, b);
  for (int i = 0; i < 256; i++) {
    int four = p[48 + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
    b.level[i] = (uint8_t)(four | (p[16 + i % 32] >> (i / 32) & 1) << 4);
  }
}

void q6_k(const uint8_t* p, Block& b) {
  const uint8_t* high = p + 128;
  float d = half_at(p + 208);
  for (int i = 0; i < 256; i++) {
    int half = i / 128, at = i % 128, column = at % 64;
    int four = p[half * 64 + column] >> (at / 64 * 4) & 15;
    int two = high[half * 32 + at % 32] >> (at / 32 * 2) & 3;
    b.level[i] = (uint8_t)(four | two << 4);
  }
  for (int i = 0; i < 16; i++) b.scale[i] = d * (float)(int8_t)p[192 + i];
}

constexpr Kind kKinds[] = {
    {"Q4_0", Form::q4, 18, 32, q4_0},       {"Q4_1", Form::q4_min, 20, 32, q4_1},
    {"Q5_0", Form::q5, 22, 32, q5_0},       {"Q5_1", Form::q5_min, 24, 32, q5_1},
    {"Q8_0", Form::q8, 34, 32, q8_0},       {"Q2_K", Form::q2_min, 84, 256, q2_k},
    {"Q3_K", Form::q3, 110, 256, q3_k},     {"Q4_K", Form::q4_min, 144, 256, q4_k},
    {"Q5_K", Form::q5_min, 176, 256, q5_k}, {"Q6_K", Form::q6, 210, 256, q6_k},
};

// Memory for matrices, zeros: parts of large slabs on large pages, or every few kilobytes of a small matrix would cost a
// walk through the page tables, and stop the processor's reading ahead. A slab lives as long as any part of it.
constexpr size_t kPage = (size_t)1 << 21, kSlab = 16 * kPage;

std::shared_ptr<uint8_t> slab_of(size_t bytes) {
  bytes = (bytes + kPage - 1) / kPage * kPage;
  void* memory = nullptr;
  if (posix_memalign(&memory, kPage, bytes)) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  std::memset(memory, 0, bytes);
  return {(uint8_t*)memory, std::free};
}

std::shared_ptr<uint8_t> slice(size_t bytes) {
  static std::mutex turn;
  static std::weak_ptr<uint8_t> slab;  // the one that is being filled
  static size_t used = 0;
  bytes = (bytes + 127) / 64 * 64;
  if (bytes > kSlab / 4) return slab_of(bytes);
  std::lock_guard<std::mutex> mine(turn);
  std::shared_ptr<uint8_t> current = slab.lock();
  if (!current || used + bytes > kSlab) {
    current = slab_of(kSlab);
    slab = current;
    used = 0;
  }
  used += bytes;
  return {current, current.get() + used - bytes};
}

Matrix allocate(Form form, const std::string& kind, int64_t rows, int64_t columns) {
  if (rows < 1 || columns < 1 || rows > INT32_MAX - 16 || columns > INT32_MAX / 4)
    throw std::invalid_argument("a matrix of " + std::to_string(rows) + " rows and " + std::to_string(columns) +
                                " columns cannot be packed");
  Matrix m;
  m.form = form;
  m.kind = kind;
  m.rows = (int)rows;
  m.columns = (int)columns;
  m.panels = (int)((rows + 15) / 16);
  m.blocks = (int)(form == Form::wide ? (columns + kWide - 1) / kWide : (columns + 63) / 64 * 2);
  FormTraits t = traits(form);
  if (quantised(form)) {
    m.panel_bytes = (size_t)m.blocks * (scale_bytes(t) + level_bytes(t));
  } else if (form == Form::wide) {
    m.panel_bytes = wide_scales(m.blocks) + (size_t)m.blocks * kWide * 16;
  } else {
    m.panel_bytes = (size_t)m.blocks * 32 * 16 * (form == Form::bf16 ? 2 : 4);
  }
  m.data = slice(m.nbytes());
  return m;
}

// int8 activations would hide what is not a number: it is refused while weights are packed.
uint16_t finite_half(float f) {
  uint16_t half = to_half(f);
  if ((half & 0x7c00) == 0x7c00) throw std::invalid_argument("weights that are not finite");
  return half;
}

// Where a row's levels, scales and minima of one block of 32 inputs stand, and how they are put there.
struct Place {
  FormTraits t;
  uint16_t* scales;
  uint8_t* levels;
  int lane;

  Place(Matrix& m, int row, int block) : t(traits(m.form)), lane(row % 16) {
    uint8_t* panel = m.data.get() + (size_t)(row / 16) * m.panel_bytes;
    uint8_t* pair = panel + (size_t)(block / 2) * 2 * (scale_bytes(t) + level_bytes(t));
    scales = (uint16_t*)(pair + block % 2 * scale_bytes(t));
    levels = pair + 2 * scale_bytes(t) + block % 2 * level_bytes(t);
  }

  void put(const uint8_t* level, const float* scale, const float* low) {
    for (int part = 0; part < t.parts; part++) {
      scales[part * 16 + lane] = finite_half(scale[part]);
      if (t.minima) scales[(t.parts + part) * 16 + lane] = finite_half(low[part]);
    }
    uint32_t four[8];  // levels each: of one word of the panel, or of half a one
    std::memcpy(four, level, 32);
    for (int word = 0; word < (t.bits == 8 ? 8 : 4); word++) {
      uint32_t both = t.bits == 8 ? four[word] : (four[word] & 0x0f0f0f0f) | (four[4 + word] & 0x0f0f0f0f) << 4;
      std::memcpy(levels + word * 64 + lane * 4, &both, 4);
    }
    if (t.bits != 5 && t.bits != 6) return;
    for (int i = 0; i < 32; i++) {
      int word = i / 4, at = lane * 4 + i % 4;
      if (t.bits == 5) levels[256 + word * 8 + at / 8] |= (uint8_t)((level[i] >> 4) << (at % 8));
      if (t.bits == 6) levels[256 + word / 4 * 64 + at] |= (uint8_t)((level[i] >> 4) << (word % 4 * 2));
    }
  }

  float get(int i) const {
    int word = i / 4, at = lane * 4 + i % 4, part = t.parts == 2 ? i / 16 : 0, level;
    if (t.bits == 8) {
      level = levels[word * 64 + at];
    } else {
      level = levels[word % 4 * 64 + at] >> (word / 4 * 4) & 15;
      if (t.bits == 5) level |= (levels[256 + word * 8 + at / 8] >> (at % 8) & 1) << 4;
      if (t.bits == 6) level |= (levels[256 + word / 4 * 64 + at] >> (word % 4 * 2) & 3) << 4;
    }
    float scale = from_half(scales[part * 16 + lane]);
    if (t.minima) return scale * (float)level + from_half(scales[(t.parts + part) * 16 + lane]);
    return scale * (float)(level - (1 << t.zero));
  }
};

}  // namespace

void Matrix::row(int index, float* out) const {
  const uint8_t* start = panel(index / 16);
  for (int c = 0; c < columns; c++) {
    if (form == Form::f32) {
      out[c] = ((const float*)start)[(size_t)c * 16 + index % 16];
    } else if (form == Form::bf16) {
      out[c] = from_bf16(((const uint16_t*)start)[(size_t)c / 2 * 32 + index % 16 * 2 + c % 2]);
    } else if (form == Form::wide) {
      float scale = from_half(((const uint16_t*)start)[c / kWide * 16 + index % 16]);
      out[c] = scale * (float)(start[wide_scales(blocks) + (size_t)c / 4 * 64 + index % 16 * 4 + c % 4] - 128);
    } else if (c % 32 == 0) {
      Place place(const_cast<Matrix&>(*this), index, c / 32);
      for (int i = 0; i < 32 && c + i < columns; i++) out[c + i] = place.get(i);
    }
  }
}

Matrix pack_blocks(const std::string& kind, const uint8_t* blocks, int64_t rows, int64_t row_bytes, int64_t columns) {
  for (const Kind& k : kKinds) {
    if (kind != k.name) continue;
    if (columns % k.numbers || row_bytes != columns / k.numbers * k.bytes)
      throw std::invalid_argument("rows of " + std::to_string(row_bytes) + " bytes are not " +
                                  std::to_string(columns) + " numbers of kind " + kind);
    Matrix m = allocate(k.form, kind, rows, columns);
    int parts = traits(k.form).parts;
    Block b{};
    for (int64_t r = 0; r < rows; r++)
      for (int64_t c = 0; c < columns; c += k.numbers) {
        k.unpack(blocks + r * row_bytes + c / k.numbers * k.bytes, b);
        for (int i = 0; i < k.numbers / 32; i++)
          Place(m, (int)r, (int)(c / 32) + i).put(b.level + 32 * i, b.scale + parts * i, b.low + parts * i);
      }
    return m;
  }
  throw std::invalid_argument("no kernel takes weights of kind " + kind);
}

// The largest magnitude of some numbers, which are refused if one of them is not finite.
static float largest_of(const float* x, int64_t count) {
  uint32_t most = 0;
  for (int64_t i = 0; i < count; i++) most = std::max(most, bits_of(x[i]) & 0x7fffffff);
  if (most >= 0x7f800000) throw std::invalid_argument("weights that are not finite");
  return float_of(most);
}

// `width` numbers as levels around 128, of which `count` are given; returns their scale.
static float to_levels(const float* x, int count, int width, uint8_t* level) {
  constexpr float kWhole = 12582912;  // 1.5 · 2²³: added, a small number is rounded to a whole one, ties to even
  float scale = from_half(finite_half(largest_of(x, count) / 127));
  std::memset(level, 128, (size_t)width);
  if (scale == 0) return scale;
  for (int i = 0; i < count; i++) {
    int q = (int)(bits_of(x[i] / scale + kWhole) - bits_of(kWhole));
    level[i] = (uint8_t)(std::min(std::max(q, -127), 127) + 128);
  }
  return scale;
}

Matrix pack_floats(const std::string& kind, const float* values, int64_t rows, int64_t columns) {
  Form form = kind == "f32" ? Form::f32 : kind == "bf16" ? Form::bf16 : kind == "q8_0" ? Form::q8
              : kind == "wide" ? Form::wide : Form::none;
  if (form == Form::none) throw std::invalid_argument("floats are packed as f32, bf16, q8_0 or wide, not " + kind);
  Matrix m = allocate(form, kind, rows, columns);
  for (int64_t r = 0; r < rows; r++) {
    const float* row = values + r * columns;
    largest_of(row, columns);
    uint8_t* panel = m.data.get() + (size_t)(r / 16) * m.panel_bytes;
    if (form == Form::f32 || form == Form::bf16) {
      for (int64_t c = 0; c < columns; c++)
        if (form == Form::f32) ((float*)panel)[c * 16 + r % 16] = row[c];
        else ((uint16_t*)panel)[c / 2 * 32 + r % 16 * 2 + c % 2] = to_bf16(row[c]);
      continue;
    }
    int width = form == Form::wide ? kWide : 32;
    for (int64_t c = 0; c < columns; c += width) {
      uint8_t level[kWide];
      float scale = to_levels(row + c, (int)std::min<int64_t>(columns - c, width), width, level);
      if (form == Form::q8) {
        Place(m, (int)r, (int)(c / 32)).put(level, &scale, nullptr);
        continue;
      }
      ((uint16_t*)panel)[c / kWide * 16 + r % 16] = to_half(scale);
      uint8_t* levels = panel + wide_scales(m.blocks) + c * 16;
      for (int i = 0; i < kWide; i += 4) std::memcpy(levels + i * 16 + r % 16 * 4, level + i, 4);
    }
  }
  return m;
}
