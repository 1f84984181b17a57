// Memory that is kept between forwards and only grows, on cache lines.
#pragma once
#include <cstdlib>
#include <new>
#include <utility>

template <class T> class Memory {
 public:
  Memory() = default;
  Memory(Memory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  ~Memory() { std::free(data_); }

  T* take(size_t count) {
    if (count > size_) {
      std::free(data_);
      data_ = nullptr;
      size_ = 0;
      void* memory = nullptr;
      if (posix_memalign(&memory, 64, (count * sizeof(T) + 127) / 64 * 64)) throw std::bad_alloc();
      data_ = (T*)memory;
      size_ = count;
    }
    return data_;
  }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};
