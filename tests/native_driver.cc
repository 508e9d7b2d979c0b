// Drives the loops of native.cc through random shapes, without JAX and without XLA: for
// builds with sanitizers, and for memory that runs out. Prints what it did; ends with 1
// where something was wrong.
//
// A thread of this pool may start late, after the call that scheduled it has returned.

#include "native.cc"

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>

// ---- memory that runs out ----------------------------------------------------------

std::atomic<long> allocations_left{-1};  // negative: without limit

void* allocate(std::size_t size, std::size_t alignment) {
  if (allocations_left.load() >= 0 && allocations_left.fetch_sub(1) <= 0) {
    allocations_left = 0;
    throw std::bad_alloc();
  }
  const std::size_t whole = (std::max<std::size_t>(size, 1) + alignment - 1) / alignment;
  void* found = std::aligned_alloc(alignment, whole * alignment);
  if (!found) throw std::bad_alloc();
  return found;
}
void* operator new(std::size_t size) { return allocate(size, 16); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* data) noexcept { std::free(data); }
void operator delete(void* data, std::size_t) noexcept { std::free(data); }
void operator delete(void* data, std::align_val_t) noexcept { std::free(data); }
void operator delete(void* data, std::size_t, std::align_val_t) noexcept {
  std::free(data);
}

// ---- a pool of threads -------------------------------------------------------------

struct Task {
  XLA_FFI_Task* run;
  void* data;
};
int64_t threads = 1;
std::vector<std::thread> running;
std::vector<Task> late;

struct Unlimited {  // what is allocated here is not the loops'
  long before = allocations_left.exchange(-1);
  ~Unlimited() { allocations_left = before; }
};

XLA_FFI_Error* schedule(XLA_FFI_ThreadPool_Schedule_Args* args) {
  Unlimited unlimited;
  const Task task{args->task, args->data};
  if ((running.size() + late.size()) % 3 == 2)
    late.push_back(task);
  else
    running.emplace_back([task] { task.run(task.data); });
  return nullptr;
}

XLA_FFI_Error* number(XLA_FFI_ThreadPool_NumThreads_Args* args) {
  *args->num_threads = threads;
  return nullptr;
}

template <class Call>
void with_pool(const Call& call) {
  XLA_FFI_Api api{};
  api.XLA_FFI_ThreadPool_Schedule = schedule;
  api.XLA_FFI_ThreadPool_NumThreads = number;
  ffi::DiagnosticEngine diagnostic;
  const auto finish = [] {
    Unlimited unlimited;
    for (auto& thread : running) thread.join();
    for (const Task& task : late) task.run(task.data);
    running.clear();
    late.clear();
  };
  try {
    call(*ffi::CtxDecoding<ffi::ThreadPool>::Decode(&api, nullptr, diagnostic));
  } catch (...) {
    finish();
    throw;
  }
  finish();
}

// ---- problems ----------------------------------------------------------------------

std::mt19937 generator(0);

Index up_to(Index most) {
  return std::uniform_int_distribution<Index>(0, most)(generator);
}

template <class T>
struct Array {  // of its very size, so that a step beyond it is seen
  std::unique_ptr<T[]> data;
  Index size;

  explicit Array(Index size, bool drawn = true) : data(new T[size]()), size(size) {
    std::normal_distribution<double> normal;
    for (Index i = 0; drawn && i < size; ++i)
      data[i] = std::is_same_v<T, bool> ? normal(generator) < 0.8
                                        : static_cast<T>(0.3 * normal(generator));
  }
  T* get() { return size ? data.get() : nullptr; }
};

template <class T>
struct Given {
  Index time, batch, in, n, gates, saved_width;
  bool memory, reset_after;
  Array<T> inputs, kernel, bias, recurrent_kernel, recurrent_bias;
  Array<T> first, first_memory, start, start_memory;
  Array<bool> mask, resets;

  Given(Kind kind, Index time, Index batch, Index in, Index n, int marks)
      : time(time), batch(batch), in(in), n(n), gates(gates_of(kind) * n),
        saved_width(saved_of(kind) * n), memory(kind == kLstm),
        reset_after(kind == kGru), inputs(time * batch * in), kernel(in * gates),
        bias(marks & 1 ? gates : 0), recurrent_kernel(n * gates),
        recurrent_bias(reset_after && marks & 1 ? gates : 0), first(batch * n),
        first_memory(memory ? batch * n : 0), start(marks & 2 ? batch * n : 0),
        start_memory(memory && marks & 2 ? batch * n : 0),
        mask(marks & 4 ? time * batch : 0), resets(marks & 2 ? time * batch : 0) {}

  Problem<T> problem() {
    return {time, batch, in, n, inputs.get(), kernel.get(), bias.get(),
            recurrent_kernel.get(), recurrent_bias.get(), first.get(),
            first_memory.get(), start.get(), start_memory.get(), mask.get(),
            resets.get()};
  }
};

template <class T>
struct Found {
  std::vector<Array<T>> arrays;
  T* make(Index size) {
    arrays.emplace_back(size, false);
    return arrays.back().get();
  }
  bool operator==(Found& other) {
    for (std::size_t i = 0; i < arrays.size(); ++i)
      for (Index j = 0; j < arrays[i].size; ++j)
        if (arrays[i].data[j] != other.arrays[i].data[j]) return false;
    return true;
  }
};

template <Kind kind, class T>
Found<T> run(Given<T>& g, bool of_inputs, Index number_of_threads) {
  threads = number_of_threads;
  Found<T> found;
  Unlimited* unlimited = new Unlimited;
  const Index steps = g.time * g.batch;
  T* hidden = found.make(steps * g.n);
  T* memory = found.make(g.memory ? steps * g.n : 0);
  T* saved = found.make(steps * g.saved_width);
  Array<T> direct(steps * g.n), direct_memory(0), last(g.batch * g.n);
  Array<T> last_memory(g.memory ? g.batch * g.n : 0);
  for (Array<T>* array : {&direct, &last, &last_memory})  // the same ones in every run
    for (Index i = 0; i < array->size; ++i) array->data[i] = T(0.01) * (i % 7);
  T* results[] = {found.make(of_inputs ? g.inputs.size : 0),
                  found.make(g.kernel.size),
                  found.make(g.bias.size),
                  found.make(g.recurrent_kernel.size),
                  found.make(g.recurrent_bias.size),
                  found.make(g.first.size),
                  found.make(g.first_memory.size),
                  found.make(g.start.size),
                  found.make(g.start_memory.size)};
  delete unlimited;
  with_pool([&](ffi::ThreadPool pool) {
    forward<kind, T>(pool, Forward<T>{g.problem(), hidden, memory, saved});
  });
  with_pool([&](ffi::ThreadPool pool) {
    backward<kind, T>(
        pool, Backward<T>{g.problem(), hidden, memory, saved, direct.get(),
                          direct_memory.get(), last.get(), last_memory.get(), results[0],
                          results[1], results[2], results[3], results[4], results[5],
                          results[6], results[7], results[8]});
  });
  return found;
}

int wrong = 0;

void check(bool right, const char* what) {
  if (right) return;
  std::printf("WRONG: %s\n", what);
  ++wrong;
}

template <Kind kind, class T>
void random_shapes(int rounds) {
  for (int round = 0; round < rounds; ++round) {
    const bool tiny = round % 4 == 0;  // zeros too
    const Index in = up_to(tiny ? 2 : 40), n = up_to(tiny ? 2 : 40);
    Given<T> given(kind, up_to(tiny ? 2 : 20), up_to(tiny ? 2 : 90), in, n,
                   static_cast<int>(up_to(7)));
    auto found = run<kind, T>(given, round % 2, 4);
    auto again = run<kind, T>(given, round % 2, 4);
    check(found == again, "two runs differ");
  }
}

template <Kind kind, class T>
void memory_that_runs_out() {
  Given<T> given(kind, 9, 70, 33, 35, 7);  // work for several threads
  auto want = run<kind, T>(given, true, 4);
  long failed = 0;
  for (long limit = 0;; ++limit) {
    allocations_left = limit;
    try {
      auto found = run<kind, T>(given, true, 4);
      const bool enough = allocations_left.exchange(-1) > 0;
      check(found == want, "other numbers where there were fewer threads");
      if (enough) break;
    } catch (const std::bad_alloc&) {
      allocations_left = -1;
      ++failed;
    }
    if (limit > 100000) break;
  }
  check(failed > 10, "memory never ran out");
  std::printf("ran out of memory %ld times\n", failed);
}

void errors() {
  const auto error = [](const auto& thrown) {
    return choose(kGru, ffi::DataType::F32, [&](auto, auto) { throw thrown; });
  };
  check(error(std::bad_alloc()).errc() == ffi::ErrorCode::kResourceExhausted,
        "no memory is no error of XLA");
  check(error(std::runtime_error("x")).errc() == ffi::ErrorCode::kInternal,
        "an exception is no error of XLA");
}

template <class T>
void every_kind(int rounds) {
  random_shapes<kSimpleRnnTanh, T>(rounds);
  random_shapes<kSimpleRnnRelu, T>(rounds);
  random_shapes<kGru, T>(rounds);
  random_shapes<kLstm, T>(rounds);
}

int main(int, char** arguments) {
  const int rounds = std::atoi(arguments[1]);
  errors();
  every_kind<float>(rounds);
  every_kind<double>(rounds);
  memory_that_runs_out<kGru, float>();
  memory_that_runs_out<kLstm, double>();
  std::printf("%d wrong\n", wrong);
  return wrong != 0;
}
