// Memory that ends, or begins, where nothing may be touched: what reads or writes past it stops the program, and what
// writes into the rest of its pages is found afterwards. Masked loads and stores are seen too, as no sanitizer does.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

template <class T> class Guarded {
 public:
  Guarded(size_t count, bool at_end) : count_(count) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = count * sizeof(T);
    inner_ = (bytes + page) / page * page;
    whole_ = inner_ + 2 * page;
    void* memory = mmap(nullptr, whole_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) std::perror("mmap"), std::exit(2);
    start_ = (uint8_t*)memory;
    first_ = start_ + page;
    std::memset(first_, kFill, inner_);
    mprotect(start_, page, PROT_NONE);
    mprotect(first_ + inner_, page, PROT_NONE);
    data_ = (T*)(at_end ? first_ + inner_ - bytes : first_);
  }
  Guarded(Guarded&& other) noexcept { std::memcpy((void*)this, &other, sizeof *this), other.start_ = nullptr; }
  ~Guarded() {
    if (!start_) return;
    const uint8_t *from = (uint8_t*)data_, *to = from + count_ * sizeof(T);
    for (const uint8_t* p = first_; p < first_ + inner_; p++)
      if ((p < from || p >= to) && *p != kFill) {
        std::printf("FAILED: written %td bytes from the start of %zu\n", p - from, count_ * sizeof(T));
        std::exit(1);
      }
    munmap(start_, whole_);
  }

  operator T*() { return data_; }
  operator const T*() const { return data_; }
  T* data() { return data_; }
  size_t size() const { return count_; }

 private:
  static constexpr uint8_t kFill = 0xcb;
  uint8_t *start_, *first_;
  size_t count_, inner_, whole_;
  T* data_;
};
