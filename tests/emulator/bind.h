// Launchers as tables of plain values, so that a kernel file is compiled without Python's headers.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/cuda.h"
#include "common/storage.h"

namespace emulator {

union Value {
  void* pointer;
  std::int64_t integer;
  double real;
};

// kinds: p pointer, i integer, f floating point, s storage, x structure (a pointer to one), and for the stream, last, -
struct Entry {
  std::string name, kinds;
  std::int64_t (*call)(const Value*);
};

template <typename T>
constexpr char kind_of() {
  if (std::is_same_v<T, partnas::Storage>) return 's';
  if (std::is_pointer_v<T>) return 'p';
  if (std::is_floating_point_v<T>) return 'f';
  return std::is_class_v<T> ? 'x' : 'i';
}

template <typename T>
T take(const Value& value) {
  if constexpr (std::is_pointer_v<T>)
    return static_cast<T>(value.pointer);
  else if constexpr (std::is_class_v<T>)
    return *static_cast<const T*>(value.pointer);
  else if constexpr (std::is_floating_point_v<T>)
    return static_cast<T>(value.real);
  else
    return static_cast<T>(value.integer);
}

template <auto function>
struct Bound;
template <typename Result, typename... Parameters, Result (*function)(Parameters...)>
struct Bound<function> {
  static Entry entry(const char* name) {
    std::string kinds{kind_of<std::decay_t<Parameters>>()...};
    if (std::is_same_v<std::tuple_element_t<sizeof...(Parameters) - 1, std::tuple<Parameters...>>, partnas::cuda::Stream>)
      kinds.back() = '-';
    return {name, kinds, call};
  }
  static std::int64_t call(const Value* values) { return call(values, std::index_sequence_for<Parameters...>()); }
  template <std::size_t... i>
  static std::int64_t call(const Value* values, std::index_sequence<i...>) {
    return function(take<std::decay_t<Parameters>>(values[i])...);
  }
};

}  // namespace emulator
