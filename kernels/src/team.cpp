#include "team.h"

#include <algorithm>
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
// How long one member works alone after a stall: twice as long after each that follows, half after a run without. Time
// and not runs: a forward of many requests takes as long as thirty steps of one.
constexpr int64_t kLeastAlone = 30'000'000, kMostAlone = 500'000'000;
// Of less time together nothing can be learned.
constexpr int64_t kJudged = 20'000'000;

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

void Team::choose(int64_t began) {
  if (together_ >= kJudged) {
    // Two thirds of it was waiting: hardly more was done than one member does alone, who waits for nobody.
    bool stalled = stalled_ * 3 > together_ * 2;
    if (stalled) penalty_ = std::clamp(2 * penalty_, kLeastAlone, kMostAlone);
    else penalty_ = penalty_ > kLeastAlone ? penalty_ / 2 : 0;
    alone_until_ = stalled ? began + penalty_ : 0;
    together_ = 0, stalled_ = 0;
  }
  active_ = began < alone_until_ ? 1 : threads();
}

void Team::run(const std::function<void(int)>& work) {
  std::lock_guard<std::mutex> mine(turn_);
  int64_t began = now();
  choose(began);
  go(work);
  if (active_ > 1) together_ += now() - began;
}

void Team::share(int count, const std::function<void(int)>& f) {
  std::unique_lock<std::mutex> mine(turn_, std::try_to_lock);
  if (mine) active_ = now() < alone_until_ ? 1 : threads();
  if (!mine || active_ == 1) {
    for (int i = 0; i < count; i++) f(i);
    return;
  }
  int64_t asleep = stalled_;
  go([&](int) { each(count, f); });
  stalled_ = asleep;
}

void Team::go(const std::function<void(int)>& work) {
  if (active_ == 1) return work(0);
  work_ = &work;
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  work(0);
  wait();
}
