// The emulator and compiled kernel files, as Python sees them. build.py holds the interface for tests.
#include <dlfcn.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bind.h"
#include "runtime.h"

namespace py = pybind11;

namespace {

struct Library {
  std::vector<emulator::Entry> entries;
  partnas::cuda::Facts facts;
  std::vector<emulator::Variable> variables;
};

// variables: name, offset in the file, bytes, whether shared
Library load(const std::string& path, const std::vector<std::tuple<std::string, std::size_t, std::size_t, bool>>& variables) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw std::runtime_error(dlerror());
  using Describe = void (*)(std::vector<emulator::Entry>&, partnas::cuda::Facts&);
  auto describe = reinterpret_cast<Describe>(dlsym(handle, "emulator_describe"));
  if (!describe) throw std::runtime_error(dlerror());
  Dl_info info;
  dladdr(reinterpret_cast<void*>(describe), &info);
  Library library;
  describe(library.entries, library.facts);
  for (const auto& [name, offset, bytes, shared] : variables)
    library.variables.push_back({static_cast<char*>(info.dli_fbase) + offset, bytes, name, shared});
  return library;
}

std::int64_t call(const Library& library, const std::string& name, const py::list& arguments) {
  for (const emulator::Entry& entry : library.entries) {
    if (entry.name != name) continue;
    std::vector<emulator::Value> values(entry.kinds.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (entry.kinds[i] == '-')
        values[i].pointer = nullptr;
      else if (entry.kinds[i] == 'f')
        values[i].real = py::cast<double>(arguments[i]);
      else
        values[i].integer = py::cast<std::int64_t>(arguments[i]);
    }
    emulator::set_variables(library.variables);
    return entry.call(values.data());
  }
  throw py::key_error(name);
}

std::size_t allocate(std::size_t bytes, bool host, const std::string& name) {
  return reinterpret_cast<std::size_t>(
      emulator::allocate(bytes, host ? emulator::Place::host : emulator::Place::device, name));
}

}  // namespace

PYBIND11_MODULE(partnas_emulator, m) {
  py::register_exception<emulator::Fault>(m, "Fault");
  py::class_<Library>(m, "Library")
      .def_property_readonly("kinds",
                             [](const Library& library) {
                               py::dict kinds;
                               for (const auto& entry : library.entries) kinds[py::str(entry.name)] = entry.kinds;
                               return kinds;
                             })
      .def_property_readonly("facts", [](const Library& library) {
        py::list facts;
        for (const auto& fact : library.facts)
          facts.append(py::make_tuple(fact.name, fact.threads, fact.dynamic_bytes, fact.warps, fact.architecture));
        return facts;
      });
  m.def("load", &load);
  m.def("call", &call);
  m.def("allocate", &allocate);
  m.def("write", [](std::size_t address, const py::buffer& from) {
    const py::buffer_info info = from.request();
    std::memcpy(reinterpret_cast<void*>(address), info.ptr, info.size * info.itemsize);
  });
  m.def("read", [](std::size_t address, std::size_t bytes) {
    return py::bytes(reinterpret_cast<const char*>(address), bytes);
  });
  m.def("release", &emulator::release);
  m.def("set_order", &emulator::set_order);
  m.attr("orders") = emulator::orders;
  m.def("counts", [] {
    const emulator::Counts counts = emulator::counts();
    return py::make_tuple(counts.launches, counts.blocks, counts.threads);
  });
}
