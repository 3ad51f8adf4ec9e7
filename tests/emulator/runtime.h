// What module.cpp asks of the emulator.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

namespace emulator {

// A fault of a kernel or its launcher, in words.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Place { device, host };

// Memory between red zones; all of it goes at `release`.
void* allocate(std::size_t bytes, Place place, const std::string& name);
void release();

struct Variable {
  char* address;
  std::size_t bytes;
  std::string name;
  bool shared;
};
// The variables of the library that is called next; the shared ones are filled before every block.
void set_variables(std::vector<Variable> variables);

constexpr int orders = 4;
// Which thread, and which block, goes next: 0 the first, 1 the last, from 2 on any, by a seed.
void set_order(int order);

struct Counts {
  long long launches, blocks, threads;
};
Counts counts();

}  // namespace emulator
