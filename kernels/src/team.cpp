#include "team.h"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
static inline void rest() { _mm_pause(); }
#elif defined(__aarch64__)
static inline void rest() { asm volatile("yield"); }
#else
static inline void rest() {}
#endif

namespace {

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A step's phases follow each other within microseconds: so long is it cheaper to look than to sleep.
constexpr int64_t kLook = 200'000, kLookIdle = 200'000;
constexpr int kMostAlone = 512;
// Of a run as short as a waking takes nothing can be learned.
constexpr int64_t kJudged = 1'000'000;

// Looks until `value` is no longer `seen`, for `most` nanoseconds; then sleeps for it. Returns the time asleep.
int64_t until_changed(std::atomic<uint32_t>& value, uint32_t seen, int64_t most) {
  for (int i = 0; i < 64; i++) {
    if (value.load(std::memory_order_acquire) != seen) return 0;
    rest();
  }
  int64_t began = now();
  while (value.load(std::memory_order_acquire) == seen) {
    for (int i = 0; i < 32; i++) rest();
    if (now() - began > most) {
      int64_t asleep = now();
      while (value.load(std::memory_order_acquire) == seen) value.wait(seen, std::memory_order_acquire);
      return now() - asleep;
    }
  }
  return 0;
}

}  // namespace

Team::Team(int threads) {
  for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { serve(i); });
}

Team::~Team() {
  over_ = true;
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Team::wait() {
  uint32_t seen = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == active_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1, std::memory_order_release);
    phase_.notify_all();
  } else if (int64_t asleep = until_changed(phase_, seen, kLook)) {
    stalled_.fetch_add(asleep, std::memory_order_relaxed);
  }
}

void Team::serve(int member) {
  uint32_t seen = 0;
  for (;;) {
    until_changed(job_, seen, kLookIdle);
    seen = job_.load(std::memory_order_acquire);
    if (over_) return;
    if (member >= active_) continue;
    (*work_)(member);
    wait();
  }
}

void Team::choose() {
  // More than a third of the last run was waiting: its members do not all have a core of their own.
  if (active_ > 1 && took_ < kJudged) {
    stalled_ = 0;
    return;
  }
  if (active_ > 1) {
    if (stalled_ * 3 > took_) penalty_ = penalty_ ? (penalty_ < kMostAlone ? 2 * penalty_ : kMostAlone) : 8;
    else penalty_ = penalty_ > 8 ? penalty_ / 2 : 0;
    small_ = stalled_ * 3 > took_ ? penalty_ : 0;
  } else if (small_ > 0) {
    small_--;
  }
  active_ = small_ > 0 ? 1 : threads();
  stalled_ = 0;
}

void Team::run(const std::function<void(int)>& work) {
  std::lock_guard<std::mutex> mine(turn_);
  choose();
  int64_t began = now();
  if (active_ == 1) {
    work(0);
  } else {
    work_ = &work;
    job_.fetch_add(1, std::memory_order_release);
    job_.notify_all();
    work(0);
    wait();
  }
  took_ = now() - began;
}
