// Soft-argmax over D x H x W in one read of the volume.
//
// A chunk of rows is summed relative to a reference that is at most `headroom` below its largest value, so that a
// chunk is read once and only a chunk that rises by more is read again (from cache). Running sums along each row give
// its sum and first moment; rows give the middle moment; chunks the outer one. Float32 sums stay inside a chunk, and
// chunks are added in double.
#include "cpu/soft_argmax_3d.h"

#include <float.h>

#include "cpu/vector.h"

namespace partnas::PARTNAS_CAPABILITY {
namespace {

constexpr float headroom = 40.0f;
constexpr int64_t chunk_elements = 1024;

int64_t rows_per_chunk(const Grid& grid) {
  const int64_t rows = chunk_elements / (grid.inner > 0 ? grid.inner : 1);
  return rows < 1 ? 1 : rows < grid.middle ? rows : grid.middle;
}

// Lanes of the sums of one part's rows: `weighted` adds up the running sums along each row, `middle` weighs rows by
// their number.
struct Chunk {
  Floats sum, weighted, middle, largest;
};

inline Chunk empty_chunk() { return {Floats{}, Floats{}, Floats{}, broadcast(-INFINITY)}; }

template <typename T>
inline void add_row(Chunk& chunk, const T* row, int64_t inner, float index, float reference) {
  const int64_t whole = inner / lanes * lanes;
  Floats sum{}, weighted{};
  for (int64_t i = 0; i < whole; i += lanes) {
    const Floats v = load(row + i);
    chunk.largest = maximum(v, chunk.largest);
    sum += exponential(v - reference);
    weighted += sum;
  }
  if (whole < inner) {
    const Floats v = load_some(row + whole, inner - whole, -INFINITY);
    chunk.largest = maximum(v, chunk.largest);
    sum += exponential(v - reference);
    weighted += sum;
  }
  chunk.sum += sum;
  chunk.weighted += weighted;
  chunk.middle += sum * index;
}

template <typename T>
Chunk sum_chunk(const T* base, float reference, int64_t rows, const Grid& grid) {
  Chunk chunk = empty_chunk();
  for (int64_t r = 0; r < rows; ++r)
    add_row(chunk, base + r * grid.middle_stride, grid.inner, static_cast<float>(r), reference);
  return chunk;
}

// Row by row, and in each row part by part: in the order of channels-last memory.
template <typename T>
void sum_chunks(Chunk* chunks, const T* corner, const int64_t* order, int64_t parts, const float* references,
                int64_t rows, const Grid& grid) {
  for (int64_t p = 0; p < parts; ++p) chunks[p] = empty_chunk();
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t p = 0; p < parts; ++p)
      add_row(chunks[p], corner + r * grid.middle_stride + order[p] * grid.part_stride, grid.inner,
              static_cast<float>(r), references[p]);
}

template <typename T>
float largest_of_chunk(const T* base, int64_t rows, const Grid& grid) {
  const int64_t whole = grid.inner / lanes * lanes, rest = grid.inner - whole;
  Floats result = broadcast(-INFINITY);
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = base + r * grid.middle_stride;
    for (int64_t i = 0; i < whole; i += lanes) result = maximum(load(row + i), result);
    if (rest) result = maximum(load_some(row + whole, rest, -INFINITY), result);
  }
  return largest(result);
}

void rescale(Partial& partial, double reference) {
  const double factor = partial.sum == 0 ? 0 : exp(partial.reference - reference);
  partial.reference = reference;
  partial.sum *= factor;
  partial.inner *= factor;
  partial.middle *= factor;
  partial.outer *= factor;
}

void add_chunk(Partial& partial, const Chunk& chunk, int64_t inner, int64_t first_row, int64_t outer) {
  const double total = sum(chunk.sum);
  // Of K vectors in a row, the running sums count vector k K - k times.
  const double vectors = static_cast<double>((inner + lanes - 1) / lanes);
  partial.sum += total;
  partial.inner += lanes * (vectors * total - sum(chunk.weighted)) + sum(chunk.sum * iota());
  partial.middle += total * static_cast<double>(first_row) + sum(chunk.middle);
  partial.outer += total * static_cast<double>(outer);
}

// Parts whose sums are kept at once.
constexpr int64_t parts_together = 32;

template <typename T>
void add_chunks(Partial* partials, int64_t partial_stride, const T* corner, const int64_t* order, int64_t parts,
                int64_t rows, const Grid& grid, int64_t first_row, int64_t outer) {
  Chunk chunks[parts_together];
  float references[parts_together];
  for (int64_t p = 0; p < parts; ++p) {
    Partial& partial = partials[p * partial_stride];
    // -FLT_MAX stands for "nothing but -inf so far": its exponentials are zero, and anything finite lifts it.
    if (partial.reference == -FLT_MAX) {
      const float largest = largest_of_chunk(corner + order[p] * grid.part_stride, rows, grid);
      if (largest > -FLT_MAX) rescale(partial, largest);
    }
    references[p] = static_cast<float>(partial.reference);
  }
  if (parts == 1) {
    chunks[0] = sum_chunk(corner + order[0] * grid.part_stride, references[0], rows, grid);
  } else {
    sum_chunks(chunks, corner, order, parts, references, rows, grid);
  }
  for (int64_t p = 0; p < parts; ++p) {
    Partial& partial = partials[p * partial_stride];
    const float seen = largest(chunks[p].largest);
    if (seen - references[p] > headroom) {
      rescale(partial, seen);
      chunks[p] = sum_chunk(corner + order[p] * grid.part_stride, seen, rows, grid);
    }
    add_chunk(partial, chunks[p], grid.inner, first_row, outer);
  }
}

// float64 is for gradient checks: plain loops, and the reference is the largest value itself.
void add_chunks(Partial* partials, int64_t partial_stride, const double* corner, const int64_t* order, int64_t parts,
                int64_t rows, const Grid& grid, int64_t first_row, int64_t outer) {
  for (int64_t p = 0; p < parts; ++p) {
    Partial& partial = partials[p * partial_stride];
    const double* base = corner + order[p] * grid.part_stride;
    double largest = -INFINITY;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < grid.inner; ++i)
        largest = base[r * grid.middle_stride + i] > largest ? base[r * grid.middle_stride + i] : largest;
    if (largest > partial.reference) rescale(partial, largest);
    for (int64_t r = 0; r < rows; ++r) {
      double row_sum = 0;
      for (int64_t i = 0; i < grid.inner; ++i) {
        const double e = exp(base[r * grid.middle_stride + i] - partial.reference);
        row_sum += e;
        partial.inner += e * static_cast<double>(i);
      }
      partial.sum += row_sum;
      partial.middle += row_sum * static_cast<double>(first_row + r);
      partial.outer += row_sum * static_cast<double>(outer);
    }
  }
}

template <typename T>
void forward(const Grid& grid, const T* volume, const int64_t* order, int64_t parts, int64_t begin, int64_t end,
             Partial* partials, int64_t partial_stride) {
  const int64_t step = rows_per_chunk(grid);
  const double lowest = sizeof(T) == 8 ? -DBL_MAX : -FLT_MAX;
  for (int64_t p = 0; p < parts; ++p) partials[p * partial_stride] = Partial{lowest, 0, 0, 0, 0};
  for (int64_t o = begin; o < end; ++o) {
    for (int64_t m = 0; m < grid.middle; m += step) {
      const int64_t rows = grid.middle - m < step ? grid.middle - m : step;
      const T* corner = volume + o * grid.outer_stride + m * grid.middle_stride;
      for (int64_t first = 0; first < parts; first += parts_together) {
        const int64_t some = parts - first < parts_together ? parts - first : parts_together;
        add_chunks(partials + first * partial_stride, partial_stride, corner, order + first, some, rows, grid, m, o);
      }
    }
  }
}

template <bool streams, typename T>
void gradient_row(const PartGradient& g, const T* row, int64_t inner, int64_t middle, int64_t outer, T* output) {
  const int64_t whole = inner / lanes * lanes;
  const float reference = static_cast<float>(g.reference);
  const float slope = static_cast<float>(g.inner_slope);
  const Floats row_term = broadcast(static_cast<float>(g.outer_slope * (static_cast<double>(outer) - g.outer_mean) +
                                                       g.middle_slope * (static_cast<double>(middle) - g.middle_mean)));
  Floats column = iota() - static_cast<float>(g.inner_mean);
  for (int64_t i = 0; i < whole; i += lanes, column += static_cast<float>(lanes)) {
    const Floats gradient = exponential(load(row + i) - reference) * (column * slope + row_term);
    if (streams) {
      stream(output + i, gradient);
    } else {
      store(output + i, gradient);
    }
  }
  if (whole < inner) {
    const Floats v = load_some(row + whole, inner - whole, -INFINITY);
    store_some(output + whole, exponential(v - reference) * (column * slope + row_term), inner - whole);
  }
}

template <bool streams>
void gradient_row(const PartGradient& g, const double* row, int64_t inner, int64_t middle, int64_t outer,
                  double* output) {
  const double row_term = g.outer_slope * (static_cast<double>(outer) - g.outer_mean) +
                          g.middle_slope * (static_cast<double>(middle) - g.middle_mean);
  for (int64_t i = 0; i < inner; ++i)
    output[i] = exp(row[i] - g.reference) * (g.inner_slope * (static_cast<double>(i) - g.inner_mean) + row_term);
}

template <bool streams, typename T>
void backward(const Grid& grid, const T* volume, const PartGradient* gradients, int64_t parts, int64_t begin,
              int64_t end, const Grid& output_grid, T* output) {
  for (int64_t o = begin; o < end; ++o) {
    for (int64_t m = 0; m < grid.middle; ++m) {
      const T* from = volume + o * grid.outer_stride + m * grid.middle_stride;
      T* to = output + o * output_grid.outer_stride + m * output_grid.middle_stride;
      for (int64_t p = 0; p < parts; ++p, from += grid.part_stride, to += output_grid.part_stride) {
        if (gradients[p].read) {
          gradient_row<streams>(gradients[p], from, grid.inner, m, o, to);
        } else {
          memset(to, 0, static_cast<size_t>(grid.inner) * sizeof(T));
        }
      }
    }
  }
}

// Whether every row of the gradient begins where a vector may be streamed to and is whole vectors.
template <typename T>
bool can_stream(const Grid& grid, const T* output) {
  return sizeof(T) <= sizeof(float) && reinterpret_cast<uintptr_t>(output) % (lanes * sizeof(T)) == 0 &&
         grid.inner % lanes == 0 && grid.part_stride % lanes == 0 && grid.outer_stride % lanes == 0 &&
         grid.middle_stride % lanes == 0;
}

}  // namespace

void soft_argmax_3d(Storage storage, const Grid& grid, const void* volume, const int64_t* order, int64_t parts,
                    int64_t begin, int64_t end, Partial* partials, int64_t partial_stride) {
  const auto run = [&](auto* typed) { forward(grid, typed, order, parts, begin, end, partials, partial_stride); };
  switch (storage) {
    case Storage::float64: return run(static_cast<const double*>(volume));
    case Storage::float32: return run(static_cast<const float*>(volume));
    case Storage::bfloat16: return run(static_cast<const bfloat16*>(volume));
    case Storage::float16: return run(static_cast<const float16*>(volume));
  }
}

void soft_argmax_3d_backward(Storage storage, const Grid& grid, const void* volume, const PartGradient* gradients,
                             int64_t parts, int64_t begin, int64_t end, const Grid& output_grid, void* output,
                             bool streams) {
  const auto run = [&](auto* typed) {
    using T = __typeof__(*typed);
    const auto* from = static_cast<const T*>(volume);
    if (streams && can_stream(output_grid, typed)) {
      backward<true>(grid, from, gradients, parts, begin, end, output_grid, typed);
      finish_streams();
    } else {
      backward<false>(grid, from, gradients, parts, begin, end, output_grid, typed);
    }
  };
  switch (storage) {
    case Storage::float64: return run(static_cast<double*>(output));
    case Storage::float32: return run(static_cast<float*>(output));
    case Storage::bfloat16: return run(static_cast<bfloat16*>(output));
    case Storage::float16: return run(static_cast<float16*>(output));
  }
}

}  // namespace partnas::PARTNAS_CAPABILITY
