// Runs recorded training steps, and whole epochs of them, without Python in between.

#include <time.h>

#include "blas.h"
#include "thread_pool.h"

// An address that advances by `bytes` after each step.
struct PointerStep {
  void** address;
  Int bytes;
};

static double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Runs the tasks of all threads on the calling thread, in an order that the barriers allow.
static void run_serially(const Task* const* tasks, const Int* counts, Int threads) {
  Int next[256] = {0};
  for (bool left = true; left;) {
    left = false;
    for (Int thread = 0; thread < threads; ++thread) {
      for (; next[thread] < counts[thread]; ++next[thread]) {
        const Task& task = tasks[thread][next[thread]];
        if (!task.run) {
          ++next[thread];
          left = true;
          break;
        }
        task.run(task.pointers, task.sizes, task.scalars);
      }
    }
  }
}

// Runs every thread's tasks `steps` times, at least once. Returns the number of steps done: fewer if `seconds` have
// passed or a step set the flag state[nonfinite_index]. `rates` holds the learning rates of the optimizer's steps from
// `first` on, or is null. `moves` are applied after each step.
extern "C" Int run_steps(const Task* const* tasks, const Int* counts, Int threads, Int flush, const PointerStep* moves,
                         Int n_moves, Int steps, double* state, const double* rates, Int first, Int step_index,
                         Int rate_index, Int nonfinite_index, double seconds) {
  const double begin = steps > 1 ? now() : 0.0;
  const SingleThreadedBlas blas(threads > 1);
  const FlushDenormals denormals(flush != 0);
  ThreadPool* pool = threads > 1 ? thread_pool() : nullptr;
  const bool locked = pool && pthread_mutex_trylock(&pool->caller) == 0;
  const bool parallel = locked && pool->grow(threads);
  if (parallel) pool->begin(Job{tasks, counts, flush != 0}, threads);
  Int next_poll = 1, done = 0;
  for (;;) {
    if (rates) state[rate_index] = rates[(Int)state[step_index] - first];
    if (parallel) {
      pool->barrier();
      pool->run_tasks(0);
      pool->barrier();
    } else if (threads > 1) {
      run_serially(tasks, counts, threads);
    } else {
      const Task* task = tasks[0];
      for (Int k = counts[0]; k > 0; --k, ++task) task->run(task->pointers, task->sizes, task->scalars);
    }
    ++done;
    for (Int k = 0; k < n_moves; ++k) *moves[k].address = (char*)*moves[k].address + moves[k].bytes;
    if (done == steps || (state && state[nonfinite_index] != 0.0)) break;
    if (done == next_poll) {
      const double passed = now() - begin;
      if (passed >= seconds) break;
      // the clock is read about thirty times per call
      const double each = passed / (double)done;
      const Int more = each > 0.0 ? (Int)(seconds / 32.0 / each) : 1;
      next_poll = done + (more < 1 ? 1 : more);
    }
  }
  if (parallel) pool->end();
  if (locked) pthread_mutex_unlock(&pool->caller);
  return done;
}

// The tasks of one part of an epoch, run `times` times.
struct Section {
  const Task* const* tasks;
  const Int* counts;
  Int threads;
  Int times;
};

// Continues at position (epochs, sections, iterations done) until `epochs` are done or a step set the flag, which
// returns 1, or until `seconds` have passed, which returns 0. A rate is read before each call of run_steps: `rates`
// holds one more than there are steps.
extern "C" Int run_epochs(const Section* sections, Int count, Int epochs, Int* position, Int flush, double* state,
                          const double* rates, Int first, Int step_index, Int rate_index, Int nonfinite_index,
                          double seconds) {
  const double begin = now();
  bool started = false;
  for (; position[0] < epochs; ++position[0], position[1] = 0)
    for (; position[1] < count; ++position[1], position[2] = 0) {
      const Section& section = sections[position[1]];
      while (position[2] < section.times) {
        const double left = seconds - (now() - begin);
        if (started && left <= 0.0) return 0;
        position[2] +=
            run_steps(section.tasks, section.counts, section.threads, flush, nullptr, 0, section.times - position[2],
                      state, rates, first, step_index, rate_index, nonfinite_index, left);
        started = true;
        if (state[nonfinite_index] != 0.0) return 1;
      }
    }
  return 1;
}
