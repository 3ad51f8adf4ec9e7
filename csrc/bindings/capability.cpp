#include "common/capability.h"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <string>

namespace partnas {
namespace {

constexpr std::array<const char*, 3> names = {"baseline", "avx2", "avx512"};

Capability best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  return avx512 ? Capability::avx512 : avx2 ? Capability::avx2 : Capability::baseline;
#else
  return Capability::baseline;
#endif
}

Capability parse(const std::string& name, const char* origin) {
  for (size_t i = 0; i < names.size(); ++i) {
    if (name == names[i]) {
      const auto wanted = static_cast<Capability>(i);
      STD_TORCH_CHECK(wanted <= best(), origin, ": this CPU lacks '", name, "'; it has at most '",
                      names[static_cast<size_t>(best())], "'");
      return wanted;
    }
  }
  STD_TORCH_CHECK(false, origin, ": '", name, "' is none of 'avx512', 'avx2', 'baseline'");
  return Capability::baseline;
}

Capability initial() {
  const char* name = std::getenv("PARTNAS_CPU_CAPABILITY");
  return name && *name ? parse(name, "PARTNAS_CPU_CAPABILITY") : best();
}

std::atomic<Capability>& current() {
  static std::atomic<Capability> value{initial()};
  return value;
}

std::string cpu_capability() { return names[static_cast<size_t>(capability())]; }

void set_cpu_capability(std::string name) { current() = parse(name, "set_cpu_capability"); }

}  // namespace

Capability capability() { return current().load(std::memory_order_relaxed); }

}  // namespace partnas

STABLE_TORCH_LIBRARY_IMPL(partnas, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&partnas::cpu_capability));
  m.impl("set_cpu_capability", TORCH_BOX(&partnas::set_cpu_capability));
}
