#include "simd/portable.h"

#include "kernels/kernels.h"

extern const Kernels kPortable = table("portable");

size_t attend_scratch(int dim, int span, bool many) {
  size_t scores = (size_t)(span + 128 + dim) * 8 + dim, laid_out = many ? (size_t)(span + 128) * ((dim + 15) / 16 * 16) * 2 : 0;
  return scores + laid_out + 256;
}
