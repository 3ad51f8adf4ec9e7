// 3x3 max and average pool, together or one of them, and their backward, a row at a time.
//
// Forward: each output row reduces its three input rows to one line of maxima and one of sums, then the three columns of
// those. Backward: the windows of an output row find their first maximum again and add their gradients to three lines,
// each of which is written once, when no further window can reach it.
#include "cpu/pool_pair.h"

#include "cpu/moments.h"

namespace partnas::PARTNAS_CAPABILITY {
namespace {

// The larger of both, NaN if either is.
inline Floats larger(Floats a, Floats b) {
  const Floats m = maximum(a, b);
  return a == a ? m : a;
}

struct Window {
  int64_t begin, end;
};

inline Window window(int64_t output, int64_t stride, int64_t size) {
  const int64_t first = output * stride - 1;
  return {first < 0 ? 0 : first, first + 3 < size ? first + 3 : size};
}

// Which pools are formed.
template <bool max, bool avg>
struct Pools {
  static constexpr bool takes_max = max, takes_avg = avg;
};
using Both = Pools<true, true>;

// Null, which stands for a pool that is not formed, stays null.
template <typename T>
T* at(T* map, int64_t elements) {
  return map ? map + elements : nullptr;
}

template <typename P, int rows, typename T>
void reduce_rows(const T* from, int64_t elements, float* maxima, float* sums) {
  for_vectors(elements, [&](int64_t i, auto part) {
    prefetch(from + (rows - 1) * elements + i);
    Floats largest = part.get(from + i), sum = largest;
    for (int r = 1; r < rows; ++r) {
      const Floats v = part.get(from + r * elements + i);
      if (P::takes_max) largest = larger(largest, v);
      if (P::takes_avg) sum += v;
    }
    if (P::takes_max) part.put(maxima + i, largest);
    if (P::takes_avg) part.put(sums + i, sum);
  });
}

// `elements` outputs from `columns` columns that lie `channels` apart.
template <typename P, int columns, typename T>
void reduce_columns(const float* maxima, const float* sums, int64_t channels, int64_t elements, int64_t rows, T* max_to,
                    T* avg_to) {
  const float scale = 1.0f / static_cast<float>(columns * rows);
  for_vectors(elements, [&](int64_t i, auto part) {
    Floats largest{}, sum{};
    for (int c = 0; c < columns; ++c) {
      if (P::takes_max) {
        const Floats v = part.get(maxima + c * channels + i);
        largest = c == 0 ? v : larger(largest, v);
      }
      if (P::takes_avg) sum += part.get(sums + c * channels + i);
    }
    if (P::takes_max) part.put(max_to + i, largest);
    if (P::takes_avg) part.put(avg_to + i, sum * scale);
  });
}

template <typename P, typename T>
void pool_row(const PoolShape& s, const T* image, int64_t output_row, float* maxima, float* sums, T* max_to, T* avg_to) {
  const int64_t channels = s.channels, row = s.width * channels;
  const Window rows = window(output_row, s.stride, s.height);
  const int64_t count = rows.end - rows.begin;
  const T* from = image + rows.begin * row;
  (count == 3 ? reduce_rows<P, 3, T> : count == 2 ? reduce_rows<P, 2, T> : reduce_rows<P, 1, T>)(from, row, maxima, sums);

  const auto columns_at = [&](int64_t column, int64_t outputs) {
    const Window w = window(column, s.stride, s.width);
    const int64_t width = w.end - w.begin, source = w.begin * channels, target = column * channels;
    const auto reduce = width == 3   ? reduce_columns<P, 3, T>
                        : width == 2 ? reduce_columns<P, 2, T>
                                     : reduce_columns<P, 1, T>;
    reduce(maxima + source, sums + source, channels, outputs * channels, count, at(max_to, target),
           at(avg_to, target));
  };
  columns_at(0, 1);
  if (s.output_width == 1) return;
  if (s.stride == 1) {
    // Neighbouring windows read neighbouring columns: one run.
    columns_at(1, s.output_width - 2);
  } else {
    for (int64_t column = 1; column + 1 < s.output_width; ++column) columns_at(column, 1);
  }
  columns_at(s.output_width - 1, 1);
}

// The image that an output row is of.
template <typename T>
const T* image_of(const PoolShape& s, const T* x, int64_t row) {
  return x + row / s.output_height * s.height * s.width * s.channels;
}

template <typename T>
void forward_one(const PoolShape& s, bool takes_max, const T* x, int64_t begin, int64_t end, float* lines, T* map) {
  for (int64_t row = begin; row < end; ++row) {
    T* to = map + row * s.output_width * s.channels;
    const T* image = image_of(s, x, row);
    if (takes_max) {
      pool_row<Pools<true, false>, T>(s, image, row % s.output_height, lines, lines, to, nullptr);
    } else {
      pool_row<Pools<false, true>, T>(s, image, row % s.output_height, lines, lines, nullptr, to);
    }
  }
}

template <typename T>
void forward(const PoolShape& s, const T* x, int64_t begin, int64_t end, float* lines, double* scratch, double* moments,
             T* max_map, T* avg_map) {
  const int64_t output_row = s.output_width * s.channels;
  Moments of_max = moments_in(scratch, s.statistics_rows);
  Moments of_avg = moments_in(scratch + moments_scratch * s.statistics_rows.room, s.statistics_rows);
  for (int64_t row = begin; row < end; ++row) {
    T *max_to = max_map + row * output_row, *avg_to = avg_map + row * output_row;
    pool_row<Both>(s, image_of(s, x, row), row % s.output_height, lines, lines + s.width * s.channels, max_to, avg_to);
    add_moments(of_max, max_to, output_row);
    add_moments(of_avg, avg_to, output_row);
  }
  finish_moments(of_max, moments);
  finish_moments(of_avg, moments + 3 * s.channels);
}

// Adds the gradients of `elements` outputs, whose windows are `rows` rows of `row` elements and `columns` columns of
// `channels`, to the lines of those rows.
template <typename P, int rows, int columns, typename T>
void add_windows(const T* x, int64_t row, int64_t channels, int64_t elements, const T* max_gradient,
                 const T* avg_gradient, float* const* lines) {
  const float scale = 1.0f / static_cast<float>(rows * columns);
  for_vectors(elements, [&](int64_t i, auto part) {
    Ints winner{};
    Floats to_winner{}, to_all{};
    if (P::takes_max) {
      prefetch(x + (rows - 1) * row + i);
      prefetch(max_gradient + i);
      // A NaN counts as infinite once it has won, so that only another NaN wins over it.
      const Floats infinity = broadcast(INFINITY);
      Floats best = part.get(x + i);
      best = best < infinity ? best : infinity;
      for (int tap = 1; tap < rows * columns; ++tap) {
        const Floats v = part.get(x + tap / columns * row + tap % columns * channels + i);
        const Ints stays = v <= best;
        winner = stays ? winner : Ints{} + tap;
        best = stays ? best : (v < infinity ? v : infinity);
      }
      to_winner = part.get(max_gradient + i);
    }
    if (P::takes_avg) {
      prefetch(avg_gradient + i);
      to_all = part.get(avg_gradient + i) * scale;
    }
    for (int tap = 0; tap < rows * columns; ++tap) {
      float* line = lines[tap / columns] + tap % columns * channels + i;
      Floats sum = part.get(line);
      if (P::takes_avg) sum += to_all;
      if (P::takes_max) sum += winner == tap ? to_winner : Floats{};
      part.put(line, sum);
    }
  });
}

template <typename P, int rows, typename T>
void add_output_row(const PoolShape& s, const T* x, const T* max_gradient, const T* avg_gradient, float* const* lines) {
  const int64_t channels = s.channels, row = s.width * channels;
  const auto columns_at = [&](int64_t column, int64_t outputs) {
    const Window w = window(column, s.stride, s.width);
    const int64_t width = w.end - w.begin, source = w.begin * channels, target = column * channels;
    const auto add = width == 3   ? add_windows<P, rows, 3, T>
                     : width == 2 ? add_windows<P, rows, 2, T>
                                  : add_windows<P, rows, 1, T>;
    float* from[rows];
    for (int r = 0; r < rows; ++r) from[r] = lines[r] + source;
    add(x + source, row, channels, outputs * channels, at(max_gradient, target), at(avg_gradient, target), from);
  };
  columns_at(0, 1);
  if (s.output_width == 1) return;
  if (s.stride == 1) {
    columns_at(1, s.output_width - 2);
  } else {
    for (int64_t column = 1; column + 1 < s.output_width; ++column) columns_at(column, 1);
  }
  columns_at(s.output_width - 1, 1);
}

// Rows [begin, end) of one image.
template <typename P, typename T>
void backward_image(const PoolShape& s, const T* x, const T* max_gradient, const T* avg_gradient, int64_t begin,
                    int64_t end, float* lines, T* gradient) {
  const int64_t row = s.width * s.channels, output_row = s.output_width * s.channels;
  const int64_t first = (begin > 0 ? begin - 1 : 0) / s.stride;
  memset(lines, 0, static_cast<size_t>(3 * row) * sizeof(float));
  const auto line = [&](int64_t r) { return lines + r % 3 * row; };
  int64_t done = window(first, s.stride, s.height).begin;
  const auto finish = [&](int64_t until) {
    for (; done < until; ++done) {
      float* from = line(done);
      if (done >= begin)
        for_vectors(row, [&](int64_t i, auto part) { part.put(gradient + done * row + i, part.get(from + i)); });
      memset(from, 0, static_cast<size_t>(row) * sizeof(float));
    }
  };
  for (int64_t output = first; output < s.output_height && done < end; ++output) {
    const Window rows = window(output, s.stride, s.height);
    if (rows.begin >= end) break;
    finish(rows.begin);
    float* reached[3];
    for (int64_t r = rows.begin; r < rows.end; ++r) reached[r - rows.begin] = line(r);
    const int64_t count = rows.end - rows.begin;
    const auto add = count == 3   ? add_output_row<P, 3, T>
                     : count == 2 ? add_output_row<P, 2, T>
                                  : add_output_row<P, 1, T>;
    add(s, x + rows.begin * row, at(max_gradient, output * output_row), at(avg_gradient, output * output_row), reached);
  }
  finish(end);
}

template <typename P, typename T>
void backward(const PoolShape& s, const T* x, const T* max_gradient, const T* avg_gradient, int64_t begin, int64_t end,
              float* lines, T* gradient) {
  const int64_t image = s.height * s.width * s.channels, output = s.output_height * s.output_width * s.channels;
  while (begin < end) {
    const int64_t b = begin / s.height, last = (b + 1) * s.height < end ? (b + 1) * s.height : end;
    backward_image<P>(s, x + b * image, at(max_gradient, b * output), at(avg_gradient, b * output),
                      begin - b * s.height, last - b * s.height, lines, gradient + b * image);
    begin = last;
  }
}

}  // namespace

void pool_pair(Storage storage, const PoolShape& shape, const void* x, int64_t begin, int64_t end, float* lines,
               double* scratch, double* moments, void* max_map, void* avg_map) {
  with_storage(storage, [&](auto* typed) {
    using T = __typeof__(*typed);
    forward(shape, static_cast<const T*>(x), begin, end, lines, scratch, moments, static_cast<T*>(max_map),
            static_cast<T*>(avg_map));
  });
}

void pool_pair_backward(Storage storage, const PoolShape& shape, const void* x, const void* max_gradient,
                        const void* avg_gradient, int64_t begin, int64_t end, float* lines, void* gradient) {
  with_storage(storage, [&](auto* typed) {
    using T = __typeof__(*typed);
    const auto *of_max = static_cast<const T*>(max_gradient), *of_avg = static_cast<const T*>(avg_gradient);
    const auto run = of_max && of_avg ? backward<Both, T>
                     : of_max         ? backward<Pools<true, false>, T>
                                      : backward<Pools<false, true>, T>;
    run(shape, static_cast<const T*>(x), of_max, of_avg, begin, end, lines, static_cast<T*>(gradient));
  });
}

void pool(Storage storage, const PoolShape& shape, bool takes_max, const void* x, int64_t begin, int64_t end,
          float* lines, void* map) {
  with_storage(storage, [&](auto* typed) {
    using T = __typeof__(*typed);
    forward_one(shape, takes_max, static_cast<const T*>(x), begin, end, lines, static_cast<T*>(map));
  });
}

int64_t pool_pair_lines(const PoolShape& shape) { return 2 * shape.width * shape.channels; }

int64_t pool_pair_backward_lines(const PoolShape& shape) { return 3 * shape.width * shape.channels; }

}  // namespace partnas::PARTNAS_CAPABILITY
