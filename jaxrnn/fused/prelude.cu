// What the kernels of jaxrnn.Fused are made of. A block of threads takes one row of the
// batch of one model through all of time; SPLITS neighbouring threads compute one feature
// and share its sums. Every array has the axis of models first, then time, then rows.
//
// Before this text stand: real (what is computed in), FEATURES, SPLITS, THREADS,
// SPAN (features that a thread multiplies with), KEPT (of them, with weights in
// registers), BUFFERS and REDUCTIONS (in shared memory), AHEAD (steps to read ahead),
// BACKWARDS (from the last step to the first).

typedef unsigned short bfloat16;
typedef unsigned char mark;

#define infinity ((real)__int_as_float(0x7f800000))
#define not_a_number ((real)__int_as_float(0x7fc00000))

constexpr int STRIDE = SPAN + 4;  // 4: threads of other splits read other banks
constexpr int PLACES = SPLITS * STRIDE;
constexpr int FROM_SHARED = (SPAN - KEPT) / 4;

// Elements of arrays.

__device__ inline float value_of(float x) { return x; }
__device__ inline double value_of(double x) { return x; }
__device__ inline bool value_of(mark x) { return x != 0; }
__device__ inline real value_of(bfloat16 x) { return __uint_as_float((unsigned)x << 16); }
__device__ inline void store(float* to, real x) { *to = (float)x; }
__device__ inline void store(double* to, real x) { *to = (double)x; }
__device__ inline void store(bfloat16* to, real x) {
  const unsigned bits = __float_as_uint((float)x);
  const unsigned rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to nearest, ties to even
  *to = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fff : rounded;          // NaN stays NaN
}
template <class Element>
__device__ inline real as_stored(real x) {
  Element stored;
  store(&stored, x);
  return value_of(stored);
}

// Arithmetic that CUDA lacks.

// 1 / x to two units of the last place, without the branch of a division, around which
// no other work can be done; only of x >= 1.
__device__ inline float inverse(float x) { return __fdividef(1, x); }
__device__ inline double inverse(double x) { return 1 / x; }
__device__ inline real logistic(real x) { return inverse(1 + exp(-x)); }
__device__ inline real sign(real x) { return x > 0 ? 1 : x < 0 ? -1 : x; }
__device__ inline real add(real x, real y) { return x + y; }
__device__ inline real maximum(real x, real y) { return x > y || x != x ? x : y; }  // NaN stays
__device__ inline real minimum(real x, real y) { return x < y || x != x ? x : y; }

// Who computes what.

__device__ inline void sync() {
  if (THREADS <= 32) __syncwarp(); else __syncthreads();
}

struct Block {
  int time;
  unsigned rows, model, row;
  size_t first;  // where the row has its first step
  __device__ Block(const int* sizes)
      : time(sizes[0]), rows(sizes[1]), model(blockIdx.x / rows), row(blockIdx.x % rows),
        first((size_t)model * time * rows + row) {}
  __device__ size_t at(unsigned t) const { return first + (size_t)t * rows; }
  __device__ int step(int n) const {  // the n-th that is computed
    const int clamped = n < time ? n : time - 1;
    return BACKWARDS ? time - 1 - clamped : clamped;
  }
};

struct Place {
  int feature, split;
  bool mine;  // whether this thread writes; those beyond the last feature only keep step
  __device__ Place() {
    const int at = threadIdx.x / SPLITS;
    split = threadIdx.x % SPLITS;
    feature = at < FEATURES ? at : FEATURES - 1;
    mine = FEATURES == THREADS || (at < FEATURES && split == 0);
  }
};

// Where this thread's element of one part of an array (rows, parts * FEATURES) is.
__device__ inline size_t element(size_t row, int parts, int part, const Place& place) {
  return (row * parts + part) * FEATURES + place.feature;
}

// An array (models, time, rows, PARTS * FEATURES), read some steps ahead of its use; of
// an EARLIER one the step before.
template <class Element, int PARTS, bool EARLIER = false>
struct Ahead {
  const Element* const array;
  const Block& block;
  const Place& place;
  Element of[AHEAD][PARTS];
  __device__ Ahead(const Element* array, const Block& block, const Place& place)
      : array(array), block(block), place(place) {
#pragma unroll
    for (int slot = 0; slot < AHEAD; ++slot)
#pragma unroll
      for (int part = 0; part < PARTS; ++part) fetch(slot, slot, part);
  }
  __device__ void fetch(int slot, int n, int part) {
    const int step = block.step(n), t = EARLIER && step > 0 ? step - 1 : step;
    of[slot][part] = array[element(block.at(t), PARTS, part, place)];
  }
  // What the n-th step reads; a later one is asked for in its place.
  __device__ auto take(int slot, int n, int part) {
    const auto value = value_of(of[slot][part]);
    fetch(slot, n + AHEAD, part);
    return value;
  }
};

struct Marks {  // (models, time, rows)
  const mark* const array;
  const Block& block;
  mark of[AHEAD];
  __device__ Marks(const mark* array, const Block& block) : array(array), block(block) {
#pragma unroll
    for (int slot = 0; slot < AHEAD; ++slot) of[slot] = array[block.at(block.step(slot))];
  }
  __device__ bool take(int slot, int n) {
    const bool value = of[slot] != 0;
    of[slot] = array[block.at(block.step(n + AHEAD))];
    return value;
  }
};

// Where features meet. Shared memory: vectors, two of each, so that one barrier between
// writing and reading is enough; sums of warps; weights that found no register.

extern __shared__ __align__(16) unsigned char shared_memory[];

struct __align__(16) Four { real of[4]; };

__device__ inline real* buffer(int parity, int slot) {
  return (real*)shared_memory + (parity * BUFFERS + slot) * PLACES;
}
__device__ inline real* sums_of_warps(int parity, int reduction) {
  return buffer(2, 0) + (parity * REDUCTIONS + reduction) * 32;
}
__device__ inline real* rest(int weight) {
  return sums_of_warps(2, 0) + (size_t)weight * FROM_SHARED * THREADS * 4;
}
__device__ inline void share(real x, const Place& place, real* to) {
  if (place.mine) to[place.feature / SPAN * STRIDE + place.feature % SPAN] = x;
}
__device__ inline void clear_buffers() {
  for (int i = threadIdx.x; i < 2 * BUFFERS * PLACES; i += THREADS) buffer(0, 0)[i] = 0;
  sync();
}

// The weights of this thread, of one (FEATURES, FEATURES) part of a parameter.
template <class Element>
__device__ inline void load_weights(const Element* param, int columns, int row, int column,
                                    bool transposed, const Place& place, real* kept, real* rest) {
#pragma unroll
  for (int k = 0; k < SPAN; ++k) {
    const int with = place.split * SPAN + k;
    const int i = row * FEATURES + (transposed ? place.feature : with);
    const int j = column * FEATURES + (transposed ? with : place.feature);
    const real weight = with < FEATURES ? value_of(param[(size_t)i * columns + j]) : (real)0;
    if (k < KEPT) kept[k] = weight;
    else rest[((k - KEPT) / 4 * THREADS + threadIdx.x) * 4 + k % 4] = weight;
  }
}

struct Sum {
  real of[4] = {};
  __device__ void add(const real* values, const Place& place, const real* kept, const real* rest) {
    const Four* x = (const Four*)(values + place.split * STRIDE);
#pragma unroll
    for (int k = 0; k < KEPT / 4; ++k) {
      const Four four = x[k];
#pragma unroll
      for (int i = 0; i < 4; ++i) of[i] += four.of[i] * kept[4 * k + i];
    }
#pragma unroll 8
    for (int k = 0; k < FROM_SHARED; ++k) {
      const Four four = x[KEPT / 4 + k];
      const Four weights = ((const Four*)rest)[k * THREADS + threadIdx.x];
#pragma unroll
      for (int i = 0; i < 4; ++i) of[i] += four.of[i] * weights.of[i];
    }
  }
  __device__ real total() const {
    real sum = (of[0] + of[1]) + (of[2] + of[3]);
#pragma unroll
    for (int other = 1; other < SPLITS; other *= 2) sum += __shfl_xor_sync(0xffffffff, sum, other);
    return sum;
  }
};

// Of one value of every feature; `sums` holds a number of each warp.
template <class Operator>
__device__ inline real over_threads(Operator both, real x, real neutral, const Place& place, real* sums) {
  real found = place.mine ? x : neutral;
#pragma unroll
  for (int other = 1; other < 32; other *= 2) found = both(found, __shfl_xor_sync(0xffffffff, found, other));
  if (THREADS <= 32) return found;
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = found;
  sync();
  found = sums[0];
  for (int warp = 1; warp < THREADS / 32; ++warp) found = both(found, sums[warp]);
  return found;
}
