// Threads that work on one thing together, and sleep when there is nothing to do.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

class Team {
 public:
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;

  // Runs `work(thread)` once on every member, the caller among them, and returns when all are done. One caller at a
  // time; others wait. Where runs found members waiting long for each other (another program has taken a core) the next
  // ones are smaller, until a larger one pays again.
  void run(const std::function<void(int)>& work);

  // Each `f(i)`, i < count, once, of something that is over in a moment: by all members where nobody else has them now,
  // else by the caller alone, who would wait for longer than it takes. What it took tells nothing of what longer work
  // may gain: most of it is the waking of members.
  void share(int count, const std::function<void(int)>& f);

  int threads() const { return (int)workers_.size() + 1; }
  int active() const { return active_; }  // within a run

  // Within a run, for all members alike: each `f(i)`, i < count, once; returns when all of them are done.
  template <class F> void each(int count, F&& f) {
    if (active_ == 1) {
      for (int i = 0; i < count; i++) f(i);
      return;
    }
    for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;) f(i);
    wait();
  }

 private:
  void go(const std::function<void(int)>& work);
  void wait();  // until all members have come here
  void serve(int member);
  void choose(int64_t began);  // how many members the run that begins now has

  std::vector<std::thread> workers_;
  std::mutex turn_;
  const std::function<void(int)>* work_ = nullptr;
  int active_ = 1;
  bool over_ = false;
  alignas(64) std::atomic<uint32_t> job_{0};
  alignas(64) std::atomic<int> next_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<int64_t> stalled_{0};  // nanoseconds in which somebody slept for another,
  int64_t together_ = 0;                          // of so many in which there was more than one at work
  int64_t alone_until_ = 0, penalty_ = 0;  // till when one member works alone; for how long after the last stall
};
