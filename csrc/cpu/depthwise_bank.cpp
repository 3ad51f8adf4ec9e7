// All depthwise filters of one source in one read of it.
//
// The work goes row by row through one vector of channels. Rows of the source pass once through the prologue into a
// ring of float rows with zero borders, and strips of a row's pixels go through all filters while their surroundings
// are in the first-level cache. A strip keeps its pixels and one row of taps in registers, so that each value that is
// loaded serves several taps. Backward turns the filters round: a strip of a map's gradient is read once, meets the
// values around it for the weights, and is spread over a second ring of rows for the source, which leave the ring
// through the prologue's backward. Strips are always whole vectors of float: other types and fewer channels than a
// vector are converted on the way in and out.
#include "cpu/depthwise_bank.h"

#include "cpu/rows.h"

namespace partnas::PARTNAS_CAPABILITY {
namespace {

// Pixels of the widest strip, and into how many widths it is halved.
constexpr int widest = 8;
constexpr int widths = 4;
// How far ahead memory is asked for: between the channels of neighbouring pixels lie others, and no prefetcher sees
// the pattern of so many maps.
constexpr int64_t ahead = widest;

// --- channels --------------------------------------------------------------------------------------------------------

int64_t first_channel(const Bank& bank, int64_t vector) {
  const int64_t last = bank.channels > lanes ? bank.channels - lanes : 0;
  return vector * lanes < last ? vector * lanes : last;
}

int64_t channel_count(const Bank& bank) { return bank.channels < lanes ? bank.channels : lanes; }

template <typename T>
inline Floats get(const T* from, int64_t count) {
  return count == lanes ? load(from) : load_some(from, count, 0.0f);
}

template <typename T>
inline void put(T* to, Floats v, int64_t count) {
  if (count == lanes) {
    store(to, v);
  } else {
    store_some(to, v, count);
  }
}

// The same for a channel's number, which may be missing.
Floats number(const float* numbers, int64_t channel, int64_t count, float otherwise) {
  return numbers ? get(numbers + channel, count) : broadcast(otherwise);
}

// --- strips ----------------------------------------------------------------------------------------------------------

template <int i>
struct Index {
  static constexpr int value = i;
};

template <int begin, int end, typename Body>
__attribute__((always_inline)) inline void unroll(const Body& body) {
  if constexpr (begin < end) {
    body(Index<begin>{});
    unroll<begin + 1, end>(body);
  }
}

// Whether column `q` of a strip's surroundings meets tap `j` of one of its `pixels`.
template <int dilation, int stride, int pixels>
constexpr bool meets(int q, int j) {
  const int p = q - j * dilation;
  return p >= 0 && p % stride == 0 && p / stride < pixels;
}

template <int size, int dilation, int stride, int pixels>
constexpr bool meets_any(int q) {
  for (int j = 0; j < size; ++j)
    if (meets<dilation, stride, pixels>(q, j)) return true;
  return false;
}

// `pixels` neighbours of a map, from the rows around them: rows[d] is d rows below the strip, null outside the image,
// `column` the offset of what lies at the first pixel. `streams`: past the caches.
template <int size, int dilation, int stride, int pixels>
void forward_strip(const float* const* rows, int64_t column, const float* taps, float* map, int64_t step,
                   bool streams) {
  constexpr int radius = size / 2, columns = (pixels - 1) * stride + (size - 1) * dilation + 1;
  Floats sum[pixels] = {};
  for (int i = 0; i < size; ++i, taps += size * lanes) {
    const float* row = rows[(i - radius) * dilation];
    if (!row) continue;
    row += column - radius * dilation * lanes;
    Floats tap[size];
    unroll<0, size>([&](auto j) __attribute__((always_inline)) { tap[j.value] = load(taps + j.value * lanes); });
    unroll<0, columns>([&](auto q) __attribute__((always_inline)) {
      if constexpr (meets_any<size, dilation, stride, pixels>(q.value)) {
        const Floats value = load(row + q.value * lanes);
        unroll<0, size>([&](auto j) __attribute__((always_inline)) {
          if constexpr (meets<dilation, stride, pixels>(q.value, j.value))
            sum[(q.value - j.value * dilation) / stride] += value * tap[j.value];
        });
      }
    });
  }
  if (streams) {
    unroll<0, pixels>([&](auto p) __attribute__((always_inline)) { stream(map + p.value * step, sum[p.value]); });
  } else {
    unroll<0, pixels>([&](auto p) __attribute__((always_inline)) { store(map + p.value * step, sum[p.value]); });
  }
}

// Adds what `pixels` neighbours of a map's gradient give to the weights (from the values around them) and to the rows
// of the source's gradient around them; either may be null.
template <int size, int dilation, int stride, int pixels>
void backward_strip(const float* gradient, int64_t step, const float* const* values, float* const* spread,
                    int64_t column, const float* taps, float* weights) {
  constexpr int radius = size / 2, columns = (pixels - 1) * stride + (size - 1) * dilation + 1;
  Floats g[pixels];
  unroll<0, pixels>([&](auto p) __attribute__((always_inline)) { g[p.value] = load(gradient + p.value * step); });
  column -= radius * dilation * lanes;
  for (int i = 0; weights && i < size; ++i, weights += size * lanes) {
    const float* row = values[(i - radius) * dilation];
    if (!row) continue;
    row += column;
    Floats sum[size];
    unroll<0, size>([&](auto j) __attribute__((always_inline)) { sum[j.value] = load(weights + j.value * lanes); });
    unroll<0, columns>([&](auto q) __attribute__((always_inline)) {
      if constexpr (meets_any<size, dilation, stride, pixels>(q.value)) {
        const Floats value = load(row + q.value * lanes);
        unroll<0, size>([&](auto j) __attribute__((always_inline)) {
          if constexpr (meets<dilation, stride, pixels>(q.value, j.value))
            sum[j.value] += value * g[(q.value - j.value * dilation) / stride];
        });
      }
    });
    unroll<0, size>([&](auto j) __attribute__((always_inline)) { store(weights + j.value * lanes, sum[j.value]); });
  }
  for (int i = 0; spread && i < size; ++i, taps += size * lanes) {
    float* row = spread[(i - radius) * dilation];
    if (!row) continue;
    row += column;
    Floats tap[size];
    unroll<0, size>([&](auto j) __attribute__((always_inline)) { tap[j.value] = load(taps + j.value * lanes); });
    unroll<0, columns>([&](auto q) __attribute__((always_inline)) {
      if constexpr (meets_any<size, dilation, stride, pixels>(q.value)) {
        Floats sum = load(row + q.value * lanes);
        unroll<0, size>([&](auto j) __attribute__((always_inline)) {
          if constexpr (meets<dilation, stride, pixels>(q.value, j.value))
            sum += tap[j.value] * g[(q.value - j.value * dilation) / stride];
        });
        store(row + q.value * lanes, sum);
      }
    });
  }
}

using ForwardStrip = void (*)(const float* const*, int64_t, const float*, float*, int64_t, bool);
using BackwardStrip = void (*)(const float*, int64_t, const float* const*, float* const*, int64_t, const float*,
                               float*);

// A filter's strips, the widest first.
struct Strips {
  ForwardStrip forward[widths];
  BackwardStrip backward[widths];
};

template <int size, int dilation, int stride>
constexpr Strips strips = {
    {forward_strip<size, dilation, stride, 8>, forward_strip<size, dilation, stride, 4>,
     forward_strip<size, dilation, stride, 2>, forward_strip<size, dilation, stride, 1>},
    {backward_strip<size, dilation, stride, 8>, backward_strip<size, dilation, stride, 4>,
     backward_strip<size, dilation, stride, 2>, backward_strip<size, dilation, stride, 1>},
};

const Strips& strips_of(const Filter& filter, int64_t stride) {
  static constexpr const Strips* all[] = {&strips<3, 1, 1>, &strips<3, 1, 2>, &strips<3, 2, 1>, &strips<3, 2, 2>,
                                          &strips<5, 1, 1>, &strips<5, 1, 2>, &strips<5, 2, 1>, &strips<5, 2, 2>};
  return *all[(filter.size == 5) * 4 + (filter.dilation == 2) * 2 + (stride == 2)];
}

// --- rows ------------------------------------------------------------------------------------------------------------

constexpr int64_t furthest = 4;  // of 5 taps, dilation 2

// Rows of one channel vector in float, with `reach` pixels of border on both sides. Only the 2 * reach + 1 rows around
// the current one are kept.
struct Ring {
  float* data;
  int64_t rows, row, border;

  Ring(const Bank& bank, float* scratch)
      : data(scratch),
        rows(2 * bank.reach + 1),
        row((bank.width + 2 * bank.reach) * lanes),
        border(bank.reach * lanes) {}

  int64_t size() const { return rows * row; }
  float* at(int64_t y) const { return data + y % rows * row + border; }

  void clear() const { memset(data, 0, static_cast<size_t>(size()) * sizeof(float)); }
};

// Pointers to the rows around a centre, null outside [begin, end).
template <typename Float>
struct Window {
  Float* rows[2 * furthest + 1];

  Window(const Ring& ring, const Bank& bank, int64_t centre, int64_t begin, int64_t end) {
    for (int64_t d = -bank.reach; d <= bank.reach; ++d) {
      const int64_t y = centre + d;
      rows[furthest + d] = y >= begin && y < end ? ring.at(y) : nullptr;
    }
  }

  Float* const* centre() const { return rows + furthest; }
};

// How x becomes the value, for one channel vector.
struct Prologue {
  Floats mean, factor, offset;
  bool affine, relu;
  int64_t channel, count;

  Prologue(const Bank& bank, int64_t vector)
      : affine(bank.mean || bank.factor || bank.offset),
        relu(bank.relu),
        channel(first_channel(bank, vector)),
        count(channel_count(bank)) {
    mean = number(bank.mean, channel, count, 0.0f);
    factor = number(bank.factor, channel, count, 1.0f);
    offset = number(bank.offset, channel, count, 0.0f);
  }

  template <typename T>
  void read(const T* x, int64_t step, int64_t width, float* row) const {
    for (int64_t i = 0; i < width; ++i, x += step, row += lanes) {
      __builtin_prefetch(x + 2 * ahead * step);
      Floats value = get(x, count);
      if (affine) value = (value - mean) * factor + offset;
      if (relu) value = maximum(Floats{}, value);
      store(row, value);
    }
  }
};

template <typename T>
struct Walk {
  const Bank& bank;
  const Piece& piece;
  const Prologue prologue;
  const int64_t step;

  Walk(const Bank& b, const Piece& p) : bank(b), piece(p), prologue(b, p.vector), step(b.channels) {}

  // Pixel 0 of row y of this piece's channels, in a tensor of x's size.
  template <typename U>
  U* source_row(U* tensor, int64_t y) const {
    return tensor + (piece.image * bank.height + y) * bank.width * step + prologue.channel;
  }

  template <typename U>
  U* map_row(U* tensor, int64_t y) const {
    return tensor + (piece.image * bank.output_height + y - piece.origin) * bank.output_width * step + prologue.channel;
  }

  // Reads rows up to `end` that are not there yet.
  void advance(const T* x, const Ring& ring, int64_t& next, int64_t end) const {
    for (; next < end; ++next) prologue.read(source_row(x, next), step, bank.width, ring.at(next));
  }
};

constexpr bool is_float(const float*) { return true; }
constexpr bool is_float(const void*) { return false; }

template <typename Body>
void for_each_strip(int64_t width, const Body& body) {
  int64_t first = 0;
  for (int index = 0; index < widths; ++index)
    for (const int64_t pixels = widest >> index; width - first >= pixels; first += pixels) body(first, pixels, index);
}

// --- forward ---------------------------------------------------------------------------------------------------------

template <typename T>
void forward(const Bank& bank, const T* x, const float* taps, const Piece& piece, void* const* maps, float* scratch) {
  const Walk<T> walk(bank, piece);
  const Ring ring(bank, scratch);
  ring.clear();
  const bool direct = is_float(x) && walk.prologue.count == lanes;
  bool streams = bank.streams && direct;
  for (int64_t f = 0; f < bank.count; ++f) streams = streams && can_stream_blocks(maps[f], bank.channels, lanes);
  const int64_t reach = bank.reach, height = bank.height;
  int64_t next = piece.begin * bank.stride > reach ? piece.begin * bank.stride - reach : 0;
  for (int64_t y = piece.begin; y < piece.end; ++y) {
    const int64_t centre = y * bank.stride;
    walk.advance(x, ring, next, centre + reach + 1 < height ? centre + reach + 1 : height);
    const Window<const float> window(ring, bank, centre, 0, height);
    for_each_strip(bank.output_width, [&](int64_t first, int64_t pixels, int index) {
      for (int64_t f = 0; f < bank.count; ++f) {
        const Filter& filter = bank.filters[f];
        const float* filter_taps = taps + filter.first_tap * lanes;
        const ForwardStrip strip = strips_of(filter, bank.stride).forward[index];
        T* map = walk.map_row(static_cast<T*>(maps[f]), y) + first * walk.step;
        const int64_t column = first * bank.stride * lanes;
        if (!streams)
          for (int64_t p = 0; p < pixels; ++p) __builtin_prefetch(map + (ahead + p) * walk.step, 1);
        if (direct) {
          strip(window.centre(), column, filter_taps, reinterpret_cast<float*>(map), walk.step, streams);
        } else {
          float staged[widest * lanes];
          strip(window.centre(), column, filter_taps, staged, lanes, false);
          for (int64_t p = 0; p < pixels; ++p) put(map + p * walk.step, load(staged + p * lanes), walk.prologue.count);
        }
      }
    });
  }
  if (streams) finish_streams();
}

// --- backward --------------------------------------------------------------------------------------------------------

// A finished row of the gradient of what enters the filters leaves the ring: through the clip, into the sums and out.
template <typename T>
void leave(const Walk<T>& walk, const T* x, int64_t y, const float* values, float* row, const BankGradients& wanted,
           Floats& sum, Floats& product_sum) {
  const Prologue& prologue = walk.prologue;
  const T* source = walk.source_row(x, y);
  T* to = wanted.x ? walk.source_row(static_cast<T*>(wanted.x), y) : nullptr;
  for (int64_t i = 0; i < walk.bank.width; ++i, row += lanes, values += lanes) {
    if (to) __builtin_prefetch(to + (i + 2 * ahead) * walk.step, 1);
    Floats gradient = load(row);
    if (prologue.relu) gradient = load(values) <= Floats{} ? Floats{} : gradient;
    if (wanted.sums) {
      sum += gradient;
      product_sum += gradient * (get(source + i * walk.step, prologue.count) - prologue.mean);
    }
    if (wanted.scaled) gradient *= prologue.factor;
    if (to) put(to + i * walk.step, gradient, prologue.count);
  }
}

template <typename T>
void backward(const Bank& bank, const T* x, const float* taps, const Piece& piece, const void* const* gradients,
              const BankGradients& wanted, float* scratch) {
  const Walk<T> walk(bank, piece);
  const Ring values(bank, scratch), spread(bank, scratch + values.size());
  values.clear();
  spread.clear();
  const bool needs_value = wanted.x || wanted.sums;
  const bool direct = is_float(x) && walk.prologue.count == lanes;
  const int64_t stride = bank.stride, reach = bank.reach;
  const int64_t begin = piece.begin, end = piece.end;
  const int64_t lowest = begin > reach ? begin - reach : 0;
  const int64_t highest = end + reach < bank.height ? end + reach : bank.height;
  // Rows of the maps that touch this piece, and those of them whose centre lies in it.
  const int64_t own_begin = begin / stride, own_end = (end + stride - 1) / stride;
  const int64_t map_begin = needs_value ? (lowest + stride - 1) / stride : own_begin;
  const int64_t last = needs_value ? (highest + stride - 1) / stride : own_end;
  const int64_t map_end = last < bank.output_height ? last : bank.output_height;
  int64_t next = lowest, left = begin;
  Floats sum{}, product_sum{};
  for (int64_t y = map_begin; y < map_end; ++y) {
    const int64_t centre = y * stride;
    const bool own = wanted.weights && y >= own_begin && y < own_end;
    walk.advance(x, values, next, centre + reach + 1 < highest ? centre + reach + 1 : highest);
    const Window<const float> around(values, bank, centre, lowest, highest);
    const Window<float> target(spread, bank, centre, begin, end);
    for_each_strip(bank.output_width, [&](int64_t first, int64_t pixels, int index) {
      for (int64_t f = 0; f < bank.count; ++f) {
        const Filter& filter = bank.filters[f];
        const BackwardStrip strip = strips_of(filter, stride).backward[index];
        const T* gradient = walk.map_row(static_cast<const T*>(gradients[f]), y) + first * walk.step;
        for (int64_t p = 0; p < pixels; ++p) __builtin_prefetch(gradient + (ahead + p) * walk.step);
        float staged[widest * lanes];
        if (!direct)
          for (int64_t p = 0; p < pixels; ++p)
            store(staged + p * lanes, get(gradient + p * walk.step, walk.prologue.count));
        strip(direct ? reinterpret_cast<const float*>(gradient) : staged, direct ? walk.step : lanes, around.centre(),
              needs_value ? target.centre() : nullptr, first * stride * lanes, taps + filter.first_tap * lanes,
              own && filter.needs_weight ? wanted.weights + filter.first_tap * lanes : nullptr);
      }
    });
    if (!needs_value) continue;
    const int64_t below = y + 1 < map_end ? centre + stride - reach : end;
    for (; left < (below < end ? below : end); ++left) {
      leave(walk, x, left, values.at(left), spread.at(left), wanted, sum, product_sum);
      memset(spread.at(left) - spread.border, 0, static_cast<size_t>(spread.row) * sizeof(float));
    }
  }
  if (wanted.sums) {
    store(wanted.sums, load(wanted.sums) + sum);
    store(wanted.sums + lanes, load(wanted.sums + lanes) + product_sum);
  }
}

template <typename T>
void normalise(const Bank& bank, const T* x, const float* mean_gradient, const float* slope, int64_t begin, int64_t end,
               T* gradient) {
  const int64_t channels = bank.channels;
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    const T* from = x + pixel * channels;
    T* to = gradient + pixel * channels;
    for (int64_t c = 0; c < channels; c += lanes) {
      const int64_t count = channels - c < lanes ? channels - c : lanes;
      const Floats centred = get(from + c, count) - get(bank.mean + c, count);
      const Floats inner = get(to + c, count) - get(mean_gradient + c, count) - centred * get(slope + c, count);
      put(to + c, inner * get(bank.factor + c, count), count);
    }
  }
}

}  // namespace

int64_t bank_lanes() { return lanes; }

int64_t bank_scratch(const Bank& bank) { return 2 * Ring(bank, nullptr).size(); }

void pack_taps(const Bank& bank, const float* const* weights, int64_t vector, float* taps) {
  const int64_t first = first_channel(bank, vector), count = channel_count(bank);
  for (int64_t f = 0; f < bank.count; ++f) {
    const int64_t area = bank.filters[f].size * bank.filters[f].size;
    const float* from = weights[f] + first * area;
    float* to = taps + bank.filters[f].first_tap * lanes;
    for (int64_t t = 0; t < area; ++t)
      for (int64_t lane = 0; lane < lanes; ++lane) to[t * lanes + lane] = lane < count ? from[lane * area + t] : 0.0f;
  }
}

void unpack_taps(const Bank& bank, const float* sums, int64_t groups, int64_t stride, int64_t vector,
                 float* const* weights) {
  const int64_t first = first_channel(bank, vector), count = channel_count(bank);
  for (int64_t f = 0; f < bank.count; ++f) {
    if (!weights[f]) continue;
    const int64_t area = bank.filters[f].size * bank.filters[f].size;
    float* to = weights[f] + first * area;
    for (int64_t t = 0; t < area; ++t) {
      const float* from = sums + (bank.filters[f].first_tap + t) * lanes;
      double total[lanes] = {};
      for (int64_t group = 0; group < groups; ++group)
        for (int lane = 0; lane < lanes; ++lane) total[lane] += from[group * stride + lane];
      for (int64_t lane = 0; lane < count; ++lane) to[lane * area + t] = static_cast<float>(total[lane]);
    }
  }
}

void bank_forward(const Bank& bank, const void* x, const float* taps, const Piece& piece, void* const* maps,
                  float* scratch) {
  const auto run = [&](auto* typed) { forward(bank, typed, taps, piece, maps, scratch); };
  switch (bank.storage) {
    case Storage::float64: return;
    case Storage::float32: return run(static_cast<const float*>(x));
    case Storage::bfloat16: return run(static_cast<const bfloat16*>(x));
    case Storage::float16: return run(static_cast<const float16*>(x));
  }
}

void bank_backward(const Bank& bank, const void* x, const float* taps, const Piece& piece, const void* const* gradients,
                   const BankGradients& wanted, float* scratch) {
  const auto run = [&](auto* typed) { backward(bank, typed, taps, piece, gradients, wanted, scratch); };
  switch (bank.storage) {
    case Storage::float64: return;
    case Storage::float32: return run(static_cast<const float*>(x));
    case Storage::bfloat16: return run(static_cast<const bfloat16*>(x));
    case Storage::float16: return run(static_cast<const float16*>(x));
  }
}

void normalise_gradient(const Bank& bank, const void* x, const float* mean_gradient, const float* slope, int64_t begin,
                        int64_t end, void* gradient) {
  const auto run = [&](auto* typed) {
    using T = __typeof__(*typed);
    normalise<T>(bank, static_cast<const T*>(x), mean_gradient, slope, begin, end, typed);
  };
  switch (bank.storage) {
    case Storage::float64: return;
    case Storage::float32: return run(static_cast<float*>(gradient));
    case Storage::bfloat16: return run(static_cast<bfloat16*>(gradient));
    case Storage::float16: return run(static_cast<float16*>(gradient));
  }
}

}  // namespace partnas::PARTNAS_CAPABILITY
