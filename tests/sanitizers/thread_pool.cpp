// Runs partitioned steps with barriers on the executor's thread pool, for ThreadSanitizer:
//
//     c++ -std=c++17 -O1 -g -fsanitize=thread -pthread tests/sanitizers/thread_pool.cpp -o thread_pool && ./thread_pool
//
// The exit status is not 0 if a sum is wrong or ThreadSanitizer reports a data race. A barrier that is missing or
// broken is a data race: each thread reads what its neighbor wrote before the last barrier.

#include <stdio.h>
#include <vector>

#include "../../gpunn/backend/cpu/executor.cpp"

enum { STEP, RATE, BAD, STATE_SIZE };

static int blas_threads = 8;
static int get_threads() { return blas_threads; }
static void set_threads(int threads) { blas_threads = threads; }

// Adds 1 to what the neighbor wrote. pointers: read, written. sizes: index, neighbor.
static void add_one(void* const* pointers, const Int* sizes, const double*) {
  const double* read = (const double*)pointers[0];
  ((double*)pointers[1])[sizes[0]] = read[sizes[1]] + 1.0;
}

static void count_step(void* const* pointers, const Int*, const double*) { ((double*)pointers[0])[STEP] += 1.0; }

// A step of `threads` threads: two arrays of one number per thread, each computed from the other, and a step counter.
struct Problem {
  std::vector<double> x, y;
  double state[STATE_SIZE] = {0.0, 0.0, 0.0};
  std::vector<void*> there, back;
  void* counter[1];
  std::vector<Int> sizes, counts;
  std::vector<std::vector<Task>> lists;
  std::vector<const Task*> tasks;

  explicit Problem(Int threads) : x(threads), y(threads), sizes(2 * threads), counts(threads), lists(threads) {
    there = {x.data(), y.data()};
    back = {y.data(), x.data()};
    counter[0] = state;
    const Task barrier = {nullptr, nullptr, nullptr, nullptr};
    for (Int k = 0; k < threads; ++k) {
      sizes[2 * k] = k, sizes[2 * k + 1] = (k + 1) % threads;
      const Int* s = &sizes[2 * k];
      lists[k] = {{add_one, there.data(), s, nullptr}, barrier, {add_one, back.data(), s, nullptr}, barrier};
      if (k == 0) lists[k].push_back({count_step, counter, nullptr, nullptr});
      counts[k] = (Int)lists[k].size();
      tasks.push_back(lists[k].data());
    }
  }

  // Runs steps in cycles of 3.
  Int run(Int steps) {
    const Phase phase = {tasks.data(), counts.data(), (Int)tasks.size(), 3};
    Cycle cycle = {&phase, 1, nullptr, state, STEP, RATE, BAD, 1, 0, 0};
    Int done = 0;
    while (done < steps) done += run_cycle(&cycle, steps - done, nullptr, 0, nullptr, 0, 60.0);
    return done;
  }

  bool is_right(Int steps) const {
    for (const double value : x)
      if (value != 2.0 * (double)steps) return false;
    return state[STEP] == (double)steps;
  }
};

// One caller: jobs of different numbers of threads, one after another, on the pool or serially if the pool is in use.
static void* caller(void* wrong) {
  for (Int repeat = 0; repeat < 20; ++repeat)
    for (const Int threads : {2, 4, 3, 2}) {
      Problem problem(threads);
      problem.run(1);
      problem.run(30);
      limit_blas_threads(1);
      problem.run(9);
      limit_blas_threads(0);
      if (!problem.is_right(40)) ((std::atomic<int>*)wrong)->fetch_add(1);
    }
  return nullptr;
}

int main() {
  use_blas_threads((void*)get_threads, (void*)set_threads);
  std::atomic<int> wrong{0};
  caller(&wrong);
  pthread_t callers[3];
  for (pthread_t& thread : callers)
    if (pthread_create(&thread, nullptr, caller, &wrong) != 0) return 2;
  for (pthread_t& thread : callers) pthread_join(thread, nullptr);
  printf("%d wrong results, BLAS has %d of 8 threads again\n", wrong.load(), blas_threads);
  return wrong.load() != 0 || blas_threads != 8;
}
