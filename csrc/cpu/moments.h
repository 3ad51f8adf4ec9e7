// Mean and variance of every channel in one read.
//
// Each element of a row keeps float32 sums of what is left when the mean of all that came before is taken away, and these
// are added in double: as exact as two passes, also where the mean is thousands of deviations from zero.
// Included by kernel files only, inside no namespace.
#pragma once

#include "common/row_shape.h"
#include "cpu/rows.h"

namespace partnas::PARTNAS_CAPABILITY {
namespace {

struct Moments {
  int64_t channels, length, started;
  // Pieces of `elements` each that are in the float32 sums and not yet in the double ones.
  int64_t pieces, elements;
  double *count, *total, *square;      // of x - first
  float *first, *shift, *sum, *squares;  // sums of one piece, of x - shift
};

inline Moments moments_in(double* scratch, const RowShape& shape) {
  const int64_t room = shape.room;
  memset(scratch, 0, static_cast<size_t>(3 * room) * sizeof(double));
  float* floats = reinterpret_cast<float*>(scratch + 3 * room);
  static_assert(moments_scratch == 5, "three doubles and four floats");
  return {shape.channels, shape.length, 0, 0, 0, scratch, scratch + room, scratch + 2 * room, floats, floats + room,
          floats + 2 * room, floats + 3 * room};
}

inline void add_pieces(Moments& m, int64_t begin, int64_t end, double rows) {
  for (int64_t i = begin; i < end; ++i) {
    const double moved = static_cast<double>(m.shift[i]) - static_cast<double>(m.first[i]), sum = m.sum[i];
    m.count[i] += rows;
    m.total[i] += sum + rows * moved;
    m.square[i] += m.squares[i] + moved * (2 * sum + rows * moved);
    m.shift[i] = m.first[i] + static_cast<float>(m.total[i] / m.count[i]);
  }
}

// Adds the float32 sums to the double ones, and clears them.
inline void flush(Moments& m) {
  const int64_t rows = m.elements / m.length, longer = m.elements % m.length;
  add_pieces(m, 0, longer, static_cast<double>(m.pieces * (rows + 1)));
  if (rows > 0) add_pieces(m, longer, m.length, static_cast<double>(m.pieces * rows));
  memset(m.sum, 0, static_cast<size_t>(m.started) * sizeof(float));
  memset(m.squares, 0, static_cast<size_t>(m.started) * sizeof(float));
  m.pieces = 0;
}

// Takes the mean over this piece as the first shift of elements that no piece has reached yet.
template <typename T>
inline void start_moments(Moments& m, const T* x, int64_t elements, int64_t row) {
  memset(m.sum, 0, static_cast<size_t>(row) * sizeof(float));
  for_rows(elements, m.length, [&](int64_t at, int64_t length, auto rows) {
    for_vectors(length, [&](int64_t i, auto part) {
      Floats sum = part.get(m.sum + i);
      for (int r = 0; r < rows.count; ++r) sum += part.get(x + at + r * length + i);
      part.put(m.sum + i, sum);
    });
  });
  const int64_t rows = elements / m.length, longer = elements % m.length;
  for (int64_t i = m.started; i < row; ++i)
    m.first[i] = m.shift[i] = m.sum[i] / static_cast<float>(i < longer ? rows + 1 : rows);
  memset(m.sum, 0, static_cast<size_t>(row) * sizeof(float));
  memset(m.squares, 0, static_cast<size_t>(row) * sizeof(float));
  m.started = row;
}

// Adds a piece of a map that begins where a row begins. A piece has few rows, as its sums are float32.
template <typename T>
inline void add_moments(Moments& m, const T* x, int64_t elements) {
  constexpr int64_t rows_together = 16;
  const int64_t row = m.length < elements ? m.length : elements;
  if (m.pieces > 0 && elements != m.elements) flush(m);
  if (m.started < row) start_moments(m, x, elements, row);
  for_rows(elements, m.length, [&](int64_t at, int64_t length, auto rows) {
    for_vectors(length, [&](int64_t i, auto part) {
      const Floats shift = part.get(m.shift + i);
      Floats sum = part.get(m.sum + i), squares = part.get(m.squares + i);
      for (int r = 0; r < rows.count; ++r) {
        prefetch(x + at + r * length + i);
        const Floats d = part.get(x + at + r * length + i) - shift;
        sum += d;
        squares += d * d;
      }
      part.put(m.sum + i, sum);
      part.put(m.squares + i, squares);
    });
  });
  m.elements = elements;
  m.pieces += 1;
  if (m.pieces * (elements / m.length + 1) > rows_together) flush(m);
}

// Writes (count, mean, sum of squared deviations) of every channel.
inline void finish_moments(Moments& m, double* result) {
  if (m.pieces > 0) flush(m);
  for (int64_t c = 0; c < m.channels; ++c) {
    double count = 0, mean = 0, square = 0;
    for (int64_t i = c; i < m.started; i += m.channels) {
      const double n = m.count[i], sum = count + n, d = m.first[i] + m.total[i] / n - mean;
      mean += d * n / sum;
      square += m.square[i] - m.total[i] * m.total[i] / n + d * d * count * n / sum;
      count = sum;
    }
    result[3 * c] = count;
    result[3 * c + 1] = mean;
    result[3 * c + 2] = square;
  }
}

}  // namespace
}  // namespace partnas::PARTNAS_CAPABILITY
