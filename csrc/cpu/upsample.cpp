// Bilinear upsampling by two or four: first between rows, into a line that stays in cache, then between columns.
//
// Of the `factor` outputs above a pixel, the first half lies between it and the pixel before, the other half between it
// and the one after. Backward reads the same weights the other way round: a pixel adds up the 2 * factor outputs about it.
#include "cpu/upsample.h"

#include "cpu/rows.h"

namespace partnas::PARTNAS_CAPABILITY {
namespace {

constexpr int most_taps = 8;

struct Blend {
  int64_t first, second;
  float first_weight, second_weight;
};

// Where output `position` of a line of `size` pixels lies between two of them.
inline Blend blend(int64_t position, int64_t size, int64_t factor) {
  const int64_t pixel = position / factor, phase = position % factor;
  const float place = (static_cast<float>(phase) + 0.5f) / static_cast<float>(factor) - 0.5f;
  if (place < 0) return {pixel > 0 ? pixel - 1 : 0, pixel, -place, 1 + place};
  return {pixel, pixel + 1 < size ? pixel + 1 : pixel, 1 - place, place};
}

template <int factor, bool streams, typename T>
void between_columns(const float* line, int64_t width, int64_t channels, T* to) {
  for (int64_t x = 0; x < width; ++x) {
    const float* here = line + x * channels;
    const float* before = x > 0 ? here - channels : here;
    const float* after = x + 1 < width ? here + channels : here;
    T* output = to + x * factor * channels;
    for_vectors(channels, [&](int64_t i, auto part) {
      const Floats a = part.get(before + i), b = part.get(here + i), c = part.get(after + i);
      for (int phase = 0; phase < factor; ++phase) {
        const float place = (phase + 0.5f) / factor - 0.5f;
        const Floats v = place < 0 ? a * -place + b * (1 + place) : b * (1 - place) + c * place;
        write<streams>(output + phase * channels + i, v, part);
      }
    });
  }
}

template <bool streams, typename T>
void forward(const UpsampleShape& s, const T* small, int64_t begin, int64_t end, float* line, T* large) {
  const int64_t row = s.width * s.channels, large_height = s.factor * s.height;
  for (int64_t r = begin; r < end; ++r) {
    const T* image = small + r / large_height * s.height * row;
    const Blend rows = blend(r % large_height, s.height, s.factor);
    const T *first = image + rows.first * row, *second = image + rows.second * row;
    for_vectors(row, [&](int64_t i, auto part) {
      prefetch(second + i);
      part.put(line + i, part.get(first + i) * rows.first_weight + part.get(second + i) * rows.second_weight);
    });
    const auto between = s.factor == 2 ? between_columns<2, streams, T> : between_columns<4, streams, T>;
    between(line, s.width, s.channels, large + r * s.factor * row);
  }
}

struct Taps {
  int64_t count, first;
  float weight[most_taps];
};

// The outputs that pixel `pixel` of a line of `size` has a part in.
inline Taps taps(int64_t pixel, int64_t size, int64_t factor) {
  int64_t begin = pixel * factor - factor / 2, end = begin + 2 * factor;
  begin = begin < 0 ? 0 : begin;
  end = end < factor * size ? end : factor * size;
  Taps result{end - begin, begin, {}};
  for (int64_t t = 0; t < result.count; ++t) {
    const Blend b = blend(begin + t, size, factor);
    result.weight[t] = (b.first == pixel ? b.first_weight : 0) + (b.second == pixel ? b.second_weight : 0);
  }
  return result;
}

inline Taps moved(Taps t, int64_t by) {
  t.first += by;
  return t;
}

// to = the weighted sum of `count` runs of `elements` that lie `step` apart.
template <int count, typename From, typename To>
void add_up(const From* from, int64_t step, const float* weight, int64_t elements, To* to) {
  for_vectors(elements, [&](int64_t i, auto part) {
    prefetch(from + (count - 1) * step + i);
    Floats sum{};
    for (int t = 0; t < count; ++t) sum += part.get(from + t * step + i) * weight[t];
    part.put(to + i, sum);
  });
}

template <typename From, typename To>
void add_taps(const Taps& t, const From* from, int64_t step, int64_t elements, To* to) {
  from += t.first * step;
  switch (t.count) {
    case 2: return add_up<2>(from, step, t.weight, elements, to);
    case 3: return add_up<3>(from, step, t.weight, elements, to);
    case 4: return add_up<4>(from, step, t.weight, elements, to);
    case 6: return add_up<6>(from, step, t.weight, elements, to);
    case 8: return add_up<8>(from, step, t.weight, elements, to);
  }
}

template <typename T>
void backward(const UpsampleShape& s, const T* large, int64_t begin, int64_t end, float* line, T* small) {
  const int64_t large_row = s.factor * s.width * s.channels;
  const Taps inner = moved(taps(1, 3, s.factor), -s.factor);
  for (int64_t r = begin; r < end; ++r) {
    const T* image = large + r / s.height * s.factor * s.height * large_row;
    add_taps(taps(r % s.height, s.height, s.factor), image, large_row, large_row, line);
    T* to = small + r * s.width * s.channels;
    for (int64_t x = 0; x < s.width; ++x) {
      const bool at_edge = x == 0 || x + 1 == s.width;
      add_taps(at_edge ? taps(x, s.width, s.factor) : moved(inner, x * s.factor), line, s.channels, s.channels,
               to + x * s.channels);
    }
  }
}

}  // namespace

void upsample(Storage storage, const UpsampleShape& shape, const void* small, int64_t begin, int64_t end, bool streams,
              float* line, void* large) {
  streams = streams && can_stream(large, shape.channels);
  with_storage(storage, [&](auto* typed) {
    using T = __typeof__(*typed);
    const auto run = streams ? forward<true, T> : forward<false, T>;
    run(shape, static_cast<const T*>(small), begin, end, line, static_cast<T*>(large));
  });
  if (streams) finish_streams();
}

void upsample_backward(Storage storage, const UpsampleShape& shape, const void* large, int64_t begin, int64_t end,
                       float* line, void* small) {
  with_storage(storage, [&](auto* typed) {
    using T = __typeof__(*typed);
    backward(shape, static_cast<const T*>(large), begin, end, line, static_cast<T*>(small));
  });
}

}  // namespace partnas::PARTNAS_CAPABILITY
