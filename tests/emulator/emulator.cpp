// The emulator's machine: memory between red zones, threads as fibers, and what it takes for a fault.
//
// Faults: memory outside every buffer, or of the wrong side (host, device); a misaligned access; an index outside its
// array; two threads at one address, one of them writing, with no barrier between, or from two blocks; a barrier or
// warp operation that not all of its threads reach, or reach at different places; a lane that is not there. Memory
// accesses are seen through the calls that -fsanitize=thread places, here given a meaning of their own.
#include "emulator.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <memory>
#include <random>
#include <utility>

#include "runtime.h"
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

extern "C" {
// Of the address sanitizer, where it is loaded.
__attribute__((weak)) void __asan_poison_memory_region(const volatile void*, std::size_t);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void*, std::size_t);
__attribute__((weak)) void __sanitizer_start_switch_fiber(void**, const void*, std::size_t);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void*, const void**, std::size_t*);
}

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulator {
namespace {

constexpr int warp = 32, most_threads = 1024;
constexpr unsigned all_lanes = ~0u;
constexpr unsigned char unwritten = 0xff;  // NaN in every floating-point type
constexpr std::size_t arena_bytes = std::size_t(512) << 20, granule = 256, stack_bytes = 128 << 10;
constexpr std::size_t most_shared = 227 << 10;

char* reserve(std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return static_cast<char*>(memory);
}

// Who wrote and who read a byte last: a time in the upper 48 bits, a thread or a set of threads in the lower 16.
struct Cell {
  std::uint64_t write, read;
};
constexpr std::uint64_t many = 0xffff, many_of_warp = 0x8000;

struct Region {
  std::size_t begin, end;
  Place place;
  bool shared;
  std::string name;
};

struct Copy {
  void* to;
  const void* from;
  int bytes, group;
  bool inside;
};

enum class State { ready, at_barrier, at_warp, done };

struct Thread {
  void* saved = nullptr;
  char* stack = nullptr;
  void* fake_stack = nullptr;
#if !defined(__x86_64__)
  ucontext_t context;
#endif
  State state;
  uint3 index;
  Site site;
  Collective kind;
  unsigned mask;
  std::uint64_t value, result;
  int source, vote;
  std::vector<Copy> copies;
  int groups;
};

struct Warp {
  unsigned ready, alive;
  std::uint64_t synced;                                             // all lanes
  std::array<std::array<std::uint64_t, warp>, warp> pair_synced;  // where the mask named some only
  bool any_pair;
};

struct Machine {
  char* arena = reserve(arena_bytes);
  Cell* cells = reinterpret_cast<Cell*>(reserve(arena_bytes * sizeof(Cell)));
  std::vector<std::uint16_t> region_of = std::vector<std::uint16_t>(arena_bytes / granule, 0);
  std::vector<Region> regions;
  std::size_t next = 0;

  std::vector<Variable> variables;  // by address
  std::vector<Cell> variable_cells;
  char *variables_begin = nullptr, *variables_end = nullptr;

  std::vector<std::unique_ptr<Thread>> threads;
  std::array<Warp, warp> warps;
  int count = 0, waiting = 0, done = 0, votes = 0;
  int current = -1;
  void* scheduler = nullptr;
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  std::size_t scheduler_stack_bytes = 0;
#if !defined(__x86_64__)
  ucontext_t scheduler_context;
#endif

  Body body = nullptr;
  void* closure = nullptr;
  std::string kernel;
  void* dynamic = nullptr;
  std::uint64_t clock = 1, launch_start = 1, block_start = 1, barrier = 1;
  int order = 0;
  std::mt19937 random;
  std::string fault;
  Counts counts{};
};

Machine& machine() {
  static Machine it;
  return it;
}
Machine& m = machine();

std::string text(unsigned x, unsigned y, unsigned z) {
  return "(" + std::to_string(x) + ", " + std::to_string(y) + ", " + std::to_string(z) + ")";
}
std::string text(const Site& site) {
  const std::string path = site.file_name();
  return path.substr(path.rfind('/') + 1) + ":" + std::to_string(site.line());
}
bool same(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() && !std::strcmp(a.file_name(), b.file_name());
}
std::string text_of_thread(int i) {
  const uint3& index = m.threads[i]->index;
  return "thread " + text(index.x, index.y, index.z);
}

// Fibers.

#if defined(__x86_64__)
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
)");
#endif

void to_scheduler() {
  Thread& thread = *m.threads[m.current];
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(&thread.fake_stack, m.scheduler_stack, m.scheduler_stack_bytes);
#if defined(__x86_64__)
  emulator_switch(&thread.saved, m.scheduler);
#else
  swapcontext(&thread.context, &m.scheduler_context);
#endif
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(thread.fake_stack, &m.scheduler_stack, &m.scheduler_stack_bytes);
}

void set_state(int i, State state) {
  Warp& group = m.warps[i / warp];
  const unsigned bit = 1u << i % warp;
  m.threads[i]->state = state;
  if (state == State::ready)
    group.ready |= bit;
  else
    group.ready &= ~bit;
  if (state == State::done) group.alive &= ~bit;
}

void finish_copies(Thread& thread, int pending);

void thread_main() {
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(nullptr, &m.scheduler_stack, &m.scheduler_stack_bytes);
  m.body(m.closure);
  finish_copies(*m.threads[m.current], 0);
  set_state(m.current, State::done);
  ++m.done;
  to_scheduler();
  __builtin_unreachable();
}

void prepare(Thread& thread) {
  if (!thread.stack) thread.stack = reserve(stack_bytes);
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(thread.stack + stack_bytes) - 2;
  top[0] = reinterpret_cast<void*>(&thread_main);
  top[1] = nullptr;
  std::fill(top - 6, top, nullptr);
  thread.saved = top - 6;
#else
  getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = thread.stack;
  thread.context.uc_stack.ss_size = stack_bytes;
  thread.context.uc_link = nullptr;
  makecontext(&thread.context, thread_main, 0);
#endif
}

void resume(int i) {
  Thread& thread = *m.threads[i];
  m.current = i;
  threadIdx = thread.index;
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(&m.scheduler_fake_stack, thread.stack, stack_bytes);
#if defined(__x86_64__)
  emulator_switch(&m.scheduler, thread.saved);
#else
  swapcontext(&m.scheduler_context, &thread.context);
#endif
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(m.scheduler_fake_stack, nullptr, nullptr);
  m.current = -1;
}

std::string whereabouts() {
  if (m.kernel.empty()) return "host code: ";
  std::string where = "kernel " + m.kernel + ", block " + text(blockIdx.x, blockIdx.y, blockIdx.z);
  if (m.current >= 0) where += ", " + text_of_thread(m.current);
  return where + ": ";
}

// Of a thread: it stops here for good, and the launch throws.
[[noreturn]] void raise(const std::string& what) {
  const std::string whole = whereabouts() + what;
  if (m.current < 0) throw Fault(whole);
  m.fault = whole;
  to_scheduler();
  __builtin_unreachable();
}

// The harness turns this into a file and a line.
std::string code_at(const void* address) {
  Dl_info info;
  if (!address || !dladdr(address, &info)) return "";
  char offset[32];
  std::snprintf(offset, sizeof offset, "0x%zx", static_cast<const char*>(address) - 1 - static_cast<char*>(info.dli_fbase));
  return std::string(" {") + info.dli_fname + " " + offset + "}";
}

// Memory.

bool ordered(std::uint64_t before, bool shared) {
  const std::uint64_t time = before >> 16, who = before & 0xffff;
  if (time < m.launch_start) return true;
  if (time < m.block_start) return shared;
  if (time < m.barrier || who == static_cast<std::uint64_t>(m.current)) return true;
  if (who == many) return false;
  const int there = m.current / warp;
  const Warp& group = m.warps[there];
  if (who & many_of_warp) return static_cast<int>(who & ~many_of_warp) == there && time < group.synced;
  if (static_cast<int>(who) / warp != there) return false;
  return time < group.synced || (group.any_pair && time < group.pair_synced[who % warp][m.current % warp]);
}

[[noreturn]] void race(std::uint64_t before, bool writes, bool wrote, const std::string& what, const void* code) {
  const std::uint64_t who = before & 0xffff;
  std::string other = "other threads";
  if ((before >> 16) < m.block_start)
    other = "another block";
  else if (who < many_of_warp)
    other = text_of_thread(static_cast<int>(who));
  raise("race: " + std::string(writes ? "writes " : "reads ") + what + " which " + other + (wrote ? " wrote" : " read") +
        ", with no barrier between" + code_at(code));
}

void stamp(Cell* cell, std::size_t bytes, bool writes, bool shared, const std::string& name, std::size_t offset,
           const void* code) {
  const std::uint64_t now = m.clock << 16 | static_cast<std::uint64_t>(m.current);
  for (std::size_t i = 0; i < bytes; ++i) {
    Cell& c = cell[i];
    if (c.write != now && !ordered(c.write, shared))
      race(c.write, writes, true, name + " + " + std::to_string(offset + i), code);
    if (writes) {
      if (c.read != now && !ordered(c.read, shared))
        race(c.read, true, false, name + " + " + std::to_string(offset + i), code);
      c.write = now;
    } else if (c.read != now) {
      if (ordered(c.read, shared) && (c.read >> 16) < m.clock) {
        c.read = now;
      } else {
        const std::uint64_t who = c.read & 0xffff, here = m.current / warp;
        const bool mine = (c.read >> 16) >= m.block_start &&
                          (who & many_of_warp ? who == (many_of_warp | here) : who / warp == here);
        c.read = m.clock << 16 | (ordered(c.read, shared) ? m.current : mine ? many_of_warp | here : many);
      }
    }
  }
}

enum class Kind { read, write, atomic };

void access(const void* address, std::size_t bytes, Kind kind, const void* code) {
  const char* at = static_cast<const char*>(address);
  const bool writes = kind != Kind::read;
  const bool in_kernel = m.current >= 0;
  const std::size_t offset = static_cast<std::size_t>(at - m.arena);
  auto verb = [&] { return std::string(writes ? "writes " : "reads ") + std::to_string(bytes) + " bytes "; };
  if (offset < arena_bytes) {
    const int id = m.region_of[offset / granule];
    if (id == 0) {
      // Which buffer it misses is told by the nearest.
      const Region* nearest = nullptr;
      std::size_t least = arena_bytes;
      for (const Region& region : m.regions) {
        const std::size_t distance = offset < region.begin ? region.begin - offset : offset - region.end;
        if (distance < least) least = distance, nearest = &region;
      }
      if (!nearest) raise(verb() + "where no buffer is" + code_at(code));
      const bool before = offset < nearest->begin;
      raise("out of bounds: " + verb() + std::to_string(least) + (before ? " before the start of " : " past the end of ") +
            nearest->name + " (" + std::to_string(nearest->end - nearest->begin) + " bytes)" + code_at(code));
    }
    const Region& region = m.regions[id - 1];
    if (offset + bytes > region.end)
      raise("out of bounds: " + verb() + "at " + std::to_string(offset - region.begin) + " of " + region.name + " (" +
            std::to_string(region.end - region.begin) + " bytes)" + code_at(code));
    if (in_kernel != (region.place == Place::device))
      raise(verb() + "of " + region.name + ", which is in " + (in_kernel ? "the host's" : "the device's") + " memory" +
            code_at(code));
    if (in_kernel && kind != Kind::atomic)
      stamp(m.cells + offset, bytes, writes, region.shared, region.name, offset - region.begin, code);
  } else if (at >= m.variables_begin && at < m.variables_end) {
    auto after = std::upper_bound(m.variables.begin(), m.variables.end(), at,
                                  [](const char* x, const Variable& variable) { return x < variable.address; });
    if (after == m.variables.begin()) return;
    const Variable& variable = *--after;
    if (at + bytes > variable.address + variable.bytes) {
      if (!in_kernel) return;
      raise("out of bounds: " + verb() + "at " + std::to_string(at - variable.address) + " of " + variable.name + " (" +
            std::to_string(variable.bytes) + " bytes)" + code_at(code));
    }
    if (in_kernel && variable.shared && kind != Kind::atomic)
      stamp(m.variable_cells.data() + (at - m.variables_begin), bytes, writes, true, variable.name,
            static_cast<std::size_t>(at - variable.address), code);
  } else if (reinterpret_cast<std::uintptr_t>(at) < 1 << 16) {
    raise(verb() + "at a null pointer" + code_at(code));
  }
}

void finish_copies(Thread& thread, int pending) {
  auto late = std::find_if(thread.copies.begin(), thread.copies.end(),
                           [&](const Copy& copy) { return copy.group >= thread.groups - pending; });
  for (auto copy = thread.copies.begin(); copy != late; ++copy) {
    touch(copy->to, copy->bytes, true);
    if (copy->inside) {
      touch(copy->from, copy->bytes, false);
      std::memcpy(copy->to, copy->from, copy->bytes);
    } else {
      std::memset(copy->to, 0, copy->bytes);
    }
  }
  thread.copies.erase(thread.copies.begin(), late);
}

// Who waits where, in words, for a block in which nobody can go on.
std::string standstill() {
  struct Group {
    State state;
    Site site;
    Collective kind;
    unsigned mask;
    int first, last, count;
  };
  std::vector<Group> groups;
  for (int i = 0; i < m.count; ++i) {
    const Thread& t = *m.threads[i];
    auto group = std::find_if(groups.begin(), groups.end(), [&](const Group& g) {
      return g.state == t.state &&
             (t.state == State::done || (same(g.site, t.site) && (t.state != State::at_warp || g.mask == t.mask)));
    });
    if (group == groups.end())
      groups.push_back({t.state, t.site, t.kind, t.mask, i, i, 1});
    else
      group->last = i, ++group->count;
  }
  std::string report;
  for (const Group& g : groups) {
    if (!report.empty()) report += "; ";
    report += std::to_string(g.count) + " of " + std::to_string(m.count) + " threads (" + text_of_thread(g.first) +
              " to " + text_of_thread(g.last) + ") ";
    if (g.state == State::done) {
      report += "have returned";
    } else if (g.state == State::at_barrier) {
      report += "wait at the barrier of " + text(g.site);
    } else {
      char mask[16];
      std::snprintf(mask, sizeof mask, "%08x", g.mask);
      report += "wait at the warp operation of " + text(g.site) + " for lanes " + mask;
    }
  }
  return report;
}

int next_ready() {
  unsigned candidates = 0;
  const int warps = (m.count + warp - 1) / warp;
  for (int w = 0; w < warps; ++w) candidates |= (m.warps[w].ready != 0) * (1u << w);
  if (!candidates) return -1;
  auto pick = [](unsigned set) {
    if (m.order == 0) return std::countr_zero(set);
    if (m.order == 1) return 31 - std::countl_zero(set);
    for (unsigned skip = m.random() % std::popcount(set); skip > 0; --skip) set &= set - 1;
    return std::countr_zero(set);
  };
  const int w = pick(candidates);
  return w * warp + pick(m.warps[w].ready);
}

void run_block() {
  m.block_start = m.barrier = ++m.clock;
  m.waiting = m.done = m.votes = 0;
  for (const Variable& variable : m.variables)
    if (variable.shared) std::memset(variable.address, unwritten, variable.bytes);
  if (m.dynamic) {
    const Region& region = m.regions.back();
    std::memset(m.arena + region.begin, unwritten, region.end - region.begin);
  }
  for (int w = 0; w * warp < m.count; ++w) {
    Warp& group = m.warps[w];
    group.alive = group.ready = m.count - w * warp >= warp ? all_lanes : (1u << (m.count - w * warp)) - 1;
    group.synced = 0;
    if (group.any_pair) group.pair_synced = {};
    group.any_pair = false;
  }
  for (int i = 0; i < m.count; ++i) {
    Thread& thread = *m.threads[i];
    thread.state = State::ready;
    thread.copies.clear();
    thread.groups = 0;
    const unsigned u = static_cast<unsigned>(i);
    thread.index = {u % blockDim.x, u / blockDim.x % blockDim.y, u / (blockDim.x * blockDim.y)};
    prepare(thread);
  }
  for (int i; (i = next_ready()) >= 0;) {
    resume(i);
    if (!m.fault.empty()) throw Fault(std::exchange(m.fault, {}));
  }
  if (m.done < m.count) raise("divergent barrier: " + standstill());
}

void wait(State state) {
  set_state(m.current, state);
  to_scheduler();
}

void complete(int first_thread, unsigned mask) {
  ++m.clock;
  Warp& group = m.warps[first_thread / warp];
  const Thread& any = *m.threads[first_thread + std::countr_zero(mask)];
  std::uint64_t ballot = 0;
  for (int i = 0; i < warp; ++i)
    if (mask >> i & 1) ballot |= m.threads[first_thread + i]->value << i;
  if (any.kind == Collective::sync) {
    if (mask == all_lanes) {
      group.synced = m.clock;
    } else {
      group.any_pair = true;
      for (int i = 0; i < warp; ++i)
        for (int j = 0; j < warp; ++j)
          if (mask >> i & mask >> j & 1) group.pair_synced[i][j] = m.clock;
    }
  }
  for (int i = 0; i < warp; ++i) {
    if (!(mask >> i & 1)) continue;
    Thread& thread = *m.threads[first_thread + i];
    thread.result = thread.kind == Collective::ballot    ? ballot
                    : thread.kind == Collective::shuffle ? m.threads[first_thread + thread.source]->value
                                                         : 0;
    set_state(first_thread + i, State::ready);
  }
}

}  // namespace

int lane() { return m.current % warp; }

int block_vote(int predicate, const Site& site) {
  Thread& me = *m.threads[m.current];
  me.site = site;
  m.votes += predicate != 0;
  if (++m.waiting < m.count) {
    wait(State::at_barrier);
    return me.vote;
  }
  for (int i = 0; i < m.count; ++i)
    if (!same(m.threads[i]->site, site))
      raise("divergent barrier: it waits at " + text(site) + ", " + text_of_thread(i) + " at " +
            text(m.threads[i]->site));
  for (int i = 0; i < m.count; ++i) {
    m.threads[i]->vote = m.votes;
    set_state(i, State::ready);
  }
  m.waiting = m.votes = 0;
  m.barrier = ++m.clock;
  wait(State::ready);  // the order decides who goes on first
  return me.vote;
}

void block_barrier(const Site& site) { block_vote(0, site); }

std::uint64_t warp_collective(Collective kind, unsigned mask, std::uint64_t value, int source, const Site& site) {
  const int mine = lane(), first = m.current - mine;
  Thread& me = *m.threads[m.current];
  me.site = site, me.kind = kind, me.mask = mask, me.value = value, me.source = source;
  auto lanes = [](unsigned set) {
    std::string list;
    for (int i = 0; i < warp; ++i)
      if (set >> i & 1) list += (list.empty() ? "" : " ") + std::to_string(i);
    return list;
  };
  if (!(mask >> mine & 1)) raise("the mask at " + text(site) + " leaves out lane " + std::to_string(mine) + ", which calls");
  if (const unsigned missing = mask & ~m.warps[first / warp].alive)
    raise("the mask at " + text(site) + " names lanes that are not there: " + lanes(missing));
  if (kind == Collective::shuffle && !(mask >> source & 1))
    raise("the shuffle at " + text(site) + " reads lane " + std::to_string(source) + ", which its mask leaves out");
  for (int i = 0; i < warp; ++i) {
    if (!(mask >> i & 1) || i == mine) continue;
    const Thread& other = *m.threads[first + i];
    if (other.state != State::at_warp || other.mask != mask) {
      wait(State::at_warp);
      return me.result;
    }
  }
  for (int i = 0; i < warp; ++i)
    if (mask >> i & 1 && !same(m.threads[first + i]->site, site))
      raise("divergent warp: it waits at " + text(site) + ", lane " + std::to_string(i) + " at " +
            text(m.threads[first + i]->site));
  complete(first, mask);
  wait(State::ready);
  return me.result;
}

void* dynamic_shared() { return m.dynamic; }

void copy_async(void* to, const void* from, int bytes, bool inside) {
  Thread& me = *m.threads[m.current];
  const void* code = __builtin_return_address(0);
  if (reinterpret_cast<std::uintptr_t>(to) % bytes || (inside && reinterpret_cast<std::uintptr_t>(from) % bytes))
    raise("misaligned asynchronous copy" + code_at(code));
  access(to, bytes, Kind::write, code);
  if (inside) access(from, bytes, Kind::read, code);
  std::memset(to, unwritten, bytes);
  me.copies.push_back({to, from, bytes, me.groups, inside});
}
void copy_async_commit() { ++m.threads[m.current]->groups; }
void copy_async_wait(int pending) { finish_copies(*m.threads[m.current], pending); }

void fault(const char* what, const Site& site) { raise(std::string(what) + " at " + text(site)); }
void touch(const void* address, std::size_t bytes, bool writes) {
  access(address, bytes, writes ? Kind::write : Kind::read, nullptr);
}
void touch_atomic(const void* address, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(address) % bytes) raise("misaligned atomic");
  access(address, bytes, Kind::atomic, __builtin_return_address(0));
}

int launch(const char* text, dim3 grid, dim3 block, std::size_t dynamic_bytes, Body body, void* closure) {
  const std::size_t threads = std::size_t(block.x) * block.y * block.z;
  const bool empty = threads == 0 || grid.x == 0 || grid.y == 0 || grid.z == 0;
  std::size_t static_bytes = 0;
  for (const Variable& variable : m.variables) static_bytes = std::max(static_bytes, variable.shared ? variable.bytes : 0);
  if (empty || threads > most_threads || block.z > 64 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 ||
      static_bytes + dynamic_bytes > most_shared)
    return cudaErrorInvalidConfiguration;

  int depth = 0;
  const char* end = text;
  for (; *end && (*end != ',' || depth > 0); ++end) depth += (*end == '<' || *end == '(') - (*end == '>' || *end == ')');
  m.kernel = std::string(text, end);
  m.body = body;
  m.closure = closure;
  m.count = static_cast<int>(threads);
  while (m.threads.size() < threads) m.threads.push_back(std::make_unique<Thread>());
  blockDim = block;
  gridDim = grid;
  m.random.seed(m.order);
  m.launch_start = ++m.clock;

  const std::size_t next = m.next;
  struct Restore {
    std::size_t next;
    ~Restore() {
      m.kernel.clear();
      m.current = -1;
      if (!m.dynamic) return;
      const Region& region = m.regions.back();
      std::fill(m.region_of.begin() + region.begin / granule, m.region_of.begin() + m.next / granule, 0);
      if (__asan_poison_memory_region) __asan_poison_memory_region(m.dynamic, region.end - region.begin);
      m.regions.pop_back();
      m.next = next;
      m.dynamic = nullptr;
    }
  } restore{next};
  if (dynamic_bytes) {
    m.dynamic = allocate(dynamic_bytes, Place::device, "dynamic shared memory");
    m.regions.back().shared = true;
  }

  const std::uint64_t blocks = std::uint64_t(grid.x) * grid.y * grid.z;
  std::vector<std::uint64_t> sequence(blocks);
  for (std::uint64_t i = 0; i < blocks; ++i) sequence[i] = m.order == 1 ? blocks - 1 - i : i;
  if (m.order > 1) std::shuffle(sequence.begin(), sequence.end(), m.random);
  for (const std::uint64_t i : sequence) {
    blockIdx = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                static_cast<unsigned>(i / grid.x / grid.y)};
    run_block();
  }
  ++m.counts.launches;
  m.counts.blocks += static_cast<long long>(blocks);
  m.counts.threads += static_cast<long long>(blocks * threads);
  return cudaSuccess;
}

void* allocate(std::size_t bytes, Place place, const std::string& name) {
  constexpr std::size_t red_zone = 64 << 10;
  if (m.next == 0 && __asan_poison_memory_region) __asan_poison_memory_region(m.arena, arena_bytes);
  const std::size_t begin = (m.next ? m.next : arena_bytes / 8) + red_zone;
  const std::size_t rounded = (bytes + granule - 1) / granule * granule;
  if (begin + rounded + red_zone > arena_bytes) throw Fault("the emulator's memory is used up");
  m.regions.push_back({begin, begin + bytes, place, false, name});
  std::fill_n(m.region_of.begin() + begin / granule, rounded / granule, static_cast<std::uint16_t>(m.regions.size()));
  m.next = begin + rounded;
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(m.arena + begin, bytes);
  std::memset(m.arena + begin, unwritten, bytes);
  return m.arena + begin;
}

void release() {
  for (const Region& region : m.regions) {
    std::fill(m.region_of.begin() + region.begin / granule,
              m.region_of.begin() + (region.end + granule - 1) / granule, 0);
    if (__asan_poison_memory_region) __asan_poison_memory_region(m.arena + region.begin, region.end - region.begin);
  }
  m.regions.clear();
  m.next = 0;
}

void set_variables(std::vector<Variable> variables) {
  std::sort(variables.begin(), variables.end(),
            [](const Variable& a, const Variable& b) { return a.address < b.address; });
  m.variables = std::move(variables);
  m.variables_begin = m.variables_end = nullptr;
  if (m.variables.empty()) return;
  m.variables_begin = m.variables.front().address;
  m.variables_end = m.variables.back().address + m.variables.back().bytes + granule;
  m.variable_cells.assign(m.variables_end - m.variables_begin, Cell{});
}

void set_order(int order) { m.order = order; }
Counts counts() { return m.counts; }

}  // namespace emulator

// What the sanitizers' instrumentation calls.

using emulator::Kind;
using emulator::access;

extern "C" {

#define ACCESS(bytes)                                                                                              \
  void __tsan_read##bytes(void* address) { access(address, bytes, Kind::read, __builtin_return_address(0)); }      \
  void __tsan_write##bytes(void* address) { access(address, bytes, Kind::write, __builtin_return_address(0)); }    \
  void __tsan_unaligned_read##bytes(void* address) {                                                               \
    access(address, bytes, Kind::read, __builtin_return_address(0));                                               \
  }                                                                                                                \
  void __tsan_unaligned_write##bytes(void* address) {                                                              \
    access(address, bytes, Kind::write, __builtin_return_address(0));                                              \
  }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void* address, std::size_t bytes) {
  access(address, bytes, Kind::read, __builtin_return_address(0));
}
void __tsan_write_range(void* address, std::size_t bytes) {
  access(address, bytes, Kind::write, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

struct UndefinedSite {
  const char* file;
  std::uint32_t line, column;
};
static std::string text(const UndefinedSite* site) {
  const std::string path = site->file;
  return path.substr(path.rfind('/') + 1) + ":" + std::to_string(site->line);
}
void __ubsan_handle_out_of_bounds(const UndefinedSite* site, void* index) {
  emulator::raise("out of bounds: index " + std::to_string(reinterpret_cast<std::intptr_t>(index)) + " at " + text(site));
}
void __ubsan_handle_type_mismatch_v1(const UndefinedSite* site, void* address) {
  emulator::raise(std::string(address ? "misaligned access" : "null pointer") + " at " + text(site));
}

}
