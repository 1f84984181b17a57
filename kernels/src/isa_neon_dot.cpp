#include "simd/neon.h"

#include "kernels.h"

extern const Kernels kNeonDot = table("neon-dot");
