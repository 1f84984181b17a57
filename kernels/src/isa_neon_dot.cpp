#include "simd/neon.h"

#include "kernels/kernels.h"

extern const Kernels kNeonDot = table("neon-dot");
