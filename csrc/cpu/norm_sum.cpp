// Statistics, weighted sum and backward of batch-normed maps, over rows of whole pixels.
//
// All maps are walked together in chunks that stay in the first caches, so that the output, or the gradient, is read and
// written there while each map streams by once. The centre is taken away before the scaling: where a map's mean is many
// deviations from zero, scaling first would lose the digits that matter.
#include "cpu/norm_sum.h"

#include "cpu/moments.h"

namespace partnas::PARTNAS_CAPABILITY {
namespace {

int64_t sum_chunk(int64_t length) { return chunk_of(length, 2048, 4); }

template <bool first, bool last, typename T>
void add_branch(const Branch& branch, const float* offset, int64_t length, int64_t at, int64_t elements, float* sums,
                T* output) {
  const T* x = static_cast<const T*>(branch.x) + at;
  for_rows(elements, length, [&](int64_t from, int64_t row, auto rows) {
    for_vectors(row, [&](int64_t i, auto part) {
      const Floats center = load(branch.center + i), slope = load(branch.slope + i), start = load(offset + i);
      for (int r = 0; r < rows.count; ++r) {
        const int64_t o = from + r * row + i;
        prefetch(x + o);
        const Floats v = (part.get(x + o) - center) * slope + (first ? start : part.get(sums + o));
        if (last) {
          part.put(output + o, v);
        } else {
          part.put(sums + o, v);
        }
      }
    });
  });
}

template <typename T>
float* sums_of(float* scratch, T*) {
  return scratch;
}

// float32 is summed in the output itself.
float* sums_of(float*, float* output) { return output; }

template <typename T>
void weighted_sum(const RowShape& shape, const Branch* branches, int64_t count, const float* offset, int64_t begin,
                  int64_t end, float* scratch, T* output) {
  for_chunks(begin, end, sum_chunk(shape.length), [&](int64_t at, int64_t elements) {
    T* to = output + at;
    float* sums = sums_of(scratch, to);
    for (int64_t k = 0; k < count; ++k) {
      const bool last = k + 1 == count;
      const auto add = k == 0 ? (last ? add_branch<true, true, T> : add_branch<true, false, T>)
                              : (last ? add_branch<false, true, T> : add_branch<false, false, T>);
      add(branches[k], offset, shape.length, at, elements, sums, to);
    }
  });
}

// Adds the float32 sums of one chunk to the doubles, and clears them.
void flush(float* sums, int64_t count, double* totals) {
  for (int64_t i = 0; i < count; ++i) totals[i] += static_cast<double>(sums[i]);
  memset(sums, 0, static_cast<size_t>(count) * sizeof(float));
}

template <typename T>
void reduce(const RowShape& shape, const T* gradient, const Branch* branches, int64_t count, int64_t begin, int64_t end,
            float* sums, double* totals) {
  const int64_t length = shape.length;
  memset(sums, 0, static_cast<size_t>(shape.room) * sizeof(float));
  memset(totals, 0, static_cast<size_t>((count + 1) * shape.room) * sizeof(double));
  for_chunks(begin, end, chunk_of(length, 4096, 16), [&](int64_t at, int64_t elements) {
    const T* g = gradient + at;
    for_rows(elements, length, [&](int64_t offset, int64_t row, auto rows) {
      for_vectors(row, [&](int64_t i, auto part) {
        Floats sum = load(sums + i);
        for (int r = 0; r < rows.count; ++r) sum += part.get(g + offset + r * row + i);
        store(sums + i, sum);
      });
    });
    flush(sums, length, totals);
    for (int64_t k = 0; k < count; ++k) {
      const T* x = static_cast<const T*>(branches[k].x) + at;
      const float* centers = branches[k].center;
      for_rows(elements, length, [&](int64_t offset, int64_t row, auto rows) {
        for_vectors(row, [&](int64_t i, auto part) {
          const Floats center = load(centers + i);
          Floats sum = load(sums + i);
          for (int r = 0; r < rows.count; ++r) {
            const int64_t o = offset + r * row + i;
            prefetch(x + o);
            sum += part.get(g + o) * (part.get(x + o) - center);
          }
          store(sums + i, sum);
        });
      });
      flush(sums, length, totals + (k + 1) * shape.room);
    }
  });
}

template <typename T, bool streams>
void apply(const RowShape& shape, const T* gradient, const float* mean, const Branch* branches, int64_t count,
           int64_t begin, int64_t end, float* scratch) {
  const int64_t length = shape.length;
  for_chunks(begin, end, sum_chunk(length), [&](int64_t at, int64_t elements) {
    const T* g = gradient + at;
    for_rows(elements, length, [&](int64_t offset, int64_t row, auto rows) {
      for_vectors(row, [&](int64_t i, auto part) {
        const Floats m = load(mean + i);
        for (int r = 0; r < rows.count; ++r) {
          const int64_t o = offset + r * row + i;
          part.put(scratch + o, part.get(g + o) - m);
        }
      });
    });
    for (int64_t k = 0; k < count; ++k) {
      const Branch& branch = branches[k];
      T* to = static_cast<T*>(branch.gradient) + at;
      const T* x = static_cast<const T*>(branch.x) + at;
      for_rows(elements, length, [&](int64_t offset, int64_t row, auto rows) {
        for_vectors(row, [&](int64_t i, auto part) {
          const Floats slope = load(branch.slope + i);
          if (branch.x == nullptr) {
            for (int r = 0; r < rows.count; ++r) {
              const int64_t o = offset + r * row + i;
              write<streams>(to + o, slope * part.get(g + o), part);
            }
            return;
          }
          const Floats center = load(branch.center + i), curve = load(branch.curve + i);
          for (int r = 0; r < rows.count; ++r) {
            const int64_t o = offset + r * row + i;
            prefetch(x + o);
            write<streams>(to + o, slope * part.get(scratch + o) - curve * (part.get(x + o) - center), part);
          }
        });
      });
    }
  });
}

}  // namespace

void norm_stats(Storage storage, const RowShape& shape, const void* x, int64_t begin, int64_t end, double* scratch,
                double* moments) {
  with_storage(storage, [&](auto* typed) {
    using T = __typeof__(*typed);
    Moments m = moments_in(scratch, shape);
    for_chunks(begin, end, chunk_of(shape.length, 4096, 16), [&](int64_t at, int64_t elements) {
      add_moments(m, static_cast<const T*>(x) + at, elements);
    });
    finish_moments(m, moments);
  });
}

void norm_sum(Storage storage, const RowShape& shape, const Branch* branches, int64_t count, const float* offset,
              int64_t begin, int64_t end, float* scratch, void* output) {
  with_storage(storage, [&](auto* typed) {
    using T = __typeof__(*typed);
    weighted_sum<T>(shape, branches, count, offset, begin, end, scratch, static_cast<T*>(output));
  });
}

void norm_sum_reduce(Storage storage, const RowShape& shape, const void* gradient, const Branch* branches, int64_t count,
                     int64_t begin, int64_t end, float* scratch, double* lane_sums, double* sums) {
  with_storage(storage, [&](auto* typed) {
    using T = __typeof__(*typed);
    reduce<T>(shape, static_cast<const T*>(gradient), branches, count, begin, end, scratch, lane_sums);
  });
  for (int64_t k = 0; k <= count; ++k) {
    const double* lane = lane_sums + k * shape.room;
    for (int64_t c = 0; c < shape.channels; ++c) {
      double total = 0;
      for (int64_t i = c; i < shape.length; i += shape.channels) total += lane[i];
      sums[k * shape.channels + c] = total;
    }
  }
}

void norm_sum_backward(Storage storage, const RowShape& shape, const void* gradient, const float* mean,
                       const Branch* branches, int64_t count, int64_t begin, int64_t end, bool streams, float* scratch) {
  for (int64_t k = 0; k < count; ++k) streams = streams && can_stream(branches[k].gradient, shape.length);
  with_storage(storage, [&](auto* typed) {
    using T = __typeof__(*typed);
    const auto run = streams ? apply<T, true> : apply<T, false>;
    run(shape, static_cast<const T*>(gradient), mean, branches, count, begin, end, scratch);
  });
  if (streams) finish_streams();
}

int64_t norm_sum_scratch(int64_t length) { return sum_chunk(length); }

}  // namespace partnas::PARTNAS_CAPABILITY
