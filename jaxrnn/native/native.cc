// How do the steps of simple_rnn, gru and lstm become a sequence on a CPU core?
//
// No row of a batch needs another one. So each thread takes some rows and walks with
// them through all of time: nothing waits for anything, and the carry of its rows and
// the kernels stay in the cache. A step is two small matrix products, inputs @ kernel
// and hidden @ recurrent_kernel, and one pass over their result; on the way back the
// gradients of the kernels are taken from some steps at once. `solvers/native.py`
// calls the two loops through XLA's foreign function interface.
//
// Arrays are row-major with the axes (time, batch, features), as in `HoistedScan`; an
// array without elements means None. A matrix holds its gates side by side.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

// Before a loop whose iterations touch different elements of different arrays.
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace {

namespace ffi = xla::ffi;
using Index = std::ptrdiff_t;

#if defined(__AVX512F__)
constexpr Index kVectorBytes = 64;
#elif defined(__AVX__)
constexpr Index kVectorBytes = 32;
#else
constexpr Index kVectorBytes = 16;
#endif
constexpr Index kRows = 8;  // rows of a register tile: 8 x 2 accumulators
constexpr std::size_t kSmallBytes = 16384;  // of a kernel that stays in the L1 cache

enum Kind : int32_t { kSimpleRnnTanh, kSimpleRnnRelu, kGru, kLstm };

constexpr Index gates_of(Kind kind) {
  return kind == kLstm ? 4 : kind == kGru ? 3 : 1;
}
// What the backward pass wants to find again, in multiples of features.
constexpr Index saved_of(Kind kind) {
  return kind == kLstm || kind == kGru ? 4 : 0;
}

// ---- activations -------------------------------------------------------------------
// The comparisons are written so that NaN passes through them.

// x p(x^2) / q(x^2), fitted to tanh on [-9, 9] with the least maximal relative error,
// 2e-8; evaluated in float32 it is within 3.4e-7, as XLA's own tanh (2.7e-7).
inline float tanh_of(float x) {
  x = x > 9.0f ? 9.0f : x;
  x = x < -9.0f ? -9.0f : x;
  const float s = x * x;
  float p = 1.335320405e-08f;
  p = p * s + 2.060804560e-05f;
  p = p * s + 3.495526702e-03f;
  p = p * s + 1.338097479e-01f;
  p = p * s + 9.999999796e-01f;
  float q = 7.775964847e-07f;
  q = q * s + 3.285533050e-04f;
  q = q * s + 2.587675101e-02f;
  q = q * s + 4.671429045e-01f;
  q = q * s + 1.0f;
  float y = x * p / q;
  y = y > 1.0f ? 1.0f : y;
  return y < -1.0f ? -1.0f : y;
}
inline double tanh_of(double x) { return std::tanh(x); }

template <class T>
inline T sigmoid_of(T x) {
  return T(0.5) + T(0.5) * tanh_of(T(0.5) * x);
}

template <Kind kind, class T>
inline T activation_of(T x) {
  if constexpr (kind == kSimpleRnnRelu) return x < 0 ? T(0) : x;
  return tanh_of(x);
}
template <Kind kind, class T>
inline T slope_from_output(T y) {
  if constexpr (kind == kSimpleRnnRelu) return y > 0 ? T(1) : T(0);
  return 1 - y * y;
}

// ---- small matrix products ---------------------------------------------------------

template <class T>
struct Simd {
  typedef T Vector
      __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
  static constexpr Index lanes = kVectorBytes / sizeof(T);
  static constexpr Index strip = 2 * lanes;  // columns of a register tile
};

inline Index round_up(Index n, Index to) { return (n + to - 1) / to * to; }

// Zeros, aligned to the cache line.
template <class T>
class Buffer {
 public:
  explicit Buffer(Index size) : size_(size) {
    const auto bytes = static_cast<std::size_t>(std::max<Index>(size, 1)) * sizeof(T);
    data_.reset(static_cast<T*>(::operator new(bytes, std::align_val_t(64))));
    std::memset(data_.get(), 0, bytes);
  }
  T* get() { return data_.get(); }
  const T* get() const { return data_.get(); }
  Index size() const { return size_; }

 private:
  struct Free {
    void operator()(T* data) const { ::operator delete(data, std::align_val_t(64)); }
  };
  Index size_;
  std::unique_ptr<T, Free> data_;
};

// A matrix (rows, columns), cut into strips of columns that lie together and are
// filled up with zeros.
template <class T>
class Strips {
 public:
  static constexpr Index strip = Simd<T>::strip;

  Strips(Index rows, Index columns)
      : rows_(rows), width_(round_up(columns, strip)), data_(rows * width_) {}

  static Strips of(const T* matrix, Index rows, Index columns) {
    Strips made(rows, columns);
    for (Index r = 0; r < rows; ++r)
      for (Index c = 0; c < columns; ++c) made.at(r, c) = matrix[r * columns + c];
    return made;
  }
  static Strips of_transposed(const T* matrix, Index rows, Index columns) {
    Strips made(columns, rows);
    for (Index r = 0; r < rows; ++r)
      for (Index c = 0; c < columns; ++c) made.at(c, r) = matrix[r * columns + c];
    return made;
  }

  Index rows() const { return rows_; }
  Index width() const { return width_; }
  const T* from(Index column) const { return data_.get() + column * rows_; }

 private:
  T& at(Index r, Index c) {
    return data_.get()[(c / strip) * rows_ * strip + r * strip + c % strip];
  }

  Index rows_, width_;
  Buffer<T> data_;
};

template <class T, Index rows>
inline void multiply_tile(const T* left, Index left_width, const T* right, Index inner,
                          bool add, T* out, Index out_width) {
  using Vector = typename Simd<T>::Vector;
  constexpr Index lanes = Simd<T>::lanes;
  Vector sums[rows][2] = {};
  if (add)
    for (Index r = 0; r < rows; ++r) {
      sums[r][0] = *reinterpret_cast<const Vector*>(out + r * out_width);
      sums[r][1] = *reinterpret_cast<const Vector*>(out + r * out_width + lanes);
    }
  for (Index k = 0; k < inner; ++k, right += 2 * lanes) {
    const Vector first = *reinterpret_cast<const Vector*>(right);
    const Vector second = *reinterpret_cast<const Vector*>(right + lanes);
    for (Index r = 0; r < rows; ++r) {
      const T value = left[r * left_width + k];
      sums[r][0] += value * first;
      sums[r][1] += value * second;
    }
  }
  for (Index r = 0; r < rows; ++r) {
    *reinterpret_cast<Vector*>(out + r * out_width) = sums[r][0];
    *reinterpret_cast<Vector*>(out + r * out_width + lanes) = sums[r][1];
  }
}

// out (rows, right.width) = left (rows, right.rows) @ right, or += that. Every element
// is one sum in the order of `right.rows`, whatever the number of rows is.
template <class T>
void multiply(const T* left, Index left_width, Index rows, const Strips<T>& right,
              bool add, T* out) {
  const Index inner = right.rows(), width = right.width();
  for (Index column = 0; column < width; column += Strips<T>::strip) {
    const T* strip = right.from(column);
    Index r = 0;
    for (; r + kRows <= rows; r += kRows)
      multiply_tile<T, kRows>(left + r * left_width, left_width, strip, inner, add,
                              out + r * width + column, width);
    for (; r < rows; ++r)
      multiply_tile<T, 1>(left + r * left_width, left_width, strip, inner, add,
                          out + r * width + column, width);
  }
}

// Rows that are going to stand on the left of `add_product`: kRows columns of all rows
// lie together, so that a tile reads one piece of memory.
template <class T>
class Columns {
 public:
  Columns(Index rows, Index columns)
      : rows_(rows), columns_(columns), data_(rows * round_up(columns, kRows)) {}

  void set(Index row, const T* values) {
    T* to = data_.get() + row * kRows;
    Index c = 0;
    for (; c + kRows <= columns_; c += kRows)  // of a size known to the compiler
      std::memcpy(to + c * rows_, values + c, sizeof(T) * kRows);
    if (c < columns_)
      std::memcpy(to + c * rows_, values + c, sizeof(T) * (columns_ - c));
  }
  const T* from(Index column) const { return data_.get() + column * rows_; }

 private:
  Index rows_, columns_;
  Buffer<T> data_;
};

// out (height, width) += left^T @ right over the first `rows` rows; height is a
// multiple of kRows, width one of the strip.
template <class T>
void add_product(const Columns<T>& left, Index height, const T* right, Index width,
                 Index rows, T* out) {
  using Vector = typename Simd<T>::Vector;
  constexpr Index lanes = Simd<T>::lanes;
  for (Index column = 0; column < width; column += 2 * lanes)
    for (Index first = 0; first < height; first += kRows) {
      Vector sums[kRows][2] = {};
      const T *l = left.from(first), *r = right + column;
      for (Index k = 0; k < rows; ++k, l += kRows, r += width) {
        const Vector r0 = *reinterpret_cast<const Vector*>(r);
        const Vector r1 = *reinterpret_cast<const Vector*>(r + lanes);
        for (Index i = 0; i < kRows; ++i) {
          sums[i][0] += l[i] * r0;
          sums[i][1] += l[i] * r1;
        }
      }
      for (Index i = 0; i < kRows; ++i) {
        T* o = out + (first + i) * width + column;
        *reinterpret_cast<Vector*>(o) += sums[i][0];
        *reinterpret_cast<Vector*>(o + lanes) += sums[i][1];
      }
    }
}

// ---- threads -----------------------------------------------------------------------

// Flushes denormal numbers to zero, as XLA does: a vanished gradient must cost nothing.
class FlushDenormals {
#if defined(__SSE__)
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#endif
};

// Runs work(0) ... work(count - 1), some of them on the pool. The caller works too and
// waits only for what another thread has begun: so it never waits for a pool whose
// threads wait for it. What is thrown on any thread is thrown here, when all is done.
template <class Work>
void in_parallel(ffi::ThreadPool pool, Index count, const Work& work) {
  struct Shared {
    std::atomic<Index> next{0};
    Index done = 0;
    std::exception_ptr failure;  // the first one
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto shared = std::make_shared<Shared>();
  auto run = [shared, count, &work] {
    FlushDenormals flush;
    for (Index i; (i = shared->next.fetch_add(1)) < count;) {
      std::exception_ptr failure;
      try {
        work(i);
      } catch (...) {
        failure = std::current_exception();
      }
      std::lock_guard<std::mutex> lock(shared->mutex);
      if (failure && !shared->failure) std::swap(failure, shared->failure);
      if (++shared->done == count) shared->all_done.notify_one();
    }
  };
  // One that starts after the end finds nothing left, and never touches `work`.
  try {
    for (Index i = 1; i < count; ++i) pool.Schedule(decltype(run)(run));
  } catch (const std::bad_alloc&) {  // so there are fewer of them
  }
  run();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done == count; });
  if (shared->failure) std::rethrow_exception(std::move(shared->failure));
}

// How the rows are shared out: `lanes` parts of one thread each, walked in blocks of
// rows whose intermediate values fit the cache.
struct Split {
  Index lanes, rows, block;

  Split(ffi::ThreadPool pool, Index batch, Index width, Index bytes, double work) {
    const Index by_work = static_cast<Index>(work / 1e6) + 1;  // about 10 microseconds
    const Index by_rows = (batch + kRows - 1) / kRows;
    const Index threads = static_cast<Index>(pool.num_threads());
    lanes = std::max<Index>(1, std::min({threads, by_work, by_rows}));
    rows = lanes == 1 ? batch : round_up((batch + lanes - 1) / lanes, kRows);
    lanes = std::max<Index>(1, rows ? (batch + rows - 1) / rows : 0);
    block = std::max<Index>(2 * kRows, (1 << 17) / std::max<Index>(1, width * bytes));
    block = std::min(rows, round_up(block, kRows));
  }

  // Calls run(lane, first row, number of rows) for every block.
  template <class Run>
  void walk(ffi::ThreadPool pool, Index batch, const Run& run) const {
    in_parallel(pool, lanes, [&](Index lane) {
      const Index end = std::min(batch, (lane + 1) * rows);
      for (Index first = lane * rows; first < end; first += block)
        run(lane, first, std::min(block, end - first));
    });
  }
};

// ---- the loops ---------------------------------------------------------------------

template <class T>
struct Problem {
  Index time, batch, in_features, features;
  const T *inputs, *kernel, *bias, *recurrent_kernel, *recurrent_bias;
  const T *first_hidden, *first_memory, *start_hidden, *start_memory;
  const bool *mask, *resets;
};

template <class T>
struct Forward : Problem<T> {
  T *hidden, *memory, *saved;
};

template <class T>
void copy(const T* from, Index size, T* to) {
  if (size) std::memcpy(to, from, sizeof(T) * size);  // None is a null pointer
}

template <Kind kind, class T>
void forward_block(const Forward<T>& a, const Strips<T>& kernel,
                   const Strips<T>& recurrent_kernel, Index begin, Index rows) {
  const Index n = a.features, gates = gates_of(kind) * n, width = kernel.width();
  const Index saved_width = saved_of(kind) * n;
  // A kernel that is not small is read less often: the inputs of some steps are
  // multiplied by it at once.
  const Index in = a.in_features;
  const bool small = kernel.rows() * width * sizeof(T) <= kSmallBytes;
  const Index chunk = small ? 1 : std::clamp<Index>(128 / rows, 1, std::max<Index>(1, a.time));
  Buffer<T> inputs(chunk > 1 ? chunk * rows * in : 0), of_inputs(chunk * rows * width);
  Buffer<T> of_hidden(kind == kGru ? rows * width : 0);
  Buffer<T> no_bias(gates), unsaved(saved_width);
  const T* b = a.bias ? a.bias : no_bias.get();
  const T* c = a.recurrent_bias ? a.recurrent_bias : no_bias.get();
  // The carry before a step is read where the step before left it, but for resets.
  const Index copied = a.resets ? rows * n : 0;
  Buffer<T> restarted(copied), restarted_memory(kind == kLstm ? copied : 0);
  const T* before = a.first_hidden + begin * n;
  const T* memory_before = kind == kLstm ? a.first_memory + begin * n : nullptr;

  for (Index t = 0; t < a.time; ++t) {
    const Index at = t * a.batch + begin;
    if (a.resets) {
      const auto restart = [&](const T* carry, const T* start, T* out) {
        for (Index r = 0; r < rows; ++r)
          copy((a.resets[at + r] ? start + begin * n : carry) + r * n, n, out + r * n);
        return out;
      };
      before = restart(before, a.start_hidden, restarted.get());
      if constexpr (kind == kLstm)
        memory_before = restart(memory_before, a.start_memory, restarted_memory.get());
    }
    if (chunk == 1) {
      multiply(a.inputs + at * in, in, rows, kernel, false, of_inputs.get());
    } else if (t % chunk == 0) {
      const Index steps = std::min(chunk, a.time - t);
      for (Index s = 0; s < steps; ++s)
        copy(a.inputs + (at + s * a.batch) * in, rows * in,
             inputs.get() + s * rows * in);
      multiply(inputs.get(), in, steps * rows, kernel, false, of_inputs.get());
    }
    T* products = of_inputs.get() + t % chunk * rows * width;
    if constexpr (kind == kGru)
      multiply(before, n, rows, recurrent_kernel, false, of_hidden.get());
    else
      multiply(before, n, rows, recurrent_kernel, true, products);

    T* hidden = a.hidden + at * n;
    T* memory = kind == kLstm ? a.memory + at * n : nullptr;
    for (Index r = 0; r < rows; ++r) {
      T *h = hidden + r * n, *m = memory + r * n;
      const T *h0 = before + r * n, *m0 = memory_before + r * n;
      if (a.mask && !a.mask[at + r]) {  // the carry is held
        copy(h0, n, h);
        if constexpr (kind == kLstm) copy(m0, n, m);
        continue;
      }
      const T* x = products + r * width;
      T* saved = a.saved ? a.saved + (at + r) * saved_width : unsaved.get();
      if constexpr (kind == kLstm) {
        INDEPENDENT
        for (Index j = 0; j < n; ++j) {
          const T i = sigmoid_of(x[j] + b[j]);
          const T f = sigmoid_of(x[n + j] + b[n + j]);
          const T g = tanh_of(x[2 * n + j] + b[2 * n + j]);
          const T o = sigmoid_of(x[3 * n + j] + b[3 * n + j]);
          m[j] = f * m0[j] + i * g;
          h[j] = o * tanh_of(m[j]);
          saved[j] = i, saved[n + j] = f;
          saved[2 * n + j] = g, saved[3 * n + j] = o;
        }
      } else if constexpr (kind == kGru) {
        const T* u = of_hidden.get() + r * width;
        INDEPENDENT
        for (Index j = 0; j < n; ++j) {
          const T z = sigmoid_of(x[j] + b[j] + (u[j] + c[j]));
          const T gate = sigmoid_of(x[n + j] + b[n + j] + (u[n + j] + c[n + j]));
          const T h_n = u[2 * n + j] + c[2 * n + j];
          const T candidate = tanh_of(x[2 * n + j] + b[2 * n + j] + gate * h_n);
          h[j] = z * h0[j] + (1 - z) * candidate;
          saved[j] = z, saved[n + j] = gate;
          saved[2 * n + j] = candidate, saved[3 * n + j] = h_n;
        }
      } else {
        INDEPENDENT
        for (Index j = 0; j < n; ++j) h[j] = activation_of<kind>(x[j] + b[j]);
      }
    }
    before = hidden;
    memory_before = memory;
  }
}

template <Kind kind, class T>
void forward(ffi::ThreadPool pool, const Forward<T>& a) {
  const Index gates = gates_of(kind) * a.features;
  const auto kernel = Strips<T>::of(a.kernel, a.in_features, gates);
  const auto recurrent_kernel = Strips<T>::of(a.recurrent_kernel, a.features, gates);
  const double work = 2.0 * a.time * a.batch * gates * (a.in_features + a.features);
  const Split split(pool, a.batch, kernel.width(), sizeof(T), work);
  split.walk(pool, a.batch, [&](Index, Index first, Index rows) {
    forward_block<kind>(a, kernel, recurrent_kernel, first, rows);
  });
}

template <class T>
struct Backward : Problem<T> {
  const T *hidden, *memory, *saved;        // as `forward` left them
  const T *direct_hidden, *direct_memory;  // cotangents of the carries of every step
  const T *last_hidden, *last_memory;      // those that come in after the last step
  T *of_inputs, *of_kernel, *of_bias, *of_recurrent_kernel, *of_recurrent_bias;
  T *of_first_hidden, *of_first_memory, *of_start_hidden, *of_start_memory;
};

// The gradient of `left @ kernel + bias`, summed over the steps and rows of one thread.
template <class T>
struct Sums {
  Index height, width;
  Buffer<T> kernel, bias;

  Sums(Index rows, Index columns)
      : height(round_up(rows, kRows)),
        width(round_up(columns, Simd<T>::strip)),
        kernel(height * width),
        bias(width) {}

  void add(const Columns<T>& left, const T* delta, Index rows) {
    add_product(left, height, delta, width, rows, kernel.get());
    T* total = bias.get();
    for (Index r = 0; r < rows; ++r) {
      const T* row = delta + r * width;
      INDEPENDENT
      for (Index j = 0; j < width; ++j) total[j] += row[j];
    }
  }

  void add(const Sums& other) {
    for (Index k = 0; k < height * width; ++k) kernel.get()[k] += other.kernel.get()[k];
    for (Index j = 0; j < width; ++j) bias.get()[j] += other.bias.get()[j];
  }

  void write(Index rows, Index columns, T* of_kernel, T* of_bias) const {
    for (Index r = 0; r < rows; ++r)
      copy(kernel.get() + r * width, columns, of_kernel + r * columns);
    if (of_bias) copy(bias.get(), columns, of_bias);
  }
};

template <Kind kind, class T>
void backward_block(const Backward<T>& a, const Strips<T>& kernel_transposed,
                    const Strips<T>& recurrent_transposed, Index begin, Index rows,
                    Sums<T>& sums, Sums<T>& recurrent_sums) {
  const Index n = a.features, gates = gates_of(kind) * n, in = a.in_features;
  const Index saved_width = saved_of(kind) * n, width = sums.width;
  // The gradients of the kernels are taken from some steps at once, which lie here.
  const Index chunk = std::clamp<Index>(256 / rows, 1, std::max<Index>(1, a.time));
  Columns<T> inputs(chunk * rows, in), befores(chunk * rows, n);
  Buffer<T> deltas(chunk * rows * width);
  // What reached hidden @ recurrent_kernel: the same delta but in a GRU.
  Buffer<T> recurrent_deltas(kind == kGru ? chunk * rows * width : 0);
  Buffer<T> cotangent(rows * n), of_memory(kind == kLstm ? rows * n : 0);
  Buffer<T> passed(rows * n);
  // Where the width is a multiple of the strip nothing need be cut off.
  const bool whole = kernel_transposed.width() == in;
  Buffer<T> of_inputs(
      a.of_inputs && !whole ? chunk * rows * kernel_transposed.width() : 0);
  Buffer<T> through_kernel(rows * recurrent_transposed.width());
  // All of a cotangent comes through the matmul: nothing is held, nothing cut off.
  const bool all_through = kind != kLstm && kind != kGru && !a.mask && !a.resets &&
                           recurrent_transposed.width() == n;
  copy(a.last_hidden + begin * n, rows * n, cotangent.get());
  if constexpr (kind == kLstm)
    copy(a.last_memory + begin * n, rows * n, of_memory.get());

  Index filled = 0;
  for (Index t = a.time - 1; t >= 0; --t) {
    const Index at = t * a.batch + begin;
    T* delta_rows = deltas.get() + filled * rows * width;
    T* recurrent_rows =
        kind == kGru ? recurrent_deltas.get() + filled * rows * width : delta_rows;
    for (Index r = 0; r < rows; ++r) {
      const bool restarted = a.resets && a.resets[at + r];
      const auto before = [&](const T* start, const T* first, const T* all) {
        if (restarted) return start + (begin + r) * n;
        return t == 0 ? first + (begin + r) * n : all + (at - a.batch + r) * n;
      };
      const T* h = before(a.start_hidden, a.first_hidden, a.hidden);
      befores.set(filled * rows + r, h);
      inputs.set(filled * rows + r, a.inputs + (at + r) * in);
      T* cot = cotangent.get() + r * n;
      T* pass = passed.get() + r * n;
      T* of_m = of_memory.get() + r * n;
      T* delta = delta_rows + r * width;
      if (a.direct_hidden) {
        const T* direct = a.direct_hidden + (at + r) * n;
        INDEPENDENT
        for (Index j = 0; j < n; ++j) cot[j] += direct[j];
      }
      if (kind == kLstm && a.direct_memory) {
        const T* direct = a.direct_memory + (at + r) * n;
        INDEPENDENT
        for (Index j = 0; j < n; ++j) of_m[j] += direct[j];
      }
      if (a.mask && !a.mask[at + r]) {  // the carry was held
        copy(cot, n, pass);
        std::memset(delta, 0, sizeof(T) * gates);
        std::memset(recurrent_rows + r * width, 0, sizeof(T) * gates);
        continue;
      }
      const T* saved = a.saved + (at + r) * saved_width;
      if constexpr (kind == kLstm) {
        const T* m = before(a.start_memory, a.first_memory, a.memory);
        const T* after = a.memory + (at + r) * n;
        INDEPENDENT
        for (Index j = 0; j < n; ++j) {
          const T i = saved[j], f = saved[n + j];
          const T g = saved[2 * n + j], o = saved[3 * n + j];
          const T exposed = tanh_of(after[j]);
          const T d_memory = of_m[j] + cot[j] * o * (1 - exposed * exposed);
          delta[j] = d_memory * g * i * (1 - i);
          delta[n + j] = d_memory * m[j] * f * (1 - f);
          delta[2 * n + j] = d_memory * i * (1 - g * g);
          delta[3 * n + j] = cot[j] * exposed * o * (1 - o);
          of_m[j] = d_memory * f;
          pass[j] = 0;
        }
      } else if constexpr (kind == kGru) {
        T* recurrent = recurrent_rows + r * width;
        INDEPENDENT
        for (Index j = 0; j < n; ++j) {
          const T z = saved[j], gate = saved[n + j];
          const T candidate = saved[2 * n + j], h_n = saved[3 * n + j];
          const T d_n = cot[j] * (1 - z) * (1 - candidate * candidate);
          const T d_z = cot[j] * (h[j] - candidate) * z * (1 - z);
          const T d_r = d_n * h_n * gate * (1 - gate);
          delta[j] = recurrent[j] = d_z;
          delta[n + j] = recurrent[n + j] = d_r;
          delta[2 * n + j] = d_n;
          recurrent[2 * n + j] = d_n * gate;
          pass[j] = cot[j] * z;
        }
      } else {
        const T* after = a.hidden + (at + r) * n;
        INDEPENDENT
        for (Index j = 0; j < n; ++j)
          delta[j] = cot[j] * slope_from_output<kind>(after[j]);
        if (!all_through) std::memset(pass, 0, sizeof(T) * n);
      }
    }
    multiply(recurrent_rows, width, rows, recurrent_transposed, false,
             all_through ? cotangent.get() : through_kernel.get());
    for (Index r = 0; r < rows && !all_through; ++r) {
      T* cot = cotangent.get() + r * n;
      const T* pass = passed.get() + r * n;
      const T* product = through_kernel.get() + r * recurrent_transposed.width();
      INDEPENDENT
      for (Index j = 0; j < n; ++j) cot[j] = pass[j] + product[j];
      if (a.resets && a.resets[at + r]) {  // what came before has no influence
        const auto to_start = [&](T* cotangent, T* of_start) {
          for (Index j = 0; j < n; ++j) {
            of_start[(begin + r) * n + j] += cotangent[j];
            cotangent[j] = 0;
          }
        };
        to_start(cot, a.of_start_hidden);
        if constexpr (kind == kLstm)
          to_start(of_memory.get() + r * n, a.of_start_memory);
      }
    }
    if (++filled < chunk && t > 0) continue;
    const Index steps = filled;
    filled = 0;
    sums.add(inputs, deltas.get(), steps * rows);
    recurrent_sums.add(befores, kind == kGru ? recurrent_deltas.get() : deltas.get(),
                       steps * rows);
    if (!a.of_inputs) continue;
    const auto out = [&](Index s) {  // the first step of a chunk is the latest
      return a.of_inputs + (at + (steps - 1 - s) * a.batch) * in;
    };
    if (whole) {
      for (Index s = 0; s < steps; ++s)
        multiply(deltas.get() + s * rows * width, width, rows, kernel_transposed, false,
                 out(s));
      continue;
    }
    multiply(deltas.get(), width, steps * rows, kernel_transposed, false,
             of_inputs.get());
    for (Index s = 0; s < steps; ++s)
      for (Index r = 0; r < rows; ++r)
        copy(of_inputs.get() + (s * rows + r) * kernel_transposed.width(), in,
             out(s) + r * in);
  }
  copy(cotangent.get(), rows * n, a.of_first_hidden + begin * n);
  if constexpr (kind == kLstm)
    copy(of_memory.get(), rows * n, a.of_first_memory + begin * n);
}

template <Kind kind, class T>
void backward(ffi::ThreadPool pool, const Backward<T>& a) {
  const Index n = a.features, gates = gates_of(kind) * n, in = a.in_features;
  const auto kernel = Strips<T>::of_transposed(a.kernel, in, gates);
  const auto recurrent_kernel = Strips<T>::of_transposed(a.recurrent_kernel, n, gates);
  for (T* of_start : {a.of_start_hidden, a.of_start_memory})
    if (of_start) std::memset(of_start, 0, sizeof(T) * a.batch * n);
  const double work = 4.0 * a.time * a.batch * gates * (in + n);
  const Split split(pool, a.batch, round_up(gates, Simd<T>::strip), sizeof(T), work);
  std::vector<Sums<T>> sums, recurrent_sums;
  for (Index lane = 0; lane < split.lanes; ++lane) {
    sums.emplace_back(in, gates);
    recurrent_sums.emplace_back(n, gates);
  }
  split.walk(pool, a.batch, [&](Index lane, Index first, Index rows) {
    backward_block<kind>(a, kernel, recurrent_kernel, first, rows, sums[lane],
                         recurrent_sums[lane]);
  });
  for (Index lane = 1; lane < split.lanes; ++lane) {
    sums[0].add(sums[lane]);
    recurrent_sums[0].add(recurrent_sums[lane]);
  }
  sums[0].write(in, gates, a.of_kernel, a.of_bias);
  recurrent_sums[0].write(n, gates, a.of_recurrent_kernel, a.of_recurrent_bias);
}

// ---- XLA's side --------------------------------------------------------------------

template <class T>
const T* values(const ffi::AnyBuffer& buffer) {
  return buffer.element_count() ? static_cast<const T*>(buffer.untyped_data()) : nullptr;
}
template <class T>
T* values(ffi::Result<ffi::AnyBuffer>& buffer) {
  return buffer->element_count() ? static_cast<T*>(buffer->untyped_data()) : nullptr;
}

// Calls run(kind, T) with both known at compile time. Nothing is thrown into XLA, which
// knows no exceptions.
template <class Run>
ffi::Error choose(int32_t kind, ffi::DataType dtype, const Run& run) {
  const auto of_kind = [&](auto zero) {
    switch (kind) {
      case kSimpleRnnTanh:
        run(std::integral_constant<Kind, kSimpleRnnTanh>(), zero);
        break;
      case kSimpleRnnRelu:
        run(std::integral_constant<Kind, kSimpleRnnRelu>(), zero);
        break;
      case kGru:
        run(std::integral_constant<Kind, kGru>(), zero);
        break;
      case kLstm:
        run(std::integral_constant<Kind, kLstm>(), zero);
        break;
      default:
        return ffi::Error(ffi::ErrorCode::kInvalidArgument, "unknown kind of cell");
    }
    return ffi::Error::Success();
  };
  try {
    if (dtype == ffi::DataType::F32) return of_kind(0.0f);
    if (dtype == ffi::DataType::F64) return of_kind(0.0);
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "jaxrnn.Native: no memory for what lies beside its results");
  } catch (const std::exception& error) {
    return ffi::Error(ffi::ErrorCode::kInternal,
                      std::string("jaxrnn.Native: ") + error.what());
  }
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "float32 or float64 only");
}

using Any = ffi::AnyBuffer;
using Out = ffi::Result<ffi::AnyBuffer>;

template <class T>
Problem<T> problem(const Any& inputs, const Any& kernel, const Any& bias,
                   const Any& recurrent_kernel, const Any& recurrent_bias,
                   const Any& first_hidden, const Any& first_memory,
                   const Any& start_hidden, const Any& start_memory, const Any& mask,
                   const Any& resets) {
  const auto shape = inputs.dimensions();
  return {static_cast<Index>(shape[0]),
          static_cast<Index>(shape[1]),
          static_cast<Index>(shape[2]),
          static_cast<Index>(recurrent_kernel.dimensions()[0]),
          values<T>(inputs),
          values<T>(kernel),
          values<T>(bias),
          values<T>(recurrent_kernel),
          values<T>(recurrent_bias),
          values<T>(first_hidden),
          values<T>(first_memory),
          values<T>(start_hidden),
          values<T>(start_memory),
          values<bool>(mask),
          values<bool>(resets)};
}

ffi::Error forward_call(ffi::ThreadPool pool, int32_t kind, Any inputs, Any kernel,
                        Any bias, Any recurrent_kernel, Any recurrent_bias,
                        Any first_hidden, Any first_memory, Any start_hidden,
                        Any start_memory, Any mask, Any resets, Out hidden, Out memory,
                        Out saved) {
  return choose(kind, inputs.element_type(), [&](auto of_kind, auto zero) {
    using T = decltype(zero);
    const auto given = problem<T>(inputs, kernel, bias, recurrent_kernel,
                                  recurrent_bias, first_hidden, first_memory,
                                  start_hidden, start_memory, mask, resets);
    forward<decltype(of_kind)::value, T>(
        pool, {given, values<T>(hidden), values<T>(memory), values<T>(saved)});
  });
}

ffi::Error backward_call(ffi::ThreadPool pool, int32_t kind, Any inputs, Any kernel,
                         Any bias, Any recurrent_kernel, Any recurrent_bias,
                         Any first_hidden, Any first_memory, Any start_hidden,
                         Any start_memory, Any mask, Any resets, Any hidden, Any memory,
                         Any saved, Any direct_hidden, Any direct_memory,
                         Any last_hidden, Any last_memory, Out of_inputs, Out of_kernel,
                         Out of_bias, Out of_recurrent_kernel, Out of_recurrent_bias,
                         Out of_first_hidden, Out of_first_memory, Out of_start_hidden,
                         Out of_start_memory) {
  return choose(kind, inputs.element_type(), [&](auto of_kind, auto zero) {
    using T = decltype(zero);
    const auto given = problem<T>(inputs, kernel, bias, recurrent_kernel,
                                  recurrent_bias, first_hidden, first_memory,
                                  start_hidden, start_memory, mask, resets);
    backward<decltype(of_kind)::value, T>(
        pool, {given, values<T>(hidden), values<T>(memory), values<T>(saved),
               values<T>(direct_hidden), values<T>(direct_memory),
               values<T>(last_hidden), values<T>(last_memory), values<T>(of_inputs),
               values<T>(of_kernel), values<T>(of_bias),
               values<T>(of_recurrent_kernel), values<T>(of_recurrent_bias),
               values<T>(of_first_hidden), values<T>(of_first_memory),
               values<T>(of_start_hidden), values<T>(of_start_memory)});
  });
}

template <int arguments, int results, class Binding>
auto bind_arrays(Binding&& binding) {
  if constexpr (arguments > 0)
    return bind_arrays<arguments - 1, results>(std::move(binding).template Arg<Any>());
  else if constexpr (results > 1)
    return bind_arrays<0, results - 1>(std::move(binding).template Ret<Any>());
  else
    return std::move(binding).template Ret<Any>();
}

const auto with_kind = [] {
  return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<int32_t>("kind");
};
const auto forward_binding = [] { return bind_arrays<11, 3>(with_kind()); };
const auto backward_binding = [] { return bind_arrays<18, 9>(with_kind()); };

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_forward, forward_call, forward_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_backward, backward_call, backward_binding());
