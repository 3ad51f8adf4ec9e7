// 1x1 convolutions: products of many pixels by a small matrix.
//
// The output channels of a block of pixels stay in registers while the input channels go by: one row of the packed
// matrix is loaded, and each pixel's number is spread over it. Stores are always whole vectors: what runs over the end of
// a pixel is overwritten by the next one, for pixels go in order and the last vectors of each come first; only where
// nothing follows is a pixel stored piece by piece. Sums for the weights keep a block of the matrix in registers while the
// pixels of a chunk go by. A chunk stays in the first cache, so the gradient is fetched once for both of its products.
// Types other than float are widened a chunk at a time, clipped where ReLU comes first, and rows put together where they
// are those of several maps.
#include "cpu/pointwise.h"

#include <math.h>

#include "cpu/rows.h"

// Loops over registers must leave no index behind, or the registers become memory.
#define PARTNAS_UNROLL _Pragma("GCC unroll 16")

namespace partnas::PARTNAS_CAPABILITY {
namespace {

// Vectors of a block, and its pixels: the sums and a row of the matrix fill the registers.
constexpr int widest = lanes == 16 ? 4 : 2;
template <int vectors>
constexpr int pixels_of = lanes == 16 && vectors > 1 ? 24 / vectors : 12 / vectors;
template <int vectors>
constexpr int rows_of = (lanes == 16 ? 16 : 8) / vectors;

constexpr int64_t chunk_elements = 1 << 12;
constexpr int64_t least_chunk = 48;

int64_t room_of(int64_t channels) { return (channels + lanes - 1) / lanes * lanes; }

int64_t chunk_pixels(const PointwiseShape& shape) {
  const int64_t fitting = chunk_elements / (shape.in + shape.out + 1) / 12 * 12;
  return fitting > least_chunk ? fitting : least_chunk;
}

// f(first vector, constant number of vectors) over the vectors [begin, end), the last ones first.
template <int n>
struct Vectors {
  static constexpr int count = n;
};

template <int n, typename F>
inline void from_the_last(int64_t end, const F& f, int64_t begin = 0) {
  for (; end - begin >= n; end -= n) f(end - n, Vectors<n>{});
  if constexpr (n > 1) from_the_last<n - 1>(end, f, begin);
}

// Where piece `piece` of `pieces` of a row of results begins: what `from_the_last` takes at once is not cut.
int64_t column_of(const PointwiseShape& shape, int64_t piece, int64_t pieces) {
  const int64_t vectors = room_of(shape.out) / lanes, blocks = vectors / widest;
  return piece == 0 ? 0 : vectors % widest + blocks * piece / pieces * widest;
}

// --- products --------------------------------------------------------------------------------------------------------

template <int vectors, int pixels>
__attribute__((always_inline)) inline void multiply(const float* x, int64_t in, const float* matrix,
                                                    Floats (&sum)[pixels][vectors]) {
  PARTNAS_UNROLL
  for (int p = 0; p < pixels; ++p)
    PARTNAS_UNROLL
    for (int v = 0; v < vectors; ++v) sum[p][v] = Floats{};
  for (int64_t k = 0; k < in; ++k, matrix += vectors * lanes) {
    Floats row[vectors];
    PARTNAS_UNROLL
    for (int v = 0; v < vectors; ++v) row[v] = load(matrix + v * lanes);
    PARTNAS_UNROLL
    for (int p = 0; p < pixels; ++p)
      PARTNAS_UNROLL
      for (int v = 0; v < vectors; ++v) sum[p][v] += x[p * in + k] * row[v];
  }
}

// What is written to y, and what is added to it first.
template <typename T>
struct Target {
  T* y;
  const float* bias;
  const T* add;
  bool streams;

  Target at(int64_t elements) const { return {y + elements, bias, add ? add + elements : nullptr, streams}; }
};

// One block of pixels, their channels from `first` on; `free` elements after its last pixel may be touched.
template <int vectors, int pixels, typename T>
inline void block(const PointwiseShape& shape, const float* x, const float* matrix, int64_t first, int64_t free,
                  const Target<T>& target) {
  Floats sum[pixels][vectors];
  multiply(x, shape.in, matrix, sum);
  const int64_t over = first + vectors * lanes - shape.out;
  T* y = target.y + first;
  if (target.bias) {
    PARTNAS_UNROLL
    for (int v = 0; v < vectors; ++v) {
      const Floats bias = load(target.bias + first + v * lanes);
      PARTNAS_UNROLL
      for (int p = 0; p < pixels; ++p) sum[p][v] += bias;
    }
  }
  if (over <= free) {
    if (target.add) {
      PARTNAS_UNROLL
      for (int p = 0; p < pixels; ++p)
        PARTNAS_UNROLL
        for (int v = 0; v < vectors; ++v) sum[p][v] += load(target.add + first + p * shape.row + v * lanes);
    }
    if (target.streams) {
      PARTNAS_UNROLL
      for (int p = 0; p < pixels; ++p)
        PARTNAS_UNROLL
        for (int v = 0; v < vectors; ++v) stream(y + p * shape.row + v * lanes, sum[p][v]);
      return;
    }
    PARTNAS_UNROLL
    for (int p = 0; p < pixels; ++p)
      PARTNAS_UNROLL
      for (int v = 0; v < vectors; ++v) store(y + p * shape.row + v * lanes, sum[p][v]);
    return;
  }
  Floats kept[pixels][vectors];
  PARTNAS_UNROLL
  for (int p = 0; p < pixels; ++p)
    PARTNAS_UNROLL
    for (int v = 0; v < vectors; ++v) kept[p][v] = sum[p][v];
  for (int p = 0; p < pixels; ++p)
    for (int v = 0; v < vectors; ++v) {
      const int64_t left = shape.out - first - v * lanes;
      const bool is_part = left < lanes;
      if (target.add) {
        const T* from = target.add + first + p * shape.row + v * lanes;
        kept[p][v] += is_part ? load_some(from, left, 0.0f) : load(from);
      }
      T* to = y + p * shape.row + v * lanes;
      is_part ? store_some(to, kept[p][v], left) : store(to, kept[p][v]);
    }
}

// Columns of `pixels` rows of x to the target, after which `pixels_after` more will be written.
template <typename T>
void multiply_chunk(const PointwiseShape& shape, const float* x, const float* packed, int64_t pixels,
                    int64_t pixels_after, const PointwisePart& part, const Target<T>& target) {
  const int64_t in = shape.in, row = shape.row;
  // What lies between rows that are apart is not to be touched.
  const auto free_after = [&](int64_t pixel) { return row == shape.out ? (pixels + pixels_after - pixel) * row : 0; };
  const auto columns = [&](int64_t first, auto width) {
    constexpr int vectors = decltype(width)::count, together = pixels_of<vectors>;
    const float* matrix = packed + first * lanes * in;
    if (pixels < together) {
      for (int64_t p = 0; p < pixels; ++p)
        block<vectors, 1>(shape, x + p * in, matrix, first * lanes, free_after(p + 1), target.at(p * row));
      return;
    }
    for (int64_t next = 0; next < pixels; next += together) {
      // The last block may do pixels again that the one before has done.
      const int64_t p = next < pixels - together ? next : pixels - together;
      block<vectors, together>(shape, x + p * in, matrix, first * lanes, free_after(p + together), target.at(p * row));
    }
  };
  from_the_last<widest>(column_of(shape, part.column + 1, part.columns), columns,
                        column_of(shape, part.column, part.columns));
}

// --- sums over pixels ------------------------------------------------------------------------------------------------

// sums[i][...] += sum over the pixels of x[i] * with[...]: `rows` rows of the sums, `vectors` vectors of each.
template <int vectors, int rows, typename Load>
inline void sum_block(const PointwiseShape& shape, const float* x, const float* with, int64_t pixels, const Load& get,
                      float* sums, int64_t room) {
  Floats sum[rows][vectors];
  PARTNAS_UNROLL
  for (int i = 0; i < rows; ++i)
    PARTNAS_UNROLL
    for (int v = 0; v < vectors; ++v) sum[i][v] = Floats{};
  for (int64_t p = 0; p < pixels; ++p, x += shape.in, with += shape.out) {
    Floats value[vectors];
    PARTNAS_UNROLL
    for (int v = 0; v < vectors; ++v) value[v] = get(with, v);
    PARTNAS_UNROLL
    for (int i = 0; i < rows; ++i)
      PARTNAS_UNROLL
      for (int v = 0; v < vectors; ++v) sum[i][v] += x[i] * value[v];
  }
  PARTNAS_UNROLL
  for (int i = 0; i < rows; ++i)
    PARTNAS_UNROLL
    for (int v = 0; v < vectors; ++v) {
      float* to = sums + i * room + v * lanes;
      store(to, load(to) + sum[i][v]);
    }
}

template <int vectors, int rows, typename Load>
inline void sum_rows(const PointwiseShape& shape, int64_t row, const float* x, const float* with, int64_t pixels,
                     const Load& get, float* sums, int64_t room) {
  for (; row + rows <= shape.in; row += rows)
    sum_block<vectors, rows>(shape, x + row, with, pixels, get, sums + row * room, room);
  if constexpr (rows > 1) sum_rows<vectors, rows / 2>(shape, row, x, with, pixels, get, sums, room);
}

// No more than `readable` floats from `with` on are read.
void sum_chunk(const PointwiseShape& shape, const float* x, const float* with, int64_t pixels, int64_t readable,
               float* sums) {
  const int64_t out = shape.out, room = room_of(out);
  int64_t whole = pixels;
  while (whole > 0 && (whole - 1) * out + room > readable) --whole;
  from_the_last<widest>(room / lanes, [&](int64_t first, auto width) {
    constexpr int vectors = decltype(width)::count, rows = rows_of<vectors>;
    const int64_t column = first * lanes;
    sum_rows<vectors, rows>(
        shape, 0, x, with + column, whole, [](const float* from, int v) { return load(from + v * lanes); }, sums + column,
        room);
    if (whole == pixels) return;
    const auto some = [&](const float* from, int v) {
      const int64_t left = out - column - v * lanes;
      return left < lanes ? load_some(from + v * lanes, left, 0.0f) : load(from + v * lanes);
    };
    sum_rows<vectors, rows>(shape, 0, x + whole * shape.in, with + whole * out + column, pixels - whole, some,
                            sums + column, room);
  });
}

// --- types -----------------------------------------------------------------------------------------------------------

template <typename T>
constexpr bool is_float = sizeof(T) == sizeof(float);

// `count` numbers as floats, clipped at zero or not.
template <typename T>
void convert(const T* from, int64_t count, bool clips, float* to) {
  // max(0, NaN) is NaN.
  const Floats least = broadcast(clips ? 0.0f : -INFINITY);
  for_vectors(count, [&](int64_t i, auto io) { io.put(to + i, maximum(least, io.get(from + i))); });
}

// The same, in `room` where that differs from the numbers themselves.
template <typename T>
const float* widen(const T* from, int64_t count, bool clips, float* room) {
  if constexpr (is_float<T>)
    if (!clips) return from;
  convert(from, count, clips, room);
  return room;
}

// f(index of a pixel among the `pixels` from `at` on, pixel of x or -1 beyond an edge) for every second pixel of x.
template <typename F>
inline void for_every_second(const EverySecond& of, int64_t at, int64_t pixels, const F& f) {
  const int64_t width = (of.width + 1) / 2, height = (of.height + 1) / 2;
  int64_t column = at % width, row = at / width % height, image = at / width / height;
  for (int64_t p = 0; p < pixels; ++row, column = 0) {
    if (row == height) row = 0, ++image;
    const int64_t y = 2 * row + of.first, begin = (image * of.height + y) * of.width + of.first;
    for (; column < width && p < pixels; ++column, ++p)
      f(p, y < of.height && 2 * column + of.first < of.width ? begin + 2 * column : -1);
  }
}

// The rows of `pixels` pixels from pixel `at` on, as floats, clipped or not: in place, or in `room`.
template <typename T>
const float* rows(const PointwiseShape& shape, const void* const* x, int64_t at, int64_t pixels, float* room) {
  const int64_t channels = shape.in / shape.parts;
  for (int64_t s = 0; s < shape.parts; ++s) {
    const T* part = static_cast<const T*>(x[s]);
    float* to = room + s * channels;
    if (shape.second) {
      for_every_second(*shape.second, at, pixels, [&](int64_t p, int64_t pixel) {
        if (pixel < 0) {
          memset(to + p * shape.in, 0, static_cast<size_t>(channels) * sizeof(float));
        } else {
          convert(part + pixel * channels, channels, shape.clips, to + p * shape.in);
        }
      });
    } else if (shape.parts == 1) {
      return widen(part + at * channels, pixels * channels, shape.clips, room);
    } else {
      for (int64_t p = 0; p < pixels; ++p)
        convert(part + (at + p) * channels, channels, shape.clips, to + p * shape.in);
    }
  }
  return room;
}

// Zeros where `clipped` is not above zero.
template <typename T>
void mask(const T* clipped, int64_t count, T* to) {
  for_vectors(count, [&](int64_t i, auto io) {
    const Floats x = io.get(clipped + i);
    io.put(to + i, x <= 0.0f ? Floats{} : io.get(to + i));
  });
}

template <typename T>
void run(const PointwiseShape& shape, const PointwiseMaps& maps, const float* packed, const PointwisePart& part,
         float* scratch) {
  const int64_t in = shape.in, out = shape.out, chunk = chunk_pixels(shape);
  const T* with = static_cast<const T*>(maps.with);
  T* y = static_cast<T*>(maps.y);
  // A mask reads the results again.
  const bool streams = maps.streams && is_float<T> && !shape.masks && can_stream_blocks(y, shape.row, out) &&
                       can_stream_blocks(y, shape.row, widest * lanes);
  const Target<T> target{y, maps.bias, static_cast<const T*>(maps.add), streams};
  float* other = scratch + chunk * in;
  for_chunks(part.begin, part.end, chunk, [&](int64_t at, int64_t pixels) {
    const int64_t after = part.end - at - pixels;
    const float* numbers = rows<T>(shape, maps.x, at, pixels, scratch);
    if (y) multiply_chunk(shape, numbers, packed, pixels, after, part, target.at(at * shape.row));
    if (y && shape.masks) mask(with + at * out, pixels * out, y + at * out);
    if (!maps.sums) return;
    const float* others = widen(with + at * out, pixels * out, shape.masks, other);
    sum_chunk(shape, numbers, others, pixels, pixels * out + (others == other ? lanes : after * out), maps.sums);
  });
  if (streams) finish_streams();
}

}  // namespace

int64_t pointwise_lanes() { return lanes; }

int64_t pointwise_room(int64_t channels) { return room_of(channels); }

int64_t pointwise_scratch(const PointwiseShape& shape) {
  const bool copies = shape.storage != Storage::float32 || shape.parts > 1 || shape.clips || shape.masks || shape.second;
  return copies ? chunk_pixels(shape) * (shape.in + shape.out) + lanes : 0;
}

void pack_pointwise(const PointwiseShape& shape, const float* matrix, int64_t out_stride, int64_t in_stride,
                    int64_t begin, int64_t end, float* packed) {
  const int64_t in = shape.in, out = shape.out;
  from_the_last<widest>(room_of(out) / lanes, [&](int64_t first, auto width) {
    constexpr int64_t columns = decltype(width)::count * lanes;
    const int64_t column = first * lanes, count = out - column < columns ? out - column : columns;
    float* to = packed + column * in;
    if (out_stride == 1) {
      for (int64_t k = begin; k < end; ++k) {
        memcpy(to + k * columns, matrix + column + k * in_stride, static_cast<size_t>(count) * sizeof(float));
        memset(to + k * columns + count, 0, static_cast<size_t>(columns - count) * sizeof(float));
      }
      return;
    }
    // A cache line of each output's numbers at a time: more streams than the hardware foresees, so the next are asked for.
    constexpr int64_t together = 16;
    for (int64_t next = begin; next < end; next += together)
      for (int64_t o = 0; o < columns; ++o) {
        const float* from = matrix + (column + o) * out_stride;
        const auto ahead = static_cast<uintptr_t>(next * in_stride + 2 * together) * sizeof(float);
        if (o < count) __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from) + ahead), 0, 2);
        for (int64_t k = next; k < next + together && k < end; ++k)
          to[k * columns + o] = o < count ? from[k * in_stride] : 0.0f;
      }
  });
}

int64_t pointwise_columns(const PointwiseShape& shape) {
  // A vector that runs over the end of a pixel would write to what another piece has written.
  return shape.out % lanes == 0 && shape.out >= widest * lanes ? shape.out / lanes / widest : 1;
}

void pointwise(const PointwiseShape& shape, const PointwiseMaps& maps, const float* packed, const PointwisePart& part,
               float* scratch) {
  with_storage(shape.storage, [&](auto* typed) {
    run<__typeof__(*typed)>(shape, maps, packed, part, scratch);
  });
}

}  // namespace partnas::PARTNAS_CAPABILITY
