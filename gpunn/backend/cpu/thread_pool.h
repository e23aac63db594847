// A thread pool that runs partitioned lists of tasks. Workers spin at barriers and sleep between jobs.
#ifndef GPUNN_THREAD_POOL_H
#define GPUNN_THREAD_POOL_H

#include <pthread.h>  // the headers of std::thread and std::mutex alone take half a second to compile
#include <sched.h>
#include <stdlib.h>
#include <atomic>
#include <new>  // placement only: no C++ library is linked, so memory is C's
#ifndef _WIN32
#include <unistd.h>
#endif
#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
#endif

typedef long long Int;
typedef void (*Kernel)(void* const* pointers, const Int* sizes, const double* scalars);

// One kernel call on one partition. A task without a kernel is a barrier for all threads of the job.
struct Task {
  Kernel run;
  void* const* pointers;
  const Int* sizes;
  const double* scalars;
};

// Treats subnormal numbers as 0 on this thread: arithmetic on them is about a hundred times slower.
struct FlushDenormals {
#if defined(__x86_64__) || defined(__i386__)
  unsigned before;
  explicit FlushDenormals(bool on) : before(_mm_getcsr()) {
    if (on) _mm_setcsr(before | 0x8040);
  }
  ~FlushDenormals() { _mm_setcsr(before); }
#elif defined(__aarch64__)
  unsigned long long before;
  explicit FlushDenormals(bool on) {
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    if (on) __asm__ volatile("msr fpcr, %0" ::"r"(before | (1ull << 24)));
  }
  ~FlushDenormals() { __asm__ volatile("msr fpcr, %0" ::"r"(before)); }
#else
  explicit FlushDenormals(bool) {}
#endif
};

struct ScopedLock {
  pthread_mutex_t& mutex;
  explicit ScopedLock(pthread_mutex_t& mutex) : mutex(mutex) { pthread_mutex_lock(&mutex); }
  ~ScopedLock() { pthread_mutex_unlock(&mutex); }
};

static inline void spin_pause(Int spins) {
  if (spins > 4000) sched_yield();
#if defined(__x86_64__) || defined(__i386__)
  else
    _mm_pause();
#endif
}

// The task lists of all threads: tasks[thread] has counts[thread] entries.
struct Job {
  const Task* const* tasks;
  const Int* counts;
  bool flush;
};

struct ThreadPool {
  Int size = 1;                                        // the caller is thread 0
  pthread_mutex_t caller = PTHREAD_MUTEX_INITIALIZER;  // held by the one caller that uses the pool
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
  Job job{};
  Int active = 0;  // threads of the job
  std::atomic<Int> jobs{0};
  std::atomic<Int> arrived{0}, generation{0};  // of the barrier
  std::atomic<bool> finished{true};

  void barrier() {
    const Int mine = generation.load(std::memory_order_relaxed);
    const Int last = active - 1;  // read before arriving: after the last arrival, a next job may change it
    if (arrived.fetch_add(1, std::memory_order_acq_rel) == last) {
      arrived.store(0, std::memory_order_relaxed);
      generation.store(mine + 1, std::memory_order_release);
    } else {
      for (Int spins = 0; generation.load(std::memory_order_acquire) == mine; ++spins) spin_pause(spins);
    }
  }

  void run_tasks(Int thread) {
    const Task* task = job.tasks[thread];
    for (Int k = job.counts[thread]; k > 0; --k, ++task) {
      if (task->run)
        task->run(task->pointers, task->sizes, task->scalars);
      else
        barrier();
    }
  }

  void worker_loop(Int thread) {
    for (Int seen = 0;;) {
      for (Int spins = 0; jobs.load(std::memory_order_acquire) == seen && spins < 4000; ++spins) spin_pause(0);
      {
        const ScopedLock lock(mutex);
        while (jobs.load(std::memory_order_relaxed) == seen) pthread_cond_wait(&wake, &mutex);
        seen = jobs.load(std::memory_order_relaxed);
        if (thread >= active) continue;
      }
      const FlushDenormals flush(job.flush);
      for (barrier(); !finished.load(std::memory_order_relaxed); barrier()) {
        run_tasks(thread);
        barrier();
      }
      barrier();
    }
  }

  struct Worker {
    ThreadPool* pool;
    Int thread;
  };
  static void* thread_main(void* argument) {
    const Worker worker = *(Worker*)argument;
    free(argument);
    worker.pool->worker_loop(worker.thread);
    return nullptr;
  }

  // Starts workers until the pool has `threads` threads. False if the system starts no more.
  bool grow(Int threads) {
    for (; size < threads; ++size) {
      Worker* const worker = (Worker*)malloc(sizeof(Worker));
      pthread_t thread;
      if (worker) *worker = Worker{this, size};
      if (!worker || pthread_create(&thread, nullptr, thread_main, worker) != 0) {
        free(worker);
        return false;
      }
      pthread_detach(thread);
    }
    return true;
  }

  // Wakes the workers for a job. The caller then runs each step as barrier(), run_tasks(0), barrier(), and calls end().
  void begin(const Job& next, Int threads) {
    const ScopedLock lock(mutex);
    job = next, active = threads;
    finished.store(false, std::memory_order_relaxed);
    jobs.fetch_add(1, std::memory_order_release);
    pthread_cond_broadcast(&wake);
  }

  void end() {
    finished.store(true, std::memory_order_relaxed);
    barrier();
    barrier();
  }
};

// The pool of this process. A forked process has none of its parent's threads, so it gets a new pool.
static ThreadPool* thread_pool() {
  static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  static ThreadPool* pool = nullptr;
  static long owner = -1;
  const ScopedLock lock(mutex);
#ifdef _WIN32
  const long process = 0;
#else
  const long process = (long)getpid();
#endif
  if (!pool || owner != process) {
    void* const memory = malloc(sizeof(ThreadPool));
    pool = memory ? new (memory) ThreadPool : nullptr, owner = process;
  }
  return pool;
}

#endif  // GPUNN_THREAD_POOL_H
