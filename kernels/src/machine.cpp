#include "machine.h"

#include <stdexcept>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

std::vector<const Kernels*> kernels_here() {
  std::vector<const Kernels*> here;
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("avx512vnni");
  bool half = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#ifdef OB_avx512_bf16
  bool counts = __builtin_cpu_supports("avx512vpopcntdq");
  if (wide && counts && __builtin_cpu_supports("avx512bf16")) here.push_back(&kAvx512Bf16);
#endif
#ifdef OB_avx512
  if (wide) here.push_back(&kAvx512);
#endif
#ifdef OB_avx2_vnni
  if (half && __builtin_cpu_supports("avxvnni")) here.push_back(&kAvx2Vnni);
#endif
#ifdef OB_avx2
  if (half) here.push_back(&kAvx2);
#endif
#elif defined(__aarch64__)
#ifdef __linux__
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) here.push_back(&kNeonDot);
#else
  here.push_back(&kNeonDot);  // every arm64 Mac has it
#endif
  here.push_back(&kNeon);
#endif
  here.push_back(&kPortable);
  return here;
}

const Kernels& kernels_named(const std::string& name) {
  std::vector<const Kernels*> here = kernels_here();
  if (name.empty()) return *here.front();
  std::string known;
  for (const Kernels* k : here) {
    if (name == k->name) return *k;
    known += (known.empty() ? "" : ", ") + std::string(k->name);
  }
  throw std::invalid_argument("no kernels are called " + name + " here; known are " + known);
}
