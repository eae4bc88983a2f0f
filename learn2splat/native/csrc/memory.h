// Scratch memory that outlives a call: page faults on fresh memory cost more than some of the passes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace l2s {

// An uninitialised array that only grows. Resizing forgets the contents.
template <class T>
class Buffer {
  public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(data_); }

    void resize(size_t count) {
        size_ = count;
        if (count <= capacity_) return;
        std::free(data_);
        data_ = nullptr;
        capacity_ = 0;
        constexpr size_t huge_page = size_t(1) << 21;
        size_t bytes = (count + count / 4) * sizeof(T);
        size_t alignment = bytes >= huge_page ? huge_page : 64;
        bytes = (bytes + alignment - 1) / alignment * alignment;
        data_ = static_cast<T*>(std::aligned_alloc(alignment, bytes));
        if (!data_) throw std::bad_alloc();
        capacity_ = bytes / sizeof(T);
#if defined(__linux__)
        if (alignment == huge_page) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
    }

    T* data() { return data_; }
    const T* data() const { return data_; }
    size_t size() const { return size_; }
    T& operator[](size_t i) { return data_[i]; }
    const T& operator[](size_t i) const { return data_[i]; }

  private:
    T* data_ = nullptr;
    size_t size_ = 0, capacity_ = 0;
};

}  // namespace l2s
