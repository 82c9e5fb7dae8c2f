#pragma once
// Memory that the kernel has not given pages to yet, as that of every large new tensor.

#include <cstddef>

namespace softmax_ext {

// Asks for pages of 2 MiB where at least kHugePageBytes are at `data`: writing to new memory costs as
// much as computing a softmax of it, most of it page by page. Linux only; not with
// SOFTMAX_EXT_HUGE_PAGES=0. What is there stays.
void advise_huge_pages(void* data, std::size_t bytes);

// Smaller results are mostly in memory that was used before: glibc keeps what is freed below its
// thresholds of up to 32 MiB, but not all of it. At 16 MiB the advice was measured to cost nothing where
// memory is used again, and to bring a third of the time of a cross-entropy's backward.
inline constexpr std::size_t kHugePageBytes = std::size_t{8} << 20;

}  // namespace softmax_ext
