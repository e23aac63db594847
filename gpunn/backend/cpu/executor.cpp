// Runs recorded training steps, and whole epochs of them, without Python in between.

#include <time.h>

#include "blas.h"
#include "thread_pool.h"

// The tasks of all threads, run `times` times in a row.
struct Phase {
  const Task* const* tasks;
  const Int* counts;
  Int threads;
  Int times;
};

// An address that advances by `bytes` after each step.
struct PointerStep {
  void** address;
  Int bytes;
};

// Phases that run in turn, again and again. `end` runs after the last one; it is null or has one list of tasks.
struct Cycle {
  const Phase* phases;
  Int count;
  const Phase* end;
  double* state;
  Int step_index;  // entries of `state`: the optimizer's step, its learning rate, the flag of a non-finite step
  Int rate_index;
  Int nonfinite_index;
  Int flush;
  Int phase;  // the position: a phase, and how many times it has run
  Int iteration;
};

// What one call changes from step to step: learning rates from the optimizer's step `first` on, or null; addresses.
struct Changes {
  const double* rates;
  Int first;
  const PointerStep* moves;
  Int n_moves;
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
// passed or a step set the flag.
static Int run_steps(const Phase phase, const Cycle& cycle, const Changes changes, Int steps, double seconds) {
  const Int threads = phase.threads, n_tasks = phase.counts[0], nonfinite = cycle.nonfinite_index;
  const Task* const own = phase.tasks[0];
  double* const state = cycle.state;
  const double begin = steps > 1 ? now() : 0.0;
  const SingleThreadedBlas blas(threads > 1);
  const FlushDenormals denormals(cycle.flush != 0);
  ThreadPool* pool = threads > 1 ? thread_pool() : nullptr;
  const bool locked = pool && pthread_mutex_trylock(&pool->caller) == 0;
  const bool parallel = locked && pool->grow(threads);
  if (parallel) pool->begin(Job{phase.tasks, phase.counts, cycle.flush != 0}, threads);
  Int next_poll = 1, done = 0;
  for (;;) {
    if (changes.rates) state[cycle.rate_index] = changes.rates[(Int)state[cycle.step_index] - changes.first];
    if (parallel) {
      pool->barrier();
      pool->run_tasks(0);
      pool->barrier();
    } else if (threads > 1) {
      run_serially(phase.tasks, phase.counts, threads);
    } else {
      for (const Task* task = own; task < own + n_tasks; ++task) task->run(task->pointers, task->sizes, task->scalars);
    }
    ++done;
    for (const PointerStep* move = changes.moves; move < changes.moves + changes.n_moves; ++move)
      *move->address = (char*)*move->address + move->bytes;
    if (done == steps || state[nonfinite] != 0.0) break;
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

// Runs a task `times` times and returns the seconds that this took.
extern "C" double time_task(const Task* task, Int times, Int flush) {
  const FlushDenormals denormals(flush != 0);
  const double begin = now();
  for (Int k = 0; k < times; ++k) task->run(task->pointers, task->sizes, task->scalars);
  return now() - begin;
}

// Runs steps from the cycle's position on and returns their number: `steps`, or fewer if `seconds` have passed or a
// step set the flag.
extern "C" Int run_cycle(Cycle* cycle, Int steps, const double* rates, Int first, const PointerStep* moves, Int n_moves,
                         double seconds) {
  const double begin = steps > 1 ? now() : 0.0;
  const Changes changes = {rates, first, moves, n_moves}, none = {nullptr, 0, nullptr, 0};
  for (Int done = 0;;) {
    const Phase& phase = cycle->phases[cycle->phase];
    const Int left = phase.times - cycle->iteration, wanted = steps - done;
    const double passed = done ? now() - begin : 0.0;
    const Int ran = run_steps(phase, *cycle, changes, left < wanted ? left : wanted, seconds - passed);
    done += ran;
    cycle->iteration += ran;
    const bool diverged = cycle->state[cycle->nonfinite_index] != 0.0;
    if (cycle->iteration == phase.times) {
      cycle->iteration = 0;
      if (++cycle->phase == cycle->count) {
        cycle->phase = 0;
        if (cycle->end && !diverged) run_steps(*cycle->end, *cycle, none, 1, 0.0);
      }
    }
    if (diverged || done == steps || now() - begin >= seconds) return done;
  }
}
