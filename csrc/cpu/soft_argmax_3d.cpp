// Soft-argmax over D x H x W in one read of the volume.
//
// A chunk of rows is summed relative to a reference that is at most `headroom` below its largest value, so that a
// chunk is read once and only a chunk that rises by more is read again (from L1). Each row's exponentials give sum and
// first moment along the contiguous axis; rows give the middle moment; chunks the outer one. Float32 sums stay inside a
// chunk, and chunks are added in double.
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

struct Chunk {
  Floats sum{}, inner{}, middle{}, largest = broadcast(-INFINITY);
};

template <typename T>
Chunk sum_chunk(const T* base, int64_t rows, int64_t stride, int64_t inner, float first_row, float reference) {
  Chunk chunk;
  const int64_t whole = inner / lanes * lanes;
  Floats row_index = broadcast(first_row);
  for (int64_t r = 0; r < rows; ++r, row_index += 1.0f) {
    const T* row = base + r * stride;
    Floats row_sum{}, column = iota();
    for (int64_t i = 0; i < whole; i += lanes, column += static_cast<float>(lanes)) {
      __builtin_prefetch(row + i + inner);  // the next run: in channels-last another part's, which no prefetcher finds
      const Floats v = load(row + i);
      const Floats e = exponential(v - reference);
      chunk.largest = maximum(v, chunk.largest);
      row_sum += e;
      chunk.inner += e * column;
    }
    if (whole < inner) {
      const Floats v = load_some(row + whole, inner - whole, -INFINITY);
      const Floats e = exponential(v - reference);
      chunk.largest = maximum(v, chunk.largest);
      row_sum += e;
      chunk.inner += e * column;
    }
    chunk.sum += row_sum;
    chunk.middle += row_sum * row_index;
  }
  return chunk;
}

template <typename T>
float largest_of_chunk(const T* base, int64_t rows, int64_t stride, int64_t inner) {
  const int64_t whole = inner / lanes * lanes;
  Floats result = broadcast(-INFINITY);
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = base + r * stride;
    for (int64_t i = 0; i < whole; i += lanes) result = maximum(load(row + i), result);
    if (whole < inner) result = maximum(load_some(row + whole, inner - whole, -INFINITY), result);
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

template <typename T>
void add_chunk(Partial& partial, const T* base, int64_t rows, int64_t stride, int64_t inner, int64_t first_row,
               int64_t outer) {
  // -FLT_MAX stands for "nothing but -inf so far": its exponentials are zero, and anything finite lifts it.
  if (partial.reference == -FLT_MAX) {
    const float largest = largest_of_chunk(base, rows, stride, inner);
    if (largest > -FLT_MAX) rescale(partial, largest);
  }
  Chunk chunk = sum_chunk(base, rows, stride, inner, static_cast<float>(first_row), static_cast<float>(partial.reference));
  const float seen = largest(chunk.largest);
  if (seen - static_cast<float>(partial.reference) > headroom) {
    rescale(partial, seen);
    chunk = sum_chunk(base, rows, stride, inner, static_cast<float>(first_row), seen);
  }
  const double total = sum(chunk.sum);
  partial.sum += total;
  partial.inner += sum(chunk.inner);
  partial.middle += sum(chunk.middle);
  partial.outer += total * static_cast<double>(outer);
}

// float64 is for gradient checks: plain loops, and the reference is the largest value itself.
void add_chunk(Partial& partial, const double* base, int64_t rows, int64_t stride, int64_t inner, int64_t first_row,
               int64_t outer) {
  double largest = -INFINITY;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < inner; ++i) largest = base[r * stride + i] > largest ? base[r * stride + i] : largest;
  if (largest > partial.reference) rescale(partial, largest);
  for (int64_t r = 0; r < rows; ++r) {
    double row_sum = 0;
    for (int64_t i = 0; i < inner; ++i) {
      const double e = exp(base[r * stride + i] - partial.reference);
      row_sum += e;
      partial.inner += e * static_cast<double>(i);
    }
    partial.sum += row_sum;
    partial.middle += row_sum * static_cast<double>(first_row + r);
    partial.outer += row_sum * static_cast<double>(outer);
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
      for (int64_t p = 0; p < parts; ++p)
        add_chunk(partials[p * partial_stride], corner + order[p] * grid.part_stride, rows, grid.middle_stride,
                  grid.inner, m, o);
    }
  }
}

template <typename T>
void gradient_chunk(const PartGradient& g, const T* base, int64_t rows, int64_t stride, int64_t inner, int64_t first_row,
                    int64_t outer, T* output, int64_t output_stride) {
  const int64_t whole = inner / lanes * lanes;
  const float reference = static_cast<float>(g.reference);
  const float slope = static_cast<float>(g.inner_slope);
  const Floats first_column = iota() - static_cast<float>(g.inner_mean);
  const double outer_term = g.outer_slope * (static_cast<double>(outer) - g.outer_mean);
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = base + r * stride;
    T* to = output + r * output_stride;
    const double middle_term = g.middle_slope * (static_cast<double>(first_row + r) - g.middle_mean);
    const Floats row_term = broadcast(static_cast<float>(outer_term + middle_term));
    Floats column = first_column;
    for (int64_t i = 0; i < whole; i += lanes, column += static_cast<float>(lanes))
      store(to + i, exponential(load(row + i) - reference) * (column * slope + row_term));
    if (whole < inner) {
      const Floats v = load_some(row + whole, inner - whole, -INFINITY);
      store_some(to + whole, exponential(v - reference) * (column * slope + row_term), inner - whole);
    }
  }
}

void gradient_chunk(const PartGradient& g, const double* base, int64_t rows, int64_t stride, int64_t inner,
                    int64_t first_row, int64_t outer, double* output, int64_t output_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    const double row_term = g.outer_slope * (static_cast<double>(outer) - g.outer_mean) +
                            g.middle_slope * (static_cast<double>(first_row + r) - g.middle_mean);
    for (int64_t i = 0; i < inner; ++i)
      output[r * output_stride + i] = exp(base[r * stride + i] - g.reference) *
                                      (g.inner_slope * (static_cast<double>(i) - g.inner_mean) + row_term);
  }
}

template <typename T>
void backward(const Grid& grid, const T* volume, const PartGradient* gradients, int64_t parts, int64_t begin,
              int64_t end, const Grid& output_grid, T* output) {
  const int64_t step = rows_per_chunk(grid);
  for (int64_t o = begin; o < end; ++o) {
    for (int64_t m = 0; m < grid.middle; m += step) {
      const int64_t rows = grid.middle - m < step ? grid.middle - m : step;
      const T* from = volume + o * grid.outer_stride + m * grid.middle_stride;
      T* to = output + o * output_grid.outer_stride + m * output_grid.middle_stride;
      for (int64_t p = 0; p < parts; ++p) {
        T* part = to + p * output_grid.part_stride;
        if (gradients[p].read) {
          gradient_chunk(gradients[p], from + p * grid.part_stride, rows, grid.middle_stride, grid.inner, m, o, part,
                         output_grid.middle_stride);
        } else {
          for (int64_t r = 0; r < rows; ++r)
            memset(part + r * output_grid.middle_stride, 0, static_cast<size_t>(grid.inner) * sizeof(T));
        }
      }
    }
  }
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
                             int64_t parts, int64_t begin, int64_t end, const Grid& output_grid, void* output) {
  const auto run = [&](auto* typed) {
    using T = __typeof__(*typed);
    backward<T>(grid, static_cast<const T*>(volume), gradients, parts, begin, end, output_grid, typed);
  };
  switch (storage) {
    case Storage::float64: return run(static_cast<double*>(output));
    case Storage::float32: return run(static_cast<float*>(output));
    case Storage::bfloat16: return run(static_cast<bfloat16*>(output));
    case Storage::float16: return run(static_cast<float16*>(output));
  }
}

}  // namespace partnas::PARTNAS_CAPABILITY
